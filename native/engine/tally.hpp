// What is counted of requests and connections. Read, and begun anew, at each scrape. For any thread.
#pragma once

#include <algorithm>
#include <array>
#include <mutex>
#include <vector>

namespace native {

// `service/telemetry` knows the same order.
enum class Count : size_t {
  kAnswered, kOverloaded, kGone, kLate,  // requests that are answered here, by status: 200, 429, 499, 504
  kShedRows, kShedWait, kShedLate, kShedGone,
  kPartial,
  kRowsOfFile, kRowsOfArena, kRowsMissing,
  kUserCached, kUserUnknown,
  kCached, kEncoded, kCategoryPrior, kPrior,
  kExplored, kExploited, kUnavailable,
  kSlowHead, kUnreadBody, kSlowReader, kBadHttp, kOutOfRoom, kMadeRoom, kFull,  // closed connections
  kOpenrtbGiven, kOpenrtbMissing, kOpenrtbNoConsent, kOpenrtbUnfit,
  kArm,  // of an experiment; by slot
};
constexpr size_t kMostArms = 8, kCounts = static_cast<size_t>(Count::kArm) + kMostArms;

enum class Measure : size_t {
  kRequest, kParse, kRows, kQueue, kRun, kReply, kCandidates, kRunRows, kUserAge, kItemAge, kLiveAge,
  kFrontHold, kLoopHold,
};
constexpr size_t kMeasures = static_cast<size_t>(Measure::kLoopHold) + 1;

class Tally {
 public:
  // How often values were within each bound and above the one before, the last of them infinite; and their sum.
  struct Histogram {
    std::vector<double> bounds;
    std::vector<size_t> counts = std::vector<size_t>(bounds.size() + 1);
    double sum = 0.0;
  };
  using Counts = std::array<size_t, kCounts>;
  using Histograms = std::vector<Histogram>;

  explicit Tally(Histograms measures) : measures_(std::move(measures)) {}

  void inc(Count which, size_t by = 1) {
    const std::lock_guard lock(mutex_);
    counts_[static_cast<size_t>(which)] += by;
  }

  // Several at once: `work(inc, observe)`.
  template <class Work>
  void note(Work work) {
    const std::lock_guard lock(mutex_);
    work([this](Count which, size_t by = 1) { counts_[static_cast<size_t>(which)] += by; },
         [this](Measure which, double value) {
           Histogram& histogram = measures_[static_cast<size_t>(which)];
           const auto bound = std::lower_bound(histogram.bounds.begin(), histogram.bounds.end(), value);
           histogram.counts[static_cast<size_t>(bound - histogram.bounds.begin())]++;
           histogram.sum += value;
         });
  }

  // For how long one thing held a thread that all others need; short times are not counted.
  void hold(Measure which, double seconds) {
    if (seconds >= kLeastHoldS) note([&](auto, auto observe) { observe(which, seconds); });
  }

  std::pair<Counts, Histograms> take() {
    const std::lock_guard lock(mutex_);
    std::pair<Counts, Histograms> taken{std::exchange(counts_, {}), measures_};
    for (Histogram& measure : measures_) {
      std::fill(measure.counts.begin(), measure.counts.end(), 0);
      measure.sum = 0.0;
    }
    return taken;
  }

 private:
  static constexpr double kLeastHoldS = 0.001;

  std::mutex mutex_;  // guards what follows
  Counts counts_{};
  Histograms measures_;
};

}  // namespace native
