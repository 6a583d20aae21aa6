/* cuDNN: enough of its graphs for PyTorch to build a plan and run it.
 *
 * What a real plan's workspace takes is the closed library's secret: it is
 * SIMULATED_GPU_CUDNN_WORKSPACE bytes here, zero by default.
 */
#include "simulated.h"

enum { CUDNN_VERSION = 92000 }; /* the one that torch 2.13.0+cu130 pins: nvidia-cudnn-cu13 9.20 */
enum { INT64 = 3, WORKSPACE = 402 };
enum { HANDLE = 0, DATA_TYPE = 1, BOOLEAN = 2, NUMERICAL_NOTE = 4 };

API size_t cudnnGetVersion(void)
{
    return (size_t)number_from_environment("SIMULATED_GPU_CUDNN_VERSION", CUDNN_VERSION);
}

API status cudnnGetProperty(int key, int *value)
{
    int version = (int)cudnnGetVersion();
    *value = key == 0 ? version / 10000 : key == 1 ? version / 100 % 100 : version % 100;
    return OK;
}

API status cudnnCreate(void **handle)
{
    *handle = new_handle();
    return OK;
}

API status cudnnBackendCreateDescriptor(int kind, void **descriptor)
{
    (void)kind;
    return cudnnCreate(descriptor);
}

/* One engine, without notes and without knobs. */
API status cudnnBackendGetAttribute(void *descriptor, int name, int type, int64_t wanted,
                                    int64_t *count, void *values)
{
    (void)descriptor;
    int64_t given = !values ? 1 : wanted > 1 ? 0 : wanted;
    if (count)
        *count = given;
    if (!values || !given)
        return OK;
    if (type == INT64)
        *(int64_t *)values =
            name == WORKSPACE ? number_from_environment("SIMULATED_GPU_CUDNN_WORKSPACE", 0) : 0;
    else if (type == DATA_TYPE || type == BOOLEAN || type == NUMERICAL_NOTE)
        *(int *)values = HANDLE;
    return OK;
}

API const char *cudnnGetErrorString(int code)
{
    return code ? "an error of simulated cuDNN" : "CUDNN_STATUS_SUCCESS";
}

API void cudnnGetLastErrorString(char *message, size_t size)
{
    snprintf(message, size, "%s", "simulated cuDNN gives no reasons");
}
