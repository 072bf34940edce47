// The HTTP front: reads requests, has the engine score those that are for it, hands all others to Python, and writes
// replies, in order and within bounds. Its thread never waits for Python's lock.
#pragma once

#include <random>
#include <variant>

#include "../engine/scoring_job.hpp"
#include "replies.hpp"
#include "sockets.hpp"

namespace {

// What Python is told, in order: each request, then its body, once that is whole or too large.
struct HandedRequest {
  uint64_t number;
  HttpHead head;
  bool is_secure, is_whole, is_late;
  double began;
  sockaddr_storage client;
  std::unique_ptr<ScoringJob> job;  // which has its body, and has found that it is for Python; or none
};
struct HandedBody {
  uint64_t number;
  std::string bytes;
  bool is_last;
};
struct UnknownKey {  // which the front does not know
  uint64_t number;
  std::string key;
};
struct ClientGone {  // the client of a handed request
  uint64_t number;
};
struct NotAccepted {
  int reason;
};
struct NeedsRows {  // Python fetches what it lacks, and hands it back to the front
  ScoringJob* job;
};
struct KnownKey {
  std::string name;
  double until;
};
struct Answered {  // by the engine
  std::unique_ptr<ScoringJob> job;
};
using FrontEvent = std::variant<HandedRequest, HandedBody, UnknownKey, ClientGone, NotAccepted, NeedsRows, Answered>;

class Front : public Keeper, public Sockets {
 public:
  Front(Engine& engine, const Limits& limits) : Sockets(engine.tally, limits), engine_(engine) {
    std::random_device random;
    char text[32];
    std::snprintf(text, sizeof text, "%08x%08x", random(), random());
    process_ = text;
  }
  // With Python's lock, after `stop`. The engine has none of its jobs.
  ~Front() override {
    for (ScoringJob* const job : ended_) delete job;
    for (const FrontEvent& event : events_)
      if (const auto* const needing = std::get_if<NeedsRows>(&event)) delete needing->job;
  }

  void take_back(Job& job) override {
    auto& own = static_cast<ScoringJob&>(job);
    bool is_quiet;
    {
      // Once this is unlocked, it may be freed.
      const std::lock_guard lock(ended_mutex_);
      ended_.push_back(&own);
      is_quiet = own.is_quiet();
    }
    if (!is_quiet) bell_.ring();
  }
  bool is_behind() override { return bell_.is_rung(); }

  // With Python's lock

  // Score by this from now on; without one, Python answers all. `is_aside`: for the playground to compare with.
  void serve(std::shared_ptr<const Plan> plan, bool is_aside) {
    const std::lock_guard lock(plans_mutex_);
    if (plan) plans_.push_back(plan);
    (is_aside ? aside_ : plan_) = std::move(plan);
  }
  // Let go of what no request needs any more.
  void forget_plans() {
    std::vector<std::shared_ptr<const Plan>> left;  // freed without the mutex, for that runs Python
    const std::lock_guard lock(plans_mutex_);
    for (auto& plan : plans_)
      if (plan.use_count() == 1) left.push_back(std::move(plan));
    std::erase(plans_, nullptr);
  }

  std::vector<FrontEvent> take_events() {
    python_bell.answer();
    const std::lock_guard lock(events_mutex_);
    event_bytes_ = 0;
    if (!events_.empty()) tally_.hold(Measure::kLoopHold, clock_s() - events_since_);
    return std::exchange(events_, {});
  }

  // Of a handed request: a part of its reply; `closes`: its head says that the connection ends with it.
  void reply(uint64_t number, std::string bytes, bool is_last, bool closes) {
    tell_thread([this, number, bytes = std::move(bytes), is_last, closes] {
      Connection* const one = asking(number);
      if (one) attempt(*one, [&] { write_part(*one, bytes, is_last, closes); });
    });
  }
  // Its client may send the body.
  void go_on(uint64_t number) {
    tell_thread([this, number] {
      Connection* const one = asking(number);
      if (one && !one->requests.front()->is_whole) send_continue(*one, *one->requests.front());
    });
  }
  // It gets no reply.
  void abandon(uint64_t number) {
    tell_thread([this, number] {
      if (Connection* const one = asking(number)) close(*one);
    });
  }

  // Keys that Python has found to be good, and their names, until a time (Unix s); each change of the keys forgets them.
  void know_key(std::string key, std::string name, double until) {
    const std::lock_guard lock(plans_mutex_);
    keys_.emplace(std::move(key), KnownKey{std::move(name), until});
  }
  void forget_keys() {
    const std::lock_guard lock(plans_mutex_);
    keys_.clear();
  }
  // Python has looked at a request's key.
  void judged(uint64_t number) {
    tell_thread([this, number] {
      Connection* const one = asking(number);
      if (!one) return;
      HttpRequest& request = *one->requests.front();
      asking_.erase(number);
      request.is_judged = true;
      request.state = HttpState::kWaiting;
      attempt(*one, [&] { go_ahead(*one); });
    });
  }

  // End connections with their replies.
  void drain() {
    have_done([this] { replies_.is_draining = true; });
  }

  // Close the connections that are owed no reply, and each other one with its last.
  void close_idle() {
    have_done([this] {
      replies_.is_draining = is_closing_ = true;
      for_each([this](Connection& one) {
        if (one.requests.empty()) end(one);
      });
    });
  }

  size_t held() const { return held_; }
  size_t jobs() const { return jobs_; }  // that the engine has

  Bell python_bell;  // for Python

 private:
  static constexpr size_t kClogged = 65'536;
  // Bytes that a request takes, beside its head and body.
  static constexpr size_t kRequestBytes = 4'096;
  // Maximum bodies that may pass unread after a reply: a client that still writes does not read.
  static constexpr size_t kPassedBodies = 8;

  // In the front's thread

  void look() override {
    std::vector<ScoringJob*> ended;
    {
      const std::lock_guard lock(ended_mutex_);
      ended.swap(ended_);
    }
    for (ScoringJob* const job : ended) {
      Connection* const one = job->connection;
      timed([&] { one ? attempt(*one, [&] { take_ended(job); }) : take_ended(job); });
    }
  }

  void tick() override {
    if (jobs_) {
      const Engine::Late found = engine_.claim_late(*this);
      for (Job* const job : found.waiting) late(static_cast<ScoringJob&>(*job), kTooLate);
      for (Job* const job : found.running) {
        ScoringJob& one = static_cast<ScoringJob&>(*job);
        late(one, kTooLate, one.sent.request_id);
      }
    }
    for_each([this](Connection& one) {
      bound_times(one);
      if (one.descriptor < 0 || one.requests.empty()) return;
      const HttpRequest& first = *one.requests.front();
      if (now_ <= first.until) return;
      if (first.state == HttpState::kPassing) close(one, Count::kUnreadBody);
      if (first.state == HttpState::kComing) hand(one, {}, true);
    });
    bound_unread();
  }

  bool is_at_work() const override { return jobs_ > 0; }

  void cannot_accept(int reason) override { tell_python(NotAccepted{reason}); }

  // A part of the first request's reply, by Python.
  void write_part(Connection& one, std::string_view bytes, bool is_last, bool closes) {
    HttpRequest& request = *one.requests.front();
    request.is_begun = true;
    write(one, bytes);
    if (!is_last) return;
    request.closes |= closes;
    asking_.erase(request.number);
    if (closes && !request.is_whole) return drop_all(one), say_goodbye(one);
    answered(one);
  }

  // Reading

  // A whole request is answered before the connection ends.
  void half_close(Connection& one) override {
    if (!one.requests.empty() && !one.requests.back()->is_whole) {
      if (one.requests.size() == 1) return close(one);
      drop_last(one);
    }
    if (one.requests.empty() && one.out.empty()) return close(one);
    one.is_ended = true;
    one.closes = one.requests.empty();
    one.head_since = 0.0;
    watch(one, false, one.writes);
    await_end(one);
  }

  void come(Connection& one, std::string_view data) override {
    if (one.is_ended || one.closes) {
      one.passed += data.size();
      if (one.passed > kPassedBodies * limits_.max_body) close(one);
      return;
    }
    const double before = one.idle_since;
    one.idle_since = 0.0;
    for (bool is_more = true; is_more;) {
      if (!one.parser.is_in_head() && !one.parser.is_in_body()) one.began = now_;
      switch (one.parser.next(data)) {
        case Parser::Event::kHead:
          if (!take_head(one)) return;
          break;
        case Parser::Event::kBody:
          take_body(one, one.parser.body);
          break;
        case Parser::Event::kEnd:
          take_end(one);
          if (one.descriptor < 0 || one.closes) return;
          break;
        case Parser::Event::kFault:
          return refuse(one, std::move(one.parser.fault));
        case Parser::Event::kNone:
          is_more = false;
      }
    }
    const bool is_in_head = one.parser.is_in_head();
    if (is_in_head && !one.head_since) one.head_since = now_;
    if (one.requests.empty() && !is_in_head && !one.is_silent) one.idle_since = before > 0.0 ? before : now_;
    hold(one.held_head, one.parser.head_bytes());
    const bool is_unfinished = is_in_head || (!one.requests.empty() && !one.requests.back()->is_whole);
    one.unfinished_since = !is_unfinished ? 0.0 : one.unfinished_since > 0.0 ? one.unfinished_since : now_;
    if (!has_room() && !find_room(one)) return;
    if (!one.requests.empty() && one.requests.front()->state == HttpState::kPassing && one.passed > kPassedBodies * limits_.max_body)
      return close(one, Count::kUnreadBody);
    await_end(one);
    go_ahead(one);
  }

  bool take_head(Connection& one) {
    one.head_since = 0.0;
    one.is_silent = false;
    if (one.requests.size() > limits_.max_waiting) {
      refuse(one, {400, "bad_http",
                   "more than " + std::to_string(limits_.max_waiting) + " requests wait on this connection; wait for replies"});
      return false;
    }
    auto request = std::make_unique<HttpRequest>();
    request->head = std::exchange(one.parser.head, {});
    request->number = ++numbers_;
    request->began = one.began;
    request->closes = request->head.closes;
    request->head_bytes = request->head.text.size();
    hold(request->held, kRequestBytes * !one.requests.empty() + request->head_bytes);
    one.requests.push_back(std::move(request));
    return true;
  }

  void take_body(Connection& one, std::string_view bytes) {
    HttpRequest& request = *one.requests.back();
    request.body_bytes += bytes.size();
    if (request.state == HttpState::kPassing) {
      one.passed += bytes.size();
      return;
    }
    // What exceeds the limit is not needed to refuse it.
    if (request.body_bytes - bytes.size() > limits_.max_body) return;
    hold(request.held, request.held + bytes.size());
    request.add(bytes);
    if (request.body_bytes <= limits_.max_body) return;
    if (request.state == HttpState::kHanded) tell_body(request);
    if (request.state == HttpState::kComing) hand(one);
  }

  void take_end(Connection& one) {
    HttpRequest& request = *one.requests.back();
    request.is_whole = true;
    if (request.state == HttpState::kHanded) tell_body(request);
    if (request.state == HttpState::kPassing) answered(one);
  }

  // Tell Python the body of a handed request: the whole one, or what exceeds the limit.
  void tell_body(HttpRequest& request) {
    std::string body = request.take_body();
    const size_t size = body.size();
    tell_python(HandedBody{request.number, std::move(body), request.is_whole}, size);
  }

  // Bytes in flight.
  void hold(size_t& of, size_t size) {
    held_ = held_ - of + size;
    of = size;
  }

  bool has_room() const { return held_ + event_bytes_ <= limits_.inflight; }

  // Until all bytes fit, refuse the oldest unfinished request; or what waits behind others, where that is most; or, at
  // last, this connection's, and return false.
  bool find_room(Connection& wanting) {
    while (!has_room()) {
      Connection *oldest = nullptr, *longest = nullptr;
      for_each([&](Connection& one) {
        if (one.unfinished_since > 0.0 && (!oldest || one.unfinished_since < oldest->unfinished_since)) oldest = &one;
        if (one.requests.size() > 1 && (!longest || one.requests.size() > longest->requests.size())) longest = &one;
      });
      Connection& found = oldest ? *oldest : longest ? *longest : wanting;
      if (!oldest && longest)
        while (found.requests.size() > 1) drop_last(found);
      refuse(found, {429, "overloaded", "too many request bytes in flight; retry"});
      if (&found == &wanting) return false;
    }
    return true;
  }

  // Answering

  // Begin the requests whose turn it is.
  void go_ahead(Connection& one) override {
    while (one.descriptor >= 0 && !one.is_lost && !one.requests.empty() && one.out.size() <= kClogged) {
      HttpRequest& request = *one.requests.front();
      if (request.state == HttpState::kWaiting && !await_body(one, request)) return;
      if (request.state != HttpState::kComing || !request.is_whole) return;
      if (!score(one)) return;
    }
  }

  // Wait for the body of a request that the engine can answer, by its head, once its key is known to be good.
  bool await_body(Connection& one, HttpRequest& request) {
    ScoringHead& head = request.asked = {};
    const bool is_for_engine = std::max<size_t>(request.head.length, request.body_bytes) <= limits_.max_body &&
                               head.read(request.head, limits_.max_deadline_s);
    bool is_known = !limits_.needs_keys;
    if (is_for_engine) {
      const std::lock_guard lock(plans_mutex_);
      if (!plan_of(head)) return hand(one), false;
      is_known |= known(head.key) != nullptr;
    }
    if (!is_for_engine || (!is_known && (request.is_judged || head.key.empty()))) return hand(one), false;
    if (!is_known) {
      request.state = HttpState::kAsked;
      asking_.emplace(request.number, &one);
      return tell_python(UnknownKey{request.number, std::string(head.key)}), false;
    }
    request.state = HttpState::kComing;
    request.until = now_ + limits_.body_s;
    if (request.head.expects && !request.is_whole) send_continue(one, request);
    return true;
  }

  void send_continue(Connection& one, HttpRequest& request) {
    request.has_gone_on = true;
    write(one, "HTTP/1.1 100 Continue\r\n\r\n");
  }

  // With what such a request is scored; none if it is Python's.
  std::shared_ptr<const Plan> plan_of(const ScoringHead& head) const {
    if (head.is_aside) return aside_;
    return plan_ && (head.form == Form::kScore || plan_->translate) ? plan_ : nullptr;
  }

  const KnownKey* known(std::string_view key) const {
    const auto found = keys_.find(std::string(key));
    if (found == keys_.end() || found->second.until <= static_cast<double>(std::time(nullptr))) return nullptr;
    return &found->second;
  }

  // Have the engine score the first request; true if it is answered already.
  bool score(Connection& one) {
    HttpRequest& request = *one.requests.front();
    const ScoringHead& head = request.asked;
    const double deadline = request.began + (head.seconds > 0.0 ? head.seconds : limits_.deadline_s);
    std::string id(head.request_id);
    if (id.empty()) {
      char text[17];
      const auto digits = static_cast<size_t>(std::to_chars(text, text + sizeof text, request.number, 16).ptr - text);
      id = process_ + std::string(16 - digits, '0').append(text, digits);
    }
    std::shared_ptr<const Plan> plan;
    Load load;
    {
      const std::lock_guard lock(plans_mutex_);
      plan = plan_of(head);
      if (const KnownKey* const key = known(head.key)) load.key = key->name;
    }
    if (!plan) return hand(one), false;
    const double now = clock_s();
    if (now > deadline) {
      tally_.inc(Count::kShedLate);
      return refused_by_engine(one, {504, "deadline_exceeded", kUnread}, head.form, id, Count::kLate), true;
    }
    int64_t bucket = 0;
    const Refused refused = engine_.admit([&](Admission& admission, auto runs) {
      load.rows = admission.rows_in(request.body_bytes, head.form);
      load.seconds = plan->first.runner.turn_s(load.rows, head.form);
      return admission.enter(load, now, deadline, runs, bucket);
    });
    if (refused) {
      tally_.inc(refused.reason == Refusal::kRows ? Count::kShedRows : Count::kShedWait);
      return refused_by_engine(one, {429, "overloaded", refused.message}, head.form, id, Count::kOverloaded), true;
    }
    try {
      Wire wire{one.out.empty() ? one.descriptor : -1, replies_.opening(200),
                request.closes && !replies_.is_draining ? "connection: close\r\n\r\n" : "\r\n"};
      Sent sent{head.form, std::string(head.path), {}, head.seconds > 0.0, std::move(id), request.take_body()};
      if (head.json_length.data()) sent.json_length = head.json_length;
      request.job = new ScoringJob(std::move(plan), std::move(sent), limits_.max_candidates, load, bucket, deadline,
                                   request.began, std::move(wire));
    } catch (const std::bad_alloc&) {
      engine_.admit([&](Admission& admission, auto) { admission.leave(load, bucket); });
      throw;
    }
    request.closes |= replies_.is_draining;
    request.job->keeper = this;
    request.job->connection = &one;
    request.state = HttpState::kScored;
    ScoringJob& job = *request.job;  // the connection may let go of it at once
    await_end(one);
    put(job);
    return false;
  }

  void put(ScoringJob& job) {
    jobs_++;
    if (engine_.put(job)) return;
    // It was closed.
    jobs_--;
    Connection& one = *detached(job);
    release(job);
    free(&job);
    lose(one);
  }

  // The connection that waited for a job, if any does.
  static Connection* detached(ScoringJob& job) {
    Connection* const one = std::exchange(job.connection, nullptr);
    if (one) one->requests.front()->job = nullptr;
    return one;
  }

  // If the connection has more to do than to wait for a job, go on where that has answered; else it wakes this thread when
  // it ends.
  void await_end(Connection& one) {
    if (one.requests.empty() || one.requests.front()->state != HttpState::kScored) return;
    HttpRequest& request = *one.requests.front();
    if (one.requests.size() == 1 && !request.closes && !one.is_ended) return;
    if (!request.job->has_answered) request.job->is_awaited = true;
    // Asked again: it may have answered meanwhile, before it could see that.
    if (!request.job->has_answered) return;
    std::exchange(request.job, nullptr)->connection = nullptr;
    answered(one);
  }

  void refused_by_engine(Connection& one, const Fault& fault, Form form, std::string_view id, Count status) {
    tally_.inc(status);
    HttpRequest& request = *one.requests.front();
    write(one, replies_.refusal(fault, form, id, request.closes));
    request.closes |= replies_.is_draining;
    answered(one, false);
  }

  static constexpr const char* kUnread = "deadline exceeded before the request was queued: its client, or the service, was slow";
  static constexpr const char* kBefore = "deadline exceeded before a scoring thread was free";
  static constexpr const char* kTooLate = "deadline exceeded: no scoring thread was free in time, or the run did not end";
  static constexpr const char* kNoTime = "deadline exceeded: too little time left for one model run";

  // Answer a claimed job that cannot be scored in time.
  void late(ScoringJob& job, const char* why) { late(job, why, job.shown_id); }
  // The same, also while it runs.
  void late(ScoringJob& job, const char* why, const std::string& id) {
    tally_.inc(Count::kShedLate);
    release(job);
    Connection* const one = detached(job);
    if (!one) return;
    char waited[96];
    std::snprintf(waited, sizeof waited, " (%.0f ms until it was queued, %.0f since)", 1000 * (job.queued_at - job.began),
                  1000 * (now_ - job.queued_at));
    refused_by_engine(*one, {504, "deadline_exceeded", std::string(why) + waited}, job.sent.form, id, Count::kLate);
    go_ahead(*one);
  }

  // `rows`: the candidates that were scored, of which the admission learns.
  void release(ScoringJob& job, size_t rows = 0) {
    if (std::exchange(job.is_released, true)) return;
    engine_.admit([&](Admission& admission, auto) {
      if (rows) admission.read(job.sent.body.size(), rows, job.sent.form);
      admission.leave(job.load, job.bucket);
    });
  }

  void take_ended(ScoringJob* job) {
    if (job->is_away) return take_given(*job);
    jobs_--;
    const bool is_answered = !job->is_sent && !job->claim();
    if (job->connection && job->has(Outcome::kLacking) && !is_answered) {
      job->reopen();
      job->is_away = true;
      return tell_python(NeedsRows{job});
    }
    if (job->connection && job->has(Outcome::kTimed) && !is_answered) {
      job->take_on_deadline();
      job->reopen();
      return put(*job);
    }
    // Counted first: once nothing is queued, all that is answered is counted.
    if (job->is_sent)
      tally_.note([&](auto inc, auto observe) {
        inc(Count::kAnswered);
        observe(Measure::kRequest, job->seconds());
      });
    release(*job, job->has(Outcome::kScored) ? job->candidates() : 0);
    if (job->connection && !is_answered && (job->ending == Ending::kLate || job->ending == Ending::kNoTime))
      late(*job, job->ending == Ending::kLate ? kBefore : kNoTime);
    Connection* const one = detached(*job);
    // An explanation, or what is wrong with the request, is for Python.
    if (one && !is_answered && !job->is_sent) return hand(*one, std::unique_ptr<ScoringJob>(job));
    if (one && job->is_sent) {
      write(*one, job->left);
      answered(*one);
    }
    free(job);
  }

  // A job for which Python has fetched what it lacked, if it could.
  void take_given(ScoringJob& job) {
    job.is_away = false;
    if (job.is_given() && !job.is_claimed()) return put(job);
    Connection* const one = detached(job);
    if (!one) return free(&job);
    release(job);
    hand(*one, std::unique_ptr<ScoringJob>(&job));
  }

  void free(ScoringJob* job) {
    std::unique_ptr<ScoringJob> owned(job);
    if (job->holds_python()) tell_python(Answered{std::move(owned)});
  }

  // Hand the first request to Python, with its job, or as much of its body as has come, which may be too late.
  void hand(Connection& one, std::unique_ptr<ScoringJob> job = {}, bool is_late = false) {
    HttpRequest& request = *one.requests.front();
    request.state = HttpState::kHanded;
    sockaddr_storage client{};
    socklen_t size = sizeof client;
    if (!one.is_secure) getpeername(one.descriptor, reinterpret_cast<sockaddr*>(&client), &size);
    asking_.emplace(request.number, &one);
    const bool is_body_due = !job && (request.is_whole || request.body_bytes > limits_.max_body);
    tell_python(HandedRequest{request.number, std::move(request.head), one.is_secure, request.is_whole, is_late, request.began,
                              client, std::move(job)});
    if (is_body_due) tell_body(request);
  }

  Connection* asking(uint64_t number) const {
    const auto found = asking_.find(number);
    return found == asking_.end() ? nullptr : found->second;
  }

  void tell_python(FrontEvent event, size_t body_bytes = 0) {
    {
      const std::lock_guard lock(events_mutex_);
      event_bytes_ += body_bytes;
      if (events_.empty()) events_since_ = clock_s();
      events_.push_back(std::move(event));
    }
    python_bell.ring();
  }

  // The first request's reply is written, as far as the client takes it: go on with another request, the rest of this body,
  // or the end.
  void answered(Connection& one, bool goes_ahead = true) {
    HttpRequest& request = *one.requests.front();
    asking_.erase(request.number);
    hold(request.held, 0);
    if (!request.is_whole) {
      // A client that still writes when the connection closes may never see its reply.
      if (request.state == HttpState::kHanded && expected(request)) return drop_all(one), say_goodbye(one);
      request.state = HttpState::kPassing;
      request.until = now_ + limits_.body_s;
      return;
    }
    const bool closes = request.closes || (is_closing_ && one.requests.size() == 1);
    one.requests.pop_front();
    if (closes) return drop_all(one), end(one);
    if (!one.requests.empty()) {
      if (goes_ahead) go_ahead(one);
    } else if (one.is_ended) {
      end(one);
    } else if (!one.parser.is_in_head()) {
      one.idle_since = now_;
    }
  }

  // Whether its client waits for `100 Continue`, and may send its body or omit it: the next bytes cannot be told apart.
  static bool expected(const HttpRequest& request) { return request.head.expects && !request.has_gone_on; }

  // The end

  // Send the error after the pending replies, and close.
  void refuse(Connection& one, Fault fault) {
    tally_.inc(fault.status == 429 ? Count::kOutOfRoom : Count::kBadHttp);
    one.fault = std::move(fault);
    one.is_ended = true;
    one.head_since = one.unfinished_since = 0.0;
    hold(one.held_head, 0);
    if (!one.requests.empty() && !one.requests.back()->is_whole) {
      if (one.requests.size() == 1 && one.requests.front()->is_begun) return close(one);
      // The fault is in this request's own body, so nothing else will answer it.
      drop_last(one);
    }
    if (one.requests.empty()) return end(one);
    watch(one, false, one.writes);
    await_end(one);
    go_ahead(one);
  }

  // Drop the latest request without an answer.
  void drop_last(Connection& one) {
    HttpRequest& request = *one.requests.back();
    if (asking_.erase(request.number)) tell_python(ClientGone{request.number});
    hold(request.held, 0);
    one.requests.pop_back();
  }

  void drop_all(Connection& one) {
    while (!one.requests.empty()) drop_last(one);
  }

  // No request is left: close, once all is written.
  void end(Connection& one) {
    one.closes = true;
    if (one.fault.status) {
      write(one, replies_.fault(std::exchange(one.fault, {})));
      say_goodbye(one);
    } else if (one.out.empty()) {
      close(one);
    }
  }

  // The client leaves: requests that are not answered are counted, and delay no other.
  void leave(Connection& one) override {
    hold(one.held_head, 0);
    if (!one.requests.empty()) give_up(*one.requests.front());
    drop_all(one);
  }

  void give_up(HttpRequest& request) {
    if (request.state == HttpState::kComing) tally_.inc(Count::kGone);
    ScoringJob* const job = std::exchange(request.job, nullptr);
    if (!job) return;
    job->connection = nullptr;
    job->hang_up();
    if (!engine_.leave(*job)) return;
    tally_.note([](auto inc, auto) {
      inc(Count::kGone);
      inc(Count::kShedGone);
    });
    release(*job);
  }

  Engine& engine_;
  std::string process_;
  std::atomic<size_t> held_{0}, jobs_{0};

  // The thread's.
  Replies replies_;
  uint64_t numbers_ = 0;  // of requests
  bool is_closing_ = false;
  std::unordered_map<uint64_t, Connection*> asking_;  // by the number of its handed request

  std::mutex ended_mutex_;  // guards jobs that have ended
  std::vector<ScoringJob*> ended_;

  std::mutex plans_mutex_;  // guards what Python has said last
  std::shared_ptr<const Plan> plan_, aside_;
  std::vector<std::shared_ptr<const Plan>> plans_;
  std::unordered_map<std::string, KnownKey> keys_;

  std::mutex events_mutex_;  // guards what Python is to hear
  std::vector<FrontEvent> events_;
  double events_since_ = 0.0;
  std::atomic<size_t> event_bytes_{0};  // of bodies
};

}  // namespace
