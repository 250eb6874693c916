// The arithmetic ceiling: independent chains of fused multiply-adds in registers, as many as hide their latency.

#include <sched.h>

#include <thread>
#include <vector>

#if defined(__AVX512F__)
constexpr int width = 16;
#elif defined(__AVX__)
constexpr int width = 8;
#else
constexpr int width = 4;
#endif
typedef float Vector __attribute__((vector_size(width * 4)));

#define FOR_EACH_CHAIN(DO) DO(a) DO(b) DO(c) DO(d) DO(e) DO(f) DO(g) DO(h) DO(i) DO(j) DO(k) DO(l)
constexpr int chains = 12;

static void loop(long rounds, float* sink) {
  const Vector x = Vector{} + 0.999f, y = Vector{} + 1e-3f;
#define DECLARE(chain) Vector chain = y * static_cast<float>(__COUNTER__ + 1);  // equal chains would be merged
#define STEP(chain) chain = chain * x + y;
#define ADD(chain) *sink += chain[0];
  FOR_EACH_CHAIN(DECLARE)
  for (long r = 0; r < rounds; ++r) {
    FOR_EACH_CHAIN(STEP)
  }
  FOR_EACH_CHAIN(ADD)
}

// Keeps this thread on the index-th of the processors that the process may use.
static void pin_to(int index) {
  cpu_set_t allowed, one;
  sched_getaffinity(0, sizeof allowed, &allowed);
  CPU_ZERO(&one);
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
    if (CPU_ISSET(cpu, &allowed) && index-- == 0) CPU_SET(cpu, &one);
  sched_setaffinity(0, sizeof one, &one);
}

extern "C" double fused_multiply_adds(int threads, long rounds) {
  std::vector<float> sinks(threads * 64);
  std::vector<std::thread> pool;
  for (int t = 0; t < threads; ++t)
    pool.emplace_back([=, &sinks] {
      pin_to(t);  // else the scheduler often starts two threads on one core
      loop(rounds, &sinks[t * 64]);
    });
  for (auto& thread : pool) thread.join();
  return 2.0 * width * chains * rounds * threads;
}
