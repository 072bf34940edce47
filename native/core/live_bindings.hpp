// Live states, for Python.
#pragma once

#include "live_state.hpp"
#include "row_bindings.hpp"

namespace {

using namespace native;

// The state of a row, or of none; its history is put in order, because a row has whole seconds.
LiveState begin_state(double impressions, double clicks, double as_of, double watermark, const std::vector<Seen>& history) {
  LiveState live{{impressions, clicks, as_of, {}}, watermark};
  for (const auto& [at, item, shown, clicked] : history) live.state.history.push_back({item, {at, shown, clicked}});
  std::stable_sort(live.state.history.begin(), live.state.history.end());
  return live;
}

std::vector<Seen> history_of_state(const LiveState& live) {
  std::vector<Seen> history;
  for (const auto& [item, seen] : live.state.history) history.emplace_back(seen.at, item, seen.shown, seen.clicked);
  return history;
}

std::optional<LiveState> unpack_state(const std::optional<nb::bytes>& packed) {
  LiveState live;
  return packed && live.unpack(view_of(*packed)) ? std::optional(std::move(live)) : std::nullopt;
}

void add_live(nb::module_& module) {
  nb::class_<LiveState>(module, "LiveState")
      .def(nb::new_(&begin_state), nb::arg("impressions"), nb::arg("clicks"), nb::arg("as_of"), nb::arg("watermark"),
           nb::arg("history"))
      .def_static("unpack", &unpack_state, nb::arg("packed").none())
      .def("pack", [](const LiveState& live) { return bytes_of(live.pack()); })
      .def("take",
           [](LiveState& live, double half_life_s, size_t history_length, double at, bool is_shown, bool is_clicked,
              const std::optional<std::string>& item, double times) {
             return live.take({half_life_s, history_length}, {at, times, is_clicked, is_shown}, item ? &*item : nullptr);
           },
           nb::kw_only(), nb::arg("half_life_s"), nb::arg("history_length"), nb::arg("at"), nb::arg("is_shown"),
           nb::arg("is_clicked"), nb::arg("item").none(), nb::arg("times") = 1.0)
      .def_prop_ro("impressions", [](const LiveState& live) { return live.state.impressions; })
      .def_prop_ro("clicks", [](const LiveState& live) { return live.state.clicks; })
      .def_prop_ro("as_of", [](const LiveState& live) { return live.state.as_of; })
      .def_ro("watermark", &LiveState::watermark)
      .def_prop_ro("history", &history_of_state);
}

}  // namespace
