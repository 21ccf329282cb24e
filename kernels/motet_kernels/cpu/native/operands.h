// What the base product of a group reads of its inputs: rows of x from some k on.
#pragma once

#include <cstdint>

namespace {

// The inputs as they are: nothing has to be made of them.
template <class Input>
struct PlainOperands {
    static constexpr bool kMade = false;
    const Input* x;
    int64_t stride;

    PlainOperands at(int64_t row, int64_t k) const { return {x + row * stride + k, stride}; }
};

// Where up to kRows rows are read, as a pointer for every four of them. Left to itself the compiler
// keeps a pointer for each row, has no registers for them, and fetches them from vector registers,
// which costs the products their turn; so it is made to forget what the pointers are.
template <class Input, int num_rows>
struct RowReader {
    static constexpr int kQuads = (num_rows + 3) / 4;
    const Input* quads[kQuads];
    int64_t stride;

    RowReader(const Input* x, int64_t stride) : stride(stride) {
        for (int i = 0; i < kQuads; i++) quads[i] = x + i * 4 * stride;
    }

    const Input* row(int i) const { return quads[i / 4] + i % 4 * stride; }

    void advance(int64_t k) {
        for (const Input*& quad : quads) {
            quad += k;
            asm("" : "+r"(quad));
        }
    }
};

}  // namespace
