// Admission control: accept no more requests than the scoring threads can score in time. Knows numbers, not requests; its
// owner calls it from one thread at a time.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

namespace native {

// Forms of scoring requests, whose bodies have different sizes.
enum class Form : size_t { kScore, kOpenrtb, kInfer };

// A number of candidates, and their expected run time.
struct Load {
  size_t rows = 0;
  double seconds = 0.0;
};

// Current runs, in seconds: the expected remaining time of each; and the admitted time of those that are due before a
// given time.
struct Runs {
  std::vector<double> left_s;
  double taken_on_s = 0.0;
};

enum class Refusal { kNone, kRows, kWait };

// Why a load is refused; in words for the client.
struct Refused {
  Refusal reason = Refusal::kNone;
  std::string message;

  explicit operator bool() const { return reason != Refusal::kNone; }
};

// A request is due when half of its time is over; the rest is for its run. A long deadline lets others go first, but the
// request still ages in the queue.
inline double due_at(double now, double deadline) { return now + 0.5 * (deadline - now); }

class Admission {
 public:
  // `max_rows`: waiting candidates per thread. `max_candidates`: of one request. `patience_s`: requests with longer
  // deadlines may fill only half of the queue; so may large ones. A connection has one request in the queue, so that this
  // leaves room to all connections that ask for little.
  Admission(size_t max_rows, size_t threads, size_t max_candidates, double patience_s)
      : patience_s(patience_s),
        threads_(threads),
        max_candidates_(max_candidates),
        max_rows_(max_rows * threads),
        // One request of the maximum size always fits.
        half_(std::max(static_cast<size_t>(std::llround(kHalf * static_cast<double>(max_rows_))),
                       std::min(max_candidates, max_rows_))) {}

  const double patience_s;

  size_t rows() const { return rows_; }
  bool is_shedding() const { return is_shedding_; }

  double seconds() const {
    double sum = 0.0;
    for (const auto& [bucket, held] : buckets_) sum += held.seconds;
    return sum;
  }

  // Refused if earlier and running work leaves too little time before the deadline; `runs_of(due)` gives the runs.
  template <class RunsOf>
  Refused check(const Load& load, double now, double deadline, RunsOf runs_of) {
    if (!rows_) {
      is_shedding_ = false;
      return {};
    }
    const double wait = wait_for(now, deadline, runs_of);
    if (wait <= load.seconds) is_shedding_ = false;
    // If a thread is free, try it: the learned times may be outdated.
    if (wait == 0.0) return {};
    const double expected = wait + load.seconds, left = deadline - now;
    const double share = (is_shedding_ ? kStanding : kBurst) * (is_large(load.rows) ? kHalf : 1.0);
    if (!(expected > share * left)) return {};
    is_shedding_ = true;
    return {Refusal::kWait, text("%zu candidates are queued; with these %zu it would take %.0f ms, but %.0f ms are left before the deadline",
                                 rows_, load.rows, 1000 * expected, 1000 * left)};
  }

  // Accept a load until `leave`, which needs the returned bucket; or refuse it.
  template <class RunsOf>
  Refused enter(const Load& load, double now, double deadline, RunsOf runs_of, int64_t& bucket) {
    if (Refused refused = check_rows(load.rows, now, deadline)) return refused;
    if (Refused refused = check(load, now, deadline, runs_of)) return refused;
    bucket = bucket_of(now, deadline);
    rows_ += load.rows;
    Held& held = buckets_[bucket];
    held.count++;
    held.seconds += load.seconds;
    return {};
  }

  // Release a load that was scored, or need not be.
  void leave(const Load& load, int64_t bucket) {
    rows_ -= load.rows;
    const auto held = buckets_.find(bucket);
    held->second.seconds -= load.seconds;
    // Sums of many small numbers drift, so an empty bucket is removed.
    if (!--held->second.count) buckets_.erase(held);
  }

  // Learn that a body of `size` bytes had `rows` candidates.
  void read(size_t size, size_t rows, Form form = Form::kScore) {
    const double found = static_cast<double>(size) / static_cast<double>(rows);
    double& known = bytes_per_row_[static_cast<size_t>(form)];
    known += (found - known) * (known > 0 ? kLearns : 1.0);
  }

  // The expected number of candidates in a body of `size` bytes.
  size_t rows_in(size_t size, Form form = Form::kScore) const {
    const double known = bytes_per_row_[static_cast<size_t>(form)];
    if (form != Form::kScore && !(known > 0)) return 1;
    const double rows = std::nearbyint(static_cast<double>(size) / (known > 0 ? known : kBytesPerRow));
    // Larger requests are refused when they are read, not for what a large body might contain.
    return std::min(static_cast<size_t>(std::max(1.0, rows)), max_candidates_);
  }

 private:
  // A burst may fill half of a request's time: reading it, and what follows it, takes half as much again from scoring.
  // After a refusal more arrives than can be scored, and a long queue would only delay all replies: the limit is then
  // lower, until no request waits.
  static constexpr double kBurst = 0.5, kStanding = 0.3;
  static constexpr double kBucketsPerS = 20.0, kLearns = 0.05;
  // Large requests, and those with longer deadlines than the service's default, may fill this share of the queue.
  static constexpr double kHalf = 0.5;
  // Bytes per candidate, before any body was read: a short ID.
  static constexpr double kBytesPerRow = 12.0;

  // Expected work that is due within one step of time.
  struct Held {
    size_t count = 0;
    double seconds = 0.0;
  };

  template <class... Values>
  static std::string text(const char* format, Values... values) {
    char buffer[256];
    std::snprintf(buffer, sizeof buffer, format, values...);
    return buffer;
  }

  static int64_t bucket_of(double now, double deadline) {
    return static_cast<int64_t>(due_at(now, deadline) * kBucketsPerS);
  }

  Refused check_rows(size_t rows, double now, double deadline) const {
    const bool is_patient = deadline - now > patience_s;
    if (rows_ + rows <= (is_patient || is_large(rows) ? half_ : max_rows_)) return {};
    return {Refusal::kRows, text("%zu candidates are queued; with these %zu there would be too many%s", rows_, rows,
                                 is_patient ? " for a deadline as long as this" : "")};
  }

  bool is_large(size_t rows) const { return rows > max_candidates_ / 4; }

  // The seconds until a request that arrives now would begin to run.
  template <class RunsOf>
  double wait_for(double now, double deadline, RunsOf runs_of) const {
    const int64_t bucket = bucket_of(now, deadline);
    const Runs runs = runs_of(static_cast<double>(bucket + 1) / kBucketsPerS);
    double waiting = -runs.taken_on_s;
    for (auto held = buckets_.begin(); held != buckets_.end() && held->first <= bucket; ++held)
      waiting += held->second.seconds;
    std::vector<double> free_at = runs.left_s;
    free_at.resize(std::max(threads_, free_at.size()), 0.0);
    return filled(std::max(0.0, waiting), std::move(free_at));
  }

  // When threads that become free at these times have done `work` together.
  static double filled(double work, std::vector<double> times) {
    std::sort(times.begin(), times.end());
    size_t count = 1;
    for (;; count++) {
      work += times[count - 1];
      if (count == times.size() || work <= static_cast<double>(count) * times[count]) break;
    }
    return work / static_cast<double>(count);
  }

  const size_t threads_, max_candidates_, max_rows_, half_;
  size_t rows_ = 0;
  std::map<int64_t, Held> buckets_;  // by due time, in steps
  double bytes_per_row_[3]{};  // by form; 0: unknown
  bool is_shedding_ = false;
};

}  // namespace native
