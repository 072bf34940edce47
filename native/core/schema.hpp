// A bundle's schema of rows and tensors, as computed by `msd.contract`: offsets in packed records, widths,
// counts, and how context values are encoded. Made by `native/layout.py`.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "bytes.hpp"

namespace native {

// numpy's own inner loops: another library's may differ in the last bit.
struct Ufunc {
  void (*loop)(char**, const intptr_t*, const intptr_t*, void*) = nullptr;
  void* data = nullptr;

  // In place, for `count` doubles.
  void operator()(double* values, size_t count) const {
    char* arguments[2] = {reinterpret_cast<char*>(values), reinterpret_cast<char*>(values)};
    const intptr_t size = static_cast<intptr_t>(count), steps[2] = {sizeof(double), sizeof(double)};
    loop(arguments, &size, steps, data);
  }
};

struct Ufuncs {
  Ufunc log, log1p, exp, exp2, expm1;
};

// Offsets in a packed record, and how many columns its arrays have.
struct RecordLayout {
  size_t size, flags, written_at, impressions, clicks, as_of, categorical, categoricals, numeric, numerics, semantic,
      dim;
};

// How decayed counts become features.
struct StateRule {
  double smoothing, strength, prior_log_odds, age_cap_s;
};

constexpr uint8_t kHasSemantic = 1, kEncoded = 2, kDescribed = 4;
constexpr int kStateFeatures = 3, kOutcomeFeatures = 4;

// What a user did with one item: when it was last shown or clicked, how often shown, how often clicked.
struct Impression {
  double at, shown, clicked;
};

// A field that a request may set: its columns among the side's categories, or among its numbers.
struct ValueField {
  enum Kind { kCategorical, kBag, kNumeric } kind;
  size_t start, width;
  uint64_t buckets;
  bool is_log;
  double mean, scale;
  std::unordered_map<std::string, int32_t> vocabulary;
};

using Fields = std::unordered_map<std::string, ValueField>;

struct Side {
  RecordLayout layout;
  std::optional<StateRule> state;
  std::vector<uint8_t> missing;
  Fields fields;

  size_t dense_width() const { return layout.numerics + (state ? kStateFeatures : 0) + (layout.dim ? 1 : 0); }
};

struct Schema {
  Side user, item;
  size_t history_length;
  std::vector<int32_t> context_categorical;  // of a request that gives none
  std::vector<float> context_dense;
  std::vector<int32_t> slot_categorical;  // of one that names a place of the page, by place; empty without a position
  std::vector<float> slot_dense;
  Fields context;
  Ufuncs ufuncs;
};

constexpr int32_t kMissingIndex = 0, kUnknownIndex = 1;
constexpr double kStandardLimit = 10.0, kRarest = 1e-6, kSecondsPerDay = 86400.0;
constexpr double kMostShown = 8.0, kLongestAgeDays = 36'500.0;

// FNV-1a over code points but NUL with MurmurHash3's mixer.
inline uint64_t hash_string(std::string_view text) {
  uint64_t hash = 0xCBF29CE484222325ull;
  for (size_t k = 0; k < text.size();) {
    const auto byte = static_cast<uint8_t>(text[k]);
    const int more = byte < 0x80 ? 0 : byte < 0xE0 ? 1 : byte < 0xF0 ? 2 : 3;
    uint32_t point = more == 0 ? byte : byte & (0x3F >> more);
    for (int step = 1; step <= more; step++) point = point << 6 | (static_cast<uint8_t>(text[k + step]) & 0x3F);
    if (point) hash = (hash ^ point) * 0x00000100000001B3ull;
    k += 1 + more;
  }
  hash = (hash ^ (hash >> 33)) * 0xFF51AFD7ED558CCDull;
  hash = (hash ^ (hash >> 33)) * 0xC4CEB9FE1A85EC53ull;
  return hash ^ (hash >> 33);
}

// The row of a field's embedding table.
inline int32_t index_of(const ValueField& field, std::string_view value) {
  if (field.buckets) return static_cast<int32_t>(hash_string(value) % field.buckets) + 1;
  const auto found = field.vocabulary.find(std::string(value));
  return found == field.vocabulary.end() ? kUnknownIndex : found->second;
}

// A standardised number.
inline float standardise(const ValueField& field, double value, const Ufuncs& ufuncs) {
  if (field.is_log) {
    double magnitude = std::fabs(value);
    ufuncs.log1p(&magnitude, 1);
    value = std::copysign(magnitude, value);
  }
  const double standard = (value - field.mean) / field.scale;
  return static_cast<float>(std::fmin(std::fmax(standard, -kStandardLimit), kStandardLimit));
}

// The first three outcomes of an impression; the last is 0.
inline void put_outcome(const Impression& seen, double at, float* to) {
  const double impressions = std::max(std::max(seen.shown, seen.clicked), kRarest);
  const double counted = std::min(impressions, kMostShown);
  to[0] = static_cast<float>(counted);
  to[1] = static_cast<float>(seen.clicked * (counted / impressions));
  to[2] = static_cast<float>(std::min(std::max(at - seen.at, 0.0) / kSecondsPerDay, kLongestAgeDays));
  to[3] = 0.0f;
}

}  // namespace native
