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
  FrontJob(std::shared_ptr<const Plan> plan, std::string body, std::string request_id, size_t max_candidates, Load load,
           int64_t bucket, double deadline, double began, Wire wire)
      : ScoringJob(std::move(plan), std::move(body), std::move(request_id), max_candidates, load.rows, deadline, began),
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
  // Whether its end can wait until the front's thread wakes for something else.
  bool is_quiet() const { return is_sent && left.empty() && !is_awaited && !holds_python(); }
  // Whether it is to be freed with Python's lock.
  bool holds_python() const { return own_ || live_ || given_ || looked_.is_valid() || error_.is_valid(); }
  size_t candidates() const { return candidates_; }
  double seconds() const { return ready_at_ - began; }
  // What followers learn, or None.
  nb::object followed() const { return is_scored() ? or_none(looked_) : nb::none(); }
  // With what it is scored, and what it lacks.
  const Assignment& assignment() const { return *assignment_; }
  const Request& asked() const { return request_; }
  bool is_given() const { return given_ != nullptr; }

  const Load load;
  const int64_t bucket;
  Connection* connection = nullptr;  // until its request is answered
  bool is_released = false;          // its load is
  bool is_away = false;              // Python fetches what it lacks
  std::atomic<bool> is_awaited{false};  // the connection has more to do
  std::string left;      // of the reply: what is not written
  bool is_sent = false;  // the job has answered by itself

 private:
  // Write as much of the reply as the connection takes now.
  void send(Desk& desk, std::string_view reply) override {
    if (!claim()) return;
    char told[256];
    std::snprintf(told, sizeof told,
                  "content-type: application/json\r\ncontent-length: %zu\r\n"
                  "server-timing: parse;dur=%.3f, rows;dur=%.3f, queue;dur=%.3f, run;dur=%.3f, total;dur=%.3f\r\n",
                  reply.size(), 1000 * stages_.parse, 1000 * stages_.rows, 1000 * stages_.queue, 1000 * stages_.run,
                  1000 * (ready_at_ - began));
    std::string& whole = desk.whole;
    whole.assign(wire_.head).append(told).append(wire_.tail).append(reply);
    const std::lock_guard lock(mutex_);
    const ssize_t written = wire_.descriptor < 0 ? 0 : ::send(wire_.descriptor, whole.data(), whole.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    // After another error the client has left, and the front will notice.
    if (written >= 0 || errno == EAGAIN || errno == EWOULDBLOCK) left = whole.substr(static_cast<size_t>(std::max<ssize_t>(written, 0)));
    is_sent = true;
  }

  std::mutex mutex_;  // guards the descriptor
  Wire wire_;
};

}  // namespace
