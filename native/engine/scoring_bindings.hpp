// What scoring jobs are made with, for Python.
#pragma once

#include "plan.hpp"

namespace {

// infer_request(JSON, bytes behind it or None, schema): (ID, body of the scoring request, outputs by name with whether in
// bytes, whether all are), or None if Python is to translate it
std::optional<std::tuple<std::string, nb::bytes, std::vector<std::pair<std::string, bool>>, bool>> infer_request(
    const nb::bytes& json, const std::optional<nb::bytes>& rest, const Schema& schema) {
  InferRequest request;
  if (!request.read(view_of(json), rest ? std::optional(view_of(*rest)) : std::nullopt, schema)) return std::nullopt;
  return std::tuple(request.id, bytes_of(request.body), request.outputs.named, request.outputs.in_bytes);
}

void add_scoring(nb::module_& module) {
  module.def("infer_request", &infer_request);
  // LoadedModel(schema, runner, heads, ort_model, users, items, new_desk, capacity, openrtb): `ort_model` is None if the
  // runtime is Python's, rows are None if they are not in memory, `openrtb` if nothing is mapped; `new_desk()` returns a
  // DeskForm.
  nb::class_<LoadedModel>(module, "LoadedModel")
      .def(nb::init<const Schema&, Runner&, std::vector<std::string>, std::optional<const HeldOrtModel*>,
                    std::optional<RowsInMemory>, std::optional<RowsInMemory>, nb::object, size_t, std::optional<HeldOpenrtb*>>(),
           nb::keep_alive<1, 2>(), nb::keep_alive<1, 3>(), nb::keep_alive<1, 5>(), nb::keep_alive<1, 6>(),
           nb::keep_alive<1, 7>(), nb::keep_alive<1, 10>());
  // Plan(what `of` is to be of its jobs, model, assignment or a callable, whether that needs the user, wants or None, look,
  // translate or None)
  nb::class_<Plan>(module, "Plan")
      .def(nb::init<nb::object, const nb::object&, const nb::object&, bool, std::optional<nb::object>, nb::object,
                    std::optional<nb::object>>());
}

}  // namespace
