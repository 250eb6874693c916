// The blocks and threads of cuda_on_host.h.

#include "cuda_on_host.h"

#include <setjmp.h>
#include <ucontext.h>

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <vector>

namespace unlearn::hot {
alignas(1024) thread_local float4 space[232448 / 16];  // the kernels' dynamic shared memory
}

thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_on_host {

namespace {

constexpr std::size_t stack_bytes = 1 << 16;
constexpr unsigned char poison = 0xff;  // NaN
bool descending = false;
int most_shared = 232448, capability = 9;

struct Barrier {
  int expected = 0, arrived = 0;
  unsigned turn = 0;
};

struct Cluster {
  std::mutex mutex;
  std::condition_variable changed;
  unsigned blocks, arrived = 0, turn = 0;
  std::vector<char*> anchors;

  explicit Cluster(unsigned blocks) : blocks(blocks), anchors(blocks) {}

  void meet() {
    std::unique_lock<std::mutex> lock(mutex);
    const unsigned mine = turn;
    if (++arrived == blocks) {
      arrived = 0;
      ++turn;
      changed.notify_all();
    }
    changed.wait(lock, [&] { return turn != mine; });
  }
};

struct Block {
  const std::function<void()>& kernel;
  Cluster& cluster;
  struct Fiber {
    jmp_buf at;  // swapcontext would ask the kernel for signals at every switch
    bool begun = false, done = false;
  };
  std::vector<Fiber> fibers;
  jmp_buf scheduler;
  Barrier whole;
  std::vector<Barrier> warps;
  std::vector<std::uint64_t> exchanged;
  struct Copy {
    void* to;
    const void* from;
    std::size_t bytes;
  };
  std::vector<std::vector<Copy>> copies;  // of each thread, begun and not yet waited for
  int current = 0;

  Block(const std::function<void()>& kernel, Cluster& cluster, int threads)
      : kernel(kernel), cluster(cluster), fibers(threads), warps((threads + 31) / 32), exchanged(threads),
        copies(threads) {
    whole.expected = threads;
    for (int t = 0; t < threads; ++t) ++warps[t / 32].expected;
  }
};

thread_local Block* block = nullptr;
thread_local std::unique_ptr<char[]> stacks;
thread_local std::size_t stacks_size = 0;
thread_local char anchor;  // lies at the same distance from all of a block's __shared__ variables

void yield() {
  if (_setjmp(block->fibers[block->current].at) == 0) _longjmp(block->scheduler, 1);
}

template <class Before>
void meet(Barrier& barrier, Before before_release) {
  const unsigned mine = barrier.turn;
  if (++barrier.arrived == barrier.expected) {
    before_release();
    barrier.arrived = 0;
    ++barrier.turn;
  }
  while (barrier.turn == mine) yield();
}

void leave(Barrier& barrier) {
  if (--barrier.expected == barrier.arrived && barrier.arrived > 0) {
    barrier.arrived = 0;
    ++barrier.turn;
  }
}

void run_thread() {
  block->kernel();
  block->fibers[block->current].done = true;
  leave(block->whole);
  leave(block->warps[block->current / 32]);
  _longjmp(block->scheduler, 1);
}

// Runs the current thread until it yields or ends.
void resume() {
  Block::Fiber& fiber = block->fibers[block->current];
  if (_setjmp(block->scheduler) != 0) return;
  if (fiber.begun) _longjmp(fiber.at, 1);
  fiber.begun = true;
  ucontext_t context;
  getcontext(&context);
  context.uc_stack = {stacks.get() + block->current * stack_bytes, 0, stack_bytes};
  context.uc_link = nullptr;
  makecontext(&context, run_thread, 0);
  setcontext(&context);
}

void run_block(unsigned number, dim3 grid, dim3 size, std::size_t shared, Cluster& cluster,
               const std::function<void()>& kernel) {
  const int threads = static_cast<int>(size.x);
  blockIdx = dim3(number), blockDim = size, gridDim = grid;
  std::memset(unlearn::hot::space, poison, sizeof(unlearn::hot::space));
  cluster.anchors[number % cluster.blocks] = &anchor;
  if (cluster.blocks > 1) cluster.meet();
  if (stacks_size < threads * stack_bytes) stacks.reset(new char[stacks_size = threads * stack_bytes]);
  Block own(kernel, cluster, threads);
  block = &own;
  for (int left = threads; left > 0;) {
    left = 0;
    for (int i = 0; i < threads; ++i) {
      const int t = descending ? threads - 1 - i : i;
      if (own.fibers[t].done) continue;
      ++left;
      own.current = t;
      threadIdx = dim3(t);
      resume();
    }
  }
  if (cluster.blocks > 1) cluster.meet();  // another's memory may be read until all have ended
  const auto* end = reinterpret_cast<const unsigned char*>(unlearn::hot::space) + sizeof(unlearn::hot::space);
  for (const unsigned char* at = end - sizeof(unlearn::hot::space) + shared; at < end; ++at)
    if (*at != poison) throw std::runtime_error("a kernel wrote past its shared memory");
}

}  // namespace

void sync_block() { meet(block->whole, [] {}); }

void sync_warp() { meet(block->warps[block->current / 32], [] {}); }

void sync_cluster() { meet(block->whole, [] { block->cluster.meet(); }); }

std::uint64_t shuffle_xor(std::uint64_t bits, int mask) {
  const int own = block->current;
  block->exchanged[own] = bits;
  meet(block->warps[own / 32], [] {});
  const std::uint64_t other = block->exchanged[own ^ mask];
  meet(block->warps[own / 32], [] {});
  return other;
}

void copy_later(void* to, const void* from, std::size_t bytes) {
  block->copies[block->current].push_back({to, from, bytes});
}

void copy_now() {
  for (const auto& copy : block->copies[block->current]) std::memcpy(copy.to, copy.from, copy.bytes);
  block->copies[block->current].clear();
}

void* in_block_of_cluster(void* own, int rank) {
  return block->cluster.anchors[rank] + (static_cast<char*>(own) - &anchor);
}

void run_grid(dim3 grid, dim3 size, unsigned parts, std::size_t shared, const std::function<void()>& kernel) {
  if (shared > static_cast<std::size_t>(most_shared)) throw std::runtime_error("too much shared memory");
  for (unsigned first = 0; first < grid.x; first += parts) {
    Cluster cluster(parts);
    if (parts == 1) {
      run_block(first, grid, size, shared, cluster, kernel);
      continue;
    }
    std::vector<std::thread> blocks;
    std::vector<std::exception_ptr> errors(parts);
    for (unsigned part = 0; part < parts; ++part)
      blocks.emplace_back([&, part] {
        try {
          run_block(first + part, grid, size, shared, cluster, kernel);
        } catch (...) {
          errors[part] = std::current_exception();
        }
      });
    for (std::thread& each : blocks) each.join();
    for (const std::exception_ptr& error : errors)
      if (error) std::rethrow_exception(error);
  }
}

}  // namespace cuda_on_host

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const std::map<cudaDeviceAttr, int> values{{cudaDevAttrComputeCapabilityMajor, cuda_on_host::capability},
                                             {cudaDevAttrMaxSharedMemoryPerBlockOptin, cuda_on_host::most_shared},
                                             {cudaDevAttrMultiProcessorCount, 1}};
  *value = values.at(attribute);
  return cudaSuccess;
}

// Which device the launching code sees, and in which order the threads of a block run.
extern "C" void set_device(int capability, int most_shared, bool descending) {
  cuda_on_host::capability = capability;
  cuda_on_host::most_shared = most_shared;
  cuda_on_host::descending = descending;
}
