// The threads of a call: their barrier, and the sharing out of work.
//
// OpenMP's barrier goes to sleep at once where the process has more threads than cores, and a
// server has: every thread that ever computed keeps a pool. Waking up takes longer than most steps
// of a layer, so here one looks first. Not for long, and without yielding the core:
// a thread that shares its core with one it waits for, or with another program, has to sleep.
#pragma once

#include <omp.h>

#include <atomic>
#include <cstdint>

namespace {

constexpr int kLooks = 300;  // a few microseconds

inline void pause_briefly() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

class Team {
   public:
    // Call from every thread of a team, with nothing between two calls that a thread may skip.
    void meet(int num_threads) {
        const int before = meetings_.load(std::memory_order_relaxed);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == num_threads) {
            arrived_.store(0, std::memory_order_relaxed);
            drawn_.store(0, std::memory_order_relaxed);
            meetings_.store(before + 1, std::memory_order_release);
            meetings_.notify_all();
            return;
        }
        for (int looks = 0; looks < kLooks; looks++) {
            if (meetings_.load(std::memory_order_acquire) != before) return;
            pause_briefly();
        }
        meetings_.wait(before, std::memory_order_acquire);
    }

    // The first of `count` pieces of work, numbered from 0 since the team last met.
    int64_t draw(int64_t count) { return drawn_.fetch_add(count, std::memory_order_relaxed); }

    // The first of `count` pieces, out of `size`: half of what would be each thread's part of the
    // rest, so that they get smaller to the end and nobody has long to wait for the last. All of them
    // for a thread alone.
    int64_t draw_share(int64_t size, int num_threads, int64_t& count) {
        int64_t from = drawn_.load(std::memory_order_relaxed);
        do {
            const int64_t part = num_threads > 1 ? (size - from) / (2 * num_threads) : size - from;
            count = part > 1 ? part : 1;
        } while (from < size &&
                 !drawn_.compare_exchange_weak(from, from + count, std::memory_order_relaxed));
        return from;
    }

   private:
    alignas(64) std::atomic<int> meetings_{0};
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<int64_t> drawn_{0};
};

// One thread in its team.
struct Member {
    Team& team;
    int thread;
    int num_threads;

    void meet() const { team.meet(num_threads); }

    // This thread's part of `size` things of equal cost.
    int64_t from(int64_t size) const { return size * thread / num_threads; }
    int64_t to(int64_t size) const { return size * (thread + 1) / num_threads; }

    // Calls work(from, to) with parts of `size` things, `step` at a time, until all are done by
    // the team. Meet before and after.
    template <class Work>
    void share(int64_t size, int64_t step, const Work& work) const {
        for (int64_t from = team.draw(step); from < size; from = team.draw(step))
            work(from, from + step < size ? from + step : size);
    }

    // The same, many at a time at first and one by one in the end: where neighbours are best done by
    // one thread, and each takes long.
    template <class Work>
    void share_out(int64_t size, const Work& work) const {
        int64_t count;
        for (int64_t from = team.draw_share(size, num_threads, count); from < size;
             from = team.draw_share(size, num_threads, count))
            work(from, from + count);
    }
};

// Runs work(member) in each of `num_threads` threads.
template <class Work>
void with_team(int num_threads, const Work& work) {
    Team team;
#pragma omp parallel num_threads(num_threads)
    work(Member{team, omp_get_thread_num(), omp_get_num_threads()});
}

}  // namespace
