// Live states laid over rows, as `tests/reference/live.py` lays them, bit for bit: counts and their age as they are now
// instead of as they were exported, and the history. `live_state.hpp` packs states.
#pragma once

#include <algorithm>
#include <cmath>
#include <string_view>
#include <vector>

#include "request.hpp"
#include "schema.hpp"

namespace native {

constexpr char kStateFormat = 2;
constexpr double kMostCounted = 1e30;
constexpr size_t kStateHead = 1 + 4 * sizeof(double);
constexpr size_t kSeenHead = sizeof(double) + 2 * sizeof(float) + sizeof(uint16_t);
constexpr size_t kMostStateBytes = kStateHead + kMaxHistory * (kSeenHead + 4 * kMaxIdChars);

// Counts of one row, complete up to `as_of`; a row holds them as floats.
struct Counts {
  double impressions, clicks, as_of;
};

// What is live for one request. Views outlive it; an empty one is no state.
struct Live {
  std::string_view user;
  std::vector<std::string_view> items;  // of the candidates
  std::string_view unknown;  // a byte for the user and each candidate, not 0 if it is not known whether there is a state; empty: all are
  bool has_stream = false;
  double since = 0.0, until = 0.0, lag_s = 0.0, user_half_life_s = 1.0, item_half_life_s = 1.0;

  // Time up to which counts are complete for a request at `at`.
  double complete_at(double at) const { return at - until <= lag_s ? at : until; }
  // Whether the stream follows rows that are complete up to `as_of` without a gap.
  bool covers(double as_of) const { return as_of >= since - lag_s; }
};

// The head of a packed state.
struct StateHead {
  double impressions = 0.0, clicks = 0.0, as_of = 0.0;
  bool is_found = false;

  explicit StateHead(std::string_view packed) {
    if (packed.size() < kStateHead || packed.size() > kMostStateBytes || packed[0] != kStateFormat) return;
    double numbers[4];
    std::memcpy(numbers, packed.data() + 1, sizeof numbers);
    for (const double count : {numbers[0], numbers[1]})
      if (!(count >= 0 && count <= kMostCounted)) return;
    if (!std::isfinite(numbers[0] + numbers[1] + numbers[2] + numbers[3])) return;
    impressions = numbers[0], clicks = numbers[1], as_of = numbers[2];
    is_found = true;
  }
};

// Append a state's history, oldest first. False if it is invalid, or longer than one may be.
inline bool append_history(std::string_view packed, std::vector<std::string_view>& ids,
                           std::vector<Impression>& impressions) {
  for (size_t at = kStateHead; at < packed.size();) {
    if (at + kSeenHead > packed.size() || impressions.size() == kMaxHistory) return false;
    const char* const head = packed.data() + at;
    const Impression seen{load<double>(head), load<float>(head + 8), load<float>(head + 12)};
    const size_t length = load<uint16_t>(head + 16);
    at += kSeenHead;
    for (const double number : {seen.shown, seen.clicked})
      if (!(number >= 0 && number <= kMostCounted)) return false;
    if (!std::isfinite(seen.at)) return false;
    if (!length || at + length > packed.size() || !is_utf8(packed.data() + at, length)) return false;
    const std::string_view id = packed.substr(at, length);
    if (id.find('\0') != std::string_view::npos) return false;
    ids.push_back(id);
    impressions.push_back(seen);
    at += length;
  }
  return true;
}

// Lays the states of the first rows over their counts, as asked about `at`; rows that are complete up to `horizon` hold
// all events until then. `scratch` holds the decay factors of counts.
inline void lay_over(const Live& live, const std::string_view* states, std::string_view unknown, double half_life_s,
                     double at, double horizon, const Ufunc& exp2, std::vector<Counts>& counts,
                     std::vector<double>& scratch) {
  const size_t size = counts.size();
  const double reached = live.complete_at(at);
  const bool is_covered = live.covers(horizon);
  scratch.resize(size);
  for (size_t k = 0; k < size; k++) {
    const StateHead head(states[k]);
    const bool is_newer = head.is_found && head.as_of > counts[k].as_of;
    if (is_newer) counts[k] = {head.impressions, head.clicks, head.as_of};
    const bool is_known = unknown.empty() || !unknown[k];
    const double complete = is_newer || (is_covered && is_known) ? std::max(counts[k].as_of, reached) : counts[k].as_of;
    scratch[k] = (counts[k].as_of - complete) / half_life_s;
    counts[k].as_of = complete;
  }
  exp2(scratch.data(), size);
  for (size_t k = 0; k < size; k++) {
    counts[k].impressions = static_cast<float>(counts[k].impressions * scratch[k]);
    counts[k].clicks = static_cast<float>(counts[k].clicks * scratch[k]);
  }
}

}  // namespace native
