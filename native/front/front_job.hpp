// Requests that the engine scores and answers without Python, which is asked only for what it alone knows.
#pragma once

#include <sys/socket.h>

#include <cerrno>

#include "../engine/scoring_job.hpp"
#include "connection.hpp"

namespace {

// Where a reply goes: the first bytes of its head, and the last.
struct Wire {
  int descriptor;  // −1 if bytes written to it are not the next that the client reads
  std::string head, tail;
};

// A request as its client has sent it.
struct Sent {
  Form form;
  std::string path, json_length;
  size_t size;  // of its body
};

class FrontJob : public ScoringJob {
 public:
  FrontJob(std::shared_ptr<const Plan> plan, std::string body, std::string request_id, size_t max_candidates, Load load,
           int64_t bucket, double deadline, double began, Sent sent, Wire wire)
      : ScoringJob(std::move(plan), std::move(body), std::move(request_id), max_candidates, load.rows, deadline, began),
        load(load),
        bucket(bucket),
        sent(std::move(sent)),
        shown_id(this->request_id),
        wire_(std::move(wire)) {}

  // Write to the connection no more: it is about to end, and its descriptor will be another's.
  void hang_up() {
    const std::lock_guard lock(mutex_);
    wire_.descriptor = -1;
  }

  bool is_scored() const { return ending == Ending::kDone && fate_ == Fate::kScored; }
  bool is_lacking() const { return ending == Ending::kDone && fate_ == Fate::kLacking; }
  // Whether its end can wait until the front's thread wakes for something else.
  bool is_quiet() const { return is_sent && left.empty() && !is_awaited && !holds_python(); }
  // Whether it is to be freed with Python's lock.
  bool holds_python() const { return own_ || live_ || given_ || looked_.get() || error_.get() || finish_.get(); }
  size_t candidates() const { return candidates_; }
  double seconds() const { return ready_at_ - began; }
  // What followers learn, if there is something.
  PyObject* followed() const { return is_scored() ? looked_.get() : nullptr; }
  // With what it is scored, and what it lacks.
  const Assignment& assignment() const { return *assignment_; }
  const Request& asked() const { return request_; }
  bool is_given() const { return given_ != nullptr; }
  std::string take_body() { return std::move(finish_.get() ? untranslated_ : body); }

  const Load load;
  const int64_t bucket;
  const Sent sent;
  std::string shown_id;              // the reply's
  Connection* connection = nullptr;  // until its request is answered
  bool is_released = false;          // its load is
  bool is_away = false;              // Python fetches what it lacks
  std::atomic<bool> is_awaited{false};  // the connection has more to do
  std::string left;      // of the reply: what is not written
  bool is_sent = false;  // the job has answered by itself

 private:
  // Have Python make a scoring request of another form; it may leave that to the app.
  bool prepare(Worker& worker) override {
    if (sent.form == Form::kScore) return true;
    const double before = clock_s();
    const bool is_made = ask(worker, [&] {
      const Ref path(checked(to_python(sent.path))), id(checked(to_python(request_id))), bytes(checked(to_bytes(body)));
      const Ref length = sent.json_length.empty() ? Ref::to(Py_None) : Ref(checked(to_bytes(sent.json_length)));
      const Ref made(checked(PyObject_CallFunctionObjArgs(plan_->translate, path.get(), length.get(), id.get(), bytes.get(), nullptr)));
      if (made.get() == Py_None) return false;
      shown_id = text_of(item_of(made.get(), 0));
      request_id = text_of(item_of(made.get(), 1));
      untranslated_ = std::exchange(body, std::string(bytes_of(item_of(made.get(), 2))));
      finish_ = Ref::to(item_of(made.get(), 3));
      return true;
    });
    const double took = clock_s() - before;
    stages_.parse += took;
    stages_.queue -= took;
    return is_made;
  }

  // The reply of the request's own form: its first headers, and its body.
  std::pair<std::string, std::string> finished(Worker& worker, std::string_view reply) {
    return ask(worker, [&] {
      const Ref bytes(checked(to_bytes(reply))), made(checked(PyObject_CallOneArg(finish_.get(), bytes.get())));
      const Ref headers(checked(PySequence_Fast(item_of(made.get(), 0), "headers are a list")));
      std::string lines;
      for (Py_ssize_t k = 0; k < PySequence_Fast_GET_SIZE(headers.get()); k++) {
        PyObject* const header = PySequence_Fast_GET_ITEM(headers.get(), k);
        lines.append(bytes_of(item_of(header, 0))).append(": ").append(bytes_of(item_of(header, 1))).append("\r\n");
      }
      return std::pair(std::move(lines), std::string(bytes_of(item_of(made.get(), 1))));
    });
  }

  // Write as much of the reply as the connection takes now.
  void send(Worker& worker, Desk& desk, std::string_view reply) override {
    std::pair<std::string, std::string> own;
    std::string_view first = "content-type: application/json\r\n";
    if (finish_.get()) {
      own = finished(worker, reply);
      first = own.first;
      reply = own.second;
      ready_at_ = clock_s();
    }
    if (!claim()) return;
    char told[256];
    std::snprintf(told, sizeof told,
                  "content-length: %zu\r\n"
                  "server-timing: parse;dur=%.3f, rows;dur=%.3f, queue;dur=%.3f, run;dur=%.3f, total;dur=%.3f\r\n",
                  reply.size(), 1000 * stages_.parse, 1000 * stages_.rows, 1000 * stages_.queue, 1000 * stages_.run,
                  1000 * (ready_at_ - began));
    std::string& whole = desk.whole;
    whole.assign(wire_.head).append(first).append(told).append("x-request-id: ").append(shown_id).append("\r\n");
    whole.append(wire_.tail).append(reply);
    const std::lock_guard lock(mutex_);
    const ssize_t written = wire_.descriptor < 0 ? 0 : ::send(wire_.descriptor, whole.data(), whole.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    // After another error the client has left, and the front will notice.
    if (written >= 0 || errno == EAGAIN || errno == EWOULDBLOCK) left = whole.substr(static_cast<size_t>(std::max<ssize_t>(written, 0)));
    is_sent = true;
  }

  Ref finish_;  // makes the reply of the request's own form
  std::string untranslated_;
  std::mutex mutex_;  // guards the descriptor
  Wire wire_;
};

}  // namespace
