// The walk of a dataset's events in time order, which writes for each what was known of its user or of its item before.
#pragma once

#include <vector>

#include "fold.hpp"

namespace native {

// Of E events, the earliest first: the number of the user or item [E], below that of an unknown one, and of the item to
// remember [E], null for none. `is_counted`: of a part whose counts a model may be trained on.
struct EventColumns {
  size_t count;
  const double *at, *times;
  const uint8_t *is_clicked, *is_counted;
  const int32_t *entity, *item;
};

// What the walk writes. `live` [3, E]: counts before each event, of all that were known, as of the last of these; `before`
// [E]: the place in `states` of the state before it. `states` [S, 3]: those of counted events alone, by entity, in the
// order of time, each entity's behind an empty one at `starts`. History [E, L] of items and their outcomes [E, L, 4], of
// which the last is 0; null for none.
struct WalkColumns {
  const int64_t* starts;
  double* live;
  int64_t* before;
  double* states;
  int32_t* history;
  float* outcomes;
};

class EventWalk {
 public:
  using State = EntityState<int32_t>;

  // Items are remembered by `ranks`, the order of their IDs, and written by their numbers.
  EventWalk(const FoldRule& rule, const EventColumns& events, const WalkColumns& written, size_t unknown,
            const int32_t* ranks, size_t items)
      : rule_(rule), events_(events), written_(written), unknown_(static_cast<int32_t>(unknown)), ranks_(ranks),
        numbers_(items), places_(written.starts, written.starts + unknown + 1), seen_(unknown + 1),
        final_(unknown + 1), differs_(unknown + 1) {
    for (size_t k = 0; k < items; k++) numbers_[ranks[k]] = static_cast<int32_t>(k);
  }

  // An event is known to those that come more than `delay_s` later; if `is_closed`, those that are not counted never are.
  void run(double delay_s, bool is_closed) {
    size_t next = 0;
    const auto take = [&] {
      if (events_.is_counted[next] || !is_closed) fold_event(next);
      next++;
    };
    for (size_t k = 0; k < events_.count; k++) {
      while (next < events_.count && events_.at[next] < events_.at[k] - delay_s) take();
      note(k);
    }
    while (next < events_.count) take();
  }

  // The state after all counted events; null if there was none.
  const State* final_state(size_t entity) const {
    if (places_[entity] == written_.starts[entity]) return nullptr;
    return differs_[entity] ? &final_[entity] : &seen_[entity];
  }

  // The place in `states` of an entity's last state from before a time.
  int64_t place_before(size_t entity, double then) const {
    int64_t low = written_.starts[entity], high = places_[entity] + 1;
    while (high - low > 1) {
      const int64_t middle = low + (high - low) / 2;
      (written_.states[3 * middle + 2] < then ? low : high) = middle;
    }
    return low;
  }

  int32_t number(const Remembered<int32_t>& one) const { return numbers_[one.item]; }

 private:
  void note(size_t k) {
    const int32_t entity = events_.entity[k];
    const State& state = seen_[entity];
    written_.before[k] = places_[entity];
    double* live = written_.live + k;
    for (const double count : {state.impressions, state.clicks, state.as_of}) *live = count, live += events_.count;
    if (!written_.history) return;
    size_t place = k * rule_.history_length;
    for (const Remembered<int32_t>& one : state.history) {
      written_.history[place] = number(one);
      put_outcome(one.seen, events_.at[k], written_.outcomes + kOutcomeFeatures * place++);
    }
  }

  void fold_event(size_t k) {
    const int32_t entity = events_.entity[k];
    if (entity == unknown_) return;
    const Event event{events_.at[k], events_.times[k], events_.is_clicked[k] != 0};
    const int32_t* const item = events_.item ? ranks_ + events_.item[k] : nullptr;
    const bool is_counted = events_.is_counted[k];
    // Until the first event that is not counted both states are the same.
    if (!is_counted && !differs_[entity]) final_[entity] = seen_[entity], differs_[entity] = true;
    fold(rule_, seen_[entity], event, item);
    if (!is_counted) return;
    if (differs_[entity]) fold(rule_, final_[entity], event, item);
    const State& state = differs_[entity] ? final_[entity] : seen_[entity];
    double* const to = written_.states + 3 * ++places_[entity];
    to[0] = state.impressions, to[1] = state.clicks, to[2] = state.as_of;
  }

  const FoldRule rule_;
  const EventColumns events_;
  const WalkColumns written_;
  const int32_t unknown_;
  const int32_t* const ranks_;
  std::vector<int32_t> numbers_;
  std::vector<int64_t> places_;
  std::vector<State> seen_, final_;
  std::vector<bool> differs_;
};

}  // namespace native
