// Lines that are wanted soon, brought into the cache little by little.
#pragma once

#include <cstdint>

namespace {

// A line that is wanted soon, into the second cache: it waits for more lines at a time than the first,
// so that more of them come at once.
inline void fetch_line(const void* address) { __builtin_prefetch(address, 0, 2); }

// The line at `offset` bytes of each of `num_rows` rows, in `turns` turns. Rows of adapters are too
// short and far apart for the hardware to foresee them; while a product multiplies, the memory has
// time for them.
class Fetcher {
   public:
    Fetcher() = default;

    Fetcher(const char* const* rows, int64_t num_rows, int64_t offset, int64_t turns)
        : rows_(rows), left_(num_rows), offset_(offset), each_((num_rows + turns - 1) / turns) {}

    void fetch_some() {
        int64_t count = each_ < left_ ? each_ : left_;
        left_ -= count;
        for (; count > 0; count--) fetch_line(*rows_++ + offset_);
    }

   private:
    const char* const* rows_ = nullptr;
    int64_t left_ = 0, offset_ = 0, each_ = 0;
};

// The same for `size` bytes that lie together.
class StreamFetcher {
   public:
    StreamFetcher(const void* from, int64_t size, int64_t turns)
        : next_(static_cast<const char*>(from)),
          end_(next_ + size),
          each_((size / 64 + turns) / turns * 64) {}

    void fetch_some() {
        const char* stop = end_ - next_ < each_ ? end_ : next_ + each_;
        for (; next_ < stop; next_ += 64) fetch_line(next_);
    }

   private:
    const char* next_;
    const char* end_;
    int64_t each_;
};

}  // namespace
