/* A CUDA runtime, driver and NVML that hand out addresses and count bytes: enough for PyTorch's
   caching allocator (libc10_cuda.so) to run without a GPU. Built as libcudart.so.13 and as
   libnvidia-ml.so.1. */

#include <cuda.h>
#include <cuda_runtime_api.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

size_t capacity_bytes = SIZE_MAX / 2;
static size_t used_bytes;

static int take(size_t num_bytes) {
  if (used_bytes + num_bytes > capacity_bytes) return 0;
  used_bytes += num_bytes;
  return 1;
}

/* cudaMalloc: every segment above the one before it. */
static struct { uintptr_t address; size_t num_bytes; } *segments;
static int num_segments, room_for_segments;
static uintptr_t next_segment = (uintptr_t)1 << 44;

cudaError_t cudaMalloc(void **address, size_t num_bytes) {
  if (!take(num_bytes)) return cudaErrorMemoryAllocation;
  if (num_segments == room_for_segments) {
    room_for_segments = 2 * room_for_segments + 64;
    segments = realloc(segments, room_for_segments * sizeof *segments);
  }
  segments[num_segments].address = next_segment;
  segments[num_segments++].num_bytes = num_bytes;
  *address = (void *)next_segment;
  next_segment += num_bytes;
  return cudaSuccess;
}

cudaError_t cudaFree(void *address) {
  for (int i = 0; i < num_segments; i++)
    if (segments[i].address == (uintptr_t)address) {
      used_bytes -= segments[i].num_bytes;
      segments[i] = segments[--num_segments];
      return cudaSuccess;
    }
  return cudaErrorInvalidValue;
}

/* cuMemCreate and its kin: a page's handle is its size. */
static uintptr_t next_range = (uintptr_t)1 << 46;

static int page_create(unsigned long long *handle, size_t num_bytes) {
  if (!take(num_bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
  *handle = num_bytes;
  return CUDA_SUCCESS;
}

static int page_release(unsigned long long handle) {
  used_bytes -= handle;
  return CUDA_SUCCESS;
}

static int range_reserve(unsigned long long *address, size_t num_bytes) {
  *address = next_range;
  next_range += num_bytes;
  return CUDA_SUCCESS;
}

static int attribute(int *value) {
  *value = 0;
  return CUDA_SUCCESS;
}

static int nothing(void) { return CUDA_SUCCESS; }

cudaError_t cudaGetDriverEntryPointByVersion(
    const char *name, void **function, unsigned version, unsigned long long flags,
    enum cudaDriverEntryPointQueryResult *found) {
  if (found) *found = cudaDriverEntryPointSuccess;
  *function = !strcmp(name, "cuMemCreate")            ? (void *)page_create
              : !strcmp(name, "cuMemRelease")         ? (void *)page_release
              : !strcmp(name, "cuMemAddressReserve")  ? (void *)range_reserve
              : !strcmp(name, "cuDeviceGetAttribute") ? (void *)attribute
                                                      : (void *)nothing;
  return cudaSuccess;
}

/* One device of 1 TiB, so that a segment's range of addresses never ends. */
cudaError_t cudaGetDeviceCount(int *count) { return *count = 1, cudaSuccess; }
cudaError_t cudaGetDevice(int *device) { return *device = 0, cudaSuccess; }
cudaError_t cudaSetDevice(int device) { return cudaSuccess; }
cudaError_t cudaGetLastError(void) { return cudaSuccess; }
const char *cudaGetErrorString(cudaError_t error) { return "no such device"; }
const char *cudaGetErrorName(cudaError_t error) { return "no such device"; }
cudaError_t cudaDriverGetVersion(int *version) { return *version = 13000, cudaSuccess; }

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device) {
  memset(properties, 0, sizeof *properties);
  properties->totalGlobalMem = (size_t)1 << 40;
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
  *free_bytes = capacity_bytes - used_bytes;
  *total_bytes = capacity_bytes;
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

int nvmlDeviceGetComputeRunningProcesses(void *device, unsigned *count, void *processes) {
  *count = 0;
  return 0;
}

/* The rest is asked for and never matters; the labels keep clear of the headers' signatures. */
#define SUCCEEDS(name) int label_##name(void) __asm__(#name); int label_##name(void) { return 0; }
SUCCEEDS(cudaDeviceCanAccessPeer)
SUCCEEDS(cudaDeviceEnablePeerAccess)
SUCCEEDS(cudaDeviceGetDefaultMemPool)
SUCCEEDS(cudaDeviceGetStreamPriorityRange)
SUCCEEDS(cudaDeviceSynchronize)
SUCCEEDS(cudaEventCreateWithFlags)
SUCCEEDS(cudaEventDestroy)
SUCCEEDS(cudaEventElapsedTime)
SUCCEEDS(cudaEventQuery)
SUCCEEDS(cudaEventRecord)
SUCCEEDS(cudaEventSynchronize)
SUCCEEDS(cudaFreeAsync)
SUCCEEDS(cudaGraphNodeGetDependencies)
SUCCEEDS(cudaIpcCloseMemHandle)
SUCCEEDS(cudaIpcGetMemHandle)
SUCCEEDS(cudaIpcOpenMemHandle)
SUCCEEDS(cudaMallocAsync)
SUCCEEDS(cudaMemPoolGetAttribute)
SUCCEEDS(cudaMemPoolSetAccess)
SUCCEEDS(cudaMemPoolSetAttribute)
SUCCEEDS(cudaMemPoolTrimTo)
SUCCEEDS(cudaMemcpy)
SUCCEEDS(cudaMemcpyAsync)
SUCCEEDS(cudaMemcpyPeerAsync)
SUCCEEDS(cudaStreamCreateWithPriority)
SUCCEEDS(cudaStreamGetCaptureInfo)
SUCCEEDS(cudaStreamQuery)
SUCCEEDS(cudaStreamSynchronize)
SUCCEEDS(cudaStreamWaitEvent)
SUCCEEDS(cudaThreadExchangeStreamCaptureMode)
SUCCEEDS(nvmlInit_v2)
SUCCEEDS(nvmlDeviceGetHandleByPciBusId_v2)
SUCCEEDS(nvmlDeviceGetNvLinkRemoteDeviceType)
SUCCEEDS(nvmlDeviceGetNvLinkRemotePciInfo_v2)
SUCCEEDS(nvmlDeviceGetGpuFabricInfoV)
SUCCEEDS(nvmlSystemGetCudaDriverVersion_v2)
