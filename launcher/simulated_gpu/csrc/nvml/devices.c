/* Answers about the driver and single GPUs. */
#include "../machine.h"

int nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    int error = read_machine(getenv("SIMULATED_GPU_MACHINE"));
    if (!error)
        error = machine.init_error;
    machine.ready = !error;
    return error;
}

int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

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
