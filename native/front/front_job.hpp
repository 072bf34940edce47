// Requests that the engine scores and answers without Python, which is asked only for what it alone knows.
#pragma once

#include <sys/socket.h>

#include <cerrno>

#include "../engine/scoring_job.hpp"
#include "connection.hpp"

namespace {

// With what requests are scored until the next swap. Shared by those under way, and freed with Python's lock.
struct Plan {
  Ref told;
  LoadedModel* first = nullptr;
  std::optional<Assignment> fixed;  // the same for all requests
  PyObject* assign = nullptr;       // or what returns it, called with a user's and a request's ID
  bool is_by_user = false;          // if it needs the user's
  PyObject* wants = nullptr;        // says, by a request's ID, whether it is followed
  PyObject* look = nullptr;

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

// Where a reply goes: the first bytes of its head, and the last.
struct Wire {
  int descriptor;  // −1 if bytes written to it are not the next that the client reads
  std::string head, tail;
};

class FrontJob : public ScoringJob {
 public:
  FrontJob(std::shared_ptr<const Plan> plan, std::string body, std::string request_id, size_t max_candidates, Load load,
           int64_t bucket, double deadline, double began, Wire wire)
      : ScoringJob(*plan->first, std::move(request_id), max_candidates, load.rows, deadline, began),
        load(load),
        bucket(bucket),
        body(std::move(body)),
        plan_(std::move(plan)),
        wire_(std::move(wire)) {
    bytes_ = this->body;
    is_by_user_ = plan_->is_by_user;
    if (plan_->fixed) assignment_ = &*plan_->fixed;
  }

  bool fit(Worker& worker, double now) override {
    if (now > deadline) return end(Ending::kLate);
    if (!plan_->wants) return true;
    try {
      is_followed_ = ask(worker, [&] {
        const Ref id(checked(to_python(request_id_)));
        return Ref(checked(PyObject_CallOneArg(plan_->wants, id.get()))).get() == Py_True;
      });
    } catch (const PythonError&) {
      return end(Ending::kFailed);
    }
    return true;
  }

  void drop() override {}
  PyObject* result() override { return Py_NewRef(Py_None); }

  // Write to the connection no more: it is about to end, and its descriptor will be another's.
  void hang_up() {
    const std::lock_guard lock(mutex_);
    wire_.descriptor = -1;
  }

  bool is_scored() const { return ending == Ending::kDone && fate_ == Fate::kScored; }
  // Whether its end can wait until the front's thread wakes for something else.
  bool is_quiet() const { return is_sent && left.empty() && !is_awaited && !holds_python(); }
  // Whether it is to be freed with Python's lock.
  bool holds_python() const { return own_ || live_ || looked_.get() || error_.get(); }
  const std::string& request_id() const { return request_id_; }
  size_t candidates() const { return candidates_; }
  double began() const { return began_; }
  double seconds() const { return ready_at_ - began_; }
  // What followers learn, if there is something, and of which plan.
  PyObject* followed() const { return is_scored() ? looked_.get() : nullptr; }
  const Plan& plan() const { return *plan_; }

  const Load load;
  const int64_t bucket;
  std::string body;
  Connection* connection = nullptr;  // until its request is answered
  bool is_released = false;          // its load is
  std::atomic<bool> is_awaited{false};  // the connection has more to do
  std::string left;      // of the reply: what is not written
  bool is_sent = false;  // the job has answered by itself

 private:
  Ref assigned(std::string_view user_id) override {
    const Ref user(checked(to_python(user_id))), id(checked(to_python(request_id_)));
    return Ref(checked(PyObject_CallFunctionObjArgs(plan_->assign, user.get(), id.get(), nullptr)));
  }

  // Of what a request lacks nothing is kept: it is handed to Python.
  Ref looked_at(const Desk& desk, size_t ran) override {
    if (!ran) return {};
    const Ref id(checked(to_python(request_id_))), bytes(checked(to_bytes(body)));
    return Ref(checked(PyObject_CallFunction(plan_->look, "OOn(dddd)OOOd", desk.frame.get(), desk.tensors.get(),
                                             static_cast<Py_ssize_t>(ran), stages_.parse, stages_.rows, stages_.queue,
                                             stages_.run, assignment_->told.get(), id.get(), bytes.get(), began_)));
  }

  // Write as much of the reply as the connection takes now.
  void send(Desk& desk, std::string_view reply) override {
    if (!claim()) return;
    char told[256];
    std::snprintf(told, sizeof told,
                  "content-type: application/json\r\ncontent-length: %zu\r\n"
                  "server-timing: parse;dur=%.3f, rows;dur=%.3f, queue;dur=%.3f, run;dur=%.3f, total;dur=%.3f\r\n",
                  reply.size(), 1000 * stages_.parse, 1000 * stages_.rows, 1000 * stages_.queue, 1000 * stages_.run,
                  1000 * (ready_at_ - began_));
    std::string& whole = desk.whole;
    whole.assign(wire_.head).append(told).append(wire_.tail).append(reply);
    const std::lock_guard lock(mutex_);
    const ssize_t written = wire_.descriptor < 0 ? 0 : ::send(wire_.descriptor, whole.data(), whole.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    // After another error the client has left, and the front will notice.
    if (written >= 0 || errno == EAGAIN || errno == EWOULDBLOCK) left = whole.substr(static_cast<size_t>(std::max<ssize_t>(written, 0)));
    is_sent = true;
  }

  const std::shared_ptr<const Plan> plan_;
  std::mutex mutex_;  // guards the descriptor
  Wire wire_;
};

}  // namespace
