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
    given_ = given_of(item_of(given, 0), item_of(given, 1), first_.schema());
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

<<<<<<< HEAD
  // What Python holds is let go of with its lock.
  Ref body_, of_first_, assign_, look_, is_gone_;
  std::string reply_;
=======
  Fate score(Worker& worker) {
    stages_.queue = started - queued_at;
    if (!assignment_) {
      Frame& frame = *desk_of(Box<LoadedModel>::of(first_.get()), worker).held().frame;
      if (frame.read(bytes_, max_candidates_) == Outcome::kUnread) return Fate::kRefused;
      ask(worker, [&] {
        const Ref user(checked(to_python(frame.request.user_id)));
        assignment_.emplace(Ref(checked(PyObject_CallOneArg(assign_.get(), user.get()))).get());
      });
    }
    LoadedModel& model = *assignment_->model;
    runner = model.runner;
    Desk& desk = desk_of(model, worker);
    Frame& frame = *desk.held().frame;
    const Outcome outcome = take(worker, frame);
    if (outcome == Outcome::kUnread) return Fate::kRefused;
    if (frame.request.is_explained && !is_explained_) return Fate::kAsking;
    if (outcome == Outcome::kLacking) {
      if (was_given_) throw std::runtime_error("the native core lacks rows that it was given");
      look(worker, desk, 0);
      return Fate::kLacking;
    }
    candidates_ = frame.request.ids.size();
    const double before = clock_s();
    const size_t fitting = runner->run_s.fitting(candidates_, seconds_for_run(before, deadline));
    if (!fitting) {
      end(Ending::kNoTime);
      return Fate::kNotFinite;
    }
    desk.heads.ran = fitting == candidates_ ? candidates_ : fitting - 1;
    is_partial = desk.heads.ran < candidates_;
    if (is_partial) frame.cut(desk.heads.ran);
    run_model(worker, desk, fitting);
    frame.share(desk.into, fitting);
    rows = fitting;
    return reply(worker, desk, before);
  }

  void run_model(Worker& worker, Desk& desk, size_t count) {
    if (desk.model) return desk.model->run(count, desk.into);
    ask(worker, [&] {
      const Ref found(checked(PyObject_CallFunction(desk.run.get(), "n", static_cast<Py_ssize_t>(count))));
      for (size_t k = 0; k < desk.into.size(); k++) {
        const Buffer column(item_of(found.get(), static_cast<Py_ssize_t>(k)), false, sizeof(float) * count);
        std::memcpy(desk.into[k], column.as<const float>(), sizeof(float) * count);
      }
    });
  }

  Fate reply(Worker& worker, Desk& desk, double before) {
    HeldFrame& held = desk.held();
    const double after = clock_s();
    stages_.run = after - before;
    std::vector<Head>& heads = desk.heads.heads;
    float* const deviations = desk.scores.back().data();
    const bool is_uncertain = held.frame->request.explore && held.frame->deviate(heads[0].scores, rows, deviations);
    if (is_uncertain) heads.push_back({std::string(kUncertainty), deviations});
    const bool is_finite = held.reply.write(*held.frame, {request_id_, assignment_->arm}, desk.heads,
                                            assignment_->correction ? &*assignment_->correction : nullptr);
    if (is_uncertain) heads.pop_back();
    if (!is_finite) return Fate::kNotFinite;
    // The frame is another request's soon.
    found_ = held.frame->found;
    user_rung_ = held.frame->user_rung;
    for (const Degraded& one : held.reply.degraded) counts_[static_cast<size_t>(one.rung)]++;
    if (held.reply.choice) policy_ = held.reply.choice->policy, explored_ = held.reply.choice->explored;
    if (is_followed_ || is_explained_) look(worker, desk, desk.heads.ran);
    ready_at_ = clock_s();
    stages_.reply = ready_at_ - after;
    send(desk, held.reply.bytes());
    return Fate::kScored;
  }

  void look(Worker& worker, const Desk& desk, size_t ran) {
    ask(worker, [&] {
      looked_ = Ref(checked(PyObject_CallFunction(look_.get(), "OOn(dddd)", desk.frame.get(), desk.tensors.get(),
                                                  static_cast<Py_ssize_t>(ran), stages_.parse, stages_.rows, stages_.queue,
                                                  stages_.run)));
    });
  }

  Outcome take(Worker& worker, Frame& frame) {
    const double began = clock_s();
    frame.live = nullptr;
    frame.reads_texts = assignment_->reads_texts;
    frame.keeps_rows = is_followed_;
    Outcome outcome = frame.read(bytes_, max_candidates_);
    const double read = clock_s();
    if (outcome == Outcome::kFilled) outcome = given_ ? frame.fill(given_->given, given_at_) : fill(worker, frame);
    frame.live = nullptr;
    stages_.parse = read - began;
    stages_.rows = clock_s() - read + given_s_;
    return outcome;
  }

  Outcome fill(Worker& worker, Frame& frame) {
    PyObject *const users = assignment_->model->users.get(), *const items = assignment_->model->items.get();
    if (users == Py_None) return Outcome::kLacking;
    if (assignment_->live) {
      ask(worker, [&] { live_ = live_of(assignment_->live, frame.request); });
      if (!live_) return Outcome::kLacking;
      frame.live = &live_->live;
    }
    const double now = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
    if (Py_TYPE(users) == Box<HeldRowFile>::type)
      return frame.fill(*Box<HeldRowFile>::of(users).file, *Box<HeldRowFile>::of(items).file, now);
    return frame.fill(Box<HeldArena>::of(users).arena, Box<HeldArena>::of(items).arena, assignment_->epochs, now);
  }

  // Write as much of the reply as the connection takes now; keep the rest for the loop.
  void send(Desk& desk, std::string_view reply) {
    if (!is_wired_ || is_explained_) {
      left_ = reply;
      return;
    }
    if (!claim()) return;
    is_answered = true;
    char told[256];
    std::snprintf(told, sizeof told,
                  "content-type: application/json\r\ncontent-length: %zu\r\n"
                  "server-timing: parse;dur=%.3f, rows;dur=%.3f, queue;dur=%.3f, run;dur=%.3f, total;dur=%.3f\r\n",
                  reply.size(), 1000 * stages_.parse, 1000 * stages_.rows, 1000 * stages_.queue, 1000 * stages_.run,
                  1000 * (ready_at_ - began_));
    std::string& whole = desk.whole;
    whole.assign(head_).append(told).append(tail_).append(reply);
    const std::lock_guard lock(wire_);
    const ssize_t written = descriptor_ < 0 ? 0 : ::send(descriptor_, whole.data(), whole.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    // After another error the client has left, and the loop will notice.
    if (written >= 0 || errno == EAGAIN || errno == EWOULDBLOCK) left_ = whole.substr(static_cast<size_t>(std::max<ssize_t>(written, 0)));
  }

  PyObject* found_or_none() const {
    if (fate_ != Fate::kScored || was_given_) return Py_NewRef(Py_None);
    return Py_BuildValue("(Onnddd)", found_.has_user ? Py_True : Py_False, static_cast<Py_ssize_t>(found_.items),
                         static_cast<Py_ssize_t>(found_.asked), found_.user_written_at, found_.item_written_at,
                         found_.live_age_s);
  }

  // Of the request. What Python holds is let go of with its lock; views are of it, until then.
  Ref body_, first_, assign_, look_, is_gone_;
  const std::string_view bytes_;
  const std::string request_id_;
  const size_t max_candidates_;
  const double began_;
  const bool is_followed_, is_explained_, was_given_;
  std::optional<Assignment> assignment_;
  std::unique_ptr<HeldGiven> given_;
  double given_at_ = 0.0, given_s_ = 0.0;

  // Of its outcome.
  std::unique_ptr<HeldLive> live_;
  Ref error_, looked_;
  std::string why_, left_;
  Fate fate_ = Fate::kNotFinite;
  size_t candidates_ = 0;
  Stages stages_;
  double ready_at_ = 0.0;
  Found found_;
  UserRung user_rung_ = UserRung::kOwn;
  std::array<Py_ssize_t, kRungs.size()> counts_{};
  std::string policy_;
  bool explored_ = false;

  // Of the connection.
  bool is_wired_ = false;
  std::string head_, tail_;
  std::mutex wire_;  // guards the descriptor, which is another connection's once this one is closed
  int descriptor_ = -1;
>>>>>>> main
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
