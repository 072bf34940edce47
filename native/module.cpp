// The extension `native._core`.
#include "core/column_bindings.hpp"
#include "core/live_bindings.hpp"
#include "core/walk_bindings.hpp"
#include "engine/offline.hpp"
#include "engine/plan_bindings.hpp"
#include "front/front_bindings.hpp"

NB_MODULE(_core, module) {
  // What still runs at the end of the process is kept.
  nanobind::set_leak_warnings(false);
  module.attr("LAYOUT") = NATIVE_LAYOUT;
  module.attr("INSTRUCTIONS") = native::half::chosen_name();
  add_schema(module);
  add_rows(module);
  add_frame(module);
  add_walk(module);
  add_live(module);
  add_columns(module);
  add_ort_model(module);
  add_queue(module);
  add_forms(module);
  add_plan(module);
  add_offline(module);
  add_front(module);
}
