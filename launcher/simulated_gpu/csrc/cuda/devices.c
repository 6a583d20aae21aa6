/* The runtime's and the driver's questions about devices. */
#include "simulated.h"

API status cudaGetDeviceCount(int *count)
{
    *count = num_cards();
    return answer(num_cards() ? OK : NO_DEVICE);
}

API status cudaGetDevice(int *ordinal)
{
    *ordinal = current_card();
    return OK;
}

API status cudaSetDevice(int ordinal)
{
    status error = set_current_card(ordinal);
    if (!error)
        activate(ordinal);
    return answer(error);
}

API status cudaDriverGetVersion(int *version)
{
    *version = CUDA_VERSION;
    return OK;
}

API status cudaRuntimeGetVersion(int *version) { return cudaDriverGetVersion(version); }

API status cudaDeviceCanAccessPeer(int *can, int one, int peer)
{
    *can = one != peer;
    return OK;
}

API status cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    *least = 0;
    *greatest = -5;
    return OK;
}

API status cudaDeviceGetPCIBusId(char *text, int size, int ordinal)
{
    snprintf(text, (size_t)size, "00000000:%02X:00.0", attribute_of(PCI_BUS, ordinal));
    return OK;
}

API status cudaDeviceGetAttribute(int *value, int key, int ordinal)
{
    *value = attribute_of(key, ordinal);
    return OK;
}

static uuid uuid_of(int ordinal)
{
    uuid made;
    memset(&made, 0x50, sizeof made);
    made.bytes[15] = (char)part_number(card_at(ordinal)->part);
    return made;
}

API status cudaGetDeviceProperties(device_properties *to, int ordinal)
{
    if (ordinal < 0 || ordinal >= num_cards())
        return answer(INVALID_DEVICE);
#define ASK(key) attribute_of(key, ordinal)
    *to = (device_properties){
        .uuid = uuid_of(ordinal),
        .total_bytes = capacity_of(card_at(ordinal)),
        .shared_per_block = (size_t)ASK(SHARED_PER_BLOCK),
        .registers_per_block = ASK(REGISTERS_PER_BLOCK),
        .warp_size = ASK(WARP_SIZE),
        .max_pitch = 2147483647,
        .max_threads_per_block = ASK(MAX_THREADS_PER_BLOCK),
        .max_threads_dim = {ASK(MAX_BLOCK_X), ASK(MAX_BLOCK_Y), ASK(MAX_BLOCK_Z)},
        .max_grid_size = {ASK(MAX_GRID_X), ASK(MAX_GRID_Y), ASK(MAX_GRID_Z)},
        .constant_bytes = (size_t)ASK(CONSTANT_BYTES),
        .major = ASK(CAPABILITY_MAJOR),
        .minor = ASK(CAPABILITY_MINOR),
        .texture_alignment = (size_t)ASK(TEXTURE_ALIGNMENT),
        .multiprocessors = ASK(MULTIPROCESSORS),
        .can_map_host_memory = ASK(CAN_MAP_HOST_MEMORY),
        .concurrent_kernels = ASK(CONCURRENT_KERNELS),
        .pci_bus = ASK(PCI_BUS),
        .async_engines = ASK(ASYNC_ENGINES),
        .unified_addressing = ASK(UNIFIED_ADDRESSING),
        .memory_bus_bits = ASK(MEMORY_BUS_BITS),
        .l2_bytes = ASK(L2_BYTES),
        .threads_per_multiprocessor = ASK(THREADS_PER_MULTIPROCESSOR),
        .stream_priorities = ASK(STREAM_PRIORITIES),
        .shared_per_multiprocessor = (size_t)ASK(SHARED_PER_MULTIPROCESSOR),
        .registers_per_multiprocessor = ASK(REGISTERS_PER_MULTIPROCESSOR),
        .managed_memory = ASK(MANAGED_MEMORY),
        .concurrent_managed = ASK(CONCURRENT_MANAGED),
        .cooperative_launch = ASK(COOPERATIVE_LAUNCH),
        .shared_per_block_optin = (size_t)ASK(SHARED_PER_BLOCK_OPTIN),
        .blocks_per_multiprocessor = ASK(BLOCKS_PER_MULTIPROCESSOR),
        .reserved_shared_per_block = (size_t)ASK(RESERVED_SHARED_PER_BLOCK),
        .host_register = ASK(HOST_REGISTER),
        .memory_pools = ASK(MEMORY_POOLS),
        .cluster_launch = ASK(CLUSTER_LAUNCH),
    };
#undef ASK
    snprintf(to->name, sizeof to->name, "%s", card_at(ordinal)->part->name);
    return OK;
}

/* CUDA 12's name of it. */
API status cudaGetDeviceProperties_v2(device_properties *to, int ordinal)
{
    return cudaGetDeviceProperties(to, ordinal);
}

/* The driver's forms of the same. */
static char contexts[MAX_PARTS];

API status cuInit(unsigned flags)
{
    (void)flags;
    return num_cards() ? OK : NO_DEVICE;
}

API status cuDriverGetVersion(int *version) { return cudaDriverGetVersion(version); }

API status cuDeviceGetCount(int *count)
{
    *count = num_cards();
    return OK;
}

API status cuDeviceGet(int *device, int ordinal)
{
    *device = ordinal;
    return ordinal >= 0 && ordinal < num_cards() ? OK : INVALID_DEVICE;
}

API status cuDeviceGetName(char *name, int size, int ordinal)
{
    snprintf(name, (size_t)size, "%s", card_at(ordinal)->part->name);
    return OK;
}

API status cuDeviceGetUuid_v2(uuid *to, int ordinal)
{
    *to = uuid_of(ordinal);
    return OK;
}

API status cuDeviceTotalMem_v2(size_t *bytes, int ordinal)
{
    *bytes = capacity_of(card_at(ordinal));
    return OK;
}

API status cuDeviceGetAttribute(int *value, int key, int ordinal)
{
    return cudaDeviceGetAttribute(value, key, ordinal);
}

API status cuDeviceComputeCapability(int *major, int *minor, int ordinal)
{
    *major = attribute_of(CAPABILITY_MAJOR, ordinal);
    *minor = attribute_of(CAPABILITY_MINOR, ordinal);
    return OK;
}

API status cuDevicePrimaryCtxRetain(void **context, int ordinal)
{
    *context = &contexts[ordinal];
    return OK;
}

API status cuDevicePrimaryCtxGetState(int ordinal, unsigned *flags, int *is_active)
{
    *flags = 0;
    *is_active = card_at(ordinal)->is_active;
    return OK;
}

API status cuCtxGetCurrent(void **context)
{
    *context = &contexts[current_card()];
    return OK;
}

API status cuCtxSetCurrent(char *context)
{
    return context ? set_current_card((int)(context - contexts)) : OK;
}

API status cuCtxGetDevice(int *ordinal)
{
    *ordinal = current_card();
    return OK;
}

/* Stack, heap and print buffer of kernels that do nothing. */
API status cuCtxGetLimit(size_t *bytes, int key)
{
    (void)key;
    *bytes = 1024;
    return OK;
}
