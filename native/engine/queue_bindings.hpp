// The queue and learned run times for Python.
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
    if (!worker.python) {
      worker.python = PyThreadState_New(PyInterpreterState_Main());
      worker.leave = leave;
    }
    PyEval_RestoreThread(static_cast<PyThreadState*>(worker.python));
  }
  Locked(const Locked&) = delete;
  ~Locked() { PyEval_SaveThread(); }

 private:
  // By the thread itself: from Python 3.12, whoever deletes another thread's state loses their own.
  static void leave(Worker& worker) {
    auto* const state = static_cast<PyThreadState*>(worker.python);
    PyEval_RestoreThread(state);
    PyThreadState_Clear(state);
    PyThreadState_DeleteCurrent();
  }
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

  // Before a look at what it was rung for. While the byte is still to come, it stays rung: nobody would read that byte.
  void answer() {
    char byte;
    if (is_rung_.load() && read(pipe_[0], &byte, 1) > 0) is_rung_ = false;
  }

 private:
  int pipe_[2];
  std::atomic<bool> is_rung_{false};
};

// Engine(threads, max_rows, max_candidates, patience_s, bounds of each measure)

struct HeldEngine {
  HeldEngine(size_t threads, size_t max_rows, size_t max_candidates, double patience_s,
             const std::vector<std::vector<double>>& bounds) {
    if (threads < 1) throw nb::value_error("there is one thread at least");
    if (bounds.size() != kMeasures) throw nb::value_error("each measure has its bounds");
    Tally::Histograms measures;
    for (const std::vector<double>& one : bounds) measures.push_back({one});
    engine = std::make_unique<Engine>(threads, max_rows, max_candidates, patience_s, std::move(measures));
  }

  std::unique_ptr<Engine> engine;

  ~HeldEngine() {
    engine->close();
    join(1.0);
    // A thread that is left would run in freed memory.
    if (engine->is_left()) static_cast<void>(engine.release());
  }

  void join(double seconds) {
    const nb::gil_scoped_release unlocked;
    engine->join(seconds);
  }
};

// (counts, (counts by bound, sum) of each measure) since the last time
inline auto engine_take_tally(HeldEngine& held) {
  const auto [counts, measures] = held.engine->tally.take();
  std::vector<std::pair<std::vector<size_t>, double>> sums;
  for (const Tally::Histogram& measure : measures) sums.emplace_back(measure.counts, measure.sum);
  return std::pair(counts, sums);
}

// Admission. A refusal is (reason, message); an admitted load a bucket, for `release`

inline std::variant<int64_t, std::pair<const char*, std::string>> engine_enter(HeldEngine& held, size_t rows, double seconds, const std::string& key, double deadline) {
  int64_t bucket = 0;
  const Refused refused = held.engine->admit([&](Admission& admission, auto runs) {
    return admission.enter({rows, seconds, key}, clock_s(), deadline, runs, bucket);
  });
  if (refused) return std::pair(refused.reason == Refusal::kRows ? "rows" : "wait", refused.message);
  return bucket;
}

inline void engine_release(HeldEngine& held, size_t rows, double seconds, const std::string& key, int64_t bucket) {
  held.engine->admit([&](Admission& admission, auto) { admission.leave({rows, seconds, key}, bucket); });
}

// (rows, seconds) that were admitted
inline auto engine_admitted(const HeldEngine& held) {
  return held.engine->admit(
      [](Admission& admission, auto) { return std::pair(admission.rows(), admission.seconds()); });
}

inline void add_queue(nb::module_& module) {
  // Learned run times of one model.
  nb::class_<Runner>(module, "Runner")
      .def(nb::init<>())
      .def("learn_run", [](Runner& runner, size_t rows, double seconds) { runner.run_s.learn(rows, seconds); },
           nb::arg("rows"), nb::arg("seconds"))
      .def("learn_turn", [](Runner& runner, size_t rows, double seconds) { runner.learn_turn(rows, Form::kScore, seconds); },
           nb::arg("rows"), nb::arg("seconds"))
      .def("run_s", [](const Runner& runner, size_t rows) { return runner.run_s.of(rows); }, nb::arg("rows"))
      .def("turn_s",
           [](const Runner& runner, size_t rows, size_t form) { return runner.turn_s(rows, static_cast<Form>(form)); })
      .def("fitting", [](Runner& runner, size_t rows, double seconds) { return runner.run_s.fitting(rows, seconds); });
  read_struct<Heartbeat>(module, "Heartbeat", field("threads", &Heartbeat::threads), field("running", &Heartbeat::running),
                         field("waiting", &Heartbeat::waiting), field("quiet_s", &Heartbeat::quiet_s),
                         field("longest_s", &Heartbeat::longest_s));
  nb::class_<HeldEngine>(module, "Engine")
      .def(nb::init<size_t, size_t, size_t, double, const std::vector<std::vector<double>>&>(), nb::kw_only(),
           nb::arg("threads"), nb::arg("max_rows"), nb::arg("max_candidates"), nb::arg("patience_s"), nb::arg("bounds"))
      .def("take_tally", &engine_take_tally)
      .def("close", [](HeldEngine& held) { held.engine->close(); })
      .def("join", &HeldEngine::join, nb::arg("seconds"))
      .def("heartbeat", [](HeldEngine& held) { return held.engine->heartbeat(); })
      // After a request with a normal deadline, for which one thread is kept from longer ones.
      .def("reserve", [](HeldEngine& held, double seconds) { held.engine->reserve(seconds); })
      .def("enter", &engine_enter, nb::arg("rows"), nb::arg("seconds"), nb::arg("key"), nb::arg("deadline"))
      // learn(bytes, candidates) of a body in the first form, and the candidates that one of some bytes weighs.
      .def("learn", [](HeldEngine& held, size_t size, size_t rows) {
        held.engine->admit([&](Admission& admission, auto) { admission.read(size, rows, Form::kScore); });
      })
      .def("rows_in", [](HeldEngine& held, size_t size) {
        return held.engine->admit([&](Admission& admission, auto) { return admission.rows_in(size, Form::kScore); });
      })
      .def("release", &engine_release, nb::arg("rows"), nb::arg("seconds"), nb::arg("key"), nb::arg("bucket"))
      .def_prop_ro("admitted", &engine_admitted);
}

}  // namespace native
