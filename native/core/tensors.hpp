// From a request and the rows of its user, candidates and history to the ranker's tensors, as `tests/reference/tensors.py`
// makes them, bit for bit; in buffers that the runtime reads. Rows are in memory, or Python fetches and hands in all.
#pragma once

#include <algorithm>
#include <array>
#include <optional>
#include <shared_mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "exploration.hpp"
#include "features.hpp"
#include "id_map.hpp"
#include "columns.hpp"
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

// One of them, as a runtime sees it.
struct Memory {
  std::string name;
  void* data;
  size_t size;                      // bytes
  bool is_float, is_per_candidate;  // else int32; else one row
  std::vector<int64_t> row;         // the shape of one row
};

enum class FillResult {
  kFilled,
  kUnread,   // `msd.contract` refuses the request
  kLacking,  // Python has to fetch rows, live states or vectors
};

// Rows that were fetched, in the order that was asked for. `stale`: nullptr if their source answered.
struct GivenRows {
  const uint8_t *records, *found, *stale;
  size_t count;
};

// Those of the user, and of candidates and history; and the user's history, which may be live. Vectors of texts are in them.
struct Given {
  GivenRows user, items;
  std::vector<std::string_view> history;
  std::vector<Impression> impressions;
};

// One row, or a record with a text's vector alone, which is not found; nullptr: neither.
struct Row {
  const uint8_t* at = nullptr;
  bool is_found = false, is_stale = false;
};

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

// The rows of a request as they were used, live counts laid over them: the user's, and those of candidates and history.
struct KeptRows {
  std::vector<uint8_t> user, items, found;
};

constexpr size_t kRowSeenHead = sizeof(uint32_t) + 3 * sizeof(uint16_t);
constexpr size_t kMostTailBytes = kMaxHistory * (kRowSeenHead + 4 * kMaxIdChars);
constexpr size_t kPrinted = 4;  // numbers of a vector
constexpr double kMostRowSeen = 60'000.0;

// How uncertain log-odds are, as `msd.contract.uncertainty` says: the precision of a new ad's, and the variance that
// impressions never take away.
struct Uncertainty {
  double precision, variance;
};

// What is served besides the schema's inputs.
struct ServedModel {
  std::string version;
  Formula formula;
  double explore_share;  // of the requests that explore, at most
  Quadrature quadrature;
  std::optional<Uncertainty> uncertainty;

  bool allows(const Request& request) const {
    if (!formula.supports(request.pricing)) return false;
    return !request.explore || (explore_share > 0 && !(request.explore->share > explore_share));
  }
};

// Data for metrics.
struct Found {
  bool has_user = false;
  size_t items = 0, asked = 0;  // rows of candidates and history; asked for, with the user's
  double user_written_at = 0.0, item_written_at = 0.0;
  double live_age_s = kNone;  // of what is known of the user, where there is a stream of events
};

// Tensors of requests that differ in their candidates alone. Each different candidate has one row.
class Frame {
 public:
  Frame(const Schema& schema, const ServedModel& model, const Tensors& tensors, size_t capacity)
      : schema_(schema), model_(model), tensors_(tensors), capacity_(capacity) {}

  Found found;
  // Of the requests: live states; whether the texts of candidates without a row matter; whether to keep rows.
  const Live* live = nullptr;
  bool reads_texts = false, keeps_rows = false;
  std::vector<Degraded> degraded;  // candidates of the current request, each once
  UserRung user_rung = UserRung::kOwn;
  std::vector<std::string> unknown;  // places of categories that the model has never seen
  size_t unknown_history = 0;        // items of the request's history without a row
  KeptRows kept;

  const Schema& schema() const { return schema_; }
  const ServedModel& model() const { return model_; }
  // The time of the impression.
  double at() const { return at_; }
  size_t capacity() const { return capacity_; }
  // The request that is answered.
  const Request& request() const { return *request_; }
  // Of all requests.
  const std::vector<std::string_view>& candidates() const { return candidates_; }
  // What the user was shown, by the item's ID; behind the candidates' IDs.
  const std::vector<std::string_view>& wanted() const { return wanted_; }
  const std::vector<Impression>& impressions() const { return impressions_; }
  // The value of a segment, as `msd.contract.correction` numbers them: of a category of the context, by its column; whether
  // the user is anonymous; the place of the page. −1: there is no such column.
  int32_t segment(int32_t column) const {
    constexpr int32_t kOfUser = -1, kOfSlot = -2;
    if (column == kOfUser) return request_->user_id.empty();
    if (column == kOfSlot) return static_cast<int32_t>(slot_);
    const bool is_there = column >= 0 && static_cast<size_t>(column) < schema_.context_categorical.size();
    return is_there ? tensors_.context_categorical[column] : -1;
  }
  // The items of the history that are in the tensors, oldest first.
  const std::vector<std::string_view>& shown() const { return shown_ids_; }

  // The requests to fill it for. Throws std::length_error if their candidates are too many.
  void take(const std::vector<Request*>& requests) {
    size_t most = 0;
    for (const Request* const request : requests) most += request->ids.size();
    if (most > capacity_) throw std::length_error("a frame has room for fewer candidates");
    request_ = requests[0];
    firsts_.clear(most);
    candidates_.clear();
    described_.clear();
    hashes_.clear();
    for (Request* const request : requests) add(*request);
  }

  // Answer one of the requests.
  void turn_to(const Request& request) {
    request_ = &request;
    degraded.clear();
    degraded_places_.clear();
    for (size_t k = 0; k < request.rows.size(); k++)
      if (!is_own(rows_[request.rows[k]])) declare(request.ids[k], rungs_[request.rows[k]]);
    for (size_t k = 0; has_failed_ && k < request.rows.size(); k++)
      if (rows_[request.rows[k]].is_stale) declare(request.ids[k], Rung::kCached);
  }

  // From a bundle's files.
  FillResult fill(const RowFile& users, const RowFile& items, double now) {
    if (!encode()) return FillResult::kUnread;
    try {
      std::string_view tail;
      if (request_->user_id.empty()) {
        put_user({});
      } else {
        wanted_.assign(1, request_->user_id);
        users.find(wanted_, probes_, held_);
        if (const auto& [at, size] = held_[0]; at) {
          // Its history, and a checksum, in whose place the block's was verified.
          const size_t head = schema_.user.layout.size;
          if (size < head + 4) return FillResult::kLacking;
          tail = {reinterpret_cast<const char*>(at) + head, size - head - 4};
        }
        put_user(row_of(schema_.user, held_[0]));
      }
      if (!want_items(tail)) return FillResult::kLacking;
      items.find(wanted_, probes_, held_);
    } catch (const Damaged&) {
      return FillResult::kLacking;
    }
    rows_.clear();
    for (const RowBytes& held : held_) rows_.push_back(row_of(schema_.item, held));
    std::shared_lock<std::shared_mutex> lock;
    if (items.newer) {
      lock = items.newer->ids->reading();
      replace(*items.newer);
    }
    if (lacks_vectors()) return FillResult::kLacking;
    put_items(now);
    return FillResult::kFilled;
  }

  // From arenas; rows count that were read in one of the `epochs`.
  FillResult fill(const Arena& users, const Arena& items, const std::vector<int64_t>& epochs, double now) {
    if (!encode()) return FillResult::kUnread;
    if (request_->user_id.empty()) {
      put_user({});
      if (!want_items({})) return FillResult::kLacking;
    } else {
      const auto lock = users.ids->reading();
      const int64_t place = users.ids->find(request_->user_id);
      if (!is_sure(users, place, epochs)) return FillResult::kLacking;
      users.touched[place] = 1;
      // Copied, for what is found of the history has to outlive the lock.
      tail_ = users.ids->tail(place);
      if (tail_.size() < 4) return FillResult::kLacking;
      put_user({users.records + users.record_size * place, users.found[place] != 0});
      if (!want_items(std::string_view(tail_).substr(0, tail_.size() - 4))) return FillResult::kLacking;
    }
    const auto lock = items.ids->reading();
    if (!find(items, epochs) || lacks_vectors()) return FillResult::kLacking;
    put_items(now);
    return FillResult::kFilled;
  }

  // From rows that were fetched, with the history to use. Lacking if they are not those that the request wants.
  FillResult fill(const Given& given, double now) {
    if (!encode()) return FillResult::kUnread;
    if (given.user.count != 1) return FillResult::kLacking;
    put_user(row_of(given.user, 0, schema_.user));
    const std::vector<std::string_view>& history = request_->has_history ? request_->history : given.history;
    wanted_ = candidates_;
    wanted_.insert(wanted_.end(), history.begin(), history.end());
    impressions_ = request_->has_history ? request_->impressions : given.impressions;
    if (given.items.count != wanted_.size()) return FillResult::kLacking;
    rows_.clear();
    for (size_t k = 0; k < wanted_.size(); k++) rows_.push_back(row_of(given.items, k, schema_.item));
    has_failed_ = given.items.stale != nullptr;
    put_items(now);
    return FillResult::kFilled;
  }

  // The standard deviations of log-odds [count] of scores; false if the model has none.
  bool deviate(const float* scores, size_t count, float* to) {
    const Side& side = schema_.item;
    if (!model_.uncertainty || !side.state) return false;
    shown_.resize(count);
    for (size_t k = 0; k < count; k++) shown_[k] = tensors_.item_dense[side.dense_width() * k + side.layout.numerics + 1];
    schema_.ufuncs.expm1(shown_.data(), count);
    for (size_t k = 0; k < count; k++) {
      const double score = scores[k], known = std::max(shown_[k], 0.0) * score * (1.0 - score);
      to[k] = static_cast<float>(std::sqrt(1.0 / (model_.uncertainty->precision + known) + model_.uncertainty->variance));
    }
    return true;
  }

  // Gives candidates with equal tensors, of the first `count`, the scores of the first of them: a model's kernels may round
  // rows differently by their place.
  void share(const std::vector<float*>& scores, size_t count) {
    firsts_.clear(count);
    for (size_t k = 0; k < count; k++) {
      const size_t first = firsts_.of(print_of(k), k, [&](size_t other) { return are_equal(other, k); });
      if (first != k)
        for (float* const column : scores) column[k] = column[first];
    }
  }

  // Whether scores differ by the place of the page.
  bool has_places() const { return !schema_.slot_categorical.empty() || !schema_.slot_dense.empty(); }

  // Puts one row into the first one's place, at a place of the page, for a run of it alone; row 0 with the request's own
  // place takes that back.
  void put_first(size_t row, size_t slot) {
    const Side& side = schema_.item;
    put_first(tensors_.item_categorical, side.layout.categoricals, row, first_categorical_);
    put_first(tensors_.item_dense, side.dense_width(), row, first_dense_);
    put_first(tensors_.item_semantic, side.layout.dim, row, first_semantic_);
    is_first_kept_ = row != 0;
    slot_ = slot;
    put_context();
  }

  // Makes what `put_first` has put an unknown candidate.
  void forget_first() {
    put_unknown(0);
    is_first_kept_ = true;
  }

  // Makes candidates, of the first `count`, without a finite score unknown ones, for another run; false if all are finite.
  bool forget_unfinite(const std::vector<float*>& scores, size_t count) {
    bool is_any = false;
    for (size_t k = 0; k < count; k++) {
      const auto is_wrong = [&](const float* column) { return !std::isfinite(column[k]); };
      if (std::none_of(scores.begin(), scores.end(), is_wrong)) continue;
      is_any = true;
      put_unknown(k);
      rows_[k] = {};
      rungs_[k] = Rung::kPrior;
    }
    return is_any;
  }

  // Puts an unknown candidate behind the first `count`, for a run of these alone.
  void cut(size_t count) { put_unknown(count); }

 private:
  void put_unknown(size_t row) {
    const Side& side = schema_.item;
    records_.assign(1, side.missing.data());
    count_in(side, of_items_);
    put(side, records_[0], at_row(tensors_.item_categorical, side.layout.categoricals, row),
        at_row(tensors_.item_semantic, side.layout.dim, row));
    dense(side, of_items_, at_row(tensors_.item_dense, side.dense_width(), row));
  }

  // `kept` has what was in the first place, while another row is there.
  template <class T>
  void put_first(T* tensor, size_t width, size_t row, std::vector<T>& kept) {
    if (!width) return;
    if (!is_first_kept_) kept.assign(tensor, tensor + width);
    const T* const from = row ? tensor + width * row : kept.data();
    std::copy(from, from + width, tensor);
  }

  // Gives a request's candidates their rows.
  void add(Request& request) {
    request.rows.resize(request.ids.size());
    for (size_t k = 0; k < request.ids.size(); k++) {
      const std::string_view id = request.ids[k];
      const uint64_t hash = hash_of(id);
      const size_t row = firsts_.of(hash, candidates_.size(), [&](size_t other) { return candidates_[other] == id; });
      request.rows[k] = static_cast<uint32_t>(row);
      if (row < candidates_.size()) continue;
      candidates_.push_back(id);
      hashes_.push_back(hash);
      described_.push_back(request.described.empty() ? -1 : request.described[k]);
    }
  }

  // The features of the request, as `encode_record` and `is_unknown`; false where they do not fit the schema, or prices
  // or exploration the model.
  bool encode() {
    unknown.clear();
    features_.clear();
    has_failed_ = false;
    slot_ = request_->slot;
    item_features_.resize(request_->items.size());
    bool fits = model_.allows(*request_) &&
                add(schema_.context, request_->context, "context.", context_features_) &&
                add(schema_.user.fields, request_->user_features, "user.features.", user_features_);
    for (size_t k = 0; fits && k < item_features_.size(); k++)
      fits = add(schema_.item.fields, request_->items[k].features, "items.features.", item_features_[k]);
    put_context();
    return fits;
  }

  void put_context() {
    put_constants(schema_.context_categorical, schema_.slot_categorical, tensors_.context_categorical);
    put_constants(schema_.context_dense, schema_.slot_dense, tensors_.context_dense);
    features_.put_categorical(context_features_, tensors_.context_categorical);
    features_.put_numeric(context_features_, tensors_.context_dense);
  }

  // The context of a request that gives none, for the place of the page that it names.
  template <class T>
  void put_constants(const std::vector<T>& served, const std::vector<T>& at_slots, T* tensor) const {
    const bool is_placed = slot_ > 0 && !at_slots.empty();
    const T* const from = is_placed ? at_slots.data() + (slot_ - 1) * served.size() : served.data();
    std::copy(from, from + served.size(), tensor);
  }

  bool add(const Fields& fields, std::string_view object, const char* place, EncodedFeatures::Range& range) {
    return features_.add(fields, object, schema_.ufuncs, place, range, unknown);
  }

  // Whether a text that matters has to be encoded.
  bool lacks_vectors() const {
    if (!reads_texts) return false;
    for (size_t row = 0; row < described_.size(); row++)
      if (!rows_[row].is_found && described_[row] >= 0 && !request_->items[described_[row]].text.empty()) return true;
    return false;
  }

  static Row row_of(const Side& side, const RowBytes& held) {
    return {held.at, held.at && !(held.at[side.layout.flags] & kEncoded)};
  }

  static Row row_of(const GivenRows& rows, size_t place, const Side& side) {
    return {rows.records + side.layout.size * place, rows.found[place] != 0, rows.stale && rows.stale[place]};
  }

  static bool is_sure(const Arena& arena, int64_t place, const std::vector<int64_t>& epochs) {
    if (place < 0 || static_cast<size_t>(place) >= arena.capacity) return false;
    return std::find(epochs.begin(), epochs.end(), arena.epochs[place]) != epochs.end();
  }

  // Candidates, then the history: the request's, or the live one, or the one that the user's row ends in. False where
  // that is none.
  bool want_items(std::string_view tail) {
    wanted_ = candidates_;
    impressions_.clear();
    if (request_->has_history) {
      wanted_.insert(wanted_.end(), request_->history.begin(), request_->history.end());
      impressions_ = request_->impressions;
      return true;
    }
    if (live && is_newer(live->user)) return append_history(live->user, wanted_, impressions_);
    if (tail.size() > kMostTailBytes) return false;
    for (size_t at = 0; at < tail.size();) {
      if (at + kRowSeenHead > tail.size() || impressions_.size() == kMaxHistory) return false;
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

  bool find(const Arena& items, const std::vector<int64_t>& epochs) {
    const IdMap& ids = *items.ids;
    places_.resize(wanted_.size());
    hashes_.resize(candidates_.size());
    rows_.clear();
    for (size_t k = 0; k < wanted_.size(); k++) {
      if (k == hashes_.size()) hashes_.push_back(hash_of(wanted_[k]));
      prefetch(ids.slot_of(hashes_[k]));
    }
    for (size_t k = 0; k < wanted_.size(); k++) {
      places_[k] = ids.find(wanted_[k], hashes_[k]);
      if (!is_sure(items, places_[k], epochs)) return false;
      prefetch(items.records + items.record_size * places_[k], items.record_size);
    }
    for (const int64_t place : places_) {
      items.touched[place] = 1;
      rows_.push_back({items.records + items.record_size * place, items.found[place] != 0});
    }
    return true;
  }

  // Rows of an arena count in place of others; where it knows that there is none, the item is unknown.
  void replace(const Arena& newer) {
    const IdMap& ids = *newer.ids;
    if (!ids.size()) return;
    hashes_.resize(candidates_.size());
    for (size_t k = 0; k < wanted_.size(); k++) {
      if (k == hashes_.size()) hashes_.push_back(hash_of(wanted_[k]));
      prefetch(ids.slot_of(hashes_[k]));
    }
    for (size_t k = 0; k < wanted_.size(); k++) {
      const int64_t place = ids.find(wanted_[k], hashes_[k]);
      if (place < 0 || static_cast<size_t>(place) >= newer.capacity) continue;
      rows_[k] = {};
      if (newer.found[place]) rows_[k] = {newer.records + newer.record_size * place, true};
    }
  }

  void put_user(const Row& row) {
    found = Found{};
    found.has_user = row.is_found;
    user_rung = !row.is_found ? UserRung::kUnknown : row.is_stale ? UserRung::kCached : UserRung::kOwn;
    const Side& side = schema_.user;
    const uint8_t* record = row.at ? row.at : side.missing.data();
    user_.assign(record, record + side.layout.size);
    if (row.is_found) found.user_written_at = load<double>(record + side.layout.written_at);
    put(side, record, tensors_.user_categorical, tensors_.user_semantic);
    features_.put_categorical(user_features_, tensors_.user_categorical);
  }

  void put_items(double now) {
    at_ = std::isnan(request_->at) ? now : request_->at;
    records_.assign(1, user_.data());
    count_in(schema_.user, of_user_);
    put_candidates();
    if (live && live->has_stream) lay();
    if (keeps_rows) keep();
    dense(schema_.item, of_items_, tensors_.item_dense);
    for (size_t row = 0; row < described_.size(); row++)
      if (described_[row] >= 0)
        features_.put_numeric(item_features_[described_[row]],
                              at_row(tensors_.item_dense, schema_.item.dense_width(), row));
    records_.assign(1, user_.data());
    dense(schema_.user, of_user_, tensors_.user_dense);
    features_.put_numeric(user_features_, tensors_.user_dense);
    put_history();
    note();
  }

  // All of the candidates but what depends on the time; their records and counts are at hand then.
  void put_candidates() {
    const Side& side = schema_.item;
    const size_t count = candidates_.size();
    records_.resize(count);
    for (size_t k = 0; k < count; k++) {
      records_[k] = rows_[k].at ? rows_[k].at : side.missing.data();
      int32_t* const categorical = at_row(tensors_.item_categorical, side.layout.categoricals, k);
      put(side, records_[k], categorical, at_row(tensors_.item_semantic, side.layout.dim, k));
      if (described_[k] >= 0) features_.put_categorical(item_features_[described_[k]], categorical);
    }
    count_in(side, of_items_);
    if (rows_[0].is_found) found.item_written_at = load<double>(rows_[0].at + side.layout.written_at);
  }

  // The last L of the history's items that have a row, then zeros.
  void put_history() {
    const Side& side = schema_.item;
    const size_t length = schema_.history_length, from = candidates_.size();
    size_t known = 0, count = 0;
    for (size_t k = from; k < rows_.size(); k++) known += rows_[k].is_found;
    unknown_history = request_->has_history ? rows_.size() - from - known : 0;
    size_t skipped = known > length ? known - length : 0;
    records_.clear();
    shown_ids_.clear();
    for (size_t k = from; k < rows_.size(); k++) {
      if (!rows_[k].is_found) continue;
      if (skipped) {
        skipped--;
        continue;
      }
      put(side, rows_[k].at, at_row(tensors_.history_categorical, side.layout.categoricals, count),
          at_row(tensors_.history_semantic, side.layout.dim, count));
      const Impression& seen = impressions_[k - from];
      tensors_.history_mask[count] = seen.clicked > 0 ? 1.0f : 0.0f;
      put_outcome(seen, at_, tensors_.history_outcomes + kOutcomeFeatures * count++);
      records_.push_back(rows_[k].at);
      shown_ids_.push_back(wanted_[k]);
    }
    put_history_odds();
    for (; count < length; count++) {
      std::fill_n(at_row(tensors_.history_categorical, side.layout.categoricals, count), side.layout.categoricals, 0);
      std::fill_n(at_row(tensors_.history_semantic, side.layout.dim, count), side.layout.dim, 0.0f);
      tensors_.history_mask[count] = 0.0f;
      std::fill_n(tensors_.history_outcomes + kOutcomeFeatures * count, kOutcomeFeatures, 0.0f);
    }
  }

  // The last outcome of the history's items in `records_`: their log-odds, by the counts that their rows hold.
  void put_history_odds() {
    if (!schema_.item.state) return;
    const StateRule& state = *schema_.item.state;
    count_in(schema_.item, of_history_);
    odds_.clear();
    for (const Counts& counts : of_history_) odds_.push_back(odds_of(state, counts));
    schema_.ufuncs.log(odds_.data(), odds_.size());
    for (size_t k = 0; k < odds_.size(); k++)
      tensors_.history_outcomes[kOutcomeFeatures * (k + 1) - 1] =
          static_cast<float>(odds_[k] - state.prior_log_odds);
  }

  // Of a candidate's tensors, a hash of all but most of the vector.
  uint64_t print_of(size_t candidate) const {
    const Side& side = schema_.item;
    const auto hashed = [&](const auto* tensor, size_t width, size_t used) {
      const auto* const row = at_row(tensor, width, candidate);
      return hash_of({reinterpret_cast<const char*>(row), width ? 4 * used : 0});
    };
    const size_t categoricals = side.layout.categoricals, dense = side.dense_width(), dim = side.layout.dim;
    return hashed(tensors_.item_categorical, categoricals, categoricals) + 3 * hashed(tensors_.item_dense, dense, dense) +
           7 * hashed(tensors_.item_semantic, dim, std::min(dim, kPrinted));
  }

  bool are_equal(size_t one, size_t other) const {
    const Side& side = schema_.item;
    const auto same = [&](const auto* tensor, size_t width) {
      return !width || !std::memcmp(at_row(tensor, width, one), at_row(tensor, width, other), 4 * width);
    };
    return same(tensors_.item_categorical, side.layout.categoricals) && same(tensors_.item_dense, side.dense_width()) &&
           same(tensors_.item_semantic, side.layout.dim);
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
  void lay() {
    double horizon = std::max(0.0, of_user_[0].as_of);
    for (const Counts& one : of_items_) horizon = std::max(horizon, one.as_of);
    const Ufunc& exp2 = schema_.ufuncs.exp2;
    const std::string_view unknown = live->unknown;
    lay_over(*live, live->items.data(), unknown.empty() ? unknown : unknown.substr(1), live->item_half_life_s, at_, horizon, exp2, of_items_, odds_);
    if (request_->user_id.empty()) return;
    lay_over(*live, &live->user, unknown.substr(0, 1), live->user_half_life_s, at_, horizon, exp2, of_user_, odds_);
    found.live_age_s = std::max(0.0, at_ - of_user_[0].as_of);
  }

  // Of the records [n, dense_width]: numbers, counts as seen now, presence of a vector.
  void dense(const Side& side, const std::vector<Counts>& counts, float* to) {
    const RecordLayout& layout = side.layout;
    const size_t count = records_.size(), width = side.dense_width();
    if (!width) return;
    for (size_t k = 0; k < count; k++) {
      std::memcpy(to + width * k, records_[k] + layout.numeric, 4 * layout.numerics);
      if (layout.dim) to[width * (k + 1) - 1] = records_[k][layout.flags] & kHasSemantic ? 1.0f : 0.0f;
    }
    if (side.state)
      columns_.encode(*side.state, schema_.ufuncs, counts, [&](size_t) { return at_; }, to + layout.numerics, width);
  }

  // What was degraded: rows that were not found, then stale ones.
  void note() {
    const auto are_own = [](const Row& row) { return row.is_found && !row.is_stale; };
    found.asked = rows_.size() + !request_->user_id.empty();
    found.items = static_cast<size_t>(
        std::count_if(rows_.begin(), rows_.end(), [](const Row& row) { return row.is_found; }));
    const auto history = rows_.begin() + static_cast<ptrdiff_t>(candidates_.size());
    if (user_rung == UserRung::kOwn && has_failed_ && !std::all_of(history, rows_.end(), are_own))
      user_rung = UserRung::kCached;
    rungs_.resize(candidates_.size());
    for (size_t row = 0; row < rungs_.size(); row++)
      if (!is_own(rows_[row])) rungs_[row] = rung_of(row);
  }

  // Whether nothing is missing of what an export knows of an item.
  bool is_own(const Row& row) const { return row.is_found && !(row.at[schema_.item.layout.flags] & kDescribed); }

  void declare(std::string_view id, Rung rung) {
    const auto [place, is_new] = degraded_places_.try_emplace(id, degraded.size());
    if (is_new)
      degraded.push_back({id, rung});
    else
      degraded[place->second].rung = rung;
  }

  Rung rung_of(size_t candidate) const {
    const uint8_t* record = rows_[candidate].at;
    const uint8_t flags = record ? record[schema_.item.layout.flags] : 0;
    if (flags & kHasSemantic) return Rung::kEncoded;
    if (flags & kDescribed) return Rung::kCategoryPrior;
    const int32_t place = described_[candidate];
    return place >= 0 && item_features_[place].says_something ? Rung::kCategoryPrior : Rung::kPrior;
  }

  // Copies the rows as they are used, for who looks at them later.
  void keep() {
    const Side& side = schema_.item;
    kept.user = user_;
    put_counts(schema_.user, of_user_[0], kept.user.data());
    kept.items.clear();
    kept.found.clear();
    for (const Row& row : rows_) {
      const uint8_t* record = row.at ? row.at : side.missing.data();
      kept.items.insert(kept.items.end(), record, record + side.layout.size);
      kept.found.push_back(row.is_found);
    }
    for (size_t k = 0; k < of_items_.size(); k++) put_counts(side, of_items_[k], &kept.items[side.layout.size * k]);
  }

  static void put_counts(const Side& side, const Counts& counts, uint8_t* record) {
    const float impressions = static_cast<float>(counts.impressions), clicks = static_cast<float>(counts.clicks);
    std::memcpy(record + side.layout.impressions, &impressions, sizeof impressions);
    std::memcpy(record + side.layout.clicks, &clicks, sizeof clicks);
    std::memcpy(record + side.layout.as_of, &counts.as_of, sizeof counts.as_of);
  }

  const Schema& schema_;
  const ServedModel& model_;
  const Tensors tensors_;
  const size_t capacity_;
  const Request* request_ = nullptr;
  double at_ = 0.0;
  bool has_failed_ = false;  // the source of the rows
  size_t slot_ = 0;          // of the page, for which the tensors are
  // Scratch memory, reused between requests.
  std::string tail_;
  std::vector<std::string_view> candidates_, wanted_, shown_ids_;
  Firsts firsts_;
  EncodedFeatures features_;
  EncodedFeatures::Range user_features_, context_features_;
  std::vector<EncodedFeatures::Range> item_features_;  // of the request's items
  std::vector<int32_t> described_;  // by candidate, as in the request
  std::vector<Rung> rungs_;         // of candidates without a row
  RowFile::Scratch probes_;
  std::vector<RowBytes> held_;
  std::vector<Row> rows_;
  std::vector<uint64_t> hashes_;
  std::vector<int64_t> places_;
  std::vector<uint8_t> user_;
  std::vector<const uint8_t*> records_;
  std::vector<Impression> impressions_;  // of the history, behind the candidates in `wanted_`
  std::vector<Counts> of_user_, of_items_, of_history_;
  std::vector<double> odds_, shown_;
  CountColumns columns_;
  std::vector<int32_t> first_categorical_;
  std::vector<float> first_dense_, first_semantic_;
  bool is_first_kept_ = false;
  NameMap<size_t> degraded_places_;
};

}  // namespace native
