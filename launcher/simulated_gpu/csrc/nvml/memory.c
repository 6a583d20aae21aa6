/* Answers about memory, and about the processes that hold it.
 *
 * What the description says is joined with what simulated processes have taken since.
 */
#include "../ledger.h"
#include "../machine.h"

static unsigned long long taken(const part *device)
{
    unsigned long long bytes = ledger_used(part_number(device));
    unsigned long long free = device->free_mib << 20;
    return bytes < free ? bytes : free;
}

/* The first version counts the driver's own share as used. */
int nvmlDeviceGetMemoryInfo(part *device, memory_v1 *memory)
{
    ANSWER_FOR_OR_RETURN(device);
    memory->total = device->total_mib << 20;
    memory->free = (device->free_mib << 20) - taken(device);
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
    memory->free = (device->free_mib << 20) - taken(device);
    memory->used = memory->total - memory->reserved - memory->free;
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

/* Described processes first, then simulated ones. */
static int compute_processes(const part *device, process_info *to)
{
    int held = device->num_processes;
    memcpy(to, device->processes, (size_t)held * sizeof *to);
    for (int row = 0; row < ledger_rows(); row++) {
        process_info seen = {0, 0, ~0U, ~0U};
        seen.used = ledger_row(row, part_number(device), &seen.pid);
        if (seen.used)
            to[held++] = seen;
    }
    return held;
}

int nvmlDeviceGetComputeRunningProcesses_v3(part *device, unsigned *count, process_info *infos)
{
    process_info held[MAX_PROCESSES + MAX_PARTS];
    ANSWER_FOR_OR_RETURN(device);
    return give_processes(count, infos, compute_processes(device, held), held);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(part *device, unsigned *count, process_info *infos)
{
    ANSWER_FOR_OR_RETURN(device);
    return give_processes(count, infos, device->num_graphics, device->graphics);
}

int nvmlSystemGetProcessName(unsigned pid, char *name, unsigned size)
{
    ANSWER_OR_RETURN;
    (void)pid;
    return machine.program[0] ? give_text(name, size, machine.program) : ERROR_NOT_FOUND;
}
