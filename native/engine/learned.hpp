// Durations of runs, learned by their number of candidates.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cmath>
#include <limits>
#include <mutex>

namespace native {

// By the clock of Python's time.perf_counter.
inline double clock_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Unix time
inline double unix_s() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// Recent durations, by the bit length of the number of candidates. A new one is weighted by a fixed share, and capped at
// a multiple of the known one, or at `least_s` if that is more: the machine may have stalled. For any thread.
class Learned {
 public:
  Learned(double share, double most, double least_s) : share_(share), most_(most), least_s_(least_s) {
    seconds_.fill(std::numeric_limits<double>::quiet_NaN());
  }

  // NaN if it is unknown.
  double known(size_t rows) const {
    const std::lock_guard lock(mutex_);
    return seconds_[std::bit_width(rows)];
  }

  double of(size_t rows) const {
    const double seconds = known(rows);
    return std::isnan(seconds) ? 0.0 : seconds;
  }

  // How many candidates are expected to be done in that time: all if it is unknown, otherwise at least three, or 0.
  size_t fitting(size_t rows, double seconds) {
    const std::lock_guard lock(mutex_);
    const auto size = static_cast<size_t>(std::bit_width(rows));
    const double known = seconds_[size];
    if (std::isnan(known) || known <= seconds) return rows;
    // A learned time may be outdated: it fades each time that it is used to shorten a run.
    seconds_[size] = known * (times_[size] >= kEnough ? kFades : kFadesSoon);
    for (size_t bits = size - 1; bits > 1; bits--) {
      const size_t fewer = (size_t{1} << bits) - 1;
      const double share = static_cast<double>(fewer) / static_cast<double>(rows);
      const double expected = std::isnan(seconds_[bits]) ? known * (kFixed + (1 - kFixed) * share) : seconds_[bits];
      if (expected <= seconds) return fewer;
    }
    return 0;
  }

  void learn(size_t rows, double seconds) {
    const std::lock_guard lock(mutex_);
    const auto size = static_cast<size_t>(std::bit_width(rows));
    if (std::isnan(seconds_[size])) seconds_[size] = seconds;
    seconds_[size] += (std::min(seconds, std::max(most_ * seconds_[size], least_s_)) - seconds_[size]) * share_;
    times_[size]++;
  }

 private:
  // The share of a run's time that is assumed not to depend on the number of candidates, until it is learned.
  static constexpr double kFixed = 0.3;
  // The first runs of a size are slower than later ones.
  static constexpr size_t kEnough = 5;
  static constexpr double kFades = 0.98, kFadesSoon = 0.7;

  const double share_, most_, least_s_;
  mutable std::mutex mutex_;
  std::array<double, 65> seconds_;
  std::array<size_t, 65> times_{};
};

// Forms of scoring requests, whose bodies have different sizes, and which take different times.
enum class Form : size_t { kScore, kOpenrtb, kInfer };

// One model's learned run times.
struct Runner {
  Learned run_s{0.25, 4.0, 0.02};  // of one run

  // Until its thread can begin the next job, including time taken by other threads and processes. A form whose times are
  // unknown takes as long as the first.
  double turn_s(size_t rows, Form form) const {
    const double own = turns_[static_cast<size_t>(form)].known(rows);
    return std::isnan(own) ? turns_[0].of(rows) : own;
  }
  void learn_turn(size_t rows, Form form, double seconds) { turns_[static_cast<size_t>(form)].learn(rows, seconds); }

 private:
  std::array<Learned, 3> turns_{{{0.1, 4.0, 0.0}, {0.1, 4.0, 0.0}, {0.1, 4.0, 0.0}}};
};

}  // namespace native
