#include "simd_avx512.h"

#include "arithmetic_bf16.h"
#include "arithmetic_float.h"
#include "level.h"

MOTET_LEVEL(avx512_bf16, Bf16Arithmetic, FloatArithmetic<float>)
