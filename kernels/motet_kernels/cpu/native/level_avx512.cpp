#include "simd_avx512.h"

#include "arithmetic_float.h"
#include "level.h"

MOTET_LEVEL(avx512, FloatArithmetic<Bf16>, FloatArithmetic<float>)
