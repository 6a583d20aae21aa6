/* Reads a machine, and what all answers have in common. */
#include "machine.h"

machine_description machine;

static part *add_part(part *parent, int index)
{
    part *added = &machine.parts[machine.num_parts++];
    added->parent = parent;
    added->index = index;
    added->temperature_c = added->draw_watts = -1;
    added->power_watts = added->nvlinks = added->pcie_generation = added->major = -1;
    added->card_generation = added->default_watts = added->cores = added->bus_bits = -1;
    added->numa = added->ecc = -1;
    added->card_lanes = 16;
    return added;
}

static part *add_slice(part *gpu, int number)
{
    gpu->mig = 1;
    return gpu->slices[number] = add_part(gpu, gpu->index);
}

static void add_process(part *owner, int graphics, unsigned pid, long long mib)
{
    int *count = graphics ? &owner->num_graphics : &owner->num_processes;
    process_info *list = graphics ? owner->graphics : owner->processes;
    process_info added = {pid, mib < 0 ? ~0ULL : (unsigned long long)mib << 20, ~0U, ~0U};
    list[(*count)++] = added;
}

/* Lines of the whole machine; 0 where the line is none. */
static int read_machine_line(const char *key, const char *value)
{
    int one, other;
    if (!strcmp(key, "driver"))
        snprintf(machine.driver, sizeof machine.driver, "%s", value);
    else if (!strcmp(key, "cuda"))
        machine.cuda = atoi(value);
    else if (!strcmp(key, "init_error"))
        machine.init_error = atoi(value);
    else if (!strcmp(key, "refuse")) {
        int n = machine.num_refusals++;
        machine.refusals[n].gpu = -1;
        return sscanf(value, "%63s %d %d", machine.refusals[n].call, &machine.refusals[n].error,
                      &machine.refusals[n].gpu) >= 2;
    } else if (!strcmp(key, "break_after"))
        return sscanf(value, "%d %d", &machine.calls_left, &machine.break_error) == 2;
    else if (!strcmp(key, "program"))
        snprintf(machine.program, sizeof machine.program, "%s", value);
    else if (!strcmp(key, "p2p"))
        machine.p2p = atoi(value);
    else if (!strcmp(key, "nvlink") && !strcmp(value, "switch"))
        machine.all_linked = machine.switched = 1;
    else if (!strcmp(key, "nvlink") && !strcmp(value, "all"))
        machine.all_linked = 1;
    else if (!strcmp(key, "nvlink") && sscanf(value, "%d %d", &one, &other) == 2)
        machine.linked[one][other] = machine.linked[other][one] = 1;
    else
        return 0;
    return 1;
}

/* Lines of the GPU or slice above them; 0 where the line is none. */
static int read_part_line(part *to, const char *key, const char *value)
{
    unsigned pid;
    long long mib;
    if (!to)
        return 0;
    if (!strcmp(key, "name"))
        snprintf(to->name, sizeof to->name, "%s", value);
    else if (!strcmp(key, "uuid"))
        snprintf(to->uuid, sizeof to->uuid, "%s", value);
    else if (!strcmp(key, "memory_mib"))
        return sscanf(value, "%llu %llu %llu", &to->total_mib, &to->reserved_mib,
                      &to->free_mib) == 3;
    else if (!strcmp(key, "capability"))
        return sscanf(value, "%d.%d", &to->major, &to->minor) == 2;
    else if (!strcmp(key, "pcie"))
        return sscanf(value, "%d %d %d %d", &to->pcie_generation, &to->pcie_lanes,
                      &to->card_generation, &to->card_lanes) >= 2;
    else if (!strcmp(key, "power_watts"))
        return sscanf(value, "%d %d", &to->power_watts, &to->default_watts) >= 1;
    else if (!strcmp(key, "cuda_mib"))
        return sscanf(value, "%d %d", &to->cuda_mib, &to->context_mib) >= 1;
    else if (!strcmp(key, "processor"))
        return sscanf(value, "%d %d", &to->multiprocessors, &to->l2_kib) == 2;
    else if (!strcmp(key, "temperature_c"))
        to->temperature_c = atoi(value);
    else if (!strcmp(key, "draw_watts"))
        to->draw_watts = atoi(value);
    else if (!strcmp(key, "nvlinks"))
        return sscanf(value, "%d %d %d", &to->nvlinks, &to->card_nvlinks, &to->link_mbps) >= 1 &&
               (to->card_nvlinks || (to->card_nvlinks = to->nvlinks) >= 0);
    else if (!strcmp(key, "clocks"))
        return sscanf(value, "%d %d %d %d", &to->cores, &to->core_mhz, &to->bus_bits,
                      &to->memory_mhz) == 4;
    else if (!strcmp(key, "numa"))
        to->numa = atoi(value);
    else if (!strcmp(key, "ecc"))
        return sscanf(value, "%d %llu", &to->ecc, &to->uncorrected) >= 1;
    else if (!strcmp(key, "throttle"))
        to->reasons = strtoull(value, NULL, 0);
    else if (!strcmp(key, "mig"))
        to->mig = 1;
    else if (!strcmp(key, "handle_error"))
        to->handle_error = atoi(value);
    else if (!strcmp(key, "process") || !strcmp(key, "graphics")) {
        if (sscanf(value, "%u %lld", &pid, &mib) != 2)
            return 0;
        add_process(to, key[0] == 'g', pid, mib);
    } else
        return 0;
    return 1;
}

int read_machine(const char *path)
{
    char line[256], key[64], value[192];
    part *gpu = NULL, *current = NULL;
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file) {
        fprintf(stderr, "simulated GPU: SIMULATED_GPU_MACHINE names no readable file\n");
        return ERROR_UNKNOWN;
    }
    memset(&machine, 0, sizeof machine);
    machine.calls_left = machine.p2p = -1;
    while (fgets(line, sizeof line, file)) {
        value[0] = '\0';
        if (sscanf(line, "%63s %191[^\n]", key, value) < 1 || key[0] == '#')
            continue;
        if (!strcmp(key, "gpu")) {
            current = gpu = add_part(NULL, machine.num_gpus);
            machine.gpus[machine.num_gpus++] = gpu;
        } else if (!strcmp(key, "slice") && gpu)
            current = add_slice(gpu, atoi(value));
        else if (!read_machine_line(key, value) && !read_part_line(current, key, value)) {
            fprintf(stderr, "simulated GPU: cannot read the line: %s", line);
            fclose(file);
            return ERROR_UNKNOWN;
        }
    }
    fclose(file);
    return SUCCESS;
}

int part_number(const part *device) { return (int)(device - machine.parts); }

/* What stands in the way of a call: no start, the break, or a refusal in the description. */
int refusal(const char *call, const part *device)
{
    if (!machine.ready)
        return ERROR_UNINITIALIZED;
    if (machine.calls_left == 0)
        return machine.break_error;
    if (machine.calls_left > 0)
        machine.calls_left--;
    for (int n = 0; n < machine.num_refusals; n++) {
        int of = machine.refusals[n].gpu;
        if (!strcmp(machine.refusals[n].call, call) && (of < 0 || (device && device->index == of)))
            return machine.refusals[n].error;
    }
    return SUCCESS;
}

int give(unsigned *to, int value)
{
    if (value < 0)
        return ERROR_NOT_SUPPORTED;
    *to = (unsigned)value;
    return SUCCESS;
}

int give_text(char *to, unsigned size, const char *text)
{
    if (strlen(text) >= size)
        return ERROR_INSUFFICIENT_SIZE;
    strcpy(to, text);
    return SUCCESS;
}
