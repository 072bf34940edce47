// BidRequests made scoring requests, as `msd.contract.openrtb` maps them: what is refused here is for that, which has the
// words of its errors. Whether signals permit is `msd.contract.consent`'s to say. Whether the scoring requests are ones is
// seen when they are read.
#pragma once

#include <map>
#include <string>

#include "features.hpp"
#include "json_writer.hpp"
#include "request.hpp"

namespace native {

// A bundle's mapping: dotted paths into a BidRequest, and the place of each among the values that are read.
struct OpenrtbMapping {
  struct Node {
    std::map<std::string, Node, std::less<>> below;  // by key
    std::optional<size_t> place;
  };
  using Feature = std::tuple<std::string, std::string, bool>;  // (name, path, whether it is personal)

  OpenrtbMapping(const std::vector<std::string>& users, const std::vector<Feature>& named,
                 const std::vector<std::string>& of_consent) {
    for (const std::string& path : users) user_ids.push_back(add(path));
    for (const auto& [name, path, is_personal] : named) features.emplace_back(name, add(path), is_personal);
    for (const std::string& path : of_consent) signals.push_back(add(path));
  }

  Node root;
  size_t places = 0;
  const size_t id = add("id"), imp_id = add("imp.id");
  std::vector<size_t> user_ids, signals;
  std::vector<std::tuple<std::string, size_t, bool>> features;

 private:
  size_t add(const std::string& path) {
    Node* node = &root;
    for (size_t start = 0, end; start <= path.size(); start = end + 1) {
      end = std::min(path.find('.', start), path.size());
      node = &node->below[path.substr(start, end - start)];
    }
    if (!node->place) node->place = places++;
    return *node->place;
  }
};

class OpenrtbRequest {
 public:
  std::string_view id, user_id;  // `user_id`: empty if it is not given, or may not be used
  bool has_consent = false;
  std::vector<std::pair<std::string_view, std::string_view>> candidates;  // objects as they stand, by imp.id

  // Again, by another mapping, it keeps the user.
  bool read(std::string_view body, const OpenrtbMapping& mapping) {
    mapping_ = &mapping;
    candidates.clear();
    more_.clear();
    if (!is_utf8(body.data(), body.size()) || has_many_parts(body)) return false;
    JsonReader json(body, decoded_);
    std::string_view request;
    const auto keep = [&](const char* name) {
      if (!json.take_null()) more_.append(",\"").append(name).append("\":").append(json.number().text);
    };
    const bool is_read = detail::read_members(
        json, 2,
        "request", [&] { request = json.skip_object(); },
        "candidates", [&] {
          return detail::read_object(json, [&](std::string_view imp) {
            // Often the same ads as before.
            const bool is_same = !candidates.empty() && json.take_word(candidates.back().second);
            candidates.emplace_back(imp, is_same ? candidates.back().second : json.skip_object());
            return json.is_ok() && candidates.size() <= kMostImpressions;
          });
        },
        "at", [&] { keep("at"); },
        "top_k", [&] { keep("top_k"); });
    return is_read && json.is_at_end() && !candidates.empty() && is_plain(request) && read_request(request);
  }

  // The values that consent depends on, as they stand, in a list.
  std::string signals() const {
    std::string list;
    for (const size_t place : mapping_->signals) list.append(",").append(values_[place].empty() ? "null" : values_[place]);
    list[0] = '[';
    return list + "]";
  }

  // False for an ID that is none.
  bool identify(bool is_permitted) {
    has_consent = is_permitted;
    for (const size_t place : mapping_->user_ids) {
      if (!has_consent || values_[place].empty()) continue;
      JsonReader json(values_[place], decoded_);
      user_id = json.string();
      if (user_id == "00000000-0000-0000-0000-000000000000") user_id = {};
      if (!json.is_ok() || !user_id.empty()) return json.is_ok() && detail::is_id(user_id);
    }
    return true;
  }

  // The place of an impression that has candidates.
  size_t place_of(size_t k) const { return places_.at(candidates[k].first); }

  // Its scoring request. What does not fit its feature is left out, and counted.
  std::string body_of(size_t k, const Schema& schema, size_t& unfit) const {
    JsonWriter body;
    body.put("{");
    body.key("user_id");
    user_id.empty() ? body.put("null,") : body.string(user_id);
    body.open("context", '{');
    const Values& of_imp = imps_[place_of(k)];
    for (const auto& [name, place, is_personal] : mapping_->features) {
      const std::string_view own = of_imp[place], value = own.empty() ? values_[place] : own;
      if (value.empty() || (is_personal && !has_consent)) continue;
      const std::string object = "{\"" + name + "\":" + std::string(value) + "}";
      if (fits(object, schema)) body.put(std::string_view(object).substr(1, object.size() - 2)), body.put(",");
      else unfit++;
    }
    body.end('}');
    body.key("candidates");
    return std::string(body.bytes()).append(candidates[k].second).append(more_).append("}");
  }

 private:
  static constexpr size_t kMostImpressions = 32;
  using Values = std::vector<std::string_view>;  // by place, as they stand; empty for none, and for null

  bool read_request(std::string_view text) {
    values_.assign(mapping_->places, {});
    imps_.clear();
    places_.clear();
    JsonReader json(text, decoded_);
    const bool is_read = detail::read_object(json, [&](std::string_view key) {
      const OpenrtbMapping::Node& node = below(mapping_->root, key);
      if (key != "imp") return read_value(json, node, values_);
      return json.each([&] {
        std::string_view own;
        Values& values = imps_.emplace_back(mapping_->places);
        return read_value(json, node, values) && read_id(values[mapping_->imp_id], own) &&
               places_.emplace(own, places_.size()).second;
      });
    });
    std::vector<bool> is_asked(imps_.size());
    for (const auto& [imp, object] : candidates) {
      const auto found = places_.find(imp);
      if (found == places_.end() || is_asked[found->second]) return false;
      is_asked[found->second] = true;
    }
    return is_read && json.is_at_end() && read_id(values_[mapping_->id], id);
  }

  static const OpenrtbMapping::Node& below(const OpenrtbMapping::Node& node, std::string_view key) {
    static const OpenrtbMapping::Node nothing;
    const auto found = node.below.find(key);
    return found == node.below.end() ? nothing : found->second;
  }

  // Any value, of which what stands at the paths of a node is noted. False where one leads through what is no object.
  static bool read_value(JsonReader& json, const OpenrtbMapping::Node& node, Values& values) {
    const bool is_string = json.is_at_string();
    const char* const start = json.position();
    if (is_string) {
      json.any_string();
    } else if (json.is_at('[')) {
      if (!json.each([&] { return read_value(json, {}, values); })) return false;
    } else if (json.is_at('{')) {
      if (!detail::read_object(json, [&](std::string_view key) { return read_value(json, below(node, key), values); }))
        return false;
    } else if (json.take_null()) {
      return true;
    } else if (!json.take_word("true") && !json.take_word("false")) {
      json.number();
    }
    if (node.place) values[*node.place] = {start, static_cast<size_t>(json.position() - start)};
    return json.is_ok() && (node.below.empty() || *start == '{');
  }

  bool read_id(std::string_view value, std::string_view& id) {
    JsonReader json(value, decoded_);
    id = detail::read_id(json);
    return json.is_ok();
  }

  static bool fits(const std::string& object, const Schema& schema) {
    Decoded decoded;
    JsonReader json(object, decoded);
    EncodedFeatures::Range range;
    std::vector<std::string> unknown;
    detail::skip_features(json);
    return json.is_ok() && EncodedFeatures().add(schema.context, object, schema.ufuncs, "", range, unknown);
  }

  const OpenrtbMapping* mapping_ = nullptr;
  std::string more_;  // members of each scoring request
  Values values_;
  std::vector<Values> imps_;
  NameMap<size_t> places_;  // of the impressions by ID
  Decoded decoded_;
};

}  // namespace native
