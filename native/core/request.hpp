// A scoring request of the plainest form, read from its body. Whatever else a body may hold, right or wrong, is left to
// `msd.contract.request`, which is the reference: nothing is accepted here that it refuses, or reads otherwise.
#pragma once

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "json.hpp"
#include "pricing.hpp"
#include "schema.hpp"

namespace native {

constexpr size_t kMaxIdChars = 256, kMaxValueChars = 256, kMaxHistory = 1000, kMaxListValues = 1000;
constexpr double kMaxAt = 1e11, kMaxBid = 1e9;
constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

// How the first position is explored.
enum class Policy : uint8_t { kThompson, kUcb };
constexpr std::array<std::string_view, 2> kPolicies{"thompson", "ucb"};

struct Explore {
  Policy policy = Policy::kThompson;
  double share = kNone;          // NaN: the service's
  std::optional<uint64_t> seed;  // none: the request's ID
};

// Views are of the body, which outlives them.
struct Request {
  std::string_view user_id;
  double at = kNone;
  std::string_view context;  // the object as it stands, empty where none is given
  std::vector<std::string_view> ids, history;
  std::vector<Impression> impressions;  // of each item of the history, of which none is there twice
  std::vector<double> bids;  // NaN: none
  std::vector<Pricing> pricing;  // empty: by click
  bool has_bids = false, has_history = false;
  size_t top_k = 0;  // 0: not given
  std::optional<Explore> explore;

  // False if the body is not plain.
  bool read(std::string_view body, size_t max_candidates);

 private:
  bool read_candidates(JsonReader& json, size_t max_candidates);
  bool read_user(JsonReader& json);
  bool read_history(JsonReader& json);
  bool read_explore(JsonReader& json);
  void join(const std::vector<std::string_view>& items, const std::vector<Impression>& seen);
};

namespace detail {

// Mark a key as seen; refuse a repeated one.
inline void once(JsonReader& json, unsigned& seen, unsigned key) {
  if (seen & 1u << key) json.refuse();
  seen |= 1u << key;
}

inline bool is_id(std::string_view id) { return !id.empty() && is_within(id, kMaxIdChars); }

inline bool read_ids(JsonReader& json, size_t most, std::vector<std::string_view>& ids) {
  ids.clear();
  json.need('[');
  if (!json.is_ok()) return false;
  if (json.take(']')) return true;
  do {
    const std::string_view id = json.string();
    if (!json.is_ok() || !is_id(id) || ids.size() == most) return false;
    ids.push_back(id);
  } while (json.take(','));
  json.need(']');
  return json.is_ok();
}

inline bool read_bids(JsonReader& json, size_t most, std::vector<double>& bids) {
  bids.clear();
  json.need('[');
  if (!json.is_ok() || json.take(']')) return false;
  do {
    if (bids.size() == most) return false;
    if (json.take_null()) {
      bids.push_back(kNone);
      continue;
    }
    const double bid = json.number().value;
    if (!json.is_ok() || !(bid >= 0 && bid <= kMaxBid)) return false;
    bids.push_back(bid);
  } while (json.take(','));
  json.need(']');
  return json.is_ok();
}

// An object of features, unread but for its form: values are strings, numbers, null, or lists of these.
inline bool skip_scalar(JsonReader& json) {
  if (json.is_at_string())
    json.string();
  else if (!json.take_null())
    json.number();
  return json.is_ok();
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

// An entry of the history that tells whether the item was clicked.
inline bool read_shown(JsonReader& json, std::string_view& item, Impression& impression) {
  unsigned seen = 0;
  const bool is_read = read_object(json, [&](std::string_view key) {
    if (key == "item_id") {
      once(json, seen, 0);
      item = json.string();
      return json.is_ok();
    }
    if (key == "clicked") {
      once(json, seen, 1);
      impression.clicked = json.take_word("true") ? 1.0 : 0.0;
      return impression.clicked > 0 || json.take_word("false");
    }
    if (key != "at") return false;
    once(json, seen, 2);
    if (json.take_null()) return true;
    impression.at = json.number().value;
    return json.is_ok() && impression.at >= 0 && impression.at <= kMaxAt;
  });
  return is_read && (seen & 2);
}

inline bool skip_features(JsonReader& json) {
  return read_object(json, [&](std::string_view) {
    if (!json.take('[')) return skip_scalar(json);
    if (json.take(']')) return true;
    size_t count = 0;
    do {
      if (!skip_scalar(json) || ++count > kMaxListValues) return false;
    } while (json.take(','));
    json.need(']');
    return json.is_ok();
  });
}

}  // namespace detail

inline bool Request::read_candidates(JsonReader& json, size_t max_candidates) {
  unsigned seen = 0;
  const bool is_read = detail::read_object(json, [&](std::string_view key) {
    if (key == "id") {
      detail::once(json, seen, 0);
      return detail::read_ids(json, max_candidates, ids) && !ids.empty();
    }
    if (key == "pricing") {
      detail::once(json, seen, 2);
      return json.take_null() || read_pricing(json, max_candidates, pricing);
    }
    if (key != "bid") return false;
    detail::once(json, seen, 1);
    if (json.take_null()) return true;
    has_bids = true;
    return detail::read_bids(json, max_candidates, bids);
  });
  const bool are_alike = (!has_bids || bids.size() == ids.size()) && (pricing.empty() || pricing.size() == ids.size());
  return is_read && (seen & 1) && are_alike;
}

inline bool Request::read_user(JsonReader& json) {
  unsigned seen = 0;
  return detail::read_object(json, [&](std::string_view key) {
    if (key == "features") {
      detail::once(json, seen, 0);
      return json.take_null();
    }
    if (key != "history") return false;
    detail::once(json, seen, 1);
    if (json.take_null()) return true;
    has_history = true;
    return read_history(json);
  });
}

inline bool Request::read_history(JsonReader& json) {
  std::vector<std::string_view> items;
  std::vector<Impression> seen;
  size_t objects = 0;
  json.need('[');
  if (!json.is_ok()) return false;
  if (json.take(']')) return true;
  do {
    std::string_view item;
    Impression impression{std::numeric_limits<double>::infinity(), 1.0, 1.0};
    if (json.is_at_string())
      item = json.string();
    else if (++objects > kMaxHistory || !detail::read_shown(json, item, impression))
      return false;
    if (!json.is_ok() || !detail::is_id(item)) return false;
    items.push_back(item);
    seen.push_back(impression);
  } while (json.take(','));
  json.need(']');
  join(items, seen);
  return json.is_ok();
}

// The last entries count; those of one item are joined, in the place of the last of them.
inline void Request::join(const std::vector<std::string_view>& items, const std::vector<Impression>& seen) {
  std::unordered_map<std::string_view, size_t> places;
  const size_t first = items.size() > kMaxHistory ? items.size() - kMaxHistory : 0;
  for (size_t k = items.size(); k-- > first;) {
    const auto [place, is_new] = places.try_emplace(items[k], history.size());
    if (is_new) {
      history.push_back(items[k]);
      impressions.push_back(seen[k]);
      continue;
    }
    Impression& known = impressions[place->second];
    known = {std::max(known.at, seen[k].at), known.shown + seen[k].shown, known.clicked + seen[k].clicked};
  }
  std::reverse(history.begin(), history.end());
  std::reverse(impressions.begin(), impressions.end());
}

inline bool Request::read_explore(JsonReader& json) {
  unsigned seen = 0;
  explore.emplace();
  const bool is_read = detail::read_object(json, [&](std::string_view key) {
    if (key == "policy") {
      detail::once(json, seen, 0);
      const auto found = std::find(kPolicies.begin(), kPolicies.end(), json.string());
      explore->policy = static_cast<Policy>(found - kPolicies.begin());
      return json.is_ok() && found != kPolicies.end();
    }
    if (key == "share") {
      detail::once(json, seen, 1);
      if (!json.take_null()) explore->share = json.number().value;
      return json.is_ok() && !(explore->share < 0 || explore->share > 1);
    }
    if (key != "seed") return false;
    detail::once(json, seen, 2);
    if (json.take_null()) return true;
    const JsonReader::Number seed = json.number();
    if (!json.is_ok() || !seed.is_integer || seed.value < 0) return false;
    explore->seed = static_cast<uint64_t>(seed.value);
    return true;
  });
  return is_read && (seen & 1);
}

inline bool Request::read(std::string_view body, size_t max_candidates) {
  *this = Request{};
  if (!is_utf8(body.data(), body.size())) return false;
  enum { kUserId, kAt, kContext, kCandidates, kUser, kItems, kTopK, kExplain, kExplore };
  JsonReader json(body);
  unsigned seen = 0;
  const bool is_read = detail::read_object(json, [&](std::string_view key) {
    if (key == "user_id") {
      detail::once(json, seen, kUserId);
      user_id = json.string();
      return detail::is_id(user_id);
    }
    if (key == "at") {
      detail::once(json, seen, kAt);
      if (json.take_null()) return true;
      at = json.number().value;
      return json.is_ok() && at >= 0 && at <= kMaxAt;
    }
    if (key == "context") {
      detail::once(json, seen, kContext);
      if (json.take_null()) return true;
      const char* start = json.position();
      if (!detail::skip_features(json)) return false;
      context = std::string_view(start, json.position() - start);
      return true;
    }
    if (key == "candidates") {
      detail::once(json, seen, kCandidates);
      return read_candidates(json, max_candidates);
    }
    if (key == "user") {
      detail::once(json, seen, kUser);
      return json.take_null() || read_user(json);
    }
    if (key == "items") {
      detail::once(json, seen, kItems);
      return json.take_null() || (json.take('{') && json.take('}'));
    }
    if (key == "top_k") {
      detail::once(json, seen, kTopK);
      if (json.take_null()) return true;
      const JsonReader::Number number = json.number();
      if (!json.is_ok() || !number.is_integer || number.value < 1) return false;
      top_k = static_cast<size_t>(number.value);
      return true;
    }
    if (key == "explore") {
      detail::once(json, seen, kExplore);
      return json.take_null() || read_explore(json);
    }
    if (key != "explain") return false;
    detail::once(json, seen, kExplain);
    return json.take_null() || json.take_word("false");
  });
  return is_read && json.is_at_end() && (seen & 1u << kUserId) && (seen & 1u << kCandidates);
}

// Encodes the context of a request, as `encode_record`, and tells the places of categories that are not in their
// vocabulary, as `is_unknown`; false where a value or a name is not plainly one of the schema's.
inline bool encode_context(const Schema& schema, std::string_view object, int32_t* categorical, float* dense,
                           std::vector<std::string>& unknown) {
  unknown.clear();
  std::copy(schema.context_categorical.begin(), schema.context_categorical.end(), categorical);
  std::copy(schema.context_dense.begin(), schema.context_dense.end(), dense);
  if (object.empty()) return true;
  JsonReader json(object);
  std::vector<bool> seen(schema.context.size());
  json.need('{');
  if (json.take('}')) return true;
  do {
    const auto place = schema.context_places.find(std::string(json.string()));
    json.need(':');
    if (place == schema.context_places.end() || seen[place->second]) return false;
    seen[place->second] = true;
    const ContextField& field = schema.context[place->second];
    bool is_known = true;
    const auto index_in_field = [&](std::string_view text) {
      const int32_t index = json.is_ok() ? index_of(field, text) : 0;
      if (!field.buckets && index == kUnknownIndex) is_known = false;
      return index;
    };
    const auto read_index = [&]() {
      if (json.is_at_string()) {
        const std::string_view text = json.string();
        if (!is_within(text, kMaxValueChars)) json.refuse();
        return index_in_field(text);
      }
      const JsonReader::Number number = json.number();
      if (!number.is_integer) json.refuse();
      return index_in_field(number.text);
    };
    if (field.kind == ContextField::kNumeric) {
      const bool is_missing = json.take_null();
      dense[field.start] = is_missing ? 0.0f : standardise(field, json.number().value, schema.ufuncs);
      dense[field.start + 1] = is_missing ? 1.0f : 0.0f;
    } else if (field.kind == ContextField::kCategorical) {
      categorical[field.start] = json.take_null() ? kMissingIndex : read_index();
    } else {
      std::fill_n(categorical + field.start, field.width, kMissingIndex);
      if (json.take_null()) continue;
      json.need('[');
      if (json.take(']')) continue;
      size_t count = 0;
      do {
        const int32_t index = read_index();
        if (count < field.width) categorical[field.start + count++] = index;
      } while (json.is_ok() && json.take(','));
      json.need(']');
    }
    if (!is_known) unknown.push_back("context." + place->first);
  } while (json.is_ok() && json.take(','));
  return json.is_ok();
}

}  // namespace native
