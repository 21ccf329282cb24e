// A loop that is unrolled before anything else: gcc unrolls a loop of its own too late to keep what
// is indexed by its counter in registers, and stores every element after every change.
#pragma once

#include <type_traits>

namespace {

// Calls work(0), ..., work(count - 1), each with its number as a constant.
template <int count, class Work>
__attribute__((always_inline)) inline void repeat(const Work& work) {
    if constexpr (count > 0) {
        repeat<count - 1>(work);
        work(std::integral_constant<int, count - 1>());
    }
}

}  // namespace
