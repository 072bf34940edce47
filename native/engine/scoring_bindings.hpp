// Scoring jobs for Python, which puts them in, or has them from the front.
#pragma once

#include "scoring_job.hpp"

namespace {

struct HeldPlan {
  std::shared_ptr<const Plan> plan;

  HeldPlan(nb::object of, const nb::object& model, const nb::object& assignment, bool is_by_user,
           std::optional<nb::object> wants, nb::object look, std::optional<nb::object> translate)
      : plan(std::make_shared<const Plan>(std::move(of), model, assignment, is_by_user, std::move(wants), std::move(look),
                                          std::move(translate))) {}
};

// (number of the form, path, length of the JSON or None, whether the head sets the deadline, ID, body)
using SentForm = std::tuple<size_t, std::string, std::optional<nb::bytes>, bool, std::string, nb::bytes>;

std::unique_ptr<ScoringJob> make_job(const HeldPlan& held, const SentForm& sent, size_t max_candidates, size_t rows,
                                     double deadline, double began) {
  const auto& [form, path, json_length, has_deadline, request_id, body] = sent;
  if (form > static_cast<size_t>(Form::kInfer)) throw nb::value_error("no such form");
  Sent own{static_cast<Form>(form), path, {}, has_deadline, request_id, std::string(view_of(body))};
  if (json_length) own.json_length = view_of(*json_length);
  return std::make_unique<ScoringJob>(held.plan, std::move(own), max_candidates, rows, deadline, began);
}

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
  // LoadedModel(schema, runner, heads, ort_model, users, items, new_desk, capacity): `ort_model` is None if the runtime
  // is Python's, rows are None if they are not in memory; `new_desk()` returns a DeskForm.
  nb::class_<LoadedModel>(module, "LoadedModel")
      .def(nb::init<const Schema&, Runner&, std::vector<std::string>, std::optional<const HeldOrtModel*>,
                    std::optional<RowsInMemory>, std::optional<RowsInMemory>, nb::object, size_t>(),
           nb::keep_alive<1, 2>(), nb::keep_alive<1, 3>(), nb::keep_alive<1, 5>(), nb::keep_alive<1, 6>(),
           nb::keep_alive<1, 7>());
  nb::class_<ScoringJob, OwnedJob>(module, "ScoringJob")
      .def_prop_ro("of", [](const ScoringJob& job) { return job.plan().of; })
      .def_prop_ro("body", [](const ScoringJob& job) { return bytes_of(job.sent.body); })
      .def_prop_ro("request_id", [](const ScoringJob& job) { return job.sent.request_id; })
      .def_prop_ro("shown_id", [](const ScoringJob& job) { return job.shown_id; })
      // head(size of the reply, seconds that its explanation took or None)
      .def("head", [](ScoringJob& job, size_t size, std::optional<double> explain_s) { return bytes_of(job.head(size, explain_s)); })
      .def("end_if", [](ScoringJob& job, nb::object is_gone) { job.is_gone = std::move(is_gone); });
  // Plan(what `of` is to be of its jobs, model, assignment or a callable, whether that needs the user, wants or None, look,
  // translate or None)
  nb::class_<HeldPlan>(module, "Plan")
      .def(nb::init<nb::object, const nb::object&, const nb::object&, bool, std::optional<nb::object>, nb::object,
                    std::optional<nb::object>>())
      // job(SentForm, max_candidates, rows, deadline, began)
      .def("job", &make_job);
}

}  // namespace
