/* A stand-in for libnvidia-ml.so.1 that answers from a text file.
 *
 * NVML_STUB_MACHINE names the file; tests/nvml/stand_in.py says what it may hold. Prototypes
 * and structs are those of nvml.h as pynvml calls them: a call that the description does not
 * cover answers as a driver does for a device that cannot tell (NVML_ERROR_NOT_SUPPORTED).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SUCCESS = 0,
    ERROR_UNINITIALIZED = 1,
    ERROR_INVALID_ARGUMENT = 2,
    ERROR_NOT_SUPPORTED = 3,
    ERROR_NOT_FOUND = 6,
    ERROR_INSUFFICIENT_SIZE = 7,
    ERROR_ARGUMENT_VERSION_MISMATCH = 25,
    ERROR_UNKNOWN = 999,
};
enum { P2P_OK = 0, P2P_NOT_SUPPORTED = 5, P2P_INDEX_READ = 0, P2P_INDEX_NVLINK = 2 };
enum { MAX_GPUS = 16, MAX_PARTS = 64, MAX_SLICES = 8, MAX_PROCESSES = 8, MAX_REFUSALS = 64 };
enum { MEMORY_V2 = 0x02000028, FIELD_NVLINK_MBPS = 90, CLOCK_SM = 1, CLOCK_MEMORY = 2 };
enum { REMOTE_GPU = 0, REMOTE_SWITCH = 2 };

typedef struct {
    unsigned pid;
    unsigned long long used; /* bytes; all ones where the driver does not tell */
    unsigned gpu_instance, compute_instance;
} process_info;

typedef struct {
    unsigned long long total, free, used;
} memory_v1;

typedef struct {
    unsigned version;
    unsigned long long total, reserved, free, used;
} memory_v2;

typedef struct {
    char bus_id_legacy[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char bus_id[32];
} pci_info;

typedef struct {
    unsigned field, scope;
    long long timestamp, latency;
    int type, result;
    union { double number; unsigned value; unsigned long long wide; } value;
} field_value;

/* A GPU or one of its MIG slices. */
typedef struct part {
    struct part *parent, *slices[MAX_SLICES];
    int index, handle_error, num_processes, num_graphics, mig;
    char name[96], uuid[96];
    unsigned long long total_mib, reserved_mib, free_mib;
    process_info processes[MAX_PROCESSES], graphics[MAX_PROCESSES];
    int major, minor, pcie_generation, pcie_lanes, power_watts, nvlinks;
    int card_generation, card_lanes, default_watts, card_nvlinks, link_mbps;
    int cores, core_mhz, bus_bits, memory_mhz, numa, ecc;
    unsigned long long uncorrected, reasons;
    int temperature_c, draw_watts;
} part;

static struct {
    int ready, init_error, cuda, num_gpus, num_parts, num_refusals, all_linked, switched, p2p;
    int calls_left, break_error; /* all calls fail after so many; negative for never */
    int linked[MAX_GPUS][MAX_GPUS];
    char driver[80], program[96];
    part parts[MAX_PARTS], *gpus[MAX_GPUS];
    struct { char call[64]; int error, gpu; } refusals[MAX_REFUSALS];
} machine;

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

static int read_machine(const char *path)
{
    char line[256], key[64], value[192];
    part *gpu = NULL, *current = NULL;
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file) {
        fprintf(stderr, "nvml_stub: NVML_STUB_MACHINE names no readable file\n");
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
            fprintf(stderr, "nvml_stub: cannot read the line: %s", line);
            fclose(file);
            return ERROR_UNKNOWN;
        }
    }
    fclose(file);
    return SUCCESS;
}

/* What stands in the way of a call: no start, the break, or a refusal in the description. */
static int refusal(const char *call, const part *device)
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

#define ANSWER_FOR_OR_RETURN(device)                                                              \
    do {                                                                                          \
        int refused = refusal(__func__, device);                                                  \
        if (refused)                                                                              \
            return refused;                                                                       \
    } while (0)

#define ANSWER_OR_RETURN ANSWER_FOR_OR_RETURN(NULL)

/* A slice does not answer what only a whole GPU can. */
#define WHOLE_GPU_OR_RETURN(device)                                                               \
    do {                                                                                          \
        ANSWER_FOR_OR_RETURN(device);                                                             \
        if ((device)->parent)                                                                     \
            return ERROR_NOT_SUPPORTED;                                                           \
    } while (0)

static int give(unsigned *to, int value)
{
    if (value < 0)
        return ERROR_NOT_SUPPORTED;
    *to = (unsigned)value;
    return SUCCESS;
}

static int give_text(char *to, unsigned size, const char *text)
{
    if (strlen(text) >= size)
        return ERROR_INSUFFICIENT_SIZE;
    strcpy(to, text);
    return SUCCESS;
}

static int give_processes(unsigned *count, process_info *to, int held, const process_info *from)
{
    unsigned room = *count;
    *count = (unsigned)held;
    if (held == 0)
        return SUCCESS;
    if (!to || room < (unsigned)held)
        return ERROR_INSUFFICIENT_SIZE;
    memcpy(to, from, (size_t)held * sizeof *from);
    return SUCCESS;
}

int nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    int error = read_machine(getenv("NVML_STUB_MACHINE"));
    if (!error)
        error = machine.init_error;
    machine.ready = !error;
    return error;
}

int nvmlShutdown(void)
{
    ANSWER_OR_RETURN;
    machine.ready = 0;
    return SUCCESS;
}

const char *nvmlErrorString(int error)
{
    (void)error;
    return "an error that pynvml has no text for";
}

int nvmlSystemGetDriverVersion(char *version, unsigned size)
{
    ANSWER_OR_RETURN;
    return give_text(version, size, machine.driver);
}

int nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    ANSWER_OR_RETURN;
    *version = machine.cuda;
    return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned *count)
{
    ANSWER_OR_RETURN;
    *count = (unsigned)machine.num_gpus;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, part **device)
{
    ANSWER_OR_RETURN;
    if (index >= (unsigned)machine.num_gpus)
        return ERROR_INVALID_ARGUMENT;
    *device = machine.gpus[index];
    return (*device)->handle_error;
}

int nvmlDeviceGetName(part *device, char *name, unsigned size)
{
    ANSWER_FOR_OR_RETURN(device);
    return give_text(name, size, device->name);
}

int nvmlDeviceGetUUID(part *device, char *uuid, unsigned size)
{
    ANSWER_FOR_OR_RETURN(device);
    return give_text(uuid, size, device->uuid);
}

/* The first version counts the driver's own share as used. */
int nvmlDeviceGetMemoryInfo(part *device, memory_v1 *memory)
{
    ANSWER_FOR_OR_RETURN(device);
    memory->total = device->total_mib << 20;
    memory->free = device->free_mib << 20;
    memory->used = memory->total - memory->free;
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(part *device, memory_v2 *memory)
{
    ANSWER_FOR_OR_RETURN(device);
    if (memory->version != MEMORY_V2)
        return ERROR_ARGUMENT_VERSION_MISMATCH;
    memory->total = device->total_mib << 20;
    memory->reserved = device->reserved_mib << 20;
    memory->free = device->free_mib << 20;
    memory->used = memory->total - memory->reserved - memory->free;
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(part *device, unsigned *count, process_info *infos)
{
    ANSWER_FOR_OR_RETURN(device);
    return give_processes(count, infos, device->num_processes, device->processes);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(part *device, unsigned *count, process_info *infos)
{
    ANSWER_FOR_OR_RETURN(device);
    return give_processes(count, infos, device->num_graphics, device->graphics);
}

int nvmlDeviceGetCudaComputeCapability(part *device, int *major, int *minor)
{
    WHOLE_GPU_OR_RETURN(device);
    if (device->major < 0)
        return ERROR_NOT_SUPPORTED;
    *major = device->major;
    *minor = device->minor;
    return SUCCESS;
}

int nvmlDeviceGetEnforcedPowerLimit(part *device, unsigned *milliwatts)
{
    WHOLE_GPU_OR_RETURN(device);
    return give(milliwatts, device->power_watts < 0 ? -1 : device->power_watts * 1000);
}

int nvmlDeviceGetMaxPcieLinkGeneration(part *device, unsigned *generation)
{
    WHOLE_GPU_OR_RETURN(device);
    return give(generation, device->pcie_generation);
}

int nvmlDeviceGetCurrPcieLinkWidth(part *device, unsigned *lanes)
{
    WHOLE_GPU_OR_RETURN(device);
    return give(lanes, device->pcie_generation < 0 ? -1 : device->pcie_lanes);
}

int nvmlDeviceGetMaxPcieLinkWidth(part *device, unsigned *lanes)
{
    WHOLE_GPU_OR_RETURN(device);
    return give(lanes, device->pcie_generation < 0 ? -1 : device->card_lanes);
}

int nvmlDeviceGetNvLinkState(part *device, unsigned link, unsigned *active)
{
    WHOLE_GPU_OR_RETURN(device);
    if (device->nvlinks < 0)
        return ERROR_NOT_SUPPORTED;
    if (link >= (unsigned)device->card_nvlinks)
        return ERROR_INVALID_ARGUMENT;
    *active = link < (unsigned)device->nvlinks;
    return SUCCESS;
}

int nvmlDeviceGetP2PStatus(part *one, part *other, unsigned index, unsigned *status)
{
    WHOLE_GPU_OR_RETURN(one);
    if (index == P2P_INDEX_READ && machine.p2p >= 0) {
        *status = machine.p2p ? P2P_OK : P2P_NOT_SUPPORTED;
        return SUCCESS;
    }
    if (index != P2P_INDEX_NVLINK)
        return ERROR_NOT_SUPPORTED;
    int linked = machine.all_linked || machine.linked[one->index][other->index];
    *status = linked ? P2P_OK : P2P_NOT_SUPPORTED;
    return SUCCESS;
}

/* GeForce and older cards cannot be cut; the others tell the current and the pending mode. */
int nvmlDeviceGetMigMode(part *device, unsigned *current, unsigned *pending)
{
    WHOLE_GPU_OR_RETURN(device);
    if (device->major < 8 || strstr(device->name, "GeForce"))
        return ERROR_NOT_SUPPORTED;
    *current = *pending = (unsigned)device->mig;
    return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(part *device, unsigned *count)
{
    WHOLE_GPU_OR_RETURN(device);
    *count = 7;
    return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(part *device, unsigned number, part **slice)
{
    WHOLE_GPU_OR_RETURN(device);
    if (number >= MAX_SLICES)
        return ERROR_INVALID_ARGUMENT;
    *slice = device->slices[number];
    return *slice ? SUCCESS : ERROR_NOT_FOUND;
}

int nvmlDeviceGetGpuMaxPcieLinkGeneration(part *device, unsigned *generation)
{
    WHOLE_GPU_OR_RETURN(device);
    return give(generation, device->card_generation);
}

/* A link at rest: every card here idles at the first generation. */
int nvmlDeviceGetCurrPcieLinkGeneration(part *device, unsigned *generation)
{
    WHOLE_GPU_OR_RETURN(device);
    return give(generation, device->pcie_generation < 0 ? -1 : 1);
}

int nvmlDeviceGetPowerManagementDefaultLimit(part *device, unsigned *milliwatts)
{
    WHOLE_GPU_OR_RETURN(device);
    return give(milliwatts, device->default_watts < 0 ? -1 : device->default_watts * 1000);
}

int nvmlDeviceGetCurrentClocksEventReasons(part *device, unsigned long long *reasons)
{
    WHOLE_GPU_OR_RETURN(device);
    *reasons = device->reasons;
    return SUCCESS;
}

int nvmlDeviceGetEccMode(part *device, unsigned *current, unsigned *pending)
{
    WHOLE_GPU_OR_RETURN(device);
    *pending = device->ecc > 0;
    return give(current, device->ecc);
}

int nvmlDeviceGetTotalEccErrors(part *device, int kind, int counter, unsigned long long *count)
{
    WHOLE_GPU_OR_RETURN(device);
    *count = kind == 1 && counter == 0 ? device->uncorrected : 0;
    return SUCCESS;
}

int nvmlDeviceGetMemoryAffinity(part *device, unsigned size, unsigned long *nodes, unsigned scope)
{
    WHOLE_GPU_OR_RETURN(device);
    if (device->numa < 0 || scope != 0)
        return ERROR_NOT_SUPPORTED;
    memset(nodes, 0, size * sizeof *nodes);
    nodes[device->numa / 64] = 1UL << device->numa % 64;
    return SUCCESS;
}

int nvmlDeviceGetNumGpuCores(part *device, unsigned *cores)
{
    WHOLE_GPU_OR_RETURN(device);
    return give(cores, device->cores);
}

int nvmlDeviceGetMemoryBusWidth(part *device, unsigned *bits)
{
    WHOLE_GPU_OR_RETURN(device);
    return give(bits, device->bus_bits);
}

int nvmlDeviceGetMaxClockInfo(part *device, unsigned kind, unsigned *mhz)
{
    WHOLE_GPU_OR_RETURN(device);
    if (device->cores < 0)
        return ERROR_NOT_SUPPORTED;
    return give(mhz, kind == CLOCK_SM ? device->core_mhz
                     : kind == CLOCK_MEMORY ? device->memory_mhz : -1);
}

int nvmlSystemGetProcessName(unsigned pid, char *name, unsigned size)
{
    ANSWER_OR_RETURN;
    (void)pid;
    return machine.program[0] ? give_text(name, size, machine.program) : ERROR_NOT_FOUND;
}

static int give_bus(pci_info *info, int index)
{
    memset(info, 0, sizeof *info);
    snprintf(info->bus_id, sizeof info->bus_id, "00000000:%02X:00.0", 16 + index);
    info->bus = 16 + (unsigned)index;
    return SUCCESS;
}

int nvmlDeviceGetPciInfo_v3(part *device, pci_info *info)
{
    WHOLE_GPU_OR_RETURN(device);
    return give_bus(info, device->index);
}

/* Only machines whose links are described one by one, or through a switch, tell where they end. */
int nvmlDeviceGetNvLinkRemoteDeviceType(part *device, unsigned link, unsigned *kind)
{
    WHOLE_GPU_OR_RETURN(device);
    (void)link;
    if (machine.all_linked && !machine.switched)
        return ERROR_NOT_SUPPORTED;
    *kind = machine.switched ? REMOTE_SWITCH : REMOTE_GPU;
    return SUCCESS;
}

/* The links of a GPU go to its partners in turn. */
int nvmlDeviceGetNvLinkRemotePciInfo_v2(part *device, unsigned link, pci_info *info)
{
    int partners[MAX_GPUS], count = 0;
    WHOLE_GPU_OR_RETURN(device);
    for (int other = 0; other < machine.num_gpus; other++)
        if (machine.linked[device->index][other])
            partners[count++] = other;
    if (!count)
        return ERROR_NOT_SUPPORTED;
    return give_bus(info, partners[link % (unsigned)count]);
}

int nvmlDeviceGetFieldValues(part *device, int count, field_value *values)
{
    WHOLE_GPU_OR_RETURN(device);
    for (int n = 0; n < count; n++) {
        int known = values[n].field == FIELD_NVLINK_MBPS && device->link_mbps > 0;
        values[n].result = known ? SUCCESS : ERROR_NOT_SUPPORTED;
        values[n].value.value = known ? (unsigned)device->link_mbps : 0;
    }
    return SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, part **device)
{
    ANSWER_OR_RETURN;
    for (int n = 0; n < machine.num_parts; n++)
        if (!strcmp(machine.parts[n].uuid, uuid)) {
            *device = &machine.parts[n];
            return (*device)->handle_error;
        }
    return ERROR_NOT_FOUND;
}

int nvmlDeviceGetTemperature(part *device, int sensor, unsigned *celsius)
{
    (void)sensor;
    WHOLE_GPU_OR_RETURN(device);
    return give(celsius, device->temperature_c);
}

int nvmlDeviceGetPowerUsage(part *device, unsigned *milliwatts)
{
    WHOLE_GPU_OR_RETURN(device);
    return give(milliwatts, device->draw_watts < 0 ? -1 : device->draw_watts * 1000);
}
