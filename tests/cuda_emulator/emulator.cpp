// Runs CUDA kernels on the CPU, so that they are tested where there is no GPU.
//
// A launch runs its blocks one by one in random order. Every thread of a block is a fiber, which runs until it waits,
// in a barrier or a shuffle, or ends. Between two barriers the warps run one by one in random order, and so do the
// threads of a warp between two shuffles: each is as far ahead of others as it can get. So a race shows as a result
// that is wrong or varies with the seed. What a GPU refuses, faults on or hangs at is an error that names the place:
// limits of a launch, threads that do not meet, misaligned and null pointers, indices beyond an array (the kernels are
// compiled with -fsanitize=alignment,null,bounds; the reports arrive here), writing beyond dynamic shared memory. When
// a block starts, that memory holds NaN. Not seen: use of global memory beyond what a pointer was meant for, and static
// shared memory that is read before it is written, except by what it does to the result.
//
// Read from the environment at every launch:
//   CUDA_EMULATOR_SEED             order of blocks and threads (0)
//   CUDA_EMULATOR_MULTIPROCESSORS  multiprocessors of the device (7)
#undef _FORTIFY_SOURCE  // it takes a jump to another stack for a mistake
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "cuda_runtime.h"

namespace {

constexpr size_t kSharedDefault = 48 * 1024, kSharedMost = 227 * 1024, kParameters = 4096;
constexpr unsigned kThreads = 1024;
constexpr size_t kStack = 64 * 1024 + 17 * 64;  // at a power of two apart, the caches would hold few of them
constexpr uint64_t kCanary = 0x5ca1ab1e0ddba11;

}  // namespace

// The one name for dynamic shared memory in csrc/cuda.
namespace fastgan::cuda {
extern __shared__ uint4 dynamic_shared[];
__shared__ uint4 dynamic_shared[kSharedMost / sizeof(uint4)];
}  // namespace fastgan::cuda

namespace emulator {
namespace {

enum Wait { kNothing, kEnd, kBarrier, kShuffle };
constexpr const char* kNames[] = {"nothing", "the end", "__syncthreads", "a shuffle"};

struct Place {
  Wait wait = kNothing;
  int line = 0;
  bool operator<(const Place& other) const { return std::tie(wait, line) < std::tie(other.wait, other.line); }
  bool operator==(const Place& other) const { return wait == other.wait && line == other.line; }
};

struct Thread {
  uint3 index;
  Place waits;
  // Of a shuffle.
  unsigned mask;
  int source;
  void* value;
  size_t size;

  bool started = false;
  jmp_buf fiber;
  char* stack;
};

// There is one, as launches run one after another.
struct Device {
  std::mutex launching;
  std::vector<Thread> threads;
  std::unique_ptr<char[]> stacks{new char[kThreads * kStack]};
  std::map<const void*, size_t> shared;  // that a kernel was allowed
  std::mt19937 random;
  const std::function<void()>* kernel = nullptr;
  Thread* running = nullptr;
  jmp_buf scheduler;
} device;

thread_local char message[512];
thread_local cudaError_t last_error = cudaSuccess;

template <typename... Arguments>
cudaError_t report(cudaError_t error, const char* format, Arguments... arguments) {
  snprintf(message, sizeof(message), format, arguments...);
  return last_error = error;
}

template <typename... Arguments>
cudaError_t report_in_block(const char* format, Arguments... arguments) {
  char what[400];
  snprintf(what, sizeof(what), format, arguments...);
  return report(cudaErrorLaunchFailure, "block (%u, %u, %u): %s", blockIdx.x, blockIdx.y, blockIdx.z, what);
}

// Ends the launch, from inside a thread of it.
template <typename... Arguments>
[[noreturn]] void fail(const char* format, Arguments... arguments) {
  report_in_block(format, arguments...);
  if (device.running == nullptr) {
    fprintf(stderr, "outside of a kernel, %s\n", message);
    abort();
  }
  _longjmp(device.scheduler, 1);
}

// --- fibers ---

void wait_at(Place place) {
  Thread& thread = *device.running;
  thread.waits = place;
  if (_setjmp(thread.fiber) == 0) _longjmp(device.scheduler, 1);
}

void run_fiber() {
  for (;;) {
    (*device.kernel)();
    wait_at({kEnd, 0});
  }
}

// Runs a thread until it waits. Jumps are taken where they can be: contexts make system calls.
void resume(Thread& thread) {
  device.running = &thread;
  threadIdx = thread.index;
  if (_setjmp(device.scheduler) != 0) {
    device.running = nullptr;
    return;
  }
  if (thread.started) _longjmp(thread.fiber, 1);
  thread.started = true;
  memcpy(thread.stack, &kCanary, sizeof(kCanary));
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = thread.stack;
  context.uc_stack.ss_size = kStack;
  makecontext(&context, run_fiber, 0);
  setcontext(&context);
}

// --- a block ---

using Threads = std::vector<Thread*>;

// If all lanes of its mask wait at the thread's shuffle: exchanges their values and lets them go on.
void meet_lanes(const Thread& thread, Threads& ready) {
  const size_t first = (&thread - device.threads.data()) / kWarp * kWarp;
  Thread* lanes[kWarp] = {};
  for (int lane = 0; lane < kWarp; ++lane) {
    if ((thread.mask >> lane & 1) == 0) continue;
    if (first + lane >= device.threads.size()) return;
    lanes[lane] = &device.threads[first + lane];
    if (!(lanes[lane]->waits == thread.waits) || lanes[lane]->mask != thread.mask) return;
  }
  char values[kWarp][kLargestShuffled];
  for (int lane = 0; lane < kWarp; ++lane) {
    if (lanes[lane] != nullptr) memcpy(values[lane], lanes[lane]->value, lanes[lane]->size);
  }
  for (Thread* lane : lanes) {
    if (lane == nullptr) continue;
    memcpy(lane->value, values[lane->source], lane->size);
    lane->waits = {};
    ready.push_back(lane);
  }
}

cudaError_t report_where_threads_wait() {
  std::map<Place, int> counts;
  for (const Thread& thread : device.threads) ++counts[thread.waits];
  std::string list;
  for (const auto& [place, count] : counts) {
    list += (list.empty() ? "" : ", ") + std::to_string(count) + " threads at " + kNames[place.wait];
    if (place.wait != kEnd) list += " of line " + std::to_string(place.line);
  }
  return report_in_block("its threads do not meet: %s", list.c_str());
}

// Runs a warp until all its threads wait for other warps, or have ended.
cudaError_t run_warp(size_t first) {
  Threads ready;
  for (size_t i = first; i < std::min(first + kWarp, device.threads.size()); ++i) ready.push_back(&device.threads[i]);
  while (!ready.empty()) {
    std::swap(ready[device.random() % ready.size()], ready.back());
    Thread& thread = *ready.back();
    ready.pop_back();
    resume(thread);
    if (last_error != cudaSuccess) return last_error;
    if (thread.waits.wait == kShuffle) meet_lanes(thread, ready);
  }
  return cudaSuccess;
}

cudaError_t run_block() {
  std::vector<size_t> warps;
  for (size_t first = 0; first < device.threads.size(); first += kWarp) warps.push_back(first);
  for (;;) {
    std::shuffle(warps.begin(), warps.end(), device.random);
    for (const size_t first : warps) {
      if (run_warp(first) != cudaSuccess) return last_error;
    }
    const Place place = device.threads.front().waits;
    for (const Thread& thread : device.threads) {
      if (!(thread.waits == place) || place.wait == kShuffle) return report_where_threads_wait();
    }
    if (place.wait == kEnd) break;
  }
  for (const Thread& thread : device.threads) {
    if (memcmp(thread.stack, &kCanary, sizeof(kCanary)) == 0) continue;
    return report_in_block("a thread takes more stack than the emulator's %zu bytes", kStack);
  }
  return cudaSuccess;
}

cudaError_t run_grid(size_t shared) {
  const size_t per_layer = size_t{gridDim.x} * gridDim.y;
  std::vector<size_t> blocks(per_layer * gridDim.z);
  std::iota(blocks.begin(), blocks.end(), 0);
  std::shuffle(blocks.begin(), blocks.end(), device.random);
  const auto memory = reinterpret_cast<unsigned char*>(fastgan::cuda::dynamic_shared), beyond = memory + shared;
  memset(memory, 0xff, kSharedMost);
  for (const size_t block : blocks) {
    blockIdx = {static_cast<unsigned>(block % gridDim.x), static_cast<unsigned>(block % per_layer / gridDim.x),
                static_cast<unsigned>(block / per_layer)};
    memset(memory, 0xff, shared);
    if (run_block() != cudaSuccess) return last_error;
    // All bytes are equal if each equals the next.
    if (kSharedMost - shared > 0 && (*beyond != 0xff || memcmp(beyond, beyond + 1, kSharedMost - shared - 1) != 0)) {
      return report_in_block("wrote beyond its %zu bytes of dynamic shared memory", shared);
    }
  }
  return cudaSuccess;
}

unsigned setting(const char* name, unsigned otherwise) {
  const char* text = getenv(name);
  return text == nullptr ? otherwise : static_cast<unsigned>(strtoul(text, nullptr, 10));
}

}  // namespace

void barrier(int line) { wait_at({kBarrier, line}); }

void shuffle(unsigned mask, int source, void* value, size_t size, int line) {
  if ((mask >> lane() & 1) == 0) fail("lane %d shuffles without standing in the mask %#x", lane(), mask);
  if ((mask >> source & 1) == 0) fail("lane %d shuffles from lane %d, not in the mask %#x", lane(), source, mask);
  Thread& thread = *device.running;
  thread.mask = mask;
  thread.source = source;
  thread.value = value;
  thread.size = size;
  wait_at({kShuffle, line});
}

cudaError_t allow_shared(const void* kernel, int bytes) {
  if (bytes < 0 || static_cast<size_t>(bytes) > kSharedMost) {
    return report(cudaErrorInvalidValue, "%d bytes of dynamic shared memory: a block has %zu at most", bytes,
                  kSharedMost);
  }
  const std::lock_guard lock(device.launching);
  device.shared[kernel] = bytes;
  return cudaSuccess;
}

cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, size_t parameters,
                   const std::function<void()>& thread) {
  const std::lock_guard lock(device.launching);
  const dim3 grid = config.gridDim, block = config.blockDim;
  const size_t threads = size_t{block.x} * block.y * block.z, shared = config.dynamicSmemBytes;
  const size_t allowed = std::max(kSharedDefault, device.shared[kernel]);
  if (threads == 0 || threads > kThreads || block.z > 64) {
    return report(cudaErrorInvalidConfiguration, "blocks of %u x %u x %u threads: a block has 1 to %u", block.x,
                  block.y, block.z, kThreads);
  }
  if (std::min({grid.x, grid.y, grid.z}) == 0 || grid.x > 0x7fffffff || std::max(grid.y, grid.z) > 0xffff) {
    return report(cudaErrorInvalidConfiguration, "a grid of %u x %u x %u blocks", grid.x, grid.y, grid.z);
  }
  if (parameters > kParameters) {
    return report(cudaErrorInvalidValue, "%zu bytes of parameters: a kernel takes %zu", parameters, kParameters);
  }
  if (shared > allowed) {
    return report(cudaErrorInvalidValue, "%zu bytes of dynamic shared memory: the kernel was allowed %zu", shared,
                  allowed);
  }
  gridDim = grid;
  blockDim = block;
  device.kernel = &thread;
  device.random.seed(setting("CUDA_EMULATOR_SEED", 0));
  last_error = cudaSuccess;
  device.threads.resize(threads);
  for (unsigned i = 0; i < threads; ++i) {
    Thread& t = device.threads[i];
    t.index = {i % block.x, i / block.x % block.y, i / block.x / block.y};
    t.stack = &device.stacks[i * kStack];
  }
  const cudaError_t error = run_grid(shared);
  if (error != cudaSuccess) device.threads.clear();  // in the middle of the kernel
  return error;
}

}  // namespace emulator

// --- the runtime ---

cudaError_t cudaGetLastError() { return std::exchange(emulator::last_error, cudaSuccess); }

const char* cudaGetErrorString(cudaError_t error) { return error == cudaSuccess ? "no error" : emulator::message; }

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) { return cudaRuntimeGetVersion(version); }

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = static_cast<int>(emulator::setting("CUDA_EMULATOR_MULTIPROCESSORS", 7));
  return cudaSuccess;
}

// --- reports of the sanitizers, in the layout that GCC and Clang share ---

struct Source {
  const char* file;
  uint32_t line, column;
};
struct Type {
  uint16_t kind, info;
  char name[1];
};
struct TypeMismatch {
  Source source;
  const Type* type;
};
struct OutOfBounds {
  Source source;
  const Type *array, *index;
};

extern "C" void __ubsan_handle_type_mismatch_v1(const TypeMismatch* at, uintptr_t address) {
  emulator::fail("%s:%u: %s address %#zx of type %s", at->source.file, at->source.line,
                 address == 0 ? "null" : "misaligned", static_cast<size_t>(address), at->type->name);
}
extern "C" void __ubsan_handle_out_of_bounds(const OutOfBounds* at, uintptr_t index) {
  emulator::fail("%s:%u: index %zd beyond an array of type %s", at->source.file, at->source.line,
                 static_cast<ptrdiff_t>(index), at->array->name);
}
