// Scoring jobs: from a request's body to its reply's bytes in one scoring thread. Python's lock is taken where Python is
// asked alone: for the arm of a user, live states, what a request lacks, and by a runtime that is Python's.
#pragma once

#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <optional>

#include "../core/bindings.hpp"
#include "ort_bindings.hpp"
#include "queue_bindings.hpp"

namespace {

// One thread's buffers for requests of one model.
struct Desk {
  Ref frame, tensors, run;  // `run(count)` of a runtime that is Python's gives the scores [N] of each head
  std::vector<Buffer> buffers;
  std::vector<std::vector<float>> scores;  // by head, and their uncertainty
  std::vector<float*> into;                // by head
  Run heads{{}, 0};
  std::unique_ptr<BoundOrtModel> model;
  std::string whole;  // a reply with its head

  HeldFrame& held() const { return Box<HeldFrame>::of(frame.get()); }
};

// LoadedModel(schema, runner, heads, ort_model, users, items, new_desk, capacity): `ort_model` is None if the runtime is
// Python's, rows are None if they are not in memory; `new_desk()` returns (frame, tensors, (name, array, whether it is of
// floats, whether it is per candidate, shape of a row) of each, run(count) or None).

constexpr size_t kMostThreads = 512;

struct LoadedModel {
  Ref of_schema, of_runner, of_ort, users, items, new_desk;
  Runner* runner = nullptr;
  const OrtModel* ort = nullptr;
  std::vector<std::string> heads;
  size_t capacity = 0;
  std::array<std::unique_ptr<Desk>, kMostThreads> desks;  // each is its thread's own

  const Schema& schema() const { return Box<Schema>::of(of_schema.get()); }

  // With Python's lock.
  std::unique_ptr<Desk> make_desk() const {
    const Ref told(checked(PyObject_CallNoArgs(new_desk.get())));
    auto desk = std::make_unique<Desk>();
    desk->frame = Ref::to(item_of(told.get(), 0));
    desk->held();
    desk->tensors = Ref::to(item_of(told.get(), 1));
    std::vector<Memory> memory;
    PyObject* const tensors = item_of(told.get(), 2);
    for (Py_ssize_t k = 0; k < PyTuple_Size(tensors); k++) {
      PyObject* const tensor = item_of(tensors, k);
      const Buffer& buffer = desk->buffers.emplace_back(item_of(tensor, 1), true);
      memory.push_back({std::string(text_of(item_of(tensor, 0))), buffer.as<void>(), buffer.size(),
                        PyObject_IsTrue(item_of(tensor, 2)) == 1, PyObject_IsTrue(item_of(tensor, 3)) == 1,
                        shape_of(item_of(tensor, 4))});
    }
    for (const std::string& head : heads) {
      desk->into.push_back(desk->scores.emplace_back(capacity).data());
      desk->heads.heads.push_back({head, desk->into.back()});
    }
    desk->scores.emplace_back(capacity);
    if (ort)
      desk->model = std::make_unique<BoundOrtModel>(*ort, std::move(memory), heads);
    else
      desk->run = Ref::to(item_of(told.get(), 3));
    return desk;
  }
};

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

// With what to score a request: (model, arm's name or None, epochs or None, live or None, reads_texts, correction or
// None). `live` is asked for live states, as `Frame.take` does; a correction is (centre, shift, slope).
struct Assignment {
  Ref told;
  LoadedModel* model = nullptr;
  std::string_view arm;
  std::vector<int64_t> epochs;
  PyObject* live = nullptr;
  bool reads_texts = false;
  std::optional<Correction> correction;

  explicit Assignment(PyObject* given) : told(Ref::to(given)) {
    model = &Box<LoadedModel>::of(item_of(given, 0));
    if (item_of(given, 1) != Py_None) arm = text_of(item_of(given, 1));
    if (item_of(given, 2) != Py_None) epochs = epochs_of(item_of(given, 2));
    if (item_of(given, 3) != Py_None) live = item_of(given, 3);
    reads_texts = PyObject_IsTrue(item_of(given, 4)) == 1;
    PyObject* const corrected = item_of(given, 5);
    if (corrected != Py_None) correction = {double_of(corrected, 0), double_of(corrected, 1), double_of(corrected, 2)};
  }
};

// How a request fares that a thread has read.
enum class Fate {
  kScored,
  kRefused,  // `msd.contract` says why
  kAsking,   // for an explanation, which is not taken on
  kLacking,  // of something that has to be fetched
  kNotFinite,
};

// Seconds of its stages.
struct Stages {
  double parse = 0.0, rows = 0.0, queue = 0.0, run = 0.0, reply = 0.0;
};

class ScoringJob : public OwnedJob {
 public:
  // `assignment` is one, or is called with the user's ID to make it, after the model `first` has read the request. `given`
  // are rows that were fetched, (users, items, as of, seconds that this took). `look(frame, tensors, candidates in the
  // run, seconds of parse, rows, queue and run)` says what a request lacks, with no candidates, or what is to be known of a
  // scored one. `is_followed`: keep its rows, and look. `is_explained`: the explanation is taken on; look, and do not
  // send. `is_gone` says whether the client has left; `wire` is what a thread needs to send the reply: (descriptor, first
  // bytes of its head, last bytes).
  ScoringJob(PyObject* body, PyObject* request_id, size_t max_candidates, size_t rows, double deadline, double began,
             PyObject* assignment, PyObject* first, PyObject* given, PyObject* look, bool is_followed, bool is_explained,
             PyObject* is_gone, PyObject* wire)
      : OwnedJob(*Box<LoadedModel>::of(first).runner, rows, deadline, false),
        body_(Ref::to(body)),
        first_(Ref::to(first)),
        assign_(Ref::to(assignment)),
        look_(Ref::to(look)),
        is_gone_(given_or_none(is_gone)),
        bytes_(bytes_of(body)),
        request_id_(text_of(request_id)),
        max_candidates_(max_candidates),
        began_(began),
        is_followed_(is_followed),
        is_explained_(is_explained),
        was_given_(given != Py_None) {
    if (PyTuple_Check(assignment)) assignment_.emplace(assignment);
    if (was_given_) {
      given_ = given_of(item_of(given, 0), item_of(given, 1), Box<LoadedModel>::of(first).schema());
      given_at_ = double_of(given, 2);
      given_s_ = double_of(given, 3);
    }
    if (wire != Py_None) {
      is_wired_ = true;
      descriptor_ = static_cast<int>(place_from(item_of(wire, 0)));
      head_ = bytes_of(item_of(wire, 1));
      tail_ = bytes_of(item_of(wire, 2));
    }
  }

  bool fit(Worker& worker, double now) override {
    if (is_gone_.get()) {
      try {
        if (ask(worker, [&] { return Ref(checked(PyObject_CallNoArgs(is_gone_.get()))).get() == Py_True; })) return end(Ending::kGone);
      } catch (const PythonError&) {
        return end(Ending::kFailed);
      }
    }
    return now > deadline ? end(Ending::kLate) : true;
  }

  void run(Worker& worker) override {
    rows = 0;
    try {
      fate_ = score(worker);
    } catch (const PythonError&) {
      end(Ending::kFailed);
    } catch (const std::exception& error) {
      why_ = error.what();
      end(Ending::kFailed);
    }
  }

  void hang_up() override {
    const std::lock_guard lock(wire_);
    descriptor_ = -1;
  }

  void drop() override {
    live_ = nullptr;
    given_ = nullptr;
    for (Ref* const held : {&body_, &assign_, &look_, &is_gone_}) *held = Ref();
  }

  // (fate, assignment or None, what `look` said or None, bytes left to write, candidates, stages, when the reply was
  // ready, what was found or None, (user's rung or None, {rung: count}), (policy, explored) or None)
  PyObject* result() override {
    if (ending == Ending::kFailed)
      return error_.get() ? Py_NewRef(error_.get()) : PyObject_CallFunction(PyExc_RuntimeError, "s", why_.c_str());
    if (ending != Ending::kDone) return Py_NewRef(Py_None);
    const Ref rungs(checked(PyDict_New())), left(checked(to_bytes(left_))), found(checked(found_or_none()));
    for (size_t rung = 0; rung < counts_.size(); rung++)
      if (counts_[rung] && PyDict_SetItemString(rungs.get(), kRungs[rung].data(), Ref(PyLong_FromSsize_t(counts_[rung])).get()))
        throw PythonError{};
    const Ref choice(policy_.empty() ? Py_NewRef(Py_None)
                                     : checked(Py_BuildValue("(s#O)", policy_.data(), static_cast<Py_ssize_t>(policy_.size()),
                                                             explored_ ? Py_True : Py_False)));
    const auto or_none = [](PyObject* object) { return object ? object : Py_None; };
    return Py_BuildValue("(iOOOn(ddddd)dO(zO)O)", static_cast<int>(fate_), or_none(assignment_ ? assignment_->told.get() : nullptr),
                         or_none(looked_.get()), left.get(), static_cast<Py_ssize_t>(candidates_), stages_.parse, stages_.rows,
                         stages_.queue, stages_.run, stages_.reply, ready_at_, found.get(),
                         user_rung_ == UserRung::kOwn ? nullptr : name_of(user_rung_).data(), rungs.get(), choice.get());
  }

 private:
  bool end(Ending how) {
    ending = how;
    return false;
  }

  // Ask Python; keep the error that it raises.
  template <class Work>
  auto ask(Worker& worker, Work work) -> decltype(work()) {
    const Locked locked(worker);
    try {
      return work();
    } catch (const PythonError&) {
      error_ = raised();
      throw;
    }
  }

  Desk& desk_of(LoadedModel& model, Worker& worker) {
    std::unique_ptr<Desk>& desk = model.desks.at(worker.number);
    if (!desk) desk = ask(worker, [&] { return model.make_desk(); });
    return *desk;
  }

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
};

// job(body, request_id, max_candidates, rows, deadline, began, assignment, given, look, is_followed, is_explained, is_gone,
// wire): as ScoringJob takes them, of which `given`, `is_gone` and `wire` may be None; this model is the first
PyObject* loaded_model_job(PyObject* self, Arguments given, Py_ssize_t count) {
  return guarded(
      [&]() -> PyObject* {
        if (count != 13) raise(PyExc_TypeError, "a scoring job takes 13 arguments");
        return Box<HeldJob>::wrap(std::make_unique<HeldJob>(std::make_unique<ScoringJob>(
            given[0], given[1], size_from(given[2]), size_from(given[3]), double_from(given[4]), double_from(given[5]), given[6], self,
            given[7], given[8], PyObject_IsTrue(given[9]) == 1, PyObject_IsTrue(given[10]) == 1, given[11], given[12])));
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
