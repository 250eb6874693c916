// The arithmetic ceiling: independent chains of fused multiply-adds in registers, as many as hide their latency.

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

extern "C" double fused_multiply_adds(int threads, long rounds) {
  std::vector<float> sinks(threads * 64);
  std::vector<std::thread> pool;
  for (int t = 0; t < threads; ++t) pool.emplace_back(loop, rounds, &sinks[t * 64]);
  for (auto& thread : pool) thread.join();
  return 2.0 * width * chains * rounds * threads;
}
