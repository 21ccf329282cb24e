// The units of attention: which keys a token sees, where they lie, and when they are fetched.
//
// Rows of a paged cache lie too far apart for the hardware to foresee them. Within a unit keys and
// values are fetched while earlier keys are multiplied; while its values are weighed, nothing else
// wants the memory, so that is when the next unit's first keys come.
#pragma once

#include "fetcher.h"
#include "scratch.h"
#include "team.h"

namespace {

constexpr int kQueryTile = 4;  // heads that share a key head, taken together
constexpr int kFetchedKeys = 32;  // how far ahead keys are brought in
constexpr int64_t kMostAhead = 128;  // keys of the next unit, while this one's values are weighed

// One token's queries and the keys they see.
struct Query {
    int64_t position;
    const int64_t* blocks;
    bool alone;  // in its row: no other token has brought in its keys
};

// The visible keys (or values) of one head, oldest first.
template <class T>
struct Pages {
    const T* cache;         // of the head
    int64_t stride;         // from one place of the cache to the next
    const int64_t* places;  // of each visible position

    const T* at(int64_t index) const { return cache + places[index] * stride; }
};

// What a thread works in, for one token: sizes are multiples of 64 bytes.
struct Workspace {
    float* inputs;    // one query
    float* scores;    // [kQueryTile, longest]
    int64_t* places[2];  // [longest], of one token and of the next

    static int64_t size(const AttentionCall& call) {
        return round_up(call.key_size) + (kQueryTile + 4) * round_up(call.longest);
    }

    Workspace(const AttentionCall& call, float* memory)
        : inputs(memory),
          scores(inputs + round_up(call.key_size)) {
        places[0] = reinterpret_cast<int64_t*>(scores + kQueryTile * round_up(call.longest));
        places[1] = places[0] + round_up(call.longest);
    }

    static int64_t round_up(int64_t size) { return (size + 15) / 16 * 16; }
};

inline void find_places(const Query& query, int64_t first, int64_t block_size, int64_t* places) {
    const int64_t* block = query.blocks + first / block_size;
    int64_t offset = first % block_size;
    for (int64_t position = first; position <= query.position; position++) {
        *places++ = *block * block_size + offset;
        if (++offset == block_size) {
            offset = 0;
            block++;
        }
    }
}

// Bring the keys or values of positions [from, to) into the cache: rows of a paged cache lie too far
// apart for the hardware to foresee them.
template <class T>
inline void fetch(const Pages<T>& pages, int64_t from, int64_t to, int64_t size) {
    const int64_t bytes = size * int64_t(sizeof(T));
    for (int64_t i = from; i < to; i++)
        for (int64_t offset = 0; offset < bytes; offset += 64)
            fetch_line(reinterpret_cast<const char*>(pages.at(i)) + offset);
}

// The first keys of the unit after this one, a key at a time, so that the memory is not idle while
// values are weighed.
template <class T>
class KeyFetcher {
   public:
    KeyFetcher() = default;

    KeyFetcher(const Pages<T>& keys, int64_t count, int64_t size)
        : keys_(keys), left_(count < kMostAhead ? count : kMostAhead), size_(size) {}

    void fetch_one() {
        if (done_ == left_) return;
        fetch(keys_, done_, done_ + 1, size_);
        done_++;
    }

    void fetch_rest() {
        fetch(keys_, done_, left_, size_);
        done_ = left_;
    }

   private:
    Pages<T> keys_ = {};
    int64_t done_ = 0, left_ = 0, size_ = 0;
};

// The queries of one token that share a key head, and what they see.
template <class T>
struct Unit {
    int64_t token, kv_head;
    Pages<T> keys, values;
    int64_t count;  // of visible positions
    bool fetched;   // whether the unit before has begun to fetch the keys
};

inline void lay_out(const AttentionCall& call, Query* queries) {
    for (int64_t r = 0; r < call.num_rows; r++) {
        const AttentionRow& row = call.rows[r];
        for (int64_t i = 0; i < row.num_tokens; i++)
            queries[row.start + i] = {
                row.kv_len - row.num_tokens + i, call.blocks + row.first_block,
                row.num_tokens == 1};
    }
}

// What the threads of a call share.
struct AttentionWork {
    const Query* queries;
    float* memory;
    int64_t size;  // floats of a thread's part
};

// Room for a call, by the thread that makes it. False if there is no memory.
inline bool prepare(const AttentionCall& call, AttentionWork& work) {
    const int64_t size = Workspace::size(call);
    auto* queries =
        static_cast<Query*>(scratch(kScratchQueries, (call.num_tokens + 1) * sizeof(Query)));
    auto* memory =
        static_cast<float*>(scratch(kScratchScores, call.num_threads * size * sizeof(float)));
    if (!queries || !memory) return false;
    lay_out(call, queries);
    work = {queries, memory, size};
    return true;
}

// The units of a thread, each opened while the one before is still to be computed.
template <class T>
class Units {
   public:
    Units(
        const AttentionCall& call, const AttentionWork& work, const Workspace& workspace,
        const Member& member)
        : call_(call),
          work_(work),
          workspace_(workspace),
          member_(member),
          size_(call.num_tokens * call.num_kv_heads),
          // a token's heads lie side by side, so a thread takes them all where there are enough
          step_(call.num_tokens < 2 * member.num_threads ? 1 : call.num_kv_heads) {}

    // False where the team has begun them all.
    bool next(Unit<T>& unit) {
        if (++item_ >= stop_) {
            item_ = member_.team.draw(step_);
            stop_ = item_ + step_;
        }
        if (item_ >= size_) return false;
        open(item_ / call_.num_kv_heads, item_ % call_.num_kv_heads, unit);
        return true;
    }

   private:
    void open(int64_t token, int64_t kv_head, Unit<T>& unit) {
        const Query& query = work_.queries[token];
        const int64_t seen = query.position + 1;
        const int64_t first = call_.window && call_.window < seen ? seen - call_.window : 0;
        if (token != token_) {
            token_ = token;
            places_ ^= 1;  // the unit before may still need the others
            find_places(query, first, call_.block_size, workspace_.places[places_]);
        }
        const int64_t* places = workspace_.places[places_];
        const int64_t key_size = call_.key_size, value_size = call_.value_size;
        const auto* k = static_cast<const T*>(call_.k) + kv_head * key_size;
        const auto* v = static_cast<const T*>(call_.v) + kv_head * value_size;
        unit = {
            token, kv_head, {k, call_.num_kv_heads * key_size, places},
            {v, call_.num_kv_heads * value_size, places}, seen - first, query.alone};
    }

    const AttentionCall& call_;
    const AttentionWork& work_;
    const Workspace& workspace_;
    const Member& member_;
    const int64_t size_, step_;
    int64_t item_ = -1, stop_ = 0, token_ = -1;
    int places_ = 0;
};

}  // namespace
