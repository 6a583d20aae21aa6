/* Error codes, their names and texts, and the last one of each thread. */
#include "simulated.h"

static __thread status last_error;

static const struct { status code; const char *name, *text; } errors[] = {
    {OK, "cudaSuccess", "no error"},
    {INVALID_VALUE, "cudaErrorInvalidValue", "invalid argument"},
    {OUT_OF_MEMORY, "cudaErrorMemoryAllocation", "out of memory"},
    {INVALID_SYMBOL, "cudaErrorInvalidSymbol", "invalid device symbol"},
    {NO_DEVICE, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {ECC_UNCORRECTABLE, "cudaErrorECCUncorrectable", "uncorrectable ECC error encountered"},
    {LAUNCH_FAILURE, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {UNKNOWN, "cudaErrorUnknown", "unknown error"},
    {NO_KERNEL_IMAGE, "cudaErrorNoKernelImageForDevice",
     "no kernel image is available for execution on the device"},
    {NOT_FOUND, "cudaErrorSymbolNotFound", "named symbol not found"},
    {NOT_SUPPORTED, "cudaErrorNotSupported", "operation not supported"},
};
enum { NUM_ERRORS = sizeof errors / sizeof *errors };

static int place(status code)
{
    for (int n = 0; n < NUM_ERRORS; n++)
        if (errors[n].code == code)
            return n;
    return -1;
}

static const char *error_name(status code)
{
    return place(code) < 0 ? "cudaErrorUnknown" : errors[place(code)].name;
}

static const char *error_text(status code)
{
    return place(code) < 0 ? "unknown error" : errors[place(code)].text;
}

status answer(status error)
{
    if (error)
        last_error = error;
    return error;
}

API const char *cudaGetErrorName(status code) { return error_name(code); }
API const char *cudaGetErrorString(status code) { return error_text(code); }
API status cudaPeekAtLastError(void) { return loss() ? loss() : last_error; }

API status cudaGetLastError(void)
{
    status error = last_error;
    last_error = OK;
    return loss() ? loss() : error;
}

API status cuGetErrorName(status code, const char **name)
{
    *name = error_name(code);
    return OK;
}

API status cuGetErrorString(status code, const char **text)
{
    *text = error_text(code);
    return OK;
}
