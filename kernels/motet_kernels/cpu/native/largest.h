// Where each row of logits is largest. Comparisons are exact, so there is no order to keep.
#pragma once

#include <cmath>

#include "partial.h"
#include "team.h"

namespace {

constexpr int64_t kNoToken = -1;

// The first of the `width` elements that is `best`, which one of them is.
template <class T>
inline int64_t first_place(const T* logits, int64_t width, float best) {
    for (int64_t start = 0;; start += 16) {
        const int count = width - start < 16 ? int(width - start) : 16;
        const Floats part = load_up_to(logits + start, count);
        // lanes past the end are zero, which may be larger than `best`
        if (largest(part) < best) continue;
        alignas(64) float lanes[16];
        store(lanes, part);
        for (int i = 0; i < count; i++)
            if (lanes[i] == best) return start + i;
    }
}

// kNoToken for a row that holds NaN or +inf, or nothing but -inf.
template <class T>
inline int64_t largest_place(const T* logits, int64_t width) {
    const Floats infinity = splat(INFINITY), zero = splat(0.0f), one = splat(1.0f);
    Floats top = splat(-INFINITY), unordered = zero;
    int64_t i = 0;
    for (; i + 16 <= width; i += 16) {
        const Floats part = load(logits + i);
        unordered = maximum(unordered, where_less(part, infinity, zero, one));
        top = maximum(top, part);
    }
    float best = largest(top);
    bool valid = largest(unordered) == 0.0f;
    for (; i < width; i++) {
        const float value = input_of<float>(logits[i]);
        valid = valid && value < INFINITY;
        if (value > best) best = value;
    }
    if (!valid || best == -INFINITY) return kNoToken;
    return first_place(logits, width, best);
}

template <class T>
int largest_places(const LargestCall& call) {
    const T* logits = static_cast<const T*>(call.logits);
    with_team(call.num_threads, [&](const Member& member) {
        member.share(call.num_rows, 1, [&](int64_t from, int64_t to) {
            for (int64_t row = from; row < to; row++)
                call.places[row] = largest_place(logits + row * call.width, call.width);
        });
    });
    return 0;
}

}  // namespace
