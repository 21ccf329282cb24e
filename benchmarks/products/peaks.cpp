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
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace {

constexpr int kRounds = 7;
constexpr std::size_t kLines = std::size_t{1} << 24;
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

using Line = std::uint64_t __attribute__((vector_size(64), aligned(64)));

// Four lines a turn: one sum would wait for itself, and hold up the next reads.
std::uint64_t sum(const Line* lines, std::size_t count) {
  Line sums[4] = {};
  for (std::size_t i = 0; i + 4 <= count; i += 4)
    for (int j = 0; j < 4; ++j) sums[j] ^= lines[i + j];
  const Line all = (sums[0] ^ sums[1]) ^ (sums[2] ^ sums[3]);
  std::uint64_t total = 0;
  for (int j = 0; j < 8; ++j) total += all[j];
  return total;
}

std::uint64_t read_all(const Line* lines, int threads) {
  std::uint64_t total = 0;
#pragma omp parallel num_threads(threads) reduction(+ : total)
  {
    const std::size_t each = kLines / threads;
    total += sum(lines + each * omp_get_thread_num(), each);
  }
  return total;
}

#ifdef __AVX512BF16__
const char* const kInstruction = "vdpbf16ps";
constexpr double kFlopsAStep = 16 * 64.0;  // 16 registers of 32 products and sums

// By name and in assembly: the compiler would keep an array of sums in memory, and show half of it.
float dots() {
  __m512 a = _mm512_setzero_ps(), b = a, c = a, d = a, e = a, f = a, g = a, h = a;
  __m512 i = a, j = a, k = a, l = a, m = a, n = a, o = a, p = a;
  const __m512bh x = (__m512bh)_mm512_set1_epi16(0x3f80);
  const auto dot = [&](__m512& total) {
    asm volatile("vdpbf16ps %1, %1, %0" : "+v"(total) : "v"(x));
  };
  for (long step = 0; step < kSteps; ++step) {
    dot(a), dot(b), dot(c), dot(d), dot(e), dot(f), dot(g), dot(h);
    dot(i), dot(j), dot(k), dot(l), dot(m), dot(n), dot(o), dot(p);
  }
  return _mm512_reduce_add_ps(a) + _mm512_reduce_add_ps(p);
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
  auto* lines = static_cast<Line*>(std::aligned_alloc(64, kLines * sizeof(Line)));
  if (!lines) return 1;
  for (std::size_t i = 0; i < kLines; ++i) lines[i] = Line{1};
  std::uint64_t words = 1;
  float total = 0;
  const double read_s = best_seconds([&] { words += read_all(lines, threads); });
  const double dot_s = best_seconds([&] {
    float round = 0;
#pragma omp parallel num_threads(threads) reduction(+ : round)
    round += dots();
    total += round;
  });
  if (words == 0 || total == 42.0f) return 1;  // the results are used
  std::printf("%.3f %.1f %s\n", kLines * sizeof(Line) / read_s / 1e9,
              threads * kSteps * kFlopsAStep / dot_s / 1e9, kInstruction);
}
