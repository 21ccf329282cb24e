#include "scratch.h"

#include <cstdlib>

namespace {

struct Kept {
    void* memory = nullptr;
    size_t size = 0;
    ~Kept() { std::free(memory); }
};

thread_local Kept kept[kScratchUses][kScratchParts];

}  // namespace

void* scratch(ScratchUse use, size_t size, int part) {
    Kept& entry = kept[use][part];
    if (size > entry.size) {
        std::free(entry.memory);
        const size_t rounded = (size + size / 2 + 63) / 64 * 64;
        entry.memory = std::aligned_alloc(64, rounded);
        entry.size = entry.memory ? rounded : 0;
    }
    return entry.memory;
}
