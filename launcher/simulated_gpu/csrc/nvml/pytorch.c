/* Answers that only PyTorch's allocator asks for, beside those that nvidia-ml-py does. */
#include "../machine.h"

enum { FABRIC_STATE = 28, NO_FABRIC = 0 }; /* the byte of nvmlGpuFabricInfoV_t that is looked at */

int nvmlDeviceGetHandleByIndex_v2(unsigned index, part **device);

int nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, part **device)
{
    unsigned domain, bus;
    ANSWER_OR_RETURN;
    if (sscanf(bus_id, "%x:%x", &domain, &bus) != 2 || bus < FIRST_BUS)
        return ERROR_INVALID_ARGUMENT;
    return nvmlDeviceGetHandleByIndex_v2(bus - FIRST_BUS, device);
}

/* Asked for when memory runs out, to name other processes: none is named. */
int nvmlDeviceGetComputeRunningProcesses(part *device, unsigned *count, void *infos)
{
    ANSWER_FOR_OR_RETURN(device);
    (void)infos;
    *count = 0;
    return SUCCESS;
}

int nvmlDeviceGetGpuFabricInfoV(part *device, char *info)
{
    ANSWER_FOR_OR_RETURN(device);
    info[FABRIC_STATE] = NO_FABRIC;
    return SUCCESS;
}
