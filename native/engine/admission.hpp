// Admission control: accept no more requests than the scoring threads can score in time. Knows numbers, not requests; its
// owner calls it from one thread at a time.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "learned.hpp"

namespace native {

// A number of candidates, their expected run time, and the name of the API key that asks; empty without keys.
struct Load {
  size_t rows = 0;
  double seconds = 0.0;
  std::string key;
};

// Current runs, in seconds: the expected remaining time of each; the admitted time of those that are due before a given
// time, of all and of those without a long deadline; and the time until a thread is free that takes none of the latter.
struct Runs {
  std::vector<double> left_s;
  double taken_on_s = 0.0, prompt_taken_on_s = 0.0;
  double kept_free_s = 0.0;
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
  // deadlines may fill only half of the queue; so may large ones, and those of a key that holds more than its share. A
  // connection has one request in the queue, so that this leaves room to all connections that ask for little.
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
  bool is_shedding() const { return is_shedding_[false] || is_shedding_[true]; }

  double seconds() const {
    double sum = 0.0;
    for (const auto& [bucket, held] : buckets_) sum += held.seconds;
    return sum;
  }

  // Accept a load until `leave`, which needs the returned bucket; or refuse it. `runs_of(due)` gives the runs.
  template <class RunsOf>
  Refused enter(const Load& load, double now, double deadline, RunsOf runs_of, int64_t& bucket) {
    const bool is_greedy = asks_for_much(load, now);
    if (Refused refused = check_rows(load.rows, now, deadline, is_greedy)) return refused;
    if (Refused refused = check_wait(load, now, deadline, runs_of, is_greedy)) return refused;
    bucket = 2 * bucket_of(now, deadline) + is_patient(now, deadline);
    rows_ += load.rows;
    holders_[load.key].rows += load.rows;
    Held& held = buckets_[bucket];
    held.count++;
    held.seconds += load.seconds;
    return {};
  }

  // Release a load that was scored, or need not be.
  void leave(const Load& load, int64_t bucket) {
    rows_ -= load.rows;
    holders_[load.key].rows -= load.rows;
    const auto held = buckets_.find(bucket);
    held->second.seconds -= load.seconds;
    // Sums of many small numbers drift, so an empty bucket is removed.
    if (!--held->second.count) buckets_.erase(held);
  }

  // Learn that a body of `size` bytes had `rows` candidates.
  void read(size_t size, size_t rows, Form form) {
    const double found = static_cast<double>(size) / static_cast<double>(rows);
    double& known = bytes_per_row_[static_cast<size_t>(form)];
    known += (found - known) * (known > 0 ? kLearns : 1.0);
  }

  // The expected number of candidates in a body of `size` bytes.
  size_t rows_in(size_t size, Form form) const {
    const double known = bytes_per_row_[static_cast<size_t>(form)], bytes = static_cast<double>(size);
    if (form != Form::kScore && !(known > 0)) return 1;
    double rows = std::nearbyint(bytes / (known > 0 ? known : kBytesPerRow));
    // Reading much about few candidates takes as long as scoring many.
    if (form == Form::kScore) rows = std::max(rows, bytes / kMostBytesPerRow);
    // Larger requests are refused when they are read, not for what a large body might contain.
    return std::min(static_cast<size_t>(std::max(1.0, rows)), max_candidates_);
  }

 private:
  // Whether half of the queue is left to others: by large requests, and by a key that holds more than an equal share while
  // other keys ask too.
  bool asks_for_much(const Load& load, double now) {
    holders_[load.key].asked_at = now;
    if (now - looked_at_ > kAsksS) {
      looked_at_ = now;
      std::erase_if(holders_, [&](const auto& one) { return !one.second.rows && now - one.second.asked_at > kAsksS; });
    }
    return load.rows > max_candidates_ / 4 || holders_[load.key].rows * holders_.size() > rows_;
  }

  // Refused if earlier and running work leaves too little time before the deadline.
  template <class RunsOf>
  Refused check_wait(const Load& load, double now, double deadline, RunsOf runs_of, bool is_greedy) {
    if (!rows_) {
      is_shedding_[false] = is_shedding_[true] = false;
      return {};
    }
    const double wait = wait_for(now, deadline, runs_of);
    bool& is_shedding = is_shedding_[is_greedy || is_patient(now, deadline)];
    if (wait <= load.seconds) is_shedding = false;
    // If a thread is free, try it: the learned times may be outdated.
    if (wait == 0.0) return {};
    const double expected = wait + load.seconds, left = deadline - now;
    const double share = (is_shedding ? kStanding : kBurst) * (is_greedy ? kHalf : 1.0);
    if (!(expected > share * left)) return {};
    is_shedding = true;
    return {Refusal::kWait, text("%zu candidates are queued; with these %zu it would take %.0f ms, but %.0f ms are left before the deadline",
                                 rows_, load.rows, 1000 * expected, 1000 * left)};
  }

  // A burst may fill half of a request's time: reading it, and what follows it, takes half as much again from scoring.
  // After a refusal more arrives than can be scored, and a long queue would only delay all replies: the limit is then
  // lower, until no request waits. Those that ask for much, or for long, lower it for themselves alone.
  static constexpr double kBurst = 0.5, kStanding = 0.3;
  static constexpr double kBucketsPerS = 20.0, kLearns = 0.05;
  // Large requests, those with longer deadlines than the service's default, and a greedy key may fill this share of the
  // queue. A key counts as asking for so long after its last request.
  static constexpr double kHalf = 0.5, kAsksS = 1.0;
  // Bytes per candidate, before any body was read: a short ID.
  static constexpr double kBytesPerRow = 12.0;
  // Bytes of a body that weigh as much as one candidate at least.
  static constexpr double kMostBytesPerRow = 512.0;

  // What an API key has in the queue, and when it last asked.
  struct Holder {
    size_t rows = 0;
    double asked_at = 0.0;
  };

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

  Refused check_rows(size_t rows, double now, double deadline, bool is_greedy) const {
    const bool is_long = is_patient(now, deadline);
    if (rows_ + rows <= (is_long || is_greedy ? half_ : max_rows_)) return {};
    return {Refusal::kRows, text("%zu candidates are queued; with these %zu there would be too many%s", rows_, rows,
                                 is_long ? " for a deadline as long as this" : "")};
  }

  bool is_patient(double now, double deadline) const { return deadline - now > patience_s; }

  // The seconds until a request that arrives now would begin to run. Long deadlines leave one thread to others, who wait
  // there for each other alone.
  template <class RunsOf>
  double wait_for(double now, double deadline, RunsOf runs_of) const {
    const int64_t bucket = bucket_of(now, deadline);
    const Runs runs = runs_of(static_cast<double>(bucket + 1) / kBucketsPerS);
    double waiting = -runs.taken_on_s, prompt = -runs.prompt_taken_on_s;
    for (auto held = buckets_.begin(); held != buckets_.end() && held->first / 2 <= bucket; ++held) {
      waiting += held->second.seconds;
      if (held->first % 2 == 0) prompt += held->second.seconds;
    }
    std::vector<double> free_at = runs.left_s;
    free_at.resize(std::max(threads_, free_at.size()), 0.0);
    const double shared = filled(std::max(0.0, waiting), std::move(free_at));
    if (threads_ == 1 || is_patient(now, deadline)) return shared;
    return std::min(shared, runs.kept_free_s + std::max(0.0, prompt));
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
  std::map<int64_t, Held> buckets_;  // by due time, in steps; the odd ones have long deadlines
  std::unordered_map<std::string, Holder> holders_;
  double looked_at_ = 0.0;  // for keys that ask no more
  double bytes_per_row_[3]{};  // by form; 0: unknown
  bool is_shedding_[2]{};  // those that ask for little, and those that ask for much or for long
};

}  // namespace native
