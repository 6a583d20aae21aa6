/* Kernels: registered, asked about, launched. They do nothing. */
#include "simulated.h"

enum { REGISTERS = 32, DRIVER_MAX_THREADS = 0, DRIVER_REGISTERS = 4 };

API void **__cudaRegisterFatBinary(void *binary)
{
    (void)binary;
    return new_handle();
}

API void __cudaRegisterFunction(void **binary, const void *kernel, char *device, const char *name)
{
    (void)binary, (void)device;
    int special = special_kernel(name);
    if (special || is_tracing())
        name_kernel(kernel, name, special);
}

static status launched(const void *kernel, void **arguments)
{
    if (loss() || !code_version(card_at(current_card())))
        return answer(loss() ? loss() : NO_KERNEL_IMAGE);
    count_call(kernel, NULL);
    int special = special_of(kernel);
    if (special)
        select_size(special, arguments);
    return OK;
}

/* What <<<...>>> compiles to: the configuration is pushed, and popped by the kernel's stub. */
static __thread launch_configuration pushed;

API unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared_bytes, stream on)
{
    pushed = (launch_configuration){grid, block, shared_bytes, on, NULL, 0};
    return 0;
}

API status __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared_bytes, stream *on)
{
    *grid = pushed.grid;
    *block = pushed.block;
    *shared_bytes = pushed.shared_bytes;
    *on = pushed.stream;
    return OK;
}

API status __cudaGetKernel(const void **kernel, const void *host)
{
    *kernel = host;
    return OK;
}

API status cudaLaunchKernel(const void *kernel, dim3 grid, dim3 block, void **arguments,
                            size_t shared_bytes, stream on)
{
    (void)grid, (void)block, (void)shared_bytes, (void)on;
    return launched(kernel, arguments);
}

API status __cudaLaunchKernel(const void *kernel, dim3 grid, dim3 block, void **arguments,
                              size_t shared_bytes, stream on)
{
    return cudaLaunchKernel(kernel, grid, block, arguments, shared_bytes, on);
}

API status cudaLaunchCooperativeKernel(const void *kernel, dim3 grid, dim3 block, void **arguments,
                                       size_t shared_bytes, stream on)
{
    return cudaLaunchKernel(kernel, grid, block, arguments, shared_bytes, on);
}

API status cudaLaunchKernelExC(const launch_configuration *how, const void *kernel,
                               void **arguments)
{
    (void)how;
    return launched(kernel, arguments);
}

API status cudaFuncGetAttributes(function_attributes *to, const void *kernel)
{
    (void)kernel;
    int code = code_version(card_at(current_card()));
    *to = (function_attributes){
        .max_threads_per_block = attribute_of(MAX_THREADS_PER_BLOCK, current_card()),
        .num_registers = REGISTERS,
        .ptx_version = code,
        .binary_version = code,
        .max_dynamic_shared_bytes = attribute_of(SHARED_PER_BLOCK, current_card()),
    };
    return code ? OK : answer(NO_KERNEL_IMAGE);
}

API status cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *kernel,
                                                         int threads, size_t shared_bytes)
{
    (void)kernel, (void)shared_bytes;
    *blocks = occupancy(threads);
    return OK;
}

API status cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *kernel,
                                                                  int threads, size_t shared_bytes,
                                                                  unsigned flags)
{
    (void)flags;
    return cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, kernel, threads, shared_bytes);
}

API status cudaOccupancyMaxActiveClusters(int *clusters, const void *kernel, const void *how)
{
    (void)kernel, (void)how;
    *clusters = 1;
    return OK;
}

/* Modules of the driver, as Triton and just-in-time compilers load them. */
API status cuModuleLoadData(void **module, const void *image)
{
    (void)image;
    *module = new_handle();
    return OK;
}

API status cuModuleLoadDataEx(void **module, const void *image, unsigned count, int *options,
                              void **values)
{
    (void)count, (void)options, (void)values;
    return cuModuleLoadData(module, image);
}

API status cuModuleGetFunction(void **function, void *module, const char *name)
{
    (void)module;
    *function = new_handle();
    if (is_tracing())
        name_kernel(*function, strdup(name), 0);
    return OK;
}

API status cudaLibraryLoadData(void **library, const void *image)
{
    return cuModuleLoadData(library, image);
}

API status cudaLibraryGetKernel(void **kernel, void *library, const char *name)
{
    return cuModuleGetFunction(kernel, library, name);
}

API status cuFuncGetAttribute(int *value, int key, void *function)
{
    (void)function;
    *value = key == DRIVER_MAX_THREADS  ? attribute_of(MAX_THREADS_PER_BLOCK, current_card())
             : key == DRIVER_REGISTERS ? REGISTERS : 0;
    return OK;
}

API status cuLaunchKernel(void *function)
{
    return launched(function, NULL);
}

API status cuLaunchKernelEx(const void *how, void *function)
{
    (void)how;
    return launched(function, NULL);
}

API status cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, void *function, int threads,
                                                       size_t shared_bytes)
{
    return cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, threads, shared_bytes);
}

API status cuOccupancyMaxActiveClusters(int *clusters, void *function, const void *how)
{
    return cudaOccupancyMaxActiveClusters(clusters, function, how);
}
