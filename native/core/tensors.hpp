// From a request and the rows of its user, candidates and history to the ranker's tensors, as `msd.contract.assemble`
// makes them, bit for bit; in buffers that the runtime reads. Rare cases (rows of a text alone, stale rows) are
// left to Python.
#pragma once

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "exploration.hpp"
#include "id_map.hpp"
#include "live.hpp"
#include "request.hpp"
#include "row_file.hpp"
#include "schema.hpp"

namespace native {

// Rows that a service has read before: `service/rows/arena.py`'s arrays, by the places of an IdMap.
struct Arena {
  const IdMap* ids;
  const uint8_t* records;
  const uint8_t* found;   // whether the id has a row
  const int64_t* epochs;  // of the connection that read it
  uint8_t* touched;
  size_t record_size, capacity;
};

// Buffers of one scoring thread; nullptr where the schema has no such tensor. Those of candidates have room for
// `capacity` of them.
struct Tensors {
  int32_t *user_categorical, *item_categorical, *context_categorical, *history_categorical;
  float *user_dense, *user_semantic, *item_dense, *item_semantic, *context_dense, *history_semantic, *history_mask,
      *history_outcomes;
};

enum class Outcome {
  kFilled,
  kUnread,   // the request is not plain
  kUnheld,   // a row is not in memory, or may be stale
  kUnusual,  // damaged rows, or rows of a text alone
};

constexpr size_t kRowSeenHead = sizeof(uint32_t) + 3 * sizeof(uint16_t);
constexpr double kMostRowSeen = 60'000.0, kMostShown = 8.0, kLongestAgeDays = 36'500.0;

// How much is known of a candidate or a user that is not scored by its own fresh row.
enum class Rung : uint8_t { kCached, kEncoded, kCategoryPrior, kPrior };
enum class UserRung : uint8_t { kOwn, kCached, kUnknown };
constexpr std::array<std::string_view, 4> kRungs{"cached", "encoded", "category_prior", "prior"};
constexpr std::array<std::string_view, 3> kUserRungs{"", "cached", "unknown"};
inline std::string_view name_of(Rung rung) { return kRungs[static_cast<size_t>(rung)]; }
inline std::string_view name_of(UserRung rung) { return kUserRungs[static_cast<size_t>(rung)]; }

struct Degraded {
  std::string_view id;
  Rung rung;
};

// What is served besides the schema's inputs.
struct ServedModel {
  std::string version;
  Formula formula;
  double explore_share;  // of the requests that explore, at most
  Quadrature quadrature;

  bool allows(const Request& request) const {
    if (!formula.supports(request.pricing)) return false;
    return !request.explore || (explore_share > 0 && !(request.explore->share > explore_share));
  }
};

// Data for metrics.
struct Found {
  bool has_user = false;
  size_t items = 0, asked = 0;  // rows of candidates and history
  double user_written_at = 0.0, item_written_at = 0.0;
  double live_age_s = kNone;  // of what is known of the user, where there is a stream of events
};

class Frame {
 public:
  Frame(const Schema& schema, const ServedModel& model, const Tensors& tensors, size_t capacity)
      : schema_(schema), model_(model), tensors_(tensors), capacity_(capacity) {}

  Request request;
  Found found;
  const Live* live = nullptr;  // of the current request
  std::vector<Degraded> degraded;  // candidates, each once
  UserRung user_rung = UserRung::kOwn;
  std::vector<std::string> unknown;  // places of categories that the model has never seen
  size_t unknown_history = 0;        // items of the request's history without a row

  const Schema& schema() const { return schema_; }
  const ServedModel& model() const { return model_; }

  Outcome read(std::string_view body, size_t max_candidates) {
    const bool is_read = request.read(body, std::min(max_candidates, capacity_));
    return is_read && model_.allows(request) ? Outcome::kFilled : Outcome::kUnread;
  }

  // From a bundle's files.
  Outcome fill(const RowFile& users, const RowFile& items, double now) {
    if (!put_context()) return Outcome::kUnread;
    try {
      wanted_.assign(1, request.user_id);
      users.find(wanted_, probes_, rows_);
      const RowBytes user = rows_[0];
      const size_t size = schema_.user.layout.size;
      std::string_view tail;
      if (user.size > size && Crc32::of(user.at + size, user.size - size) == kCrcResidue)
        tail = std::string_view(reinterpret_cast<const char*>(user.at) + size, user.size - size - 4);
      put_user(user.at);
      if (!want_items(tail)) return Outcome::kUnusual;
      items.find(wanted_, probes_, rows_);
    } catch (const Damaged&) {
      return Outcome::kUnusual;
    }
    put_items(now_or_then(now));
    return Outcome::kFilled;
  }

  // From arenas; rows count that were read in one of the `epochs`.
  Outcome fill(const Arena& users, const Arena& items, const std::vector<int64_t>& epochs, double now) {
    if (!put_context()) return Outcome::kUnread;
    {
      const auto lock = users.ids->reading();
      const int64_t place = users.ids->find(request.user_id);
      if (!is_sure(users, place, epochs)) return Outcome::kUnheld;
      users.touched[place] = 1;
      const uint8_t* record = users.records + users.record_size * place;
      // Copied, for what is found of the history has to outlive the lock.
      tail_ = users.ids->tail(place);
      if (tail_.size() < 4) return Outcome::kUnusual;
      put_user(users.found[place] ? record : nullptr);
      if (!want_items(std::string_view(tail_).substr(0, tail_.size() - 4))) return Outcome::kUnusual;
    }
    const auto lock = items.ids->reading();
    const Outcome outcome = find(items, epochs);
    if (outcome == Outcome::kFilled) put_items(now_or_then(now));
    return outcome;
  }

  // Puts an unknown candidate behind the first `count`, for a run of these alone.
  void cut(size_t count) {
    const Side& side = schema_.item;
    records_.assign(1, side.missing.data());
    count_in(side, of_items_);
    put(side, records_[0], at_row(tensors_.item_categorical, side.layout.categoricals, count),
        at_row(tensors_.item_semantic, side.layout.dim, count));
    dense(side, of_items_, at_, at_row(tensors_.item_dense, side.dense_width(), count));
  }

 private:
  bool put_context() {
    return encode_context(schema_, request.context, tensors_.context_categorical, tensors_.context_dense, unknown);
  }

  double now_or_then(double now) const { return std::isnan(request.at) ? now : request.at; }

  static bool is_sure(const Arena& arena, int64_t place, const std::vector<int64_t>& epochs) {
    if (place < 0 || static_cast<size_t>(place) >= arena.capacity) return false;
    return std::find(epochs.begin(), epochs.end(), arena.epochs[place]) != epochs.end();
  }

  // Candidates, then the history: the request's, or the live one, or the one that the user's row ends in. False where
  // that is none.
  bool want_items(std::string_view tail) {
    wanted_ = request.ids;
    impressions_.clear();
    if (request.has_history) {
      wanted_.insert(wanted_.end(), request.history.begin(), request.history.end());
      impressions_ = request.impressions;
      return true;
    }
    if (live && is_newer(live->user)) return append_history(live->user, wanted_, impressions_);
    for (size_t at = 0; at < tail.size();) {
      if (at + kRowSeenHead > tail.size()) return false;
      const char* const head = tail.data() + at;
      const Impression seen{static_cast<double>(load<uint32_t>(head)), half::widen_one(load<uint16_t>(head + 4)),
                            half::widen_one(load<uint16_t>(head + 6))};
      const size_t length = load<uint16_t>(head + 8);
      at += kRowSeenHead;
      for (const double number : {seen.shown, seen.clicked})
        if (!(number >= 0 && number <= kMostRowSeen)) return false;
      if (at + length > tail.size()) return false;
      wanted_.push_back(tail.substr(at, length));
      impressions_.push_back(seen);
      at += length;
    }
    return true;
  }

  Outcome find(const Arena& items, const std::vector<int64_t>& epochs) {
    const IdMap& ids = *items.ids;
    places_.resize(wanted_.size());
    hashes_.resize(wanted_.size());
    rows_.assign(wanted_.size(), RowBytes{});
    for (size_t k = 0; k < wanted_.size(); k++) {
      hashes_[k] = ids.hash(wanted_[k]);
      prefetch(ids.slot_of(hashes_[k]));
    }
    for (size_t k = 0; k < wanted_.size(); k++) {
      places_[k] = ids.find(wanted_[k], hashes_[k]);
      if (!is_sure(items, places_[k], epochs)) return Outcome::kUnheld;
      prefetch(items.records + items.record_size * places_[k], items.record_size);
    }
    for (size_t k = 0; k < wanted_.size(); k++) {
      const uint8_t* record = items.records + items.record_size * places_[k];
      items.touched[places_[k]] = 1;
      if (items.found[places_[k]])
        rows_[k] = {record, items.record_size};
      else if (record[schema_.item.layout.flags] & kHasSemantic)
        return Outcome::kUnusual;
    }
    return Outcome::kFilled;
  }

  void put_user(const uint8_t* row) {
    found = Found{};
    found.has_user = row != nullptr;
    user_rung = row ? UserRung::kOwn : UserRung::kUnknown;
    const Side& side = schema_.user;
    user_.assign(row ? row : side.missing.data(), (row ? row : side.missing.data()) + side.layout.size);
    if (row) found.user_written_at = load<double>(row + side.layout.written_at);
    put(side, user_.data(), tensors_.user_categorical, tensors_.user_semantic);
  }

  void put_items(double at) {
    at_ = at;
    records_.assign(1, user_.data());
    count_in(schema_.user, of_user_);
    put_candidates();
    if (live && live->has_stream) lay(at);
    dense(schema_.item, of_items_, at, tensors_.item_dense);
    records_.assign(1, user_.data());
    dense(schema_.user, of_user_, at, tensors_.user_dense);
    put_history(request.ids.size(), at);
    keep_each_once();
  }

  // All of the candidates but what depends on the time; their records and counts are at hand then.
  void put_candidates() {
    const Side& side = schema_.item;
    const size_t count = request.ids.size();
    records_.resize(count);
    degraded.clear();
    for (size_t k = 0; k < count; k++) {
      records_[k] = rows_[k].at ? rows_[k].at : side.missing.data();
      if (!rows_[k].at) degraded.push_back({request.ids[k], Rung::kPrior});
      put(side, records_[k], at_row(tensors_.item_categorical, side.layout.categoricals, k),
          at_row(tensors_.item_semantic, side.layout.dim, k));
    }
    count_in(side, of_items_);
    found.items = wanted_.size() - degraded.size();
    found.asked = wanted_.size();
    if (rows_[0].at) found.item_written_at = load<double>(rows_[0].at + side.layout.written_at);
  }

  // The last L of the history's items that have a row, then zeros.
  void put_history(size_t from, double at) {
    const Side& side = schema_.item;
    const size_t length = schema_.history_length;
    size_t known = 0, kept = 0;
    for (size_t k = from; k < rows_.size(); k++) known += rows_[k].at != nullptr;
    const size_t without = rows_.size() - from - known;
    found.items -= without;
    unknown_history = request.has_history ? without : 0;
    size_t skipped = known > length ? known - length : 0;
    records_.clear();
    for (size_t k = from; k < rows_.size(); k++) {
      if (!rows_[k].at) continue;
      if (skipped) {
        skipped--;
        continue;
      }
      put(side, rows_[k].at, at_row(tensors_.history_categorical, side.layout.categoricals, kept),
          at_row(tensors_.history_semantic, side.layout.dim, kept));
      const Impression& seen = impressions_[k - from];
      tensors_.history_mask[kept] = seen.clicked > 0 ? 1.0f : 0.0f;
      put_outcome(seen, at, tensors_.history_outcomes + kOutcomeFeatures * kept++);
      records_.push_back(rows_[k].at);
    }
    put_history_odds();
    for (; kept < length; kept++) {
      std::fill_n(at_row(tensors_.history_categorical, side.layout.categoricals, kept), side.layout.categoricals, 0);
      std::fill_n(at_row(tensors_.history_semantic, side.layout.dim, kept), side.layout.dim, 0.0f);
      tensors_.history_mask[kept] = 0.0f;
      std::fill_n(tensors_.history_outcomes + kOutcomeFeatures * kept, kOutcomeFeatures, 0.0f);
    }
  }

  // As `encode_impressions`.
  static void put_outcome(const Impression& seen, double at, float* to) {
    const double impressions = std::max(std::max(seen.shown, seen.clicked), kRarest);
    const double counted = std::min(impressions, kMostShown);
    to[0] = static_cast<float>(counted);
    to[1] = static_cast<float>(seen.clicked * (counted / impressions));
    to[2] = static_cast<float>(std::min(std::max(at - seen.at, 0.0) / kSecondsPerDay, kLongestAgeDays));
    to[3] = 0.0f;
  }

  // The last outcome of the history's items in `records_`: their log-odds, by the counts that their rows hold.
  void put_history_odds() {
    const StateRule& state = schema_.item.state;
    if (!state.is_on) return;
    count_in(schema_.item, of_history_);
    odds_.clear();
    for (const Counts& counts : of_history_) odds_.push_back(odds_of(state, counts));
    schema_.ufuncs.log(odds_.data(), odds_.size());
    for (size_t k = 0; k < odds_.size(); k++)
      tensors_.history_outcomes[kOutcomeFeatures * (k + 1) - 1] =
          static_cast<float>(odds_[k] - state.prior_log_odds);
  }

  // Of a click rate, smoothed as `encode_state` does.
  static double odds_of(const StateRule& state, const Counts& counts) {
    double rate = (counts.clicks + state.smoothing) / (counts.impressions + state.strength);
    rate = std::min(std::max(rate, kRarest), 1.0 - kRarest);
    return rate / (1.0 - rate);
  }

  template <class T>
  static T* at_row(T* tensor, size_t width, size_t row) {
    return width ? tensor + width * row : tensor;
  }

  static void put(const Side& side, const uint8_t* record, int32_t* categorical, float* semantic) {
    const RecordLayout& layout = side.layout;
    if (layout.categoricals) std::memcpy(categorical, record + layout.categorical, 4 * layout.categoricals);
    if (layout.dim) widen(record + layout.semantic, semantic, layout.dim);
  }

  // Whether the user's live state is newer than the row.
  bool is_newer(std::string_view packed) const {
    const StateHead head(packed);
    return head.is_found && head.as_of > load<double>(user_.data() + schema_.user.layout.as_of);
  }

  // The counts that the records hold.
  void count_in(const Side& side, std::vector<Counts>& counts) const {
    const RecordLayout& layout = side.layout;
    counts.resize(records_.size());
    for (size_t k = 0; k < counts.size(); k++)
      counts[k] = {load<float>(records_[k] + layout.impressions), load<float>(records_[k] + layout.clicks),
                   load<double>(records_[k] + layout.as_of)};
  }

  // Live states over the counts. Rows of one export are complete as far as the latest of them says.
  void lay(double at) {
    double horizon = std::max(0.0, of_user_[0].as_of);
    for (const Counts& one : of_items_) horizon = std::max(horizon, one.as_of);
    const Ufunc& exp2 = schema_.ufuncs.exp2;
    lay_over(*live, &live->user, live->user_half_life_s, at, horizon, exp2, of_user_, odds_);
    lay_over(*live, live->items.data(), live->item_half_life_s, at, horizon, exp2, of_items_, odds_);
    found.live_age_s = std::max(0.0, at - of_user_[0].as_of);
  }

  // Of the records [n, dense_width]: numbers, counts seen at `at` (`encode_state`), presence of a vector.
  void dense(const Side& side, const std::vector<Counts>& counts, double at, float* to) {
    const std::vector<const uint8_t*>& records = records_;
    const RecordLayout& layout = side.layout;
    const size_t count = records.size(), width = side.dense_width();
    if (!width) return;
    for (size_t k = 0; k < count; k++) {
      std::memcpy(to + width * k, records[k] + layout.numeric, 4 * layout.numerics);
      if (layout.dim) to[width * (k + 1) - 1] = records[k][layout.flags] & kHasSemantic ? 1.0f : 0.0f;
    }
    if (!side.state.is_on) return;
    odds_.resize(count);
    shown_.resize(count);
    age_.resize(count);
    for (size_t k = 0; k < count; k++) {
      const double age = at - counts[k].as_of;
      odds_[k] = odds_of(side.state, counts[k]);
      shown_[k] = counts[k].impressions;
      age_[k] = std::min(std::max(age, 0.0), side.state.age_cap_s) / kSecondsPerDay;
    }
    schema_.ufuncs.log(odds_.data(), count);
    schema_.ufuncs.log1p(shown_.data(), count);
    schema_.ufuncs.log1p(age_.data(), count);
    for (size_t k = 0; k < count; k++) {
      float* state = to + width * k + layout.numerics;
      state[0] = static_cast<float>(odds_[k] - side.state.prior_log_odds);
      state[1] = static_cast<float>(shown_[k]);
      state[2] = static_cast<float>(age_[k]);
    }
  }

  void keep_each_once() {
    if (degraded.size() < 2) return;
    seen_.clear();
    size_t kept = 0;
    for (const Degraded& one : degraded)
      if (seen_.insert(one.id).second) degraded[kept++] = one;
    degraded.resize(kept);
  }

  const Schema& schema_;
  const ServedModel& model_;
  const Tensors tensors_;
  const size_t capacity_;
  double at_ = 0.0;  // of the impression
  // Scratch memory, reused between requests.
  std::string tail_;
  std::vector<std::string_view> wanted_;
  RowFile::Scratch probes_;
  std::vector<RowBytes> rows_;
  std::vector<uint64_t> hashes_;
  std::vector<int64_t> places_;
  std::vector<uint8_t> user_;
  std::vector<const uint8_t*> records_;
  std::vector<Impression> impressions_;  // of the history, behind the candidates in `wanted_`
  std::vector<Counts> of_user_, of_items_, of_history_;
  std::vector<double> odds_, shown_, age_;
  std::unordered_set<std::string_view> seen_;
};

}  // namespace native
