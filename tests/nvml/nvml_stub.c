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
enum { P2P_OK = 0, P2P_NOT_SUPPORTED = 5, P2P_INDEX_NVLINK = 2 };
enum { MAX_GPUS = 16, MAX_PARTS = 64, MAX_SLICES = 8, MAX_PROCESSES = 8, MAX_REFUSALS = 16 };
enum { MEMORY_V2 = 0x02000028 };

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

/* A GPU or one of its MIG slices. */
typedef struct part {
    struct part *parent, *slices[MAX_SLICES];
    int index, handle_error, num_processes, num_graphics, mig;
    char name[96], uuid[96];
    unsigned long long total_mib, reserved_mib, free_mib;
    process_info processes[MAX_PROCESSES], graphics[MAX_PROCESSES];
    int major, minor, pcie_generation, pcie_lanes, power_watts, nvlinks;
    int temperature_c, draw_watts;
} part;

static struct {
    int ready, init_error, cuda, num_gpus, num_parts, num_refusals, all_linked;
    int linked[MAX_GPUS][MAX_GPUS];
    char driver[80];
    part parts[MAX_PARTS], *gpus[MAX_GPUS];
    struct { char call[64]; int error; } refusals[MAX_REFUSALS];
} machine;

static part *add_part(part *parent, int index)
{
    part *added = &machine.parts[machine.num_parts++];
    added->parent = parent;
    added->index = index;
    added->temperature_c = added->draw_watts = -1;
    added->power_watts = added->nvlinks = added->pcie_generation = added->major = -1;
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
        return sscanf(value, "%63s %d", machine.refusals[n].call, &machine.refusals[n].error) == 2;
    } else if (!strcmp(key, "nvlink") && !strcmp(value, "all"))
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
        return sscanf(value, "%d %d", &to->pcie_generation, &to->pcie_lanes) == 2;
    else if (!strcmp(key, "power_watts"))
        to->power_watts = atoi(value);
    else if (!strcmp(key, "temperature_c"))
        to->temperature_c = atoi(value);
    else if (!strcmp(key, "draw_watts"))
        to->draw_watts = atoi(value);
    else if (!strcmp(key, "nvlinks"))
        to->nvlinks = atoi(value);
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

/* What stands in the way of a call: no start, or a refusal in the description. */
static int refusal(const char *call)
{
    if (!machine.ready)
        return ERROR_UNINITIALIZED;
    for (int n = 0; n < machine.num_refusals; n++)
        if (!strcmp(machine.refusals[n].call, call))
            return machine.refusals[n].error;
    return SUCCESS;
}

#define ANSWER_OR_RETURN                                                                          \
    do {                                                                                          \
        int refused = refusal(__func__);                                                          \
        if (refused)                                                                              \
            return refused;                                                                       \
    } while (0)

/* A slice does not answer what only a whole GPU can. */
#define WHOLE_GPU_OR_RETURN(device)                                                               \
    do {                                                                                          \
        ANSWER_OR_RETURN;                                                                         \
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
    ANSWER_OR_RETURN;
    return give_text(name, size, device->name);
}

int nvmlDeviceGetUUID(part *device, char *uuid, unsigned size)
{
    ANSWER_OR_RETURN;
    return give_text(uuid, size, device->uuid);
}

/* The first version counts the driver's own share as used. */
int nvmlDeviceGetMemoryInfo(part *device, memory_v1 *memory)
{
    ANSWER_OR_RETURN;
    memory->total = device->total_mib << 20;
    memory->free = device->free_mib << 20;
    memory->used = memory->total - memory->free;
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(part *device, memory_v2 *memory)
{
    ANSWER_OR_RETURN;
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
    ANSWER_OR_RETURN;
    return give_processes(count, infos, device->num_processes, device->processes);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(part *device, unsigned *count, process_info *infos)
{
    ANSWER_OR_RETURN;
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
    return give(lanes, device->pcie_generation < 0 ? -1 : 16);
}

int nvmlDeviceGetNvLinkState(part *device, unsigned link, unsigned *active)
{
    WHOLE_GPU_OR_RETURN(device);
    if (device->nvlinks < 0)
        return ERROR_NOT_SUPPORTED;
    if (link >= 18)
        return ERROR_INVALID_ARGUMENT;
    *active = link < (unsigned)device->nvlinks;
    return SUCCESS;
}

int nvmlDeviceGetP2PStatus(part *one, part *other, unsigned index, unsigned *status)
{
    WHOLE_GPU_OR_RETURN(one);
    if (index != P2P_INDEX_NVLINK)
        return ERROR_INVALID_ARGUMENT;
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
