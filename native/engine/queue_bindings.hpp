// The queue, its jobs and learned run times for Python; and jobs that are Python's own work.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include "../core/python.hpp"
#include "engine.hpp"

namespace native {

// Python's lock within the scope, in a scoring thread.
class Locked {
 public:
  explicit Locked(Worker& worker) {
    if (!worker.python) worker.python = PyThreadState_New(PyInterpreterState_Main());
    PyEval_RestoreThread(static_cast<PyThreadState*>(worker.python));
  }
  Locked(const Locked&) = delete;
  ~Locked() { PyEval_SaveThread(); }
};

// Wakes an event loop, or another that polls descriptors. For any thread.
class Bell {
 public:
  Bell() {
    if (pipe(pipe_)) throw std::runtime_error("no pipe could be opened");
    for (const int end : pipe_) {
      fcntl(end, F_SETFL, fcntl(end, F_GETFL) | O_NONBLOCK);
      fcntl(end, F_SETFD, FD_CLOEXEC);
    }
  }
  Bell(const Bell&) = delete;
  ~Bell() {
    for (const int end : pipe_) ::close(end);
  }

  // Readable once it has been rung, until it is answered.
  int descriptor() const { return pipe_[0]; }
  bool is_rung() const { return is_rung_.load(); }

  // Once is as good as often: one byte is in the pipe at most.
  void ring() {
    if (is_rung_.exchange(true)) return;
    [[maybe_unused]] const auto written = write(pipe_[1], "", 1);
  }

  // Before a look at what it was rung for.
  void answer() {
    if (!is_rung_.load()) return;
    char byte;
    while (read(pipe_[0], &byte, 1) > 0) {
    }
    is_rung_ = false;
  }

 private:
  int pipe_[2];
  std::atomic<bool> is_rung_{false};
};

// The jobs of Python's event loop, which it takes back when the bell rings.
class Outbox : public Keeper {
 public:
  void take_back(Job& job) override {
    {
      const std::lock_guard lock(mutex_);
      ended_.push_back(&job);
    }
    bell.ring();
  }
  bool is_behind() override { return bell.is_rung(); }

  std::vector<Job*> take() {
    bell.answer();
    const std::lock_guard lock(mutex_);
    return std::exchange(ended_, {});
  }

  Bell bell;

 private:
  std::mutex mutex_;
  std::vector<Job*> ended_;
};

// A job that belongs to a Python object. What it holds of Python is touched with its lock alone.
class OwnedJob : public Job {
 public:
  using Job::Job;
  // Let go of what the work needed; after its end.
  virtual void drop() {}
  // Of work that is done, or why it failed: with `ending`.
  virtual PyObject* result() { return Py_NewRef(Py_None); }
  // What an ended job has asked for: it may be put in again.
  virtual void go_on(PyObject*) { raise(PyExc_TypeError, "this job asks for nothing"); }

  PyObject* owner = nullptr;  // held while the engine has the job
  bool is_partial = false;    // whether only the first candidates are scored
};

// The error that is set, as an object.
inline Ref raised() {
#if PY_VERSION_HEX >= 0x030C0000
  return Ref(PyErr_GetRaisedException());
#else
  PyObject *type = nullptr, *error = nullptr, *traceback = nullptr;
  PyErr_Fetch(&type, &error, &traceback);
  PyErr_NormalizeException(&type, &error, &traceback);
  if (traceback) PyException_SetTraceback(error, traceback);
  Py_XDECREF(type);
  Py_XDECREF(traceback);
  return Ref(error);
#endif
}

inline Ref given_or_none(PyObject* object) { return object == Py_None ? Ref() : Ref::to(object); }

class PythonJob : public OwnedJob {
 public:
  PythonJob(Runner& runner, size_t rows, double deadline, bool is_spare, PyObject* of_runner, PyObject* work, PyObject* shorten,
            PyObject* is_gone)
      : OwnedJob(runner, rows, deadline, is_spare),
        of_runner_(Ref::to(of_runner)),
        work_(Ref::to(work)),
        shorten_(given_or_none(shorten)),
        is_gone_(given_or_none(is_gone)) {}

  bool fit(Worker& worker, double now) override {
    const Locked locked(worker);
    if (is_gone_.get()) {
      const Ref is_gone = Ref::to(is_gone_.get()), said(PyObject_CallNoArgs(is_gone.get()));
      if (!said.get()) return fail();
      if (said.get() == Py_True) return end(Ending::kGone);
    }
    if (now > deadline) return end(Ending::kLate);
    if (!shorten_.get()) return true;
    const size_t fitting = runner->run_s.fitting(rows, seconds_for_run(now, deadline));
    if (!fitting) return end(Ending::kNoTime);
    if (fitting == rows) return true;
    Ref shorter(PyObject_CallFunction(shorten_.get(), "n", static_cast<Py_ssize_t>(fitting - 1)));
    if (!shorter.get()) return fail();
    work_ = std::move(shorter);
    rows = fitting;
    is_partial = true;
    return true;
  }

  void run(Worker& worker) override {
    const Locked locked(worker);
    if (!work_.get()) return;  // it was cancelled
    {
      const Ref work = Ref::to(work_.get());
      result_ = Ref(PyObject_CallNoArgs(work.get()));
    }
    if (!result_.get()) fail();
    drop();
  }

  void drop() override {
    work_ = Ref();
    shorten_ = Ref();
    is_gone_ = Ref();
  }

  PyObject* result() override {
    const Ref result = std::move(result_);
    return Py_NewRef(result.get() ? result.get() : Py_None);
  }

 private:
  bool fail() {
    result_ = raised();
    return end(Ending::kFailed);
  }
  bool end(Ending how) {
    ending = how;
    return false;
  }

  const Ref of_runner_;
  Ref work_, shorten_, is_gone_, result_;
};

// Runner(): learned run times of one model

inline Runner* make_runner(PyObject* arguments) {
  if (!PyArg_ParseTuple(arguments, "")) throw PythonError{};
  return new Runner();
}

inline PyObject* runner_learn_run(Runner& runner, Arguments given) {
  runner.run_s.learn(size_from(given[0]), double_from(given[1]));
  return Py_NewRef(Py_None);
}

inline PyObject* runner_learn_turn(Runner& runner, Arguments given) {
  runner.turn_s.learn(size_from(given[0]), double_from(given[1]));
  return Py_NewRef(Py_None);
}

inline PyObject* runner_run_s(Runner& runner, Arguments given) { return PyFloat_FromDouble(runner.run_s.of(size_from(given[0]))); }

inline PyObject* runner_turn_s(Runner& runner, Arguments given) { return PyFloat_FromDouble(runner.turn_s.of(size_from(given[0]))); }

// fitting(rows, seconds): how many candidates a run is expected to score in that time
inline PyObject* runner_fitting(Runner& runner, Arguments given) {
  return PyLong_FromSize_t(runner.run_s.fitting(size_from(given[0]), double_from(given[1])));
}

inline PyMethodDef runner_methods[] = {method<Runner, 2, runner_learn_run>("learn_run"),
                                       method<Runner, 2, runner_learn_turn>("learn_turn"),
                                       method<Runner, 1, runner_run_s>("run_s"),
                                       method<Runner, 1, runner_turn_s>("turn_s"),
                                       method<Runner, 2, runner_fitting>("fitting"),
                                       {}};

// Job(work, shorten, is_gone, runner, rows, deadline, is_spare): `shorten` and `is_gone` may be None

struct HeldJob {
  explicit HeldJob(std::unique_ptr<OwnedJob> made) : job(std::move(made)) {}

  std::unique_ptr<OwnedJob> job;
};

inline HeldJob* make_job(PyObject* arguments) {
  PyObject *work, *shorten, *is_gone, *runner;
  Py_ssize_t rows;
  double deadline;
  int is_spare;
  if (!PyArg_ParseTuple(arguments, "OOOOndp", &work, &shorten, &is_gone, &runner, &rows, &deadline, &is_spare)) throw PythonError{};
  return new HeldJob(std::make_unique<PythonJob>(Box<Runner>::of(runner), static_cast<size_t>(rows), deadline, is_spare == 1, runner, work,
                                                 shorten, is_gone));
}

// claim(): take the right to answer it
inline PyObject* job_claim(HeldJob& held, Arguments) {
  const bool is_first = held.job->claim();
  return PyBool_FromLong(is_first);
}

// go_on(given): what it has asked for; it may be put in again
inline PyObject* job_go_on(HeldJob& held, Arguments given) {
  held.job->go_on(given[0]);
  held.job->reopen();
  return Py_NewRef(Py_None);
}

// (ending, result, queued at, started at, ended at, rows, is partial), once for each end
inline PyObject* job_take_outcome(HeldJob& held, Arguments) {
  OwnedJob& job = *held.job;
  const Ref result(checked(job.result()));
  return Py_BuildValue("(iOdddnO)", static_cast<int>(job.ending), result.get(), job.queued_at, job.started, job.ended,
                       static_cast<Py_ssize_t>(job.rows), job.is_partial ? Py_True : Py_False);
}

inline PyMethodDef job_methods[] = {
    method<HeldJob, 0, job_claim>("claim"),
    method<HeldJob, 1, job_go_on>("go_on"),
    method<HeldJob, 0, job_take_outcome>("take_outcome"),
    {}};

// Engine(threads, max_rows, max_candidates, patience_s, bounds of each measure)

struct HeldEngine {
  explicit HeldEngine(std::unique_ptr<Engine> made) : engine(std::move(made)) {}

  std::unique_ptr<Outbox> outbox = std::make_unique<Outbox>();
  std::unique_ptr<Engine> engine;

  ~HeldEngine() {
    engine->close();
    join(1.0);
    // A thread that is left would run in freed memory.
    if (!engine->is_left()) return;
    static_cast<void>(engine.release());
    static_cast<void>(outbox.release());
  }

  // As the engine's, and frees what Python had for threads that have ended.
  std::vector<Job*> join(double seconds) {
    std::vector<Job*> left;
    {
      const Unlocked unlocked;
      left = engine->join(seconds);
    }
    if (engine->is_left()) return left;
    for (Worker& worker : engine->workers()) {
      auto* const state = static_cast<PyThreadState*>(std::exchange(worker.python, nullptr));
      if (!state) continue;
      PyThreadState_Clear(state);
      PyThreadState_Delete(state);
    }
    return left;
  }
};

inline HeldEngine* make_engine(PyObject* arguments) {
  Py_ssize_t threads, max_rows, max_candidates;
  double patience_s;
  PyObject* bounds;
  if (!PyArg_ParseTuple(arguments, "nnndO!", &threads, &max_rows, &max_candidates, &patience_s, &PyTuple_Type, &bounds))
    throw PythonError{};
  if (threads < 1) raise(PyExc_ValueError, "there is one thread at least");
  if (PyTuple_Size(bounds) != static_cast<Py_ssize_t>(kMeasures)) raise(PyExc_ValueError, "each measure has its bounds");
  Tally::Histograms measures;
  for (Py_ssize_t k = 0; k < PyTuple_Size(bounds); k++) {
    PyObject* const given = item_of(bounds, k);
    std::vector<double> numbers;
    for (Py_ssize_t place = 0; place < PyTuple_Size(given); place++) numbers.push_back(double_of(given, place));
    measures.push_back({std::move(numbers)});
  }
  return new HeldEngine(std::make_unique<Engine>(static_cast<size_t>(threads), static_cast<size_t>(max_rows),
                                                 static_cast<size_t>(max_candidates), patience_s, std::move(measures)));
}

// take_tally(): (counts, (counts by bound, sum) of each measure) since the last time
inline PyObject* engine_take_tally(HeldEngine& held, Arguments) {
  const auto [counts, measures] = held.engine->tally.take();
  const auto list = [](const auto& numbers) {
    Ref made(checked(PyList_New(0)));
    for (const size_t number : numbers)
      if (PyList_Append(made.get(), Ref(checked(PyLong_FromSize_t(number))).get())) throw PythonError{};
    return made;
  };
  const Ref told(checked(PyList_New(0)));
  for (const Tally::Histogram& measure : measures)
    if (PyList_Append(told.get(), Ref(checked(Py_BuildValue("(Od)", list(measure.counts).get(), measure.sum))).get()))
      throw PythonError{};
  return Py_BuildValue("(OO)", list(counts).get(), told.get());
}

// The owners of claimed jobs, which the engine may still have; another keeper's have none
inline PyObject* owners_of(const std::vector<Job*>& jobs) {
  Ref list(checked(PyList_New(0)));
  for (Job* const job : jobs)
    if (static_cast<OwnedJob*>(job)->owner && PyList_Append(list.get(), static_cast<OwnedJob*>(job)->owner)) throw PythonError{};
  return Py_NewRef(list.get());
}

// put(job, owner): false once the engine is closed
inline PyObject* engine_put(HeldEngine& held, Arguments given) {
  OwnedJob& job = *Box<HeldJob>::of(given[0]).job;
  if (job.owner || job.is_claimed()) raise(PyExc_ValueError, "a job is put in once, and again if it goes on");
  job.owner = Py_NewRef(given[1]);
  job.keeper = held.outbox.get();
  const bool is_in = held.engine->put(job);
  if (!is_in) Py_CLEAR(job.owner);
  return PyBool_FromLong(is_in);
}

// take_ended(): the owners of ended jobs that are to be answered
inline PyObject* engine_take_ended(HeldEngine& held, Arguments) {
  Ref list(checked(PyList_New(0)));
  for (Job* const ended : held.outbox->take()) {
    auto* const job = static_cast<OwnedJob*>(ended);
    const Ref owner(std::exchange(job->owner, nullptr));
    job->drop();
    if (job->claim() && PyList_Append(list.get(), owner.get())) throw PythonError{};
  }
  return Py_NewRef(list.get());
}

// claim_late(): the owners of jobs past their deadline, which are claimed
inline PyObject* engine_claim_late(HeldEngine& held, Arguments) { return owners_of(held.engine->claim_late(*held.outbox)); }

// close(): the owners of jobs that waited, which are claimed
inline PyObject* engine_close(HeldEngine& held, Arguments) { return owners_of(held.engine->close()); }

// join(seconds): the owners of jobs that still run, which are claimed
inline PyObject* engine_join(HeldEngine& held, Arguments given) {
  return owners_of(held.join(double_from(given[0])));
}

// (threads, running, waiting, quiet_s, longest_s)
inline PyObject* engine_heartbeat(HeldEngine& held, Arguments) {
  const Heartbeat beat = held.engine->heartbeat();
  return Py_BuildValue("(nnndd)", static_cast<Py_ssize_t>(beat.threads), static_cast<Py_ssize_t>(beat.running),
                       static_cast<Py_ssize_t>(beat.waiting), beat.quiet_s, beat.longest_s);
}

inline PyObject* engine_is_busy(const HeldEngine& held) { return PyBool_FromLong(held.engine->is_busy()); }

inline PyObject* engine_descriptor(const HeldEngine& held) { return PyLong_FromLong(held.outbox->bell.descriptor()); }

// reserve(seconds): after a request with a normal deadline, for which one thread is kept from longer ones
inline PyObject* engine_reserve(HeldEngine& held, Arguments given) {
  held.engine->reserve(double_from(given[0]));
  return Py_NewRef(Py_None);
}

// Admission. A refusal is (reason, message); an admitted load a token for `release`

inline PyObject* to_python(const Refused& refused) {
  return Py_BuildValue("(ss)", refused.reason == Refusal::kRows ? "rows" : "wait", refused.message.c_str());
}

inline Load load_of(PyObject* rows, PyObject* seconds) { return {size_from(rows), double_from(seconds)}; }

// enter(rows, seconds, deadline): a bucket, or a refusal
inline PyObject* engine_enter(HeldEngine& held, Arguments given) {
  const Load load = load_of(given[0], given[1]);
  const double deadline = double_from(given[2]);
  int64_t bucket = 0;
  const Refused refused = held.engine->admit(
      [&](Admission& admission, auto runs) { return admission.enter(load, clock_s(), deadline, runs, bucket); });
  return refused ? to_python(refused) : PyLong_FromLongLong(bucket);
}

// release(rows, seconds, bucket): of a load that has entered
inline PyObject* engine_release(HeldEngine& held, Arguments given) {
  const Load load = load_of(given[0], given[1]);
  const int64_t bucket = place_from(given[2]);
  held.engine->admit([&](Admission& admission, auto) { admission.leave(load, bucket); });
  return Py_NewRef(Py_None);
}

// check(rows, seconds, deadline, is_unread): None, or a refusal
inline PyObject* engine_check(HeldEngine& held, Arguments given) {
  const Load load = load_of(given[0], given[1]);
  const double deadline = double_from(given[2]);
  const bool is_unread = PyObject_IsTrue(given[3]) == 1;
  const Refused refused = held.engine->admit([&](Admission& admission, auto runs) {
    return is_unread ? admission.check_unread(load, clock_s(), deadline, runs) : admission.check(load, clock_s(), deadline, runs);
  });
  return refused ? to_python(refused) : Py_NewRef(Py_None);
}

// read(size, rows): a body of that size had so many candidates
inline PyObject* engine_read(HeldEngine& held, Arguments given) {
  const size_t size = size_from(given[0]), rows = size_from(given[1]);
  if (rows) held.engine->admit([&](Admission& admission, auto) { admission.read(size, rows); });
  return Py_NewRef(Py_None);
}

inline PyObject* engine_rows_in(HeldEngine& held, Arguments given) {
  const size_t size = size_from(given[0]);
  return PyLong_FromSize_t(held.engine->admit([&](Admission& admission, auto) { return admission.rows_in(size); }));
}

// (rows, seconds) that were admitted
inline PyObject* engine_admitted(const HeldEngine& held) {
  const Load load =
      held.engine->admit([](Admission& admission, auto) { return Load{admission.rows(), admission.seconds()}; });
  return Py_BuildValue("(nd)", static_cast<Py_ssize_t>(load.rows), load.seconds);
}

inline PyObject* engine_is_shedding(const HeldEngine& held) {
  return PyBool_FromLong(held.engine->admit([](Admission& admission, auto) { return admission.is_shedding(); }));
}

inline PyMethodDef engine_methods[] = {method<HeldEngine, 2, engine_put>("put"),
                                       method<HeldEngine, 0, engine_take_ended>("take_ended"),
                                       method<HeldEngine, 0, engine_take_tally>("take_tally"),
                                       method<HeldEngine, 0, engine_claim_late>("claim_late"),
                                       method<HeldEngine, 0, engine_close>("close"),
                                       method<HeldEngine, 1, engine_join>("join"),
                                       method<HeldEngine, 0, engine_heartbeat>("heartbeat"),
                                       method<HeldEngine, 1, engine_reserve>("reserve"),
                                       method<HeldEngine, 3, engine_enter>("enter"),
                                       method<HeldEngine, 3, engine_release>("release"),
                                       method<HeldEngine, 4, engine_check>("check"),
                                       method<HeldEngine, 2, engine_read>("read"),
                                       method<HeldEngine, 1, engine_rows_in>("rows_in"),
                                       {}};
inline PyGetSetDef engine_values[] = {value<HeldEngine, engine_is_busy>("is_busy"),
                                      value<HeldEngine, engine_descriptor>("descriptor"),
                                      value<HeldEngine, engine_admitted>("admitted"),
                                      value<HeldEngine, engine_is_shedding>("is_shedding"),
                                      {}};

inline bool add_queue(PyObject* module) {
  return add_type<Runner>(module, "native._core.Runner", {creator<Runner, make_runner>(), {Py_tp_methods, runner_methods}}) &&
         add_type<HeldJob>(module, "native._core.Job", {creator<HeldJob, make_job>(), {Py_tp_methods, job_methods}}) &&
         add_type<HeldEngine>(module, "native._core.Engine",
                              {creator<HeldEngine, make_engine>(),
                               {Py_tp_methods, engine_methods},
                               {Py_tp_getset, engine_values}});
}

}  // namespace native
