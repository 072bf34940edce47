// Scoring jobs for Python, which writes the replies itself.
#pragma once

#include "scoring_job.hpp"

namespace {

struct HeldPlan {
  std::shared_ptr<const Plan> plan;

  HeldPlan(const nb::object& model, const nb::object& assignment, bool is_by_user, std::optional<nb::object> wants,
           nb::object look, std::optional<nb::object> translate)
      : plan(std::make_shared<const Plan>(model, assignment, is_by_user, std::move(wants), std::move(look),
                                          std::move(translate))) {}
};

// A request that Python has put in, to which the reply goes. `is_gone` says whether the client has left.
class AskedJob : public ScoringJob {
 public:
  AskedJob(std::shared_ptr<const Plan> plan, std::string body, std::string request_id, size_t max_candidates,
           size_t rows, double deadline, double began, nb::object is_gone)
      : ScoringJob(std::move(plan), std::move(body), std::move(request_id), max_candidates, rows, deadline, began),
        is_gone_(std::move(is_gone)) {}

  bool fit(Worker& worker, double now) override {
    try {
      if (ask(worker, [&] { return is_gone_().is(Py_True); })) return end(Ending::kGone);
    } catch (const Raised&) {
      return end(Ending::kFailed);
    }
    return ScoringJob::fit(worker, now);
  }

  // (fate, assignment or None, what `look` returned or what is lacking or None, reply, candidates, stages, when it was
  // ready, (user's rung or None, {rung: count}))
  nb::object result() override {
    if (ending == Ending::kFailed) return error_.is_valid() ? error_ : nb::handle(PyExc_RuntimeError)(why_);
    if (ending != Ending::kDone) return nb::none();
    nb::dict rungs;
    for (size_t rung = 0; rung < counts_.size(); rung++)
      if (counts_[rung]) rungs[kRungs[rung].data()] = counts_[rung];
    const nb::object looked = fate_ == Fate::kLacking ? asked_of(request_) : or_none(looked_);
    const auto& [parse, rows, queue, run, reply] = stages_;
    return nb::make_tuple(static_cast<int>(fate_), assignment_ ? assignment_->given : nb::none(), looked,
                          bytes_of(reply_), candidates_, std::tuple(parse, rows, queue, run, reply), ready_at_,
                          nb::make_tuple(name_or_none(user_rung_), rungs));
  }

 private:
  void send(Worker&, Desk&, std::string_view reply) override { reply_ = reply; }

  const nb::object is_gone_;
  std::string reply_;
};

std::unique_ptr<AskedJob> make_job(const HeldPlan& held, const nb::bytes& body, std::string request_id,
                                   size_t max_candidates, size_t rows, double deadline, double began,
                                   nb::object is_gone) {
  return std::make_unique<AskedJob>(held.plan, std::string(view_of(body)), std::move(request_id), max_candidates, rows,
                                    deadline, began, std::move(is_gone));
}

void add_scoring(nb::module_& module) {
  // LoadedModel(schema, runner, heads, ort_model, users, items, new_desk, capacity): `ort_model` is None if the runtime
  // is Python's, rows are None if they are not in memory; `new_desk()` returns a DeskForm.
  nb::class_<LoadedModel>(module, "LoadedModel")
      .def(nb::init<const Schema&, Runner&, std::vector<std::string>, std::optional<const HeldOrtModel*>,
                    std::optional<RowsInMemory>, std::optional<RowsInMemory>, nb::object, size_t>(),
           nb::keep_alive<1, 2>(), nb::keep_alive<1, 3>(), nb::keep_alive<1, 5>(), nb::keep_alive<1, 6>(),
           nb::keep_alive<1, 7>());
  nb::class_<AskedJob, OwnedJob>(module, "AskedJob");
  // Plan(model, assignment or a callable, whether that needs the user, wants or None, look, translate or None)
  nb::class_<HeldPlan>(module, "Plan")
      .def(nb::init<const nb::object&, const nb::object&, bool, std::optional<nb::object>, nb::object,
                    std::optional<nb::object>>())
      // job(body, request_id, max_candidates, rows, deadline, began, is_gone)
      .def("job", &make_job);
}

}  // namespace
