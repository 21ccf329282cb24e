// Whether AMX and its emulation give the same bits: for a machine, or an emulator of one, that has
// AMX but no Python. Where there is Python, the tests show the same and more.
//
//     cd kernels/motet_kernels/cpu/native
//     amx=../../../../tests/kernels/amx
//     flags="-std=c++17 -O3 -static -fopenmp -ffp-contract=off -w -I. -mavx2 -mfma -mavx512f
//         -mavx512bw -mavx512dq -mavx512vl -mavx512bf16"
//     g++ $flags -c -DMOTET_EMULATE_AMX $amx/tile_product.cpp -o emulated_tile_product.o
//     g++ $flags emulated_tile_product.o $amx/tile_product.cpp $amx/check.cpp level_avx512_bf16.cpp
//         level_amx_bf16.cpp level_amx_bf16_emulated.cpp cpu_features.cpp pack.cpp scratch.cpp

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "abi.h"

using TileProduct = void(const uint16_t*, const uint16_t*, float*);
using Linear = int(const LinearCall*);

extern "C" {
int motet_has_amx_bf16();
int64_t motet_packed_size(int64_t n, int64_t k, int64_t scale_len);
void motet_pack(const uint8_t*, const float*, int64_t n, int64_t k, int64_t scale_len, uint8_t*);
TileProduct tile_product, emulated_tile_product;
Linear motet_linear_amx_bf16, motet_linear_amx_bf16_emulated;
}

namespace {

std::mt19937 generator(1);

uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

float any_float(float scale) {
    return scale * std::uniform_real_distribution<float>(-1, 1)(generator);
}

std::vector<uint16_t> any_bf16(size_t size, float scale) {
    std::vector<uint16_t> values(size);
    for (uint16_t& value : values) value = bits_of(any_float(scale)) >> 16;
    return values;
}

// The same bits, or both a NaN, whose payload nobody promises.
bool same(float a, float b) { return bits_of(a) == bits_of(b) || (a != a && b != b); }

// Tiles of ordinary numbers; of products at the edge of the denormals; and of all bit patterns.
int64_t wrong_tile_products(int kind) {
    const bool small = kind == 1;
    std::vector<uint16_t> a = any_bf16(512, small ? 1e-19f : 1);
    std::vector<uint16_t> b = any_bf16(512, small ? 1e-19f : 1);
    std::vector<float> c(256), expected;
    for (float& value : c) value = any_float(small ? 2e-38f : 1);
    if (kind == 2)
        for (auto* values : {&a, &b})
            for (uint16_t& value : *values) value = generator();
    expected = c;
    tile_product(a.data(), b.data(), c.data());
    emulated_tile_product(a.data(), b.data(), expected.data());
    int64_t wrong = 0;
    for (int i = 0; i < 256; i++) wrong += !same(c[i], expected[i]);
    return wrong;
}

// A packed linear without adapters, [n, k].
struct PackedLinear {
    std::vector<uint8_t> memory;
    std::vector<Block> blocks;
    Group group = {};

    PackedLinear(int64_t n, int64_t k) {
        const int64_t scale_len = std::min<int64_t>(64, k & -k);
        std::vector<uint8_t> codes((n * k + 1) / 2);
        std::vector<float> absmax((n * k + 63) / 64);
        for (uint8_t& code : codes) code = generator();
        for (float& value : absmax) value = 0.01f + any_float(0.005f);
        memory.resize(motet_packed_size(n, k, scale_len) + 64);
        uint8_t* packed = memory.data() + (-reinterpret_cast<uintptr_t>(memory.data()) & 63);
        motet_pack(codes.data(), absmax.data(), n, k, scale_len, packed);
        for (int64_t column = 0; column < n; column += kBlockWidth) {
            const int width = std::min<int64_t>(kBlockWidth, n - column);
            blocks.push_back({0, width, column, n, column});
        }
        group.weight = packed;
        group.blocks = blocks.data();
        group.num_blocks = blocks.size();
        group.num_members = 1;
        group.in_features = k;
        group.out_features = n;
        group.scale_len = scale_len;
    }

    std::vector<uint16_t> run(Linear* linear, const uint16_t* x, int64_t rows, int threads) const {
        std::vector<uint16_t> y(rows * group.out_features);
        LinearCall call = {};
        call.group = &group;
        call.x = x;
        call.y = y.data();
        call.num_tokens = rows;
        call.is_bf16 = 1;
        call.num_threads = threads;
        if (linear(&call)) y.clear();
        return y;
    }
};

// Rows whose bits differ from the emulation's, or from those they have alone.
int64_t wrong_rows(int64_t n, int64_t k) {
    constexpr int64_t kMost = 133;
    const PackedLinear linear(n, k);
    const std::vector<uint16_t> x = any_bf16(kMost * k, 1);
    const auto expected = linear.run(motet_linear_amx_bf16_emulated, x.data(), kMost, 1);
    const auto differs = [&](const std::vector<uint16_t>& y, int64_t first) {
        return y.empty() || memcmp(y.data(), expected.data() + first * n, y.size() * 2);
    };
    int64_t wrong = 0;
    for (int64_t rows : {2, 7, 16, 17, 31, 32, 33, 48, 64, 65, 133})
        for (int threads : {1, 2})
            wrong += differs(linear.run(motet_linear_amx_bf16, x.data(), rows, threads), 0);
    for (int64_t row = 0; row < kMost; row++)
        wrong += differs(linear.run(motet_linear_amx_bf16, x.data() + row * k, 1, 1), row);
    return wrong;
}

}  // namespace

int main() {
    if (!motet_has_amx_bf16()) {
        puts("no AMX with bf16 here, or the system does not grant it");
        return 77;
    }
    int64_t wrong = 0;
    for (int kind = 0; kind < 3; kind++) {
        int64_t here = 0;
        for (int i = 0; i < 100; i++) here += wrong_tile_products(kind);
        printf("tiles of kind %d: %ld of 25600 sums differ\n", kind, here);
        wrong += here;
    }
    for (int64_t n : {1, 24, 127})
        for (int64_t k : {60, 64, 72, 100, 112, 576, 1536}) {
            const int64_t here = wrong_rows(n, k);
            printf("linear [%ld, %ld]: %ld results differ\n", n, k, here);
            wrong += here;
        }
    puts(wrong ? "AMX and its emulation differ" : "AMX and its emulation agree");
    return wrong != 0;
}
