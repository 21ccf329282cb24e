// What this machine can do at most: peaks THREADS prints "read_gb_s dot_gflop_s instruction".
//
// Reading: every thread sums its part of a buffer of 1 GiB, far larger than the caches. Arithmetic:
// every thread runs independent bf16 dot products (or float fused multiply-adds, where there are no
// such instructions) on registers alone. Each is the best of several rounds.

#include <omp.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace {

constexpr int kRounds = 7;
constexpr std::size_t kWords = std::size_t{1} << 27;
constexpr long kSteps = 2'000'000;

double now() {
  using std::chrono::steady_clock;
  return std::chrono::duration<double>(steady_clock::now().time_since_epoch()).count();
}

template <typename Work>
double best_seconds(Work work) {
  double best = 1e30;
  for (int round = 0; round < kRounds; ++round) {
    const double start = now();
    work();
    const double seconds = now() - start;
    if (seconds < best) best = seconds;
  }
  return best;
}

std::uint64_t sum(const std::vector<std::uint64_t>& buffer, int threads) {
  std::uint64_t total = 0;
  const std::uint64_t* words = buffer.data();
#pragma omp parallel for num_threads(threads) reduction(+ : total) schedule(static)
  for (std::size_t i = 0; i < kWords; ++i) total += words[i];
  return total;
}

#ifdef __AVX512BF16__
const char* const kInstruction = "vdpbf16ps";
constexpr double kFlopsAStep = 16 * 64.0;  // 16 registers of 32 products and sums

float dots() {
  __m512 sums[16];
  __m512bh x = (__m512bh)_mm512_set1_epi16(0x3f80);
  for (auto& value : sums) value = _mm512_setzero_ps();
  for (long step = 0; step < kSteps; ++step) {
    for (auto& value : sums) value = _mm512_dpbf16_ps(value, x, x);
    asm volatile("" : "+v"(x));  // or the compiler would take the product out of the loop
  }
  float total = 0;
  for (auto& value : sums) total += _mm512_reduce_add_ps(value);
  return total;
}
#else
const char* const kInstruction = "float fma";
constexpr double kFlopsAStep = 256 * 2.0;

float dots() {
  float sums[256] = {};
  float x = 0.5f, y = 0.25f;
  for (long step = 0; step < kSteps; ++step) {
    for (float& value : sums) value = value * x + y;
    asm volatile("" : "+m"(x), "+m"(y));
  }
  float total = 0;
  for (float value : sums) total += value;
  return total;
}
#endif

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  std::vector<std::uint64_t> buffer(kWords, 1);
  std::uint64_t words = 0;
  float total = 0;
  const double read_s = best_seconds([&] { words += sum(buffer, threads); });
  const double dot_s = best_seconds([&] {
    float round = 0;
#pragma omp parallel num_threads(threads) reduction(+ : round)
    round += dots();
    total += round;
  });
  if (words == 0 || total == 42.0f) return 1;  // the results are used
  std::printf("%.3f %.1f %s\n", kWords * 8 / read_s / 1e9,
              threads * kSteps * kFlopsAStep / dot_s / 1e9, kInstruction);
}
