// How numbers are rounded to 8 bits, and the packed form of weights that are.
#pragma once

#include "nf4.h"

namespace {

// The NF4 table as whole numbers: of all factors up to 127 the one that rounds the table best (0.33 %
// of its root mean square), and what is added to make the codes unsigned, as VPDPBUSD wants one side.
constexpr int kTableFactor = 112;
constexpr int kTableOffset = 128;

constexpr float kMostOfCode = 127.0f;
constexpr float kLeastOfGroup = 1e-30f;  // below, a group is zero: its reciprocal would overflow
constexpr float kMostOfGroup = 3.4e38f;  // above, it is infinite

constexpr int64_t kRoundedLine = 128;  // bytes: codes of 4 k and 32 columns

constexpr int64_t rounded_record_size(int64_t scale_len) {
    return kScaleBytes + scale_len / 4 * kRoundedLine;
}

}  // namespace
