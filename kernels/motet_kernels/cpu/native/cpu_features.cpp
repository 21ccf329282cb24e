// Which levels this machine can run, the operating system's support of the registers included.

#if defined(__x86_64__)

#include <cpuid.h>

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

bool has_amx_bits() {
    constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24;
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & kBf16) && (d & kTile);
}

// Tiles are 8 KiB of a thread's state, which Linux grants to a process that asks; for the others,
// and where it refuses, an AMX instruction is a fault.
bool may_use_tiles() {
#if defined(__linux__)
    constexpr long kRequestPermission = 0x1023, kTileData = 18;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
    return false;
#endif
}

}  // namespace

extern "C" {

__attribute__((visibility("default"))) int motet_has_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

__attribute__((visibility("default"))) int motet_has_avx512() {
    return motet_has_avx2() && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}

__attribute__((visibility("default"))) int motet_has_avx512_bf16() {
    return motet_has_avx512() && __builtin_cpu_supports("avx512bf16");
}

__attribute__((visibility("default"))) int motet_has_avx512_vnni() {
    return motet_has_avx512_bf16() && __builtin_cpu_supports("avx512vnni");
}

__attribute__((visibility("default"))) int motet_has_amx_bf16() {
    return motet_has_avx512_bf16() && has_amx_bits() && may_use_tiles();
}

__attribute__((visibility("default"))) int motet_has_amx_bf16_emulated() {
    return motet_has_avx512_bf16();
}

}  // extern "C"

#endif
