/* cuBLAS, cuBLASLt, cuSPARSE, cuSOLVER, nvrtc, CUPTI: handles, and answers that are looked at.
 *
 * Products themselves are among the empty functions. PyTorch owns cuBLAS's workspaces, so they are
 * counted; cuDNN is in cudnn.c.
 */
#include "simulated.h"

enum { CUBLASLT_VERSION = 130100, CUPTI_VERSION = 130000, HEURISTIC_BYTES = 96 };

#define MAKES_A_HANDLE(function)                                                                  \
    API status function(void **handle)                                                            \
    {                                                                                             \
        *handle = new_handle();                                                                   \
        return OK;                                                                                \
    }
MAKES_A_HANDLE(cublasCreate_v2)
MAKES_A_HANDLE(cublasLtCreate)
MAKES_A_HANDLE(cublasLtMatmulDescCreate)
MAKES_A_HANDLE(cublasLtMatmulPreferenceCreate)
MAKES_A_HANDLE(cublasLtMatrixLayoutCreate)
MAKES_A_HANDLE(cusolverDnCreate)
MAKES_A_HANDLE(cusparseCreate)

/* The default modes: nothing is emulated, scalars are the host's. */
API status cublasGetMathMode(void *handle, int *mode)
{
    (void)handle;
    *mode = 0;
    return OK;
}

API status cublasGetPointerMode_v2(void *handle, int *mode) { return cublasGetMathMode(handle, mode); }

API size_t cublasLtGetVersion(void) { return CUBLASLT_VERSION; }

/* One algorithm, which is good and takes no workspace: PyTorch allocates its own beforehand. */
API status cublasLtMatmulAlgoGetHeuristic(void *handle, void *product, void *a, void *b, void *c,
                                          void *d, void *preference, int wanted, void *results,
                                          int *count)
{
    (void)handle, (void)product, (void)a, (void)b, (void)c, (void)d, (void)preference;
    memset(results, 0, wanted ? HEURISTIC_BYTES : 0);
    *count = wanted > 0;
    return OK;
}

API status nvrtcVersion(int *major, int *minor)
{
    *major = CUDA_MAJOR;
    *minor = CUDA_MINOR;
    return OK;
}

API const char *nvrtcGetErrorString(int code)
{
    (void)code;
    return "nvrtc is simulated";
}

API status cuptiGetVersion(unsigned *version)
{
    *version = CUPTI_VERSION;
    return OK;
}
