#include "simd_portable.h"

#include "arithmetic_float.h"
#include "level.h"

MOTET_LEVEL(portable, FloatArithmetic<Bf16>, FloatArithmetic<float>)
