// The walk of events, for Python: arrays in, arrays out, without Python's lock.
#pragma once

#include "event_walk.hpp"
#include "python.hpp"

namespace {

using namespace native;

// A walk that was made: the states after all counted events, and where those of earlier times are.
class HeldWalk {
 public:
  // (Unix s, item, shown, clicked) of an impression
  using SeenForm = std::tuple<double, int32_t, double, double>;
  using StateForm = std::tuple<double, double, double, std::vector<SeenForm>>;

  HeldWalk(std::unique_ptr<EventWalk> walk, nb::object starts, nb::object states, size_t count)
      : count(count), walk_(std::move(walk)), starts_(std::move(starts)), states_(std::move(states)) {}

  std::optional<StateForm> final_state(size_t entity) const {
    const EventWalk::State* const state = entity < count ? walk_->final_state(entity) : nullptr;
    if (!state) return std::nullopt;
    StateForm form{state->impressions, state->clicks, state->as_of, {}};
    for (const auto& one : state->history)
      std::get<3>(form).emplace_back(one.seen.at, walk_->number(one), one.seen.shown, one.seen.clicked);
    return form;
  }

  // Writes the places [n] of the states of n users or items from before n times.
  void places_before(nb::handle entities, nb::handle then, nb::handle places) const {
    const Buffer entities_(entities, false);
    const size_t many = entities_.size() / sizeof(int32_t);
    const Buffer then_(then, false, many * sizeof(double)), places_(places, true, many * sizeof(int64_t));
    const auto* const of = entities_.as<int32_t>();
    if (std::any_of(of, of + many, [&](int32_t one) { return one < 0 || static_cast<size_t>(one) >= count; }))
      throw nb::value_error("a state is of a user or an item that is known");
    nb::gil_scoped_release released;
    for (size_t k = 0; k < many; k++) places_.as<int64_t>()[k] = walk_->place_before(of[k], then_.as<double>()[k]);
  }

  const size_t count;

 private:
  const std::unique_ptr<EventWalk> walk_;
  const nb::object starts_, states_;  // which the walk points to
};

// Arrays of E events, users or items up to an unknown one, S states, and items by the ranks of their IDs; without `history`
// none is remembered. `EventColumns` and `WalkColumns` say what each holds.
std::unique_ptr<HeldWalk> walk_events(double half_life_s, size_t history_length, double delay_s, bool closed,
                                        nb::handle at, nb::handle times, nb::handle clicked, nb::handle counted,
                                        nb::handle entities, nb::handle items, nb::handle ranks, nb::object starts,
                                      nb::handle live, nb::handle before, nb::object states,
                                        nb::handle history, nb::handle outcomes) {
  const Buffer at_(at, false);
  const size_t count = at_.size() / sizeof(double);
  const Buffer times_(times, false, count * sizeof(double)), clicked_(clicked, false, count);
  const Buffer counted_(counted, false, count), entities_(entities, false, count * sizeof(int32_t));
  const Buffer items_(items, false, count * sizeof(int32_t)), ranks_(ranks, false), starts_(starts, false);
  const Buffer live_(live, true, 3 * count * sizeof(double)), before_(before, true, count * sizeof(int64_t));
  const Buffer states_(states, true);
  const bool has_history = history_length > 0;
  const size_t entries = count * history_length;
  const Buffer history_(history, true, entries * sizeof(int32_t));
  const Buffer outcomes_(outcomes, true, entries * kOutcomeFeatures * sizeof(float));
  const size_t known = starts_.size() / sizeof(int64_t), named = ranks_.size() / sizeof(int32_t);
  if (!known) throw nb::value_error("there is a place for an unknown one");

  const EventColumns events{count, at_.as<double>(), times_.as<double>(), clicked_.as<uint8_t>(),
                            counted_.as<uint8_t>(), entities_.as<int32_t>(),
                            has_history ? items_.as<int32_t>() : nullptr};
  std::vector<int64_t> room(known, 0);
  for (size_t k = 0; k < count; k++) {
    if (events.entity[k] < 0 || static_cast<size_t>(events.entity[k]) >= known ||
        (events.item && (events.item[k] < 0 || static_cast<size_t>(events.item[k]) >= named)))
      throw nb::value_error("an event is of a user and of an item that are known");
    room[events.entity[k]] += events.is_counted[k] && static_cast<size_t>(events.entity[k]) + 1 < known;
  }
  const int64_t places = static_cast<int64_t>(states_.size() / (3 * sizeof(double)));
  for (size_t k = 0; k < known; k++)
    if (starts_.as<int64_t>()[k] < 0 || starts_.as<int64_t>()[k] + room[k] >= places)
      throw nb::value_error("there is room for the states of every counted event");
  for (size_t k = 0; k < named; k++)
    if (ranks_.as<int32_t>()[k] < 0 || static_cast<size_t>(ranks_.as<int32_t>()[k]) >= named)
      throw nb::value_error("ranks are an order of the items");
  const WalkColumns written{starts_.as<int64_t>(), live_.as<double>(), before_.as<int64_t>(), states_.as<double>(),
                            has_history ? history_.as<int32_t>() : nullptr,
                            outcomes_.as<float>()};
  auto walk = std::make_unique<EventWalk>(FoldRule{half_life_s, history_length}, events, written, known - 1,
                                          ranks_.as<int32_t>(), named);
  {
    nb::gil_scoped_release released;
    walk->run(delay_s, closed);
  }
  return std::make_unique<HeldWalk>(std::move(walk), std::move(starts), std::move(states), known);
}

void add_walk(nb::module_& module) {
  nb::class_<HeldWalk>(module, "EventWalk")
      .def("__len__", [](const HeldWalk& held) { return held.count; })
      .def("final_state", &HeldWalk::final_state, nb::arg("entity"))
      .def("places_before", &HeldWalk::places_before, nb::arg("entities"), nb::arg("then"), nb::arg("places"));
  module.def("walk_events", &walk_events, nb::kw_only(), nb::arg("half_life_s"), nb::arg("history_length"),
             nb::arg("delay_s"), nb::arg("closed"), nb::arg("at"), nb::arg("times"), nb::arg("clicked"),
             nb::arg("counted"), nb::arg("entities"), nb::arg("items"), nb::arg("ranks"), nb::arg("starts"),
             nb::arg("live"), nb::arg("before"), nb::arg("states"), nb::arg("history"),
             nb::arg("outcomes"));
}

}  // namespace
