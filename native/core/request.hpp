// A scoring request, read from its body. What is refused gets the words of its errors from `msd.contract.request`, which
// refuses it too.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <string_view>
#include <vector>

#include "json.hpp"
#include "pricing.hpp"
#include "schema.hpp"

namespace native {

constexpr size_t kMaxIdChars = 256, kMaxTextChars = 10'000, kMaxHistory = 1'000, kMaxListValues = 1'000;
constexpr size_t kMaxExplained = 200;
constexpr double kMaxAt = 1e11, kMaxBid = 1e9, kMaxSeed = 9'007'199'254'740'991.0, kMaxTopK = 1e15,
                 kMaxSlot = 255, kMaxPage = 32;
constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

// How the first position is explored.
enum class Policy : uint8_t { kThompson, kUcb, kUniform };
constexpr std::array<std::string_view, 3> kPolicies{"thompson", "ucb", "uniform"};

struct Explore {
  Policy policy = Policy::kThompson;
  double share = kNone;          // NaN: the service's
  std::optional<uint64_t> seed;  // none: the request's ID
};

// What a request says of one item.
struct Described {
  std::string_view id, text, features;  // `features`: the object as it stands, empty if it has no members
};

// Views are of the body, or of `decoded_`; a copy would lose these.
class Request {
 public:
  std::string_view user_id;  // empty: anonymous
  double at = kNone;
  std::string_view context, user_features;  // objects as they stand, empty if not given
  std::vector<std::string_view> ids, history;
  std::vector<Impression> impressions;  // of each item of the history, of which none is there twice
  std::vector<double> bids;             // NaN: none
  std::vector<Pricing> pricing;         // empty: not given
  std::vector<Described> items;
  std::vector<int32_t> described;  // by candidate its place in `items`, −1 if it has none; empty without items
  std::optional<Explore> explore;
  bool has_bids = false, has_history = false, is_explained = false;
  size_t top_k = 0;  // 0: not given
  size_t slot = 0;   // place of the page, from 1; 0: not given
  size_t page = 0;   // number of places to score the best candidates for, from `slot` on; 0: not given
  std::vector<uint32_t> rows;  // by candidate, in a frame

  Request() = default;
  Request(Request&&) = default;
  Request& operator=(Request&&) = default;

  // False if the body is refused. Whether the features fit a schema is seen when they are encoded.
  bool read(std::string_view body, size_t max_candidates);

  // Whether another differs in its candidates, and in what is asked of their scores, alone. Some never do.
  bool is_like(const Request& other) const {
    const bool same_at = at == other.at || (std::isnan(at) && std::isnan(other.at));
    return same_at && slot == other.slot && user_id == other.user_id && context == other.context && user_features == other.user_features &&
           is_plain() && other.is_plain();
  }

 private:
  bool is_plain() const { return items.empty() && !has_history && !is_explained && !page; }
  bool read_candidates(JsonReader& json, size_t max_candidates);
  bool read_user(JsonReader& json);
  bool read_history(JsonReader& json);
  bool read_items(JsonReader& json);
  bool read_item(JsonReader& json, Described& item);
  bool read_explore(JsonReader& json);
  bool read_top_k(JsonReader& json);
  bool read_place(JsonReader& json, double most, size_t& place);
  bool put_page();
  bool match_items();
  void join(const std::vector<std::string_view>& items, const std::vector<Impression>& seen);

  NameMap<int32_t> places_;  // of the described items in `items`; −1 where it says null
  Decoded decoded_;
};

namespace detail {

inline bool is_id(std::string_view id) {
  return !id.empty() && is_within(id, kMaxIdChars) && id.find('\0') == std::string_view::npos;
}

inline std::string_view read_id(JsonReader& json) {
  const std::string_view id = json.string();
  if (!is_id(id)) json.refuse();
  return id;
}

inline double read_number(JsonReader& json, double most) {
  // A negative zero becomes a positive one, as the reference says.
  const double number = json.number().value + 0.0;
  if (!(number >= 0 && number <= most)) json.refuse();
  return number;
}

// One of some names, by its place.
template <class Enum, size_t count>
Enum read_name(JsonReader& json, const std::array<std::string_view, count>& names) {
  const auto found = std::find(names.begin(), names.end(), json.string());
  if (found == names.end()) json.refuse();
  return static_cast<Enum>(found - names.begin());
}

inline bool read_flag(JsonReader& json) {
  const bool is_true = json.take_word("true");
  if (!is_true && !json.take_word("false")) json.refuse();
  return is_true;
}

// Reads a list of one entry at least; `read` reads one.
template <class T, class Read>
bool read_list(JsonReader& json, size_t most, std::vector<T>& list, Read read) {
  list.clear();
  return json.each([&] {
    if (list.size() == most) return false;
    list.push_back(read(json));
    return true;
  }) && !list.empty();
}

// Reads an object; `on_member` reads the value of a key, and says whether it is as it should be.
template <class Member>
bool read_object(JsonReader& json, Member on_member) {
  json.need('{');
  if (!json.is_ok()) return false;
  if (json.take('}')) return true;
  do {
    const std::string_view key = json.string();
    json.need(':');
    if (!json.is_ok() || !on_member(key)) return false;
  } while (json.is_ok() && json.take(','));
  json.need('}');
  return json.is_ok();
}

template <class Read, class... Members>
bool read_member(JsonReader& json, std::string_view key, unsigned& seen, unsigned own, std::string_view name,
                 const Read& read, const Members&... others) {
  if (key == name) {
    if (seen & own) return false;
    seen |= own;
    if constexpr (std::is_void_v<decltype(read())>) return read(), json.is_ok();
    else return read() && json.is_ok();
  }
  if constexpr (sizeof...(others) > 0) return read_member(json, key, seen, own << 1, others...);
  return false;
}

// Reads an object of known members, none of them twice: of each its name, and what reads its value and may say whether
// that is as it should be. The first `needed` have to be there.
template <class... Members>
bool read_members(JsonReader& json, size_t needed, const Members&... members) {
  unsigned seen = 0;
  const unsigned all = (1u << needed) - 1;
  return read_object(json, [&](std::string_view key) { return read_member(json, key, seen, 1, members...); }) &&
         (seen & all) == all;
}

// An entry of the history that tells whether the item was clicked.
inline bool read_shown(JsonReader& json, std::string_view& item, Impression& impression) {
  return read_members(
      json, 2,
      "item_id", [&] { item = read_id(json); },
      "clicked", [&] { impression.clicked = read_flag(json) ? 1.0 : 0.0; },
      "at", [&] { if (!json.take_null()) impression.at = read_number(json, kMaxAt); });
}

// A value of a feature, unread but for its form: a string, a number or null.
inline bool skip_scalar(JsonReader& json) {
  if (json.is_at_string())
    json.any_string();
  else if (!json.take_null())
    json.number();
  return json.is_ok();
}

// An object of features, unread but for its form: values are scalars, or lists of these. Returns the object as it
// stands.
inline std::string_view skip_features(JsonReader& json) {
  if (json.take_null()) return {};
  const char* start = json.position();
  bool is_empty = true;
  const bool is_read = read_object(json, [&](std::string_view) {
    is_empty = false;
    if (!json.is_at('[')) return skip_scalar(json);
    size_t count = 0;
    return json.each([&] { return skip_scalar(json) && ++count <= kMaxListValues; });
  });
  if (!is_read) json.refuse();
  return is_empty ? std::string_view() : std::string_view(start, json.position() - start);
}

}  // namespace detail

inline bool Request::read_candidates(JsonReader& json, size_t max_candidates) {
  const auto read_bid = [](JsonReader& json) { return json.take_null() ? kNone : json.number().value; };
  const auto read_pricing = [](JsonReader& json) { return detail::read_name<Pricing>(json, kPricings); };
  const bool is_read = detail::read_members(
      json, 1,
      "id", [&] { return detail::read_list(json, max_candidates, ids, detail::read_id); },
      "bid", [&] {
        has_bids = !json.take_null();
        return !has_bids || detail::read_list(json, max_candidates, bids, read_bid);
      },
      "pricing", [&] { return json.take_null() || detail::read_list(json, max_candidates, pricing, read_pricing); });
  const auto is_bid = [](double bid) { return std::isnan(bid) || (bid >= 0 && bid <= kMaxBid); };
  return is_read && (!has_bids || bids.size() == ids.size()) && std::all_of(bids.begin(), bids.end(), is_bid) &&
         (pricing.empty() || pricing.size() == ids.size());
}

inline bool Request::read_user(JsonReader& json) {
  return detail::read_members(
      json, 0,
      "features", [&] { user_features = detail::skip_features(json); },
      "history", [&] {
        has_history = !json.take_null();
        return !has_history || read_history(json);
      });
}

inline bool Request::read_history(JsonReader& json) {
  std::vector<std::string_view> shown;
  std::vector<Impression> seen;
  size_t objects = 0;
  const bool is_read = json.each([&] {
    std::string_view item;
    Impression impression{std::numeric_limits<double>::infinity(), 1.0, 1.0};
    if (json.is_at_string())
      item = detail::read_id(json);
    else if (++objects > kMaxHistory || !detail::read_shown(json, item, impression))
      return false;
    shown.push_back(item);
    seen.push_back(impression);
    return true;
  });
  join(shown, seen);
  return is_read;
}

// The last entries count; those of one item are joined, in the place of the last of them.
inline void Request::join(const std::vector<std::string_view>& shown, const std::vector<Impression>& seen) {
  NameMap<size_t> places;
  const size_t first = shown.size() > kMaxHistory ? shown.size() - kMaxHistory : 0;
  for (size_t k = shown.size(); k-- > first;) {
    const auto [place, is_new] = places.try_emplace(shown[k], history.size());
    if (is_new) {
      history.push_back(shown[k]);
      impressions.push_back(seen[k]);
      continue;
    }
    Impression& known = impressions[place->second];
    known = {std::max(known.at, seen[k].at), known.shown + seen[k].shown, known.clicked + seen[k].clicked};
  }
  std::reverse(history.begin(), history.end());
  std::reverse(impressions.begin(), impressions.end());
}

inline bool Request::read_items(JsonReader& json) {
  return detail::read_object(json, [&](std::string_view id) {
    const bool is_null = json.take_null();
    const int32_t place = is_null ? -1 : static_cast<int32_t>(items.size());
    if (!detail::is_id(id) || !places_.emplace(id, place).second) return false;
    return is_null || read_item(json, items.emplace_back(Described{id, {}, {}}));
  });
}

inline bool Request::read_item(JsonReader& json, Described& item) {
  return detail::read_members(
      json, 0,
      "features", [&] { item.features = detail::skip_features(json); },
      "text", [&] {
        if (!json.take_null()) item.text = json.string();
        return is_within(item.text, kMaxTextChars);
      });
}

// Only candidates may be described.
inline bool Request::match_items() {
  if (places_.size() > ids.size()) return false;
  if (items.empty()) return true;
  std::vector<bool> is_candidate(items.size());
  for (const std::string_view id : ids) {
    const auto found = places_.find(id);
    described.push_back(found == places_.end() ? -1 : found->second);
    if (described.back() >= 0) is_candidate[described.back()] = true;
  }
  return std::find(is_candidate.begin(), is_candidate.end(), false) == is_candidate.end();
}

inline bool Request::read_explore(JsonReader& json) {
  explore.emplace();
  return detail::read_members(
      json, 1,
      "policy", [&] { explore->policy = detail::read_name<Policy>(json, kPolicies); },
      "share", [&] {
        if (!json.take_null()) explore->share = json.number().value;
        return !(explore->share < 0 || explore->share > 1);
      },
      "seed", [&] {
        if (json.take_null()) return true;
        const JsonReader::Number seed = json.number();
        if (!seed.is_integer || !(seed.value >= 0 && seed.value <= kMaxSeed)) return false;
        explore->seed = static_cast<uint64_t>(seed.value);
        return true;
      });
}

inline bool Request::read_top_k(JsonReader& json) {
  const JsonReader::Number number = json.number();
  if (!number.is_integer || number.value < 1) return false;
  top_k = static_cast<size_t>(std::min(number.value, kMaxTopK));
  return true;
}

inline bool Request::read_place(JsonReader& json, double most, size_t& place) {
  const JsonReader::Number number = json.number();
  if (!number.is_integer || number.value < 1 || number.value > most) return false;
  place = static_cast<size_t>(number.value);
  return true;
}

// A page begins at its first place. False if it ends behind the last.
inline bool Request::put_page() {
  if (page && !slot) slot = 1;
  return !page || slot + page - 1 <= static_cast<size_t>(kMaxSlot);
}

inline bool Request::read(std::string_view body, size_t max_candidates) {
  *this = Request();
  if (!is_utf8(body.data(), body.size())) return false;
  JsonReader json(body, decoded_);
  const bool is_read = detail::read_members(
      json, 2,
      "user_id", [&] { if (!json.take_null()) user_id = detail::read_id(json); },
      "candidates", [&] { return read_candidates(json, max_candidates); },
      "at", [&] { if (!json.take_null()) at = detail::read_number(json, kMaxAt); },
      "context", [&] { context = detail::skip_features(json); },
      "user", [&] { return json.take_null() || read_user(json); },
      "items", [&] { return json.take_null() || read_items(json); },
      "top_k", [&] { return json.take_null() || read_top_k(json); },
      "slot", [&] { return json.take_null() || read_place(json, kMaxSlot, slot); },
      "page", [&] { return json.take_null() || read_place(json, kMaxPage, page); },
      "explain", [&] { is_explained = !json.take_null() && detail::read_flag(json); },
      "explore", [&] { return json.take_null() || read_explore(json); });
  return is_read && json.is_at_end() && put_page() && match_items() && !(is_explained && ids.size() > kMaxExplained);
}

}  // namespace native
