// How an event changes the state of a user or an item: decayed counts and, of a user, the impressions, one an item,
// oldest first. Live states, training and exported rows fold here.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "schema.hpp"

namespace native {

struct FoldRule {
  double half_life_s;
  size_t history_length;
};

// `times` equal impressions at one moment, all clicked or none. A click that is told apart from its impression is not
// `is_shown`: both fold, in either order, to the state of one event of both.
struct Event {
  double at, times;
  bool is_clicked, is_shown = true;
};

// What a user did with one item. Items of one moment are ordered by ID.
template <class Id>
struct Remembered {
  Id item;
  Impression seen;

  bool operator<(const Remembered& other) const {
    return seen.at < other.seen.at || (seen.at == other.seen.at && item < other.item);
  }
};

template <class Id>
struct EntityState {
  double impressions = 0.0, clicks = 0.0, as_of = 0.0;
  std::vector<Remembered<Id>> history;
};

// The factor of counts after some seconds.
inline double decay(double elapsed_s, double half_life_s) { return std::pow(2.0, -elapsed_s / half_life_s); }

// Adds one impression to a history; those of one item are joined. Of more than `length` items the oldest goes; but if
// clicks are so rare that at most a fifth of the items were clicked, the oldest of the others.
template <class Id>
void remember(std::vector<Remembered<Id>>& history, Remembered<Id> latest, size_t length) {
  const auto join = [&](const Remembered<Id>& one) {
    if (one.item != latest.item) return false;
    latest.seen = {std::max(one.seen.at, latest.seen.at), one.seen.shown + latest.seen.shown,
                   one.seen.clicked + latest.seen.clicked};
    return true;
  };
  history.erase(std::remove_if(history.begin(), history.end(), join), history.end());
  history.insert(std::upper_bound(history.begin(), history.end(), latest), latest);
  if (history.size() <= length) return;
  size_t surplus = history.size() - length;
  size_t clicked = std::count_if(history.begin(), history.end(), [](const auto& one) { return one.seen.clicked > 0; });
  const auto goes = [&](const Remembered<Id>& one) {
    const bool is_clicked = one.seen.clicked > 0;
    if (!surplus || (is_clicked && clicked <= length / 5)) return false;
    surplus--, clicked -= is_clicked;
    return true;
  };
  auto kept = history.begin();
  for (auto& one : history)
    if (!goes(one)) *kept++ = one;
  history.erase(kept, history.end());
}

// Folds one more event; `item`: what to remember of it, null for nothing. A late one counts as much as if it had come in
// time.
template <class Id>
void fold(const FoldRule& rule, EntityState<Id>& state, const Event& event, const Id* item) {
  if (event.at > state.as_of) {
    const double fade = decay(event.at - state.as_of, rule.half_life_s);
    state.impressions *= fade, state.clicks *= fade, state.as_of = event.at;
  }
  const double weight = event.times * decay(state.as_of - event.at, rule.half_life_s);
  const double shown = event.is_shown ? event.times : 0.0, clicked = event.is_clicked ? event.times : 0.0;
  if (item) remember(state.history, {*item, {event.at, shown, clicked}}, rule.history_length);
  if (event.is_shown) state.impressions += weight;
  if (event.is_clicked) state.clicks += weight;
}

}  // namespace native
