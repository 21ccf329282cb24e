#include <cstring>

#include "abi.h"

namespace {

void store_one(
    const void* from, void* cache, int64_t slot, int64_t num_heads, int64_t stride, int64_t bytes) {
    char* to = static_cast<char*>(cache) + slot * num_heads * bytes;
    for (int64_t head = 0; head < num_heads; head++)
        memcpy(to + head * bytes, static_cast<const char*>(from) + head * stride, bytes);
}

}  // namespace

// 0, or 1 if a slot lies outside the cache; then nothing is stored.
extern "C" __attribute__((visibility("default"))) int motet_store_kv(const StoreCall* call) {
    for (int64_t t = 0; t < call->num_tokens; t++)
        if (call->slots[t] < 0 || call->slots[t] >= call->num_places) return 1;
    const char* k = static_cast<const char*>(call->k);
    const char* v = static_cast<const char*>(call->v);
    for (int64_t t = 0; t < call->num_tokens; t++) {
        store_one(k + t * call->k_token_stride, call->k_cache, call->slots[t], call->num_heads,
                  call->k_head_stride, call->k_bytes);
        store_one(v + t * call->v_token_stride, call->v_cache, call->slots[t], call->num_heads,
                  call->v_head_stride, call->v_bytes);
    }
    return 0;
}
