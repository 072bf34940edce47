// Scoring jobs: from a request's body to its reply's bytes in one scoring thread. A job that lacks something ends, and
// goes on once Python has fetched that; the body is read once. Python's lock is taken where Python is asked alone: for the
// arm of a user, live states, what followers learn, and by a runtime that is Python's.
#pragma once

#include <array>
#include <cmath>
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

// A model as scoring threads run it. Rows are None if they are not in memory.
constexpr size_t kMostThreads = 512;

struct LoadedModel {
  Ref of_schema, of_runner, of_ort, users, items, new_desk;
  Runner* runner = nullptr;
  const OrtModel* ort = nullptr;
  std::vector<std::string> heads;
  size_t capacity = 0;
  std::array<std::unique_ptr<Desk>, kMostThreads> desks;  // each is its thread's own

  const Schema& schema() const { return Box<Schema>::of(of_schema.get()); }
  bool has_files() const { return Py_TYPE(users.get()) == Box<HeldRowFile>::type; }

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

// With what to score a request: (model, arm's name or None, its slot or 0, epochs or None, live or None, reads_texts,
// correction or None). `live` is asked for live states, as `Frame.take` does; a correction is (centre, shift, slope).
struct Assignment {
  Ref told;
  LoadedModel* model = nullptr;
  std::string_view arm;
  size_t slot = 0;
  std::vector<int64_t> epochs;
  PyObject* live = nullptr;
  bool reads_texts = false;
  std::optional<Correction> correction;

  explicit Assignment(PyObject* given) : told(Ref::to(given)) {
    model = &Box<LoadedModel>::of(item_of(given, 0));
    if (item_of(given, 1) != Py_None) arm = text_of(item_of(given, 1));
    slot = std::min(size_of(given, 2), kMostArms);
    if (item_of(given, 3) != Py_None) epochs = epochs_of(item_of(given, 3));
    if (item_of(given, 4) != Py_None) live = item_of(given, 4);
    reads_texts = PyObject_IsTrue(item_of(given, 5)) == 1;
    PyObject* const corrected = item_of(given, 6);
    if (corrected != Py_None) correction = {double_of(corrected, 0), double_of(corrected, 1), double_of(corrected, 2)};
  }
};

// With what requests are scored until the next swap. Shared by those under way, and freed with Python's lock.
struct Plan {
  Ref told;
  LoadedModel* first = nullptr;     // reads requests
  std::optional<Assignment> fixed;  // the same for all requests
  PyObject* assign = nullptr;       // or what returns it, called with a user's ID, empty if it is anonymous, and a request's
  bool is_by_user = false;          // if it needs the user's
  PyObject* wants = nullptr;        // says, by a request's ID, whether it is followed
  PyObject* look = nullptr;         // called with what is to be known of a scored request

  // (model, assignment or a callable, whether that needs the user, wants or None, look)
  explicit Plan(PyObject* given) : told(Ref::to(given)), first(&Box<LoadedModel>::of(item_of(given, 0))) {
    if (PyTuple_Check(item_of(given, 1)))
      fixed.emplace(item_of(given, 1));
    else
      assign = item_of(given, 1);
    is_by_user = PyObject_IsTrue(item_of(given, 2)) == 1;
    if (item_of(given, 3) != Py_None) wants = item_of(given, 3);
    look = item_of(given, 4);
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

// One request in a scoring thread. Who puts it in says where its reply goes.
class ScoringJob : public OwnedJob {
 public:
  ScoringJob(std::shared_ptr<const Plan> plan, std::string body, std::string request_id, size_t max_candidates, size_t rows,
             double deadline, double began)
      : OwnedJob(*plan->first->runner, rows, deadline, false),
        body(std::move(body)),
        request_id(std::move(request_id)),
        began(began),
        plan_(std::move(plan)),
        max_candidates_(max_candidates) {
    if (plan_->fixed) assignment_ = &*plan_->fixed;
  }

  bool fit(Worker& worker, double now) override {
    if (now > deadline) return end(Ending::kLate);
    if (!plan_->wants || is_read_) return true;
    try {
      is_followed_ = ask(worker, [&] {
        const Ref id(checked(to_python(request_id)));
        return Ref(checked(PyObject_CallOneArg(plan_->wants, id.get()))).get() == Py_True;
      });
    } catch (const PythonError&) {
      return end(Ending::kFailed);
    }
    return true;
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

  // What was fetched: (rows of the user, rows of candidates and history, as of, seconds that this took, what `look` is to
  // know of that); None: the explanation is taken on.
  void go_on(PyObject* given) override {
    ending = Ending::kDone;
    if (given == Py_None) {
      is_explained_ = true;
      return;
    }
    given_ = given_of(item_of(given, 0), item_of(given, 1), assignment_->model->schema());
    given_at_ = double_of(given, 2);
    stages_.rows += double_of(given, 3);
    of_given_ = Ref::to(item_of(given, 4));
  }

  std::string body;
  const std::string request_id;
  const double began;

 protected:
  // The reply is ready.
  virtual void send(Desk& desk, std::string_view reply) = 0;

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

  // Of a job that has ended. What Python holds is let go of with its lock.
  const std::shared_ptr<const Plan> plan_;
  const Assignment* assignment_ = nullptr;  // by default `own_`, which Python is asked for
  std::optional<Assignment> own_;
  Request request_;  // of a job that may go on
  std::unique_ptr<HeldGiven> given_;
  std::unique_ptr<HeldLive> live_;
  Ref of_given_, error_, looked_;
  std::string why_;
  Fate fate_ = Fate::kNotFinite;
  size_t candidates_ = 0;
  Stages stages_;
  double ready_at_ = 0.0;
  UserRung user_rung_ = UserRung::kOwn;
  std::array<Py_ssize_t, kRungs.size()> counts_{};

 private:
  Desk& desk_of(LoadedModel& model, Worker& worker) {
    std::unique_ptr<Desk>& desk = model.desks.at(worker.number);
    if (!desk) desk = ask(worker, [&] { return model.make_desk(); });
    return *desk;
  }

  Fate score(Worker& worker) {
    stages_.queue += started - queued_at;
    if (!assignment_) {
      if (plan_->is_by_user && !read_apart(*desk_of(*plan_->first, worker).held().frame)) return Fate::kRefused;
      ask(worker, [&] {
        const Ref user(checked(to_python(request_.user_id))), id(checked(to_python(request_id)));
        own_.emplace(Ref(checked(PyObject_CallFunctionObjArgs(plan_->assign, user.get(), id.get(), nullptr))).get());
      });
      assignment_ = &*own_;
    }
    LoadedModel& model = *assignment_->model;
    runner = model.runner;
    Desk& desk = desk_of(model, worker);
    Frame& frame = *desk.held().frame;
    const Outcome outcome = take(worker, frame);
    if (outcome == Outcome::kUnread) return Fate::kRefused;
    const bool asks = frame.request.is_explained && !is_explained_;
    if (asks || outcome == Outcome::kLacking) {
      if (!asks && given_) throw std::runtime_error("the native core lacks rows that it was given");
      keep(frame);
      return asks ? Fate::kAsking : Fate::kLacking;
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

  // Read the request in a frame that it is not scored in.
  bool read_apart(Frame& frame) {
    const bool is_read = read(frame);
    keep(frame);
    return is_read;
  }

  // The request in a frame: read once, by whichever thread was first.
  bool read(Frame& frame) {
    const double before = clock_s();
    const bool is_read = is_read_ || frame.read(body, max_candidates_) != Outcome::kUnread;
    if (is_read_) frame.request = std::move(request_);
    is_read_ = false;
    stages_.parse += clock_s() - before;
    return is_read;
  }

  // Take the request out of a frame, which is another's soon.
  void keep(Frame& frame) {
    request_ = std::move(frame.request);
    is_read_ = true;
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
    const bool is_finite = held.reply.write(*held.frame, {request_id, assignment_->arm}, desk.heads,
                                            assignment_->correction ? &*assignment_->correction : nullptr);
    if (is_uncertain) heads.pop_back();
    if (!is_finite) return Fate::kNotFinite;
    user_rung_ = held.frame->user_rung;
    for (const Degraded& one : held.reply.degraded) counts_[static_cast<size_t>(one.rung)]++;
    // The frame is another request's soon.
    if (is_followed_ || is_explained_) look(worker, desk);
    ready_at_ = clock_s();
    stages_.reply = ready_at_ - after;
    send(desk, held.reply.bytes());
    count(*worker.tally, *held.frame, held.reply);
    return Fate::kScored;
  }

  void count(Tally& tally, const Frame& frame, const Reply& reply) const {
    const double now = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
    const Found& found = frame.found;
    tally.note([&](auto inc, auto observe) {
      if (assignment_->slot) inc(static_cast<Count>(static_cast<size_t>(Count::kArm) + assignment_->slot - 1));
      observe(Measure::kParse, stages_.parse);
      observe(Measure::kRows, stages_.rows);
      observe(Measure::kQueue, stages_.queue);
      observe(Measure::kRun, stages_.run);
      observe(Measure::kReply, stages_.reply);
      observe(Measure::kCandidates, static_cast<double>(candidates_));
      observe(Measure::kRunRows, static_cast<double>(rows));
      if (is_partial) inc(Count::kPartial);
      if (!given_) {
        const size_t rows = found.items + found.has_user;
        inc(assignment_->model->has_files() ? Count::kRowsOfFile : Count::kRowsOfArena, rows);
        inc(Count::kRowsMissing, found.asked - rows);
        if (found.user_written_at != 0.0) observe(Measure::kUserAge, now - found.user_written_at);
        if (found.item_written_at != 0.0) observe(Measure::kItemAge, now - found.item_written_at);
        if (!std::isnan(found.live_age_s)) observe(Measure::kLiveAge, found.live_age_s);
      }
      if (user_rung_ != UserRung::kOwn) inc(user_rung_ == UserRung::kCached ? Count::kUserCached : Count::kUserUnknown);
      for (size_t rung = 0; rung < counts_.size(); rung++)
        inc(static_cast<Count>(static_cast<size_t>(Count::kCached) + rung), static_cast<size_t>(counts_[rung]));
      if (reply.choice)
        inc(reply.choice->policy == "greedy" ? Count::kUnavailable : reply.choice->explored ? Count::kExplored : Count::kExploited);
    });
  }

  void look(Worker& worker, const Desk& desk) {
    ask(worker, [&] {
      const Ref id(checked(to_python(request_id))), bytes(checked(to_bytes(body)));
      const auto truth = [](bool is) { return is ? Py_True : Py_False; };
      looked_ = Ref(checked(PyObject_CallFunction(
          plan_->look, "OOn(dddd)OOOdOOO", desk.frame.get(), desk.tensors.get(), static_cast<Py_ssize_t>(desk.heads.ran),
          stages_.parse, stages_.rows, stages_.queue, stages_.run, assignment_->told.get(), id.get(), bytes.get(), began,
          of_given_.get() ? of_given_.get() : Py_None, truth(is_followed_), truth(is_explained_))));
    });
  }

  Outcome take(Worker& worker, Frame& frame) {
    frame.live = nullptr;
    frame.reads_texts = assignment_->reads_texts;
    frame.keeps_rows = is_followed_;
    if (!read(frame)) return Outcome::kUnread;
    const double before = clock_s();
    const Outcome outcome = given_ ? frame.fill(given_->given, given_at_) : fill(worker, frame);
    frame.live = nullptr;
    stages_.rows += clock_s() - before;
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
    if (assignment_->model->has_files())
      return frame.fill(*Box<HeldRowFile>::of(users).file, *Box<HeldRowFile>::of(items).file, now);
    return frame.fill(Box<HeldArena>::of(users).arena, Box<HeldArena>::of(items).arena, assignment_->epochs, now);
  }

  const size_t max_candidates_;
  bool is_read_ = false;      // `request_` is
  bool is_followed_ = false;  // keep its rows, and look
  bool is_explained_ = false;  // look
  double given_at_ = 0.0;
};

}  // namespace
