// Memory for the length of a call, kept by the calling thread for its next one.
#pragma once

#include <cstddef>

enum ScratchUse { kScratchInputs, kScratchProducts, kScratchOffsets, kScratchRows, kScratchFirstRows, kScratchScores, kScratchUses };

// At least `size` bytes, 64-byte aligned; null if there is no memory.
void* scratch(ScratchUse use, size_t size);
