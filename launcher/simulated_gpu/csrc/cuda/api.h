/* Declarations of our own for the few types of CUDA that cross the boundary by value or layout, as
 * they are in the release that CUDA_VERSION names: 12040 is 12.4.
 *
 * Names are ours; order, widths and numbers are CUDA's. tests/simulated/test_layouts.py holds them
 * to the headers that Triton's wheel brings.
 */
#ifndef SIMULATED_CUDA_API_H
#define SIMULATED_CUDA_API_H

#include <stddef.h>
#include <stdint.h>

#define API __attribute__((visibility("default")))

enum { CUDA_MAJOR = CUDA_VERSION / 1000, CUDA_MINOR = CUDA_VERSION % 1000 / 10 };

/* A field that CUDA 13 dropped, and one that it added. */
#if CUDA_VERSION < 13000
#define UNTIL_12(field) field;
#define SINCE_13(field)
#else
#define UNTIL_12(field)
#define SINCE_13(field) field;
#endif

/* Codes that the runtime and the driver share. */
typedef int status;
enum {
    OK = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    INVALID_SYMBOL = 13,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    NO_KERNEL_IMAGE = 209,
    ECC_UNCORRECTABLE = 214,
    NOT_FOUND = 500,
    LAUNCH_FAILURE = 719,
    NOT_SUPPORTED = 801,
    UNKNOWN = 999,
};

typedef struct { unsigned x, y, z; } dim3;
typedef struct { char bytes[16]; } uuid;
typedef struct handle *stream;
typedef struct handle *event;

enum { MEMORY_HOST = 1, MEMORY_DEVICE = 2, MEMORY_MANAGED = 3 };

typedef struct {
    int kind, device;
    void *device_pointer, *host_pointer;
    SINCE_13(long reserved[8])
} pointer_attributes;

typedef struct {
    size_t shared_bytes, constant_bytes, local_bytes;
    int max_threads_per_block, num_registers, ptx_version, binary_version, cache_mode;
    int max_dynamic_shared_bytes, preferred_carveout, cluster_must_be_set;
    int cluster_width, cluster_height, cluster_depth, cluster_policy, non_portable_cluster;
    int reserved[16];
} function_attributes;

typedef struct {
    dim3 grid, block;
    size_t shared_bytes;
    stream stream;
    void *attributes;
    unsigned num_attributes;
} launch_configuration;

typedef struct {
    char name[256];
    uuid uuid;
    char luid[8];
    unsigned luid_node_mask;
    size_t total_bytes, shared_per_block;
    int registers_per_block, warp_size;
    size_t max_pitch;
    int max_threads_per_block, max_threads_dim[3], max_grid_size[3];
    UNTIL_12(int clock_khz)
    size_t constant_bytes;
    int major, minor;
    size_t texture_alignment, texture_pitch_alignment;
    UNTIL_12(int overlap)
    int multiprocessors;
    UNTIL_12(int has_timeout)
    int integrated, can_map_host_memory;
    UNTIL_12(int compute_mode)
    UNTIL_12(int linear_texture_limit)
    int texture_limits[25];
    int surface_limits[14];
    size_t surface_alignment;
    int concurrent_kernels, ecc, pci_bus, pci_device, pci_domain, tcc, async_engines;
    int unified_addressing;
    UNTIL_12(int memory_khz)
    int memory_bus_bits, l2_bytes, persisting_l2_bytes;
    int threads_per_multiprocessor, stream_priorities, global_l1, local_l1;
    size_t shared_per_multiprocessor;
    int registers_per_multiprocessor, managed_memory, multi_gpu_board, multi_gpu_group;
    int host_atomics;
    UNTIL_12(int double_precision_ratio)
    int pageable_access, concurrent_managed, preemption, host_pointer_registered;
    int cooperative_launch;
    UNTIL_12(int cooperative_launch_on_several)
    size_t shared_per_block_optin;
    int host_page_tables, direct_managed_access, blocks_per_multiprocessor, policy_window_bytes;
    size_t reserved_shared_per_block;
    int host_register, sparse_arrays, host_register_read_only, timeline_semaphores, memory_pools;
    int rdma;
    unsigned rdma_flush;
    int rdma_ordering;
    unsigned pool_handle_types;
    int deferred_mapping, ipc_events, cluster_launch, unified_function_pointers;
    int numa_config, numa_id, mps, host_numa_id;
    unsigned pci_device_id, pci_subsystem_id;
    int host_numa_ipc;
    int reserved[56];
} device_properties;

/* What a block of physical memory is to be: CUmemAllocationProp. */
typedef struct {
    int type, handle_types;
    int location_type, location;
    void *windows_metadata;
    unsigned char flags[8];
} physical_properties;
enum { LOCATION_DEVICE = 1 };

/* The keys of device attributes are the same for the driver and the runtime. */
enum attribute {
    MAX_THREADS_PER_BLOCK = 1,
    MAX_BLOCK_X = 2,
    MAX_BLOCK_Y = 3,
    MAX_BLOCK_Z = 4,
    MAX_GRID_X = 5,
    MAX_GRID_Y = 6,
    MAX_GRID_Z = 7,
    SHARED_PER_BLOCK = 8,
    CONSTANT_BYTES = 9,
    WARP_SIZE = 10,
    REGISTERS_PER_BLOCK = 12,
    CORE_KHZ = 13,
    TEXTURE_ALIGNMENT = 14,
    MULTIPROCESSORS = 16,
    CAN_MAP_HOST_MEMORY = 19,
    CONCURRENT_KERNELS = 31,
    PCI_BUS = 33,
    MEMORY_KHZ = 36,
    MEMORY_BUS_BITS = 37,
    L2_BYTES = 38,
    THREADS_PER_MULTIPROCESSOR = 39,
    ASYNC_ENGINES = 40,
    UNIFIED_ADDRESSING = 41,
    CAPABILITY_MAJOR = 75,
    CAPABILITY_MINOR = 76,
    STREAM_PRIORITIES = 78,
    SHARED_PER_MULTIPROCESSOR = 81,
    REGISTERS_PER_MULTIPROCESSOR = 82,
    MANAGED_MEMORY = 83,
    CONCURRENT_MANAGED = 89,
    COOPERATIVE_LAUNCH = 95,
    SHARED_PER_BLOCK_OPTIN = 97,
    HOST_REGISTER = 99,
    VIRTUAL_MEMORY = 102,
    FILE_DESCRIPTOR_HANDLES = 103,
    BLOCKS_PER_MULTIPROCESSOR = 106,
    RESERVED_SHARED_PER_BLOCK = 111,
    MEMORY_POOLS = 115,
    CLUSTER_LAUNCH = 120,
};

#endif
