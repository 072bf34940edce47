// Scoring jobs for Python, which writes the replies itself.
#pragma once

#include "scoring_job.hpp"

namespace {

// LoadedModel(schema, runner, heads, ort_model, users, items, new_desk, capacity): `ort_model` is None if the runtime is
// Python's, rows are None if they are not in memory; `new_desk()` returns (frame, tensors, (name, array, whether it is of
// floats, whether it is per candidate, shape of a row) of each, run(count) or None).

LoadedModel* make_loaded_model(PyObject* arguments) {
  PyObject *schema, *runner, *heads, *ort, *users, *items, *new_desk;
  Py_ssize_t capacity;
  if (!PyArg_ParseTuple(arguments, "OOO!OOOOn", &schema, &runner, &PyTuple_Type, &heads, &ort, &users, &items,
                        &new_desk, &capacity))
    throw PythonError{};
  auto model = std::make_unique<LoadedModel>();
  model->runner = &Box<Runner>::of(runner);
  if (ort != Py_None) model->ort = Box<HeldOrtModel>::of(ort).model.get();
  for (Py_ssize_t k = 0; k < PyTuple_Size(heads); k++) model->heads.emplace_back(text_of(item_of(heads, k)));
  if (model->heads.empty()) raise(PyExc_ValueError, "a model has one head at least");
  for (PyObject* const rows : {users, items})
    if (rows != Py_None && !PyObject_TypeCheck(rows, Box<HeldRowFile>::type)) Box<HeldArena>::of(rows);
  if (Py_TYPE(users) != Py_TYPE(items)) raise(PyExc_TypeError, "rows are in files, or in arenas");
  Box<Schema>::of(schema);
  model->of_schema = Ref::to(schema);
  model->of_runner = Ref::to(runner);
  model->of_ort = Ref::to(ort);
  model->users = Ref::to(users);
  model->items = Ref::to(items);
  model->new_desk = Ref::to(new_desk);
  model->capacity = static_cast<size_t>(capacity);
  return model.release();
}

// Plan(model, assignment or a callable, whether that needs the user, wants or None, look)

struct HeldPlan {
  std::shared_ptr<const Plan> plan;
};

HeldPlan* make_plan(PyObject* arguments) {
  if (PyTuple_Size(arguments) != 5) raise(PyExc_TypeError, "a plan has 5 parts");
  return new HeldPlan{std::make_shared<const Plan>(arguments)};
}

// A request that Python has put in, to which the reply goes. `is_gone` says whether the client has left.
class AskedJob : public ScoringJob {
 public:
  AskedJob(std::shared_ptr<const Plan> plan, Arguments given)
      : ScoringJob(std::move(plan), std::string(bytes_of(given[0])), std::string(text_of(given[1])), size_from(given[2]),
                   size_from(given[3]), double_from(given[4]), double_from(given[5])),
        is_gone_(Ref::to(given[6])) {}

  bool fit(Worker& worker, double now) override {
    try {
      const bool is_gone = ask(worker, [&] { return Ref(checked(PyObject_CallNoArgs(is_gone_.get()))).get() == Py_True; });
      if (is_gone) return end(Ending::kGone);
    } catch (const PythonError&) {
      return end(Ending::kFailed);
    }
    return ScoringJob::fit(worker, now);
  }

  // (fate, assignment or None, what `look` said or what is lacking or None, reply, candidates, stages, when it was ready,
  // (user's rung or None, {rung: count}))
  PyObject* result() override {
    if (ending == Ending::kFailed)
      return error_.get() ? Py_NewRef(error_.get()) : PyObject_CallFunction(PyExc_RuntimeError, "s", why_.c_str());
    if (ending != Ending::kDone) return Py_NewRef(Py_None);
    const Ref rungs(checked(PyDict_New())), reply(checked(to_bytes(reply_)));
    for (size_t rung = 0; rung < counts_.size(); rung++)
      if (counts_[rung] && PyDict_SetItemString(rungs.get(), kRungs[rung].data(), Ref(PyLong_FromSsize_t(counts_[rung])).get()))
        throw PythonError{};
    const Ref looked = fate_ == Fate::kLacking ? Ref(checked(asked_of(request_))) : Ref::to(looked_.get() ? looked_.get() : Py_None);
    return Py_BuildValue("(iOOOn(ddddd)d(zO))", static_cast<int>(fate_), assignment_ ? assignment_->told.get() : Py_None,
                         looked.get(), reply.get(), static_cast<Py_ssize_t>(candidates_), stages_.parse, stages_.rows,
                         stages_.queue, stages_.run, stages_.reply, ready_at_,
                         user_rung_ == UserRung::kOwn ? nullptr : name_of(user_rung_).data(), rungs.get());
  }

 private:
  void send(Desk&, std::string_view reply) override { reply_ = reply; }

  const Ref is_gone_;
  std::string reply_;
};

// job(body, request_id, max_candidates, rows, deadline, began, is_gone)
PyObject* plan_job(HeldPlan& held, Arguments given) {
  return Box<HeldJob>::wrap(std::make_unique<HeldJob>(std::make_unique<AskedJob>(held.plan, given)));
}

PyMethodDef plan_methods[] = {method<HeldPlan, 7, plan_job>("job"), {}};

bool add_scoring(PyObject* module) {
  return add_type<LoadedModel>(module, "native._core.LoadedModel", {creator<LoadedModel, make_loaded_model>()}) &&
         add_type<HeldPlan>(module, "native._core.Plan", {creator<HeldPlan, make_plan>(), {Py_tp_methods, plan_methods}});
}

}  // namespace
