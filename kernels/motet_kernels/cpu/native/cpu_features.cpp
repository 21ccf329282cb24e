// Which levels this machine can run, the operating system's support of the registers included.

#if defined(__x86_64__)

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

}  // extern "C"

#endif
