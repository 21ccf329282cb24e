// Where a layer's time goes, for `motet profile`.
#pragma once

#include <chrono>

#include "abi.h"

namespace {

enum Stage {
    kStageNorms,
    kStageLinears,
    kStageAdapters,
    kStageRotary,
    kStageAttention,
    kStageGate,
    kStages
};

// Adds the time between laps to the stages' seconds; with null it does nothing.
class Stopwatch {
    using Clock = std::chrono::steady_clock;

   public:
    explicit Stopwatch(double* seconds) : seconds_(seconds) {
        if (seconds_) last_ = Clock::now();
    }

    void lap(Stage stage) {
        if (!seconds_) return;
        const auto now = Clock::now();
        seconds_[stage] += std::chrono::duration<double>(now - last_).count();
        last_ = now;
    }

   private:
    double* seconds_;
    Clock::time_point last_;
};

}  // namespace
