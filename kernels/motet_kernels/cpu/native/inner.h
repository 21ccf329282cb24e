// What lies between A x and B in adapters of other families than LoRA and DoRA.
#pragma once

#include "activation.h"

namespace {

inline bool has_inner_stage(const SlotPointers& slot) {
    return slot.rank && (slot.core_values || slot.inner_bias || slot.activation != kIdentity);
}

// Row i of the core times u, in the order of the row's entries or, in a wide one, by lanes.
template <class T>
inline float core_row(const T* values, const int32_t* columns, int64_t width, const float* u) {
    float total = 0.0f;
    if (width < 16) {
        for (int64_t j = 0; j < width; j++) total += input_of<float>(values[j]) * u[columns[j]];
        return total;
    }
    Floats totals = splat(0.0f);
    int64_t j = 0;
    for (; j + 16 <= width; j += 16)
        totals = fma(load(values + j), gather(u, columns + j), totals);
    for (; j < width; j++) total += input_of<float>(values[j]) * u[columns[j]];
    return sum(totals) + total;
}

// u [rank] = activation(core u + inner bias) for one token; `work` has room for as much.
template <class T>
void refine(const SlotPointers& slot, float* u, float* work) {
    const float* from = u;
    if (slot.core_values) {
        const T* values = reinterpret_cast<const T*>(slot.core_values);
        const int32_t* columns = reinterpret_cast<const int32_t*>(slot.core_columns);
        const int64_t width = slot.core_width;
        for (int64_t i = 0; i < slot.rank; i++)
            work[i] = core_row(values + i * width, columns + i * width, width, u);
        from = work;
    }
    const T* bias = reinterpret_cast<const T*>(slot.inner_bias);
    for (int64_t i = 0; i < slot.rank; i += 16) {
        const int64_t left = slot.rank - i;
        Floats x = load_up_to(from + i, left);
        if (bias) x = add(x, load_up_to(bias + i, left));
        store_up_to(u + i, activated(x, slot.activation), left);
    }
}

}  // namespace
