// The live state of a user or an item: its row's state, and the events since, packed as stores hold it.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "fold.hpp"
#include "live.hpp"

namespace native {

struct LiveState {
  EntityState<std::string> state;
  double watermark = 0.0;  // events up to then are in the row that it began with

  // Reads a packed state; false if any part of it is not as it may be.
  bool unpack(std::string_view packed) {
    const StateHead head(packed);
    std::vector<std::string_view> ids;
    std::vector<Impression> seen;
    if (!head.is_found || !append_history(packed, ids, seen)) return false;
    state = {head.impressions, head.clicks, head.as_of, {}};
    watermark = load<double>(packed.data() + 1 + 3 * sizeof(double));
    for (size_t k = 0; k < ids.size(); k++) state.history.push_back({std::string(ids[k]), seen[k]});
    return true;
  }

  std::string pack() const {
    std::string packed(1, kStateFormat);
    const auto put = [&](auto number) { packed.append(reinterpret_cast<const char*>(&number), sizeof number); };
    for (const double number : {state.impressions, state.clicks, state.as_of, watermark}) put(number);
    for (const auto& [item, seen] : state.history) {
      put(seen.at), put(static_cast<float>(seen.shown)), put(static_cast<float>(seen.clicked));
      put(static_cast<uint16_t>(item.size()));
      packed += item;
    }
    return packed;
  }

  // Folds one more event. False if the row includes it.
  bool take(const FoldRule& rule, const Event& event, const std::string* item) {
    if (event.at <= watermark) return false;
    fold(rule, state, event, item);
    return true;
  }
};

}  // namespace native
