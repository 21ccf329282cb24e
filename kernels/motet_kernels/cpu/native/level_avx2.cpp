#include "simd_avx2.h"

#include "arithmetic_float.h"
#include "level.h"

MOTET_LEVEL(avx2, FloatArithmetic<Bf16>, FloatArithmetic<float>)
