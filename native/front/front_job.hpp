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

class FrontJob : public ScoringJob {
 public:
  FrontJob(std::shared_ptr<const Plan> plan, Sent sent, size_t max_candidates, Load load, int64_t bucket, double deadline,
           double began, Wire wire)
      : ScoringJob(std::move(plan), std::move(sent), max_candidates, load.rows, deadline, began),
        load(load),
        bucket(bucket),
        wire_(std::move(wire)) {}

  // Write to the connection no more: it is about to end, and its descriptor will be another's.
  void hang_up() {
    const std::lock_guard lock(mutex_);
    wire_.descriptor = -1;
  }

  bool is_scored() const { return ending == Ending::kDone && fate_ == Fate::kScored; }
  bool is_lacking() const { return ending == Ending::kDone && fate_ == Fate::kLacking; }
  bool is_timed() const { return ending == Ending::kDone && fate_ == Fate::kTimed; }
  // Whether its end can wait until the front's thread wakes for something else.
  bool is_quiet() const { return has_answered && !is_awaited && !holds_python(); }
  // Whether it is to be freed with Python's lock.
  bool holds_python() const {
    return !own_.empty() || live_ || given_ || !looked_.empty() || error_.is_valid() || made_.is_valid();
  }
  size_t candidates() const { return candidates_; }
  double seconds() const { return ready_at_ - began; }
  // With what it is scored, and what it lacks.
  const Assignment& assignment() const { return *assignment_; }
  bool is_given() const { return is_given_; }

  const Load load;
  const int64_t bucket;
  Connection* connection = nullptr;  // until its request is answered
  bool is_released = false;          // its load is
  bool is_away = false;              // Python fetches what it lacks
  std::atomic<bool> is_awaited{false};  // the connection has more to do
  std::atomic<bool> has_answered{false};  // all of the reply is written
  std::string left;      // of the reply: what is not written
  bool is_sent = false;  // the job has answered by itself

 private:
  // Write as much of the reply as the connection takes now; one that is to be explained is for Python.
  void send(Desk& desk, std::string_view reply) override {
    if (parts_[0].request.is_explained) {
      reply_ = reply;
      return;
    }
    if (!claim()) return;
    std::string& whole = desk.whole;
    whole.assign(wire_.head).append(head(reply.size())).append("x-request-id: ").append(shown_id).append("\r\n");
    whole.append(wire_.tail).append(reply);
    const std::lock_guard lock(mutex_);
    const ssize_t written = wire_.descriptor < 0 ? 0 : ::send(wire_.descriptor, whole.data(), whole.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    // After another error the client has left, and the front will notice.
    if (written >= 0 || errno == EAGAIN || errno == EWOULDBLOCK) left = whole.substr(static_cast<size_t>(std::max<ssize_t>(written, 0)));
    is_sent = true;
    has_answered = left.empty();
  }

  std::mutex mutex_;  // guards the descriptor
  Wire wire_;
};

}  // namespace
