// Memory for the length of a call, kept by the calling thread for its next one.
#pragma once

#include <cstddef>

enum ScratchUse {
    kScratchInputs,
    kScratchScaled,
    kScratchRounded,
    kScratchInner,
    kScratchTokenSlots,
    kScratchProducts,
    kScratchOffsets,
    kScratchRows,
    kScratchFirstRows,
    kScratchQueries,
    kScratchScores,
    kScratchActivations,
    kScratchSegments,
    kScratchAttentionRows,
    kScratchUses
};

constexpr int kScratchParts = 6;  // of one use, for calls that need several at once

// At least `size` bytes, 64-byte aligned; null if there is no memory.
void* scratch(ScratchUse use, size_t size, int part = 0);
