// Plans, and what they are made of, for Python.
#pragma once

#include "plan.hpp"

namespace {

void add_plan(nb::module_& module) {
  // `ort` is None if the runtime is Python's, rows are None if they are not in memory, `openrtb` if nothing is mapped.
  nb::class_<LoadedModel>(module, "LoadedModel")
      .def(nb::init<const Schema&, Runner&, std::vector<std::string>, std::optional<const HeldOrtModel*>,
                    std::optional<RowsInMemory>, std::optional<RowsInMemory>, NewDesk, size_t, std::optional<HeldOpenrtb*>>(),
           nb::keep_alive<1, 2>(), nb::keep_alive<1, 3>(), nb::keep_alive<1, 5>(), nb::keep_alive<1, 6>(),
           nb::keep_alive<1, 7>(), nb::keep_alive<1, 10>(), nb::kw_only(), nb::arg("schema"), nb::arg("runner"),
           nb::arg("heads"), nb::arg("ort"), nb::arg("users"), nb::arg("items"), nb::arg("new_desk"), nb::arg("capacity"),
           nb::arg("openrtb"));
  nb::class_<Assignment>(module, "Assignment")
      .def(nb::init<LoadedModel&, std::optional<std::string>, size_t, std::optional<std::vector<int64_t>>,
                    std::optional<AskLive>, bool, std::vector<Correction>, AnyObject>(),
           nb::keep_alive<1, 2>(), nb::kw_only(), nb::arg("model"), nb::arg("arm"), nb::arg("slot"), nb::arg("epochs"),
           nb::arg("live"), nb::arg("reads_texts"), nb::arg("corrections"), nb::arg("of").none())
      .def_ro("of", &Assignment::of);
  read_struct<ScoredPart>(module, "ScoredPart", field("frame", &ScoredPart::frame), field("tensors", &ScoredPart::tensors),
                          field("ran", &ScoredPart::ran), field("is_shared", &ScoredPart::is_shared),
                          field("parse_s", &ScoredPart::parse_s), field("rows_s", &ScoredPart::rows_s),
                          field("queue_s", &ScoredPart::queue_s), field("run_s", &ScoredPart::run_s),
                          field("assignment", &ScoredPart::assignment), field("request_id", &ScoredPart::request_id),
                          field("body", &ScoredPart::body), field("began", &ScoredPart::began),
                          field("fetched", &ScoredPart::fetched), field("is_followed", &ScoredPart::is_followed),
                          field("is_explained", &ScoredPart::is_explained));
  nb::class_<Plan>(module, "Plan")
      .def(nb::init<AnyObject, LoadedModel&, std::variant<std::shared_ptr<Assignment>, Plan::Assign>, bool,
                    std::optional<Plan::Wants>, Plan::Look, std::optional<Plan::Translate>>(),
           nb::kw_only(), nb::arg("of"), nb::arg("model"), nb::arg("assign"), nb::arg("is_by_user"), nb::arg("wants"),
           nb::arg("look"), nb::arg("translate"));
}

}  // namespace
