// The extension `native._core`.
#include "core/bindings.hpp"
#include "engine/ort_bindings.hpp"
#include "engine/queue_bindings.hpp"
#include "engine/scoring_bindings.hpp"
#include "front/front_bindings.hpp"

NB_MODULE(_core, module) {
  // What still runs at the end of the process is kept.
  nanobind::set_leak_warnings(false);
  module.attr("LAYOUT") = NATIVE_LAYOUT;
  module.attr("INSTRUCTIONS") = native::half::chosen_name();
  add_frames(module);
  const bool is_whole = add_ort_model(module.ptr()) && add_queue(module.ptr()) && add_scoring(module.ptr()) &&
                        add_front(module.ptr());
  if (!is_whole) throw nanobind::python_error();
}
