/* The part of CUDA's runtime that MXNet calls. Work is done, or left undone, when it is asked for, so no stream is ever
 * behind; what a real device would have to wait for is counted.
 *
 * NULL_GPU_DEVICES (1): how many there are; 0 stands for a missing driver. CUDA_VISIBLE_DEVICES shows fewer of them.
 * NULL_GPU_MIB (16384): the memory of each. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "cuda_runtime_api.h"
#include "null_gpu.h"
#undef cudaGetDeviceProperties

static atomic_long counters[COUNTERS];

void null_gpu_count(int counter, long times) { counters[counter] += times; }

void null_gpu_counts(long *out) {
  for (int i = 0; i < COUNTERS; i++) out[i] = counters[i];
}

void null_gpu_unanswered(const char *function) {
  fprintf(stderr, "null GPU: %s was called, and tests/null_gpu has no answer for it\n", function);
  abort();
}

/* --- kernels ------------------------------------------------------------------------------------------------------ */
typedef struct { const void *host; const char *name; atomic_long launched; } Kernel;
static Kernel *kernels;
static size_t known, room;
static pthread_once_t sorted = PTHREAD_ONCE_INIT;

static int by_host(const void *a, const void *b) {
  const char *x = ((const Kernel *)a)->host, *y = ((const Kernel *)b)->host;
  return x < y ? -1 : x > y;
}

/* Called by the library's own start, in one thread, once for each kernel. */
void __cudaRegisterFunction(void **module, const char *host, char *device, const char *name, int threads, void *tid,
                            void *bid, void *block, void *grid, int *warps) {
  if (known == room) kernels = realloc(kernels, (room = room ? 2 * room : 4096) * sizeof(Kernel));
  kernels[known].host = host;
  kernels[known].name = name;
  kernels[known++].launched = 0;
}

static void sort(void) { qsort(kernels, known, sizeof(Kernel), by_host); }

/* Writes "launches name" of each kernel that was launched since the last call. */
void null_gpu_kernels(const char *path) {
  FILE *file = fopen(path, "w");
  for (size_t i = 0; i < known; i++) {
    long launched = atomic_exchange(&kernels[i].launched, 0);
    if (launched) fprintf(file, "%ld %s\n", launched, kernels[i].name);
  }
  fclose(file);
}

void **__cudaRegisterFatBinary(void *code) { static void *module[4]; return module; }
void __cudaRegisterFatBinaryEnd(void **module) {}
void __cudaUnregisterFatBinary(void **module) {}
void __cudaRegisterVar(void **m, char *host, char *d, const char *name, int ext, size_t size, int constant, int g) {}
char __cudaInitModule(void **module) { return 1; }

static __thread struct { dim3 grid, block; size_t shared; void *stream; } pushed[8];
static __thread int depth;

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, struct CUstream_st *stream) {
  pushed[depth].grid = grid, pushed[depth].block = block, pushed[depth].shared = shared;
  pushed[depth++].stream = stream;
  return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream) {
  depth--;
  *grid = pushed[depth].grid, *block = pushed[depth].block, *shared = pushed[depth].shared;
  *(void **)stream = pushed[depth].stream;
  return cudaSuccess;
}

static __thread cudaError_t last; /* what cudaGetLastError tells */

static cudaError_t failed(cudaError_t error) { return last = error; }

cudaError_t cudaLaunchKernel(const void *host, dim3 grid, dim3 block, void **arguments, size_t shared,
                             cudaStream_t stream) {
  null_gpu_count(LAUNCHES, 1);
  pthread_once(&sorted, sort);
  Kernel wanted = {host}, *kernel = bsearch(&wanted, kernels, known, sizeof(Kernel), by_host);
  if (kernel) kernel->launched++;
  if (!grid.x || !grid.y || !grid.z || !block.x || !block.y || !block.z || grid.y > 65535 || grid.z > 65535 ||
      (long)block.x * block.y * block.z > 1024) {
    fprintf(stderr, "null GPU: kernel %s with a grid of %u,%u,%u and a block of %u,%u,%u\n",
            kernel ? kernel->name : "?", grid.x, grid.y, grid.z, block.x, block.y, block.z);
    return failed(cudaErrorInvalidConfiguration);
  }
  /* The one answer that steers: without it no checkpoint would be saved. Arguments: the arrays, where the answer goes. */
  if (kernel && strstr(kernel->name, "MultiAllFiniteGPUKernel")) **(float **)arguments[1] = 1;
  return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *a, const void *host) {
  memset(a, 0, sizeof *a);
  a->maxThreadsPerBlock = 1024, a->ptxVersion = a->binaryVersion = 80, a->numRegs = 32;
  return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *host, int block,
                                                                   size_t shared, unsigned flags) {
  *blocks = 2048 / (block > 0 ? block : 1);
  return cudaSuccess;
}

/* --- devices, as an A100 describes itself ----------------------------------------------------------------------------- */
static long setting(const char *name, long otherwise) {
  const char *text = getenv(name);
  return text && *text ? atol(text) : otherwise;
}

static int devices(void) {
  int count = setting("NULL_GPU_DEVICES", 1);
  const char *visible = getenv("CUDA_VISIBLE_DEVICES");
  if (!visible) return count;
  int shown = 0;
  while (*visible && shown < count) { /* a list of numbers; what follows a wrong one is hidden */
    char *end;
    long number = strtol(visible, &end, 10);
    if (end == visible || number < 0 || number >= count) break;
    shown++;
    visible = *end == ',' ? end + 1 : end;
  }
  return shown;
}

static __thread int current;

cudaError_t cudaGetDeviceCount(int *count) {
  *count = 0;
  if (!setting("NULL_GPU_DEVICES", 1)) return failed(cudaErrorInsufficientDriver);
  *count = devices();
  return *count ? cudaSuccess : failed(cudaErrorNoDevice);
}
cudaError_t cudaGetDevice(int *device) { *device = current; return cudaSuccess; }
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= devices()) return failed(cudaErrorInvalidDevice);
  current = device;
  return cudaSuccess;
}

static size_t memory(void) { return (size_t)setting("NULL_GPU_MIB", 16384) << 20; }

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) {
  memset(p, 0, sizeof *p);
  strcpy(p->name, "null GPU");
  p->major = 8, p->minor = 0, p->multiProcessorCount = 108, p->warpSize = 32, p->totalGlobalMem = memory();
  p->maxThreadsPerBlock = 1024, p->maxThreadsPerMultiProcessor = 2048, p->regsPerBlock = 65536;
  p->sharedMemPerBlock = 49152, p->sharedMemPerMultiprocessor = 167936;
  p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024, p->maxThreadsDim[2] = 64;
  p->maxGridSize[0] = 2147483647, p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
  struct cudaDeviceProp p;
  cudaGetDeviceProperties(&p, device);
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: *value = p.maxThreadsPerBlock; break;
    case cudaDevAttrMaxBlockDimX: *value = p.maxThreadsDim[0]; break;
    case cudaDevAttrMaxGridDimX: *value = p.maxGridSize[0]; break;
    case cudaDevAttrMaxGridDimY: *value = p.maxGridSize[1]; break;
    case cudaDevAttrMaxGridDimZ: *value = p.maxGridSize[2]; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = p.sharedMemPerBlock; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = 166912; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = p.sharedMemPerMultiprocessor; break;
    case cudaDevAttrMaxRegistersPerBlock: *value = p.regsPerBlock; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = p.maxThreadsPerMultiProcessor; break;
    case cudaDevAttrMultiProcessorCount: *value = p.multiProcessorCount; break;
    case cudaDevAttrWarpSize: *value = p.warpSize; break;
    case cudaDevAttrComputeCapabilityMajor: *value = p.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = p.minor; break;
    case cudaDevAttrCooperativeLaunch: *value = 1; break;
    default:
      fprintf(stderr, "null GPU: attribute %d\n", attribute);
      null_gpu_unanswered("cudaDeviceGetAttribute");
  }
  return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int one, int other) { *can = 0; return cudaSuccess; }
cudaError_t cudaDriverGetVersion(int *version) {
  *version = setting("NULL_GPU_DEVICES", 1) ? 11070 : 0;
  return cudaSuccess;
}

/* --- memory --------------------------------------------------------------------------------------------------------------- */
/* New memory is zero: what a kernel would have written into it is then a number, and the same in each run. */
typedef struct { size_t bytes; char filled[256 - sizeof(size_t)]; } Head; /* before each block; CUDA aligns to 256 */
static atomic_size_t used;

cudaError_t cudaMalloc(void **block, size_t bytes) {
  Head *head;
  null_gpu_count(ALLOCATIONS, 1);
  if (used + bytes > memory() || posix_memalign((void **)&head, 256, sizeof *head + bytes))
    return failed(cudaErrorMemoryAllocation);
  used += head->bytes = bytes;
  *block = memset(head + 1, 0, bytes);
  return cudaSuccess;
}
cudaError_t cudaFree(void *block) {
  if (block) {
    Head *head = (Head *)block - 1;
    used -= head->bytes;
    free(head);
  }
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t *unused, size_t *total) {
  *total = memory();
  *unused = *total - used;
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void **block, size_t bytes, unsigned flags) {
  return posix_memalign(block, 4096, bytes ? bytes : 1) ? cudaErrorMemoryAllocation : cudaSuccess;
}
cudaError_t cudaFreeHost(void *block) { free(block); return cudaSuccess; }

static void copied(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind) {
  int counter = kind == cudaMemcpyHostToDevice ? TO_DEVICE : kind == cudaMemcpyDeviceToHost ? FROM_DEVICE : ON_DEVICE;
  null_gpu_count(counter, 1);
  null_gpu_count(counter + BYTES_TO_DEVICE - TO_DEVICE, bytes);
  memmove(to, from, bytes);
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind) {
  copied(to, from, bytes, kind);
  null_gpu_count(SYNCS, 1);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream) {
  copied(to, from, bytes, kind);
  return cudaSuccess;
}
cudaError_t cudaMemcpyPeerAsync(void *to, int device, const void *from, int other, size_t bytes, cudaStream_t stream) {
  copied(to, from, bytes, cudaMemcpyDeviceToDevice);
  return cudaSuccess;
}
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                              size_t height, enum cudaMemcpyKind kind, cudaStream_t stream) {
  copied(to, from, width * (height == 1), kind);
  if (height == 1) return cudaSuccess;
  for (size_t row = 0; row < height; row++)
    memmove((char *)to + row * to_pitch, (const char *)from + row * from_pitch, width);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *block, int value, size_t bytes, cudaStream_t stream) {
  memset(block, value, bytes);
  return cudaSuccess;
}

/* --- streams, events, errors ------------------------------------------------------------------------------------------- */
cudaError_t cudaStreamCreate(cudaStream_t *stream) { *stream = malloc(1); return cudaSuccess; }
cudaError_t cudaStreamDestroy(cudaStream_t stream) { free(stream); return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t stream) { null_gpu_count(SYNCS, 1); return cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) { return cudaSuccess; }
cudaError_t cudaDeviceSynchronize(void) { null_gpu_count(SYNCS, 1); return cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) { *event = malloc(1); return cudaSuccess; }
cudaError_t cudaEventDestroy(cudaEvent_t event) { free(event); return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) { return cudaSuccess; }

cudaError_t cudaGetLastError(void) { cudaError_t error = last; last = cudaSuccess; return error; }
cudaError_t cudaPeekAtLastError(void) { return last; }
const char *cudaGetErrorName(cudaError_t error) { return "null GPU"; }
const char *cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInsufficientDriver: return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    default: return "an error of the null GPU";
  }
}
