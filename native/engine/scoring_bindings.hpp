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
  if (users != Py_None) {
    const nb::handle of_users(users), of_items(items);
    if (nb::isinstance<HeldRowFile>(of_users))
      model->files = {nb::cast<HeldRowFile*>(of_users), nb::cast<HeldRowFile*>(of_items)};
    else
      model->arenas = {nb::cast<HeldArena*>(of_users), nb::cast<HeldArena*>(of_items)};
  }
  model->schema = nb::cast<Schema*>(nb::handle(schema));
  model->of_schema = Ref::to(schema);
  model->of_runner = Ref::to(runner);
  model->of_ort = Ref::to(ort);
  model->users = Ref::to(users);
  model->items = Ref::to(items);
  model->new_desk = Ref::to(new_desk);
  model->capacity = static_cast<size_t>(capacity);
  return model.release();
}

class AskedJob : public ScoringJob {
 public:
  // `assignment` is one, or is called with the user's ID to make it. `given` are rows that were fetched, (users, items, as
  // of, seconds that this took). `look(frame, tensors, candidates in the run, seconds of parse, rows, queue and run,
  // assignment)` returns what is to be known. `is_gone` says whether the client has left.
  AskedJob(PyObject* body, PyObject* request_id, size_t max_candidates, size_t rows, double deadline, double began,
           PyObject* assignment, PyObject* first, PyObject* given, PyObject* look, bool is_followed, bool is_explained,
           PyObject* is_gone)
      : ScoringJob(Box<LoadedModel>::of(first), std::string(text_of(request_id)), max_candidates, rows, deadline, began),
        body_(Ref::to(body)),
        of_first_(Ref::to(first)),
        assign_(Ref::to(assignment)),
        look_(Ref::to(look)),
        is_gone_(given_or_none(is_gone)) {
    bytes_ = bytes_of(body);
    is_followed_ = is_followed;
    is_explained_ = is_explained;
    is_by_user_ = true;
    if (PyTuple_Check(assignment)) assignment_ = &own_.emplace(assignment);
    was_given_ = given != Py_None;
    if (!was_given_) return;
    given_ = std::make_unique<HeldGiven>(nb::cast<UserRows>(nb::handle(item_of(given, 0))), nb::cast<ItemRows>(nb::handle(item_of(given, 1))), *first_.schema);
    given_at_ = double_of(given, 2);
    given_s_ = double_of(given, 3);
  }

  bool fit(Worker& worker, double now) override {
    try {
      const bool is_gone = ask(worker, [&] { return Ref(checked(PyObject_CallNoArgs(is_gone_.get()))).get() == Py_True; });
      if (is_gone) return end(Ending::kGone);
    } catch (const PythonError&) {
      return end(Ending::kFailed);
    }
    return now > deadline ? end(Ending::kLate) : true;
  }

  void drop() override {
    live_ = nullptr;
    given_ = nullptr;
    for (Ref* const held : {&body_, &assign_, &look_, &is_gone_}) *held = Ref();
  }

  // (fate, assignment or None, what `look` said or None, reply, candidates, stages, when it was ready, (user's rung or
  // None, {rung: count}))
  PyObject* result() override {
    if (ending == Ending::kFailed)
      return error_.get() ? Py_NewRef(error_.get()) : PyObject_CallFunction(PyExc_RuntimeError, "s", why_.c_str());
    if (ending != Ending::kDone) return Py_NewRef(Py_None);
    const Ref rungs(checked(PyDict_New())), reply(checked(to_bytes(reply_)));
    for (size_t rung = 0; rung < counts_.size(); rung++)
      if (counts_[rung] && PyDict_SetItemString(rungs.get(), kRungs[rung].data(), Ref(PyLong_FromSsize_t(counts_[rung])).get()))
        throw PythonError{};
    const auto or_none = [](PyObject* object) { return object ? object : Py_None; };
    return Py_BuildValue("(iOOOn(ddddd)d(zO))", static_cast<int>(fate_), or_none(assignment_ ? assignment_->told.get() : nullptr),
                         or_none(looked_.get()), reply.get(), static_cast<Py_ssize_t>(candidates_), stages_.parse, stages_.rows,
                         stages_.queue, stages_.run, stages_.reply, ready_at_,
                         user_rung_ == UserRung::kOwn ? nullptr : name_of(user_rung_).data(), rungs.get());
  }

 private:
  Ref assigned(std::string_view user_id) override {
    return Ref(checked(PyObject_CallOneArg(assign_.get(), Ref(checked(to_python(user_id))).get())));
  }

  Ref looked_at(const Desk& desk, size_t ran) override {
    return Ref(checked(PyObject_CallFunction(look_.get(), "OOn(dddd)O", desk.frame.get(), desk.tensors.get(),
                                             static_cast<Py_ssize_t>(ran), stages_.parse, stages_.rows, stages_.queue,
                                             stages_.run, assignment_->told.get())));
  }

  void send(Desk&, std::string_view reply) override { reply_ = reply; }

  // What Python holds is let go of with its lock.
  Ref body_, of_first_, assign_, look_, is_gone_;
  std::string reply_;
};

// job(body, request_id, max_candidates, rows, deadline, began, assignment, given, look, is_followed, is_explained, is_gone):
// as AskedJob takes them, of which `given` may be None; this model is the first
PyObject* loaded_model_job(PyObject* self, Arguments given, Py_ssize_t count) {
  return guarded(
      [&]() -> PyObject* {
        if (count != 12) raise(PyExc_TypeError, "a scoring job takes 12 arguments");
        return Box<HeldJob>::wrap(std::make_unique<HeldJob>(std::make_unique<AskedJob>(
            given[0], given[1], size_from(given[2]), size_from(given[3]), double_from(given[4]), double_from(given[5]), given[6], self,
            given[7], given[8], PyObject_IsTrue(given[9]) == 1, PyObject_IsTrue(given[10]) == 1, given[11])));
      },
      nullptr);
}

PyMethodDef loaded_model_methods[] = {
    {"job", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(loaded_model_job)), METH_FASTCALL, nullptr},
    {}};

bool add_scoring(PyObject* module) {
  return add_type<LoadedModel>(module, "native._core.LoadedModel",
                               {creator<LoadedModel, make_loaded_model>(), {Py_tp_methods, loaded_model_methods}});
}

}  // namespace
