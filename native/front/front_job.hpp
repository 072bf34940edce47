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
  bool holds_python() const {
    return own_ || live_ || given_ || looked_.is_valid() || error_.is_valid() || finish_.is_valid();
  }
  size_t candidates() const { return candidates_; }
  double seconds() const { return ready_at_ - began; }
  // What followers learn, or None.
  nb::object followed() const { return is_scored() ? or_none(looked_) : nb::none(); }
  // With what it is scored, and what it lacks.
  const Assignment& assignment() const { return *assignment_; }
  const Request& asked() const { return request_; }
  bool is_given() const { return given_ != nullptr; }
  std::string take_body() { return std::move(is_translated_ ? untranslated_ : body); }

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
      const nb::object length = sent.json_length.empty() ? nb::none() : nb::object(bytes_of(sent.json_length));
      const nb::object made = (*plan_->translate)(sent.path, length, request_id, bytes_of(body));
      if (made.is_none()) return false;
      shown_id = nb::cast<std::string>(made[0]);
      request_id = nb::cast<std::string>(made[1]);
      untranslated_ = std::exchange(body, std::string(view_of(nb::cast<nb::bytes>(made[2]))));
      finish_ = made[3];
      return is_translated_ = true;
    });
    const double took = clock_s() - before;
    stages_.parse += took;
    stages_.queue -= took;
    return is_made;
  }

  // The reply of the request's own form: its first headers, and its body.
  std::pair<std::string, std::string> finished(Worker& worker, std::string_view reply) {
    return ask(worker, [&] {
      // Let go of with Python's lock, so that the job needs it no more.
      const nb::object finish = std::exchange(finish_, {});
      const auto [headers, whole] =
          nb::cast<std::pair<std::vector<std::pair<nb::bytes, nb::bytes>>, nb::bytes>>(finish(bytes_of(reply)));
      std::string lines;
      for (const auto& [name, value] : headers) lines.append(view_of(name)).append(": ").append(view_of(value)).append("\r\n");
      return std::pair(std::move(lines), std::string(view_of(whole)));
    });
  }

  // Write as much of the reply as the connection takes now.
  void send(Worker& worker, Desk& desk, std::string_view reply) override {
    std::pair<std::string, std::string> own;
    std::string_view first = "content-type: application/json\r\n";
    if (is_translated_) {
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

  nb::object finish_;  // makes the reply of the request's own form
  bool is_translated_ = false;
  std::string untranslated_;
  std::mutex mutex_;  // guards the descriptor
  Wire wire_;
};

}  // namespace
