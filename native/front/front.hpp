// The HTTP front: a thread that accepts connections, reads requests, has the engine score those that are for it, hands all
// others to Python, and writes replies, in order and within bounds. Its thread never waits for Python's lock.
#pragma once

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/socket.h>

#if defined(__linux__)
#include <linux/filter.h>
#endif

#include <charconv>
#include <ctime>
#include <functional>
#include <future>
#include <random>
#include <thread>
#include <unordered_map>
#include <variant>

#include "front_job.hpp"
#include "poller.hpp"

namespace {

struct Limits {
  size_t max_connections, max_body, max_head, inflight, max_candidates;
  double head_s, body_s, reply_s, deadline_s, max_deadline_s;
  bool needs_keys;
};

// What Python is told, in order: each request, then its body, once that is whole or too large.
struct HandedRequest {
  uint64_t number;
  HttpHead head;
  bool is_secure, is_whole;
  double began;
  sockaddr_storage client;
};
struct HandedBody {
  uint64_t number;
  std::string bytes;
  bool is_last;
};
struct Left {  // the client of a handed request
  uint64_t number;
};
struct NotAccepted {
  int reason;
};
using Told = std::variant<HandedRequest, HandedBody, Left, NotAccepted, std::unique_ptr<FrontJob>>;

class Front : public Keeper {
 public:
  Front(Engine& engine, const Limits& limits) : engine_(engine), limits_(limits) {
    std::random_device random;
    char text[32];
    std::snprintf(text, sizeof text, "%08x%08x", random(), random());
    process_ = text;
  }
  // With Python's lock, after `stop`. The engine has none of its jobs.
  ~Front() override {
    for (FrontJob* const job : ended_) delete job;
  }

  // For any thread

  void start(int listener) {
    listener_ = listener;
    poller_.add(bell_.descriptor(), &bell_, true, false);
    if (listener_ >= 0) poller_.add(listener_, &listener_, true, false);
    thread_ = std::thread([this] { work(); });
  }

  // Close all connections, and end.
  void stop() {
    if (!thread_.joinable()) return;
    tell_thread([this] { is_stopped_ = true; });
    thread_.join();
  }

  void take_back(Job& job) override {
    auto& own = static_cast<FrontJob&>(job);
    bool is_quiet;
    {
      // Once this is unlocked, it may be freed.
      const std::lock_guard lock(mail_mutex_);
      ended_.push_back(&own);
      is_quiet = own.is_quiet();
    }
    if (!is_quiet) bell_.ring();
  }
  bool is_behind() override { return bell_.is_rung(); }

  // Have the front's thread do something.
  void tell_thread(std::function<void()> work) {
    {
      const std::lock_guard lock(mail_mutex_);
      letters_.push_back(std::move(work));
    }
    bell_.ring();
  }

  // With Python's lock

  // Score by this from now on; without one, Python answers all.
  void serve(std::shared_ptr<const Plan> plan) {
    const std::lock_guard lock(plans_mutex_);
    if (plan) plans_.push_back(plan);
    plan_ = std::move(plan);
  }
  // Let go of what no request needs any more.
  void forget_plans() {
    const std::lock_guard lock(plans_mutex_);
    std::erase_if(plans_, [](const auto& one) { return one.use_count() == 1; });
  }

  std::vector<Told> take_told() {
    ears.answer();
    const std::lock_guard lock(told_mutex_);
    told_bytes_ = 0;
    return std::exchange(told_, {});
  }

  // Of a handed request: a part of its reply; `closes`: its head says that the connection ends with it.
  void reply(uint64_t number, std::string bytes, bool is_last, bool closes) {
    tell_thread([this, number, bytes = std::move(bytes), is_last, closes] {
      Connection* const one = asking(number);
      if (!one) return;
      HttpRequest& request = *one->requests.front();
      request.is_begun = true;
      write(*one, bytes);
      if (!is_last) return;
      request.closes |= closes;
      asking_.erase(number);
      if (closes && !request.is_whole) return say_goodbye(*one);
      answered(*one);
    });
  }
  // Its client may send the body.
  void go_on(uint64_t number) {
    tell_thread([this, number] {
      Connection* const one = asking(number);
      if (!one || one->requests.front()->is_whole) return;
      one->requests.front()->has_gone_on = true;
      write(*one, "HTTP/1.1 100 Continue\r\n\r\n");
    });
  }
  // It gets no reply.
  void abandon(uint64_t number) {
    tell_thread([this, number] {
      if (Connection* const one = asking(number)) close(*one);
    });
  }

  // Take in a connection that another has accepted.
  void adopt(int descriptor, bool is_secure) {
    tell_thread([this, descriptor, is_secure] { admit(descriptor, is_secure); });
  }
  void make_room() {
    tell_thread([this] { close_for_another(); });
  }

  // Keys that Python has found to be good, until a time (Unix s); each change of the keys forgets them.
  void know_key(std::string key, double until) {
    const std::lock_guard lock(plans_mutex_);
    keys_.emplace(std::move(key), until);
  }
  void forget_keys() {
    const std::lock_guard lock(plans_mutex_);
    keys_.clear();
  }

  // End connections with their replies.
  void drain() { is_draining_ = true; }

  // Accept what the kernel has queued, and no more.
  void close_listener() {
    have_done([this] {
      if (listener_ < 0) return;
#if defined(__linux__)
      // Between the last accept and the close, the kernel drops new connections.
      sock_filter nothing{BPF_RET, 0, 0, 0};
      const sock_fprog filter{1, &nothing};
      setsockopt(listener_, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter);
#endif
      accept_all(std::numeric_limits<size_t>::max());
      if (!resting_until_) poller_.remove(listener_);
      ::close(std::exchange(listener_, -1));
    });
  }

  // Close the connections that are owed no reply, and each other one with its last.
  void close_idle() {
    have_done([this] {
      is_draining_ = is_closing_ = true;
      for (const auto& [one, _] : connections_)
        if (one->descriptor >= 0 && one->requests.empty()) end(*one);
    });
  }

  size_t connections() const { return count_; }
  size_t held() const { return held_; }
  size_t jobs() const { return jobs_; }  // that the engine has

  Bell ears;  // for Python

 private:
  static constexpr size_t kMostWaiting = 100, kAtOnce = 64, kClogged = 65'536;
  // Bytes that a request takes, beside its head and body.
  static constexpr size_t kRequestBytes = 4'096;
  // Maximum bodies that may pass unread after a reply: a client that still writes does not read.
  static constexpr size_t kPassedBodies = 8;
  // A body that is late is Python's to wait for, within its bounds.
  static constexpr double kHoldS = 0.05;
  static constexpr double kTickS = 0.05, kGoodbyeS = 2.0, kKeepAliveS = 75.0, kAcceptAgainS = 0.5;

  void have_done(std::function<void()> work) {
    std::promise<void> done;
    tell_thread([&] {
      work();
      done.set_value();
    });
    done.get_future().wait();
  }

  // In the front's thread

  void work() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, nullptr);
#if defined(__linux__)
    pthread_setname_np(pthread_self(), "front");
#endif
    now_ = clock_s();
    double tick_at = now_;
    while (true) {
      read_mail();
      for (Connection* const one : lost_) close(*one);
      lost_.clear();
      for (Connection* const one : dead_) connections_.erase(one);
      dead_.clear();
      if (is_stopped_) break;
      const bool has_timers = count_ || resting_until_ || jobs_;
      const int most_ms = has_timers ? std::max(0, static_cast<int>(1000 * (tick_at - now_)) + 1) : -1;
      const std::vector<Ready>& found = poller_.wait(most_ms);
      now_ = clock_s();
      // What has ended silently comes before what follows on its connection.
      read_mail();
      for (const Ready& ready : found) {
        now_ = clock_s();
        if (ready.of == &listener_)
          accept_all(kAtOnce);
        else if (ready.of != &bell_)
          handle(*static_cast<Connection*>(ready.of), ready);
      }
      now_ = clock_s();
      if (now_ < tick_at) continue;
      tick();
      tick_at = now_ + kTickS;
    }
    for (const auto& [one, _] : connections_) close(*one);
  }

  void read_mail() {
    bell_.answer();
    std::vector<std::function<void()>> letters;
    std::vector<FrontJob*> ended;
    {
      const std::lock_guard lock(mail_mutex_);
      letters.swap(letters_);
      ended.swap(ended_);
    }
    for (FrontJob* const job : ended) take_ended(job);
    for (const auto& letter : letters) letter();
  }

  void handle(Connection& one, const Ready& ready) {
    if (one.descriptor < 0) return;
    if (ready.is_broken && !ready.in) return close(one);
    if (ready.out) flush(one);
    if (one.descriptor >= 0 && ready.in) read(one);
  }

  void tick() {
    if (resting_until_ && now_ >= resting_until_) {
      resting_until_ = 0.0;
      poller_.add(listener_, &listener_, true, false);
    }
    if (jobs_)
      for (Job* const job : engine_.claim_late(*this)) late(static_cast<FrontJob&>(*job), kTooLate);
    size_t unread = 0;
    for (const auto& [one, _] : connections_) {
      if (one->descriptor >= 0) look_at(*one);
      if (one->descriptor >= 0) unread += one->out.size();
    }
    while (unread > limits_.inflight) {
      Connection* largest = nullptr;
      for (const auto& [one, _] : connections_)
        if (one->descriptor >= 0 && (!largest || one->out.size() > largest->out.size())) largest = one;
      unread -= largest->out.size();
      close(*largest, Count::kSlowReader);
    }
  }

  // Its times.
  void look_at(Connection& one) {
    HttpRequest* const first = one.requests.empty() ? nullptr : one.requests.front().get();
    if (one.unread_since > 0.0 && now_ - one.unread_since > limits_.reply_s) return close(one, Count::kSlowReader);
    if (one.goodbye_until > 0.0) return now_ > one.goodbye_until ? close(one) : void();
    if (one.head_since > 0.0 && now_ - one.head_since > limits_.head_s && one.reads) return close(one, Count::kSlowHead);
    if (first && first->state == HttpState::kPassing && now_ > first->until) return close(one, Count::kUnreadBody);
    if (one.is_idle() && now_ - one.idle_since > kKeepAliveS) return close(one);
    if (first && first->state == HttpState::kComing && now_ > first->until) hand(one);
  }

  // Accepting

  void accept_all(size_t most) {
    for (size_t k = 0; k < most; k++) {
#if defined(__linux__)
      const int descriptor = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
#else
      const int descriptor = ::accept(listener_, nullptr, nullptr);
      if (descriptor >= 0) fcntl(descriptor, F_SETFL, O_NONBLOCK), fcntl(descriptor, F_SETFD, FD_CLOEXEC);
#endif
      if (descriptor >= 0) {
        admit(descriptor, false);
        continue;
      }
      if (errno == EAGAIN || errno == EWOULDBLOCK) return;
      if (errno == EINTR || errno == ECONNABORTED) continue;
      // Too many open files, or no memory: connections stay in the backlog for a while.
      tell_python(NotAccepted{errno});
      resting_until_ = now_ + kAcceptAgainS;
      return poller_.remove(listener_);
    }
  }

  void admit(int descriptor, bool is_secure) {
    if (count_ >= limits_.max_connections && !close_for_another()) {
      engine_.tally.inc(Count::kFull);
      ::close(descriptor);
      return;
    }
    const int on = 1;
    if (!is_secure) setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    auto made = std::make_unique<Connection>(descriptor, is_secure, now_, limits_.max_head, limits_.max_body);
    made->opened = now_;
    poller_.add(descriptor, made.get(), true, false);
    count_++;
    connections_.emplace(made.get(), std::move(made));
  }

  // Close one connection for another: the oldest without a request; the one that is idle for longest; the oldest with an
  // unfinished request.
  bool close_for_another() {
    Connection* found = nullptr;
    const auto rank = [](const Connection& one) -> std::pair<int, double> {
      if (one.is_silent || one.goodbye_until > 0.0) return {0, one.opened};
      if (one.is_idle() && !one.unfinished_since) return {1, one.idle_since};
      return {one.unfinished_since > 0.0 && !one.is_owed_replies() ? 2 : 3, one.unfinished_since};
    };
    for (const auto& [one, _] : connections_)
      if (one->descriptor >= 0 && (!found || rank(*one) < rank(*found))) found = one;
    if (!found || rank(*found).first == 3) return false;
    close(*found, Count::kMadeRoom);
    return true;
  }

  // Reading

  void read(Connection& one) {
    const ssize_t size = recv(one.descriptor, buffer_.data(), buffer_.size(), 0);
    if (size > 0) return feed(one, {buffer_.data(), static_cast<size_t>(size)});
    if (size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return;
    if (size < 0 || one.is_secure || one.goodbye_until > 0.0) return close(one);
    // The client half-closed. A whole request is answered before the connection ends.
    if (!one.requests.empty() && !one.requests.back()->is_whole) {
      if (one.requests.size() == 1) return close(one);
      drop_last(one);
    }
    if (one.requests.empty() && one.out.empty()) return close(one);
    one.is_ended = true;
    one.closes = one.requests.empty();
    one.head_since = 0.0;
    await_end(one);
    watch(one, false, one.writes);
  }

  void feed(Connection& one, std::string_view data) {
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
    if (one.requests.size() > kMostWaiting) {
      refuse(one, {400, "bad_http", std::to_string(kMostWaiting) + " requests wait on this connection; wait for replies"});
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
    if (request.state == HttpState::kHanded && request.body_bytes > limits_.max_body) tell_body(request);
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
    told_bytes_ += body.size();
    tell_python(HandedBody{request.number, std::move(body), request.is_whole});
  }

  // Bytes in flight.
  void hold(size_t& of, size_t size) {
    held_ = held_ - of + size;
    of = size;
  }

  bool has_room() const { return held_ + told_bytes_ <= limits_.inflight; }

  // Until all bytes fit, refuse the oldest unfinished request; or what waits behind others, where that is most; or, at
  // last, this connection's, and return false.
  bool find_room(Connection& wanting) {
    while (!has_room()) {
      Connection *oldest = nullptr, *longest = nullptr;
      for (const auto& [one, _] : connections_) {
        if (one->descriptor < 0) continue;
        if (one->unfinished_since > 0.0 && (!oldest || one->unfinished_since < oldest->unfinished_since)) oldest = one;
        if (one->requests.size() > 1 && (!longest || one->requests.size() > longest->requests.size())) longest = one;
      }
      Connection& found = oldest ? *oldest : longest ? *longest : wanting;
      if (!oldest && longest)
        while (found.requests.size() > 1) drop_last(found);
      refuse(found, {429, "overloaded", "too many request bytes in flight; retry", true});
      if (&found == &wanting) return false;
    }
    return true;
  }

  // Answering

  // Begin the requests whose turn it is.
  void go_ahead(Connection& one) {
    while (one.descriptor >= 0 && !one.is_lost && !one.requests.empty() && one.out.size() <= kClogged) {
      HttpRequest& request = *one.requests.front();
      if (request.state == HttpState::kWaiting) {
        if (!is_for_engine(request)) return hand(one);
        request.state = HttpState::kComing;
        request.until = now_ + kHoldS;
      }
      if (request.state != HttpState::kComing || !request.is_whole) return;
      if (!score(one)) return;
    }
  }

  // Whether the engine can answer it, by its head.
  bool is_for_engine(const HttpRequest& request) {
    const HttpHead& head = request.head;
    if (head.at(head.method) != "POST" || head.expects) return false;
    const std::string_view target = head.at(head.target);
    if (target.substr(0, target.find('?')) != "/v1/score" || head.length > limits_.max_body) return false;
    bool is_json = false, has_deadline = false;
    std::string_view key;
    for (const HttpHead::Header& header : head.headers) {
      const std::string_view name = head.at(header.name), value = head.at(header.value);
      if (name == "content-type") {
        is_json = is_same(trimmed(value.substr(0, value.find(';'))), "application/json");
        if (!is_json) return false;
      } else if (name == "content-encoding" && !is_same(value, "identity")) {
        return false;
      } else if (name == "x-deadline-ms") {
        if (has_deadline || seconds_of(value) <= 0.0) return false;
        has_deadline = true;
      } else if (key.empty() && name == "x-api-key") {
        key = value;
      } else if (key.empty() && name == "authorization" && is_same(value.substr(0, 7), "bearer ")) {
        key = trimmed(value.substr(7));
      }
    }
    const std::lock_guard lock(plans_mutex_);
    return is_json && plan_ && (!limits_.needs_keys || is_known(key));
  }

  bool is_known(std::string_view key) const {
    const auto found = keys_.find(std::string(key));
    return found != keys_.end() && found->second > static_cast<double>(std::time(nullptr));
  }

  // 0 if it is not allowed.
  double seconds_of(std::string_view value) const {
    unsigned ms = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + std::min<size_t>(value.size(), 9), ms);
    const double seconds = ms / 1000.0;
    return error == std::errc() && end == value.data() + value.size() && seconds <= limits_.max_deadline_s ? seconds : 0.0;
  }

  // Have the engine score the first request; true if it is answered already.
  bool score(Connection& one) {
    HttpRequest& request = *one.requests.front();
    const HttpHead& head = request.head;
    double deadline = request.began + limits_.deadline_s;
    std::string id;
    for (const HttpHead::Header& header : head.headers) {
      const std::string_view name = head.at(header.name), value = head.at(header.value);
      if (name == "x-deadline-ms") deadline = request.began + seconds_of(value);
      if (name == "x-request-id" && id.empty() && is_id(value)) id = value;
    }
    if (id.empty()) {
      char text[32];
      std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(request.number));
      id = process_ + text;
    }
    std::shared_ptr<const Plan> plan;
    {
      const std::lock_guard lock(plans_mutex_);
      plan = plan_;
    }
    if (!plan || request.body_bytes > limits_.max_body) return hand(one), false;
    Load load;
    int64_t bucket = 0;
    const double now = clock_s();
    const Refused refused = engine_.admit([&](Admission& admission, auto runs) {
      load.rows = admission.rows_in(request.body_bytes);
      load.seconds = plan->first->runner->turn_s.of(load.rows);
      return admission.enter(load, now, deadline, runs, bucket);
    });
    if (refused) {
      engine_.tally.inc(refused.reason == Refusal::kRows ? Count::kShedRows : Count::kShedWait);
      return refused_by_engine(one, {429, "overloaded", refused.message, true}, id, Count::kOverloaded), true;
    }
    const bool closes = request.closes || is_draining_;
    request.closes = closes;
    Wire wire{one.out.empty() ? one.descriptor : -1, opening(200), "x-request-id: " + id + "\r\n"};
    if (closes && !is_draining_) wire.tail += "connection: close\r\n";
    wire.tail += "\r\n";
    auto job = std::make_unique<FrontJob>(std::move(plan), request.take_body(), std::move(id), limits_.max_candidates,
                                          load, bucket, deadline, request.began, std::move(wire));
    job->keeper = this;
    job->connection = &one;
    request.job = job.get();
    request.state = HttpState::kScored;
    jobs_++;
    await_end(one);
    if (engine_.put(*job.release())) return false;
    // It was closed.
    FrontJob* const back = std::exchange(request.job, nullptr);
    back->connection = nullptr;
    release(*back);
    jobs_--;
    free(back);
    lose(one);
    return false;
  }

  static bool is_id(std::string_view value) {
    return !value.empty() && value.size() <= 128 &&
           std::all_of(value.begin(), value.end(), [](char byte) { return byte >= 0x20 && byte <= 0x7E; });
  }

  // Have a job that is under way wake this thread when it ends, if its connection has more to do than to wait for it.
  void await_end(Connection& one) {
    if (one.requests.empty() || one.requests.front()->state != HttpState::kScored) return;
    const HttpRequest& request = *one.requests.front();
    if (one.requests.size() > 1 || request.closes || one.is_ended) request.job->is_awaited = true;
  }

  // The first bytes of a reply.
  std::string opening(int status) {
    const std::time_t now = std::time(nullptr);
    if (now != date_of_) {
      date_of_ = now;
      std::tm parts{};
      gmtime_r(&now, &parts);
      static constexpr const char* days[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
      static constexpr const char* months[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
      char text[64];
      std::snprintf(text, sizeof text, "date: %s, %02d %s %d %02d:%02d:%02d GMT\r\n", days[parts.tm_wday], parts.tm_mday,
                    months[parts.tm_mon], parts.tm_year + 1900, parts.tm_hour, parts.tm_min, parts.tm_sec);
      date_ = text;
    }
    const char* const line = status == 200   ? "HTTP/1.1 200 OK\r\n"
                             : status == 400 ? "HTTP/1.1 400 Bad Request\r\n"
                             : status == 414 ? "HTTP/1.1 414 URI Too Long\r\n"
                             : status == 429 ? "HTTP/1.1 429 Too Many Requests\r\n"
                             : status == 431 ? "HTTP/1.1 431 HttpRequest Header Fields Too Large\r\n"
                             : status == 501 ? "HTTP/1.1 501 Not Implemented\r\n"
                             : status == 504 ? "HTTP/1.1 504 Gateway Timeout\r\n"
                                             : "HTTP/1.1 505 HTTP Version Not Supported\r\n";
    return line + date_ + (is_draining_ ? "connection: close\r\n" : "");
  }

  // An error as `service.errors` writes it. Its message is of printable characters.
  std::string error_reply(const Fault& fault, std::string_view id, bool says_close_first, bool says_close_last) {
    const std::string body = std::string("{\"error\":{\"code\":\"") + fault.code + "\",\"message\":\"" + fault.message + "\",\"field\":null}}";
    std::string whole = opening(fault.status);
    whole += "content-type: application/json\r\n";
    if (fault.has_retry) whole += "retry-after: 1\r\n";
    if (says_close_first && !is_draining_) whole += "connection: close\r\n";
    whole += "content-length: " + std::to_string(body.size()) + "\r\n";
    if (!id.empty()) whole.append("x-request-id: ").append(id).append("\r\n");
    if (says_close_last && !is_draining_) whole += "connection: close\r\n";
    return whole + "\r\n" + body;
  }

  void refused_by_engine(Connection& one, const Fault& fault, std::string_view id, Count status) {
    engine_.tally.inc(status);
    HttpRequest& request = *one.requests.front();
    write(one, error_reply(fault, id, false, request.closes));
    request.closes |= is_draining_;
    answered(one, false);
  }

  static constexpr const char* kBefore = "deadline exceeded before a scoring thread was free";
  static constexpr const char* kTooLate = "deadline exceeded: no scoring thread was free in time, or the run did not end";
  static constexpr const char* kNoTime = "deadline exceeded: too little time left for one model run";

  // Answer a claimed job that cannot be scored in time.
  void late(FrontJob& job, const char* why) {
    engine_.tally.inc(Count::kShedLate);
    release(job);
    Connection* const one = std::exchange(job.connection, nullptr);
    if (!one) return;
    one->requests.front()->job = nullptr;
    refused_by_engine(*one, {504, "deadline_exceeded", why}, job.request_id(), Count::kLate);
    go_ahead(*one);
  }

  void release(FrontJob& job) {
    if (std::exchange(job.is_released, true)) return;
    const size_t rows = job.is_scored() ? job.candidates() : 0;
    engine_.admit([&](Admission& admission, auto) {
      if (rows) admission.read(job.body.size(), rows);
      admission.leave(job.load, job.bucket);
    });
  }

  void take_ended(FrontJob* job) {
    jobs_--;
    const bool is_answered = !job->is_sent && !job->claim();
    release(*job);
    if (job->is_sent)
      engine_.tally.note([&](auto inc, auto observe) {
        inc(Count::kAnswered);
        observe(Measure::kRequest, job->seconds());
      });
    Connection* const one = std::exchange(job->connection, nullptr);
    if (one) one->requests.front()->job = nullptr;
    if (one && job->is_sent) {
      write(*one, job->left);
      answered(*one);
    } else if (one && !is_answered) {
      if (job->ending == Ending::kLate || job->ending == Ending::kNoTime) {
        job->connection = one;
        one->requests.front()->job = job;
        late(*job, job->ending == Ending::kLate ? kBefore : kNoTime);
      } else {
        // What the request lacks, or what is wrong with it, is for Python.
        one->requests.front()->pieces.push_back(std::move(job->body));
        hand(*one);
      }
    }
    free(job);
  }

  void free(FrontJob* job) {
    std::unique_ptr<FrontJob> owned(job);
    if (job->holds_python()) tell_python(std::move(owned));
  }

  // Hand the first request to Python, with as much of its body as has come.
  void hand(Connection& one) {
    HttpRequest& request = *one.requests.front();
    request.state = HttpState::kHanded;
    sockaddr_storage client{};
    socklen_t size = sizeof client;
    if (!one.is_secure) getpeername(one.descriptor, reinterpret_cast<sockaddr*>(&client), &size);
    asking_.emplace(request.number, &one);
    tell_python(HandedRequest{request.number, std::move(request.head), one.is_secure, request.is_whole, request.began, client});
    if (request.is_whole || request.body_bytes > limits_.max_body) tell_body(request);
  }

  Connection* asking(uint64_t number) const {
    const auto found = asking_.find(number);
    return found == asking_.end() ? nullptr : found->second;
  }

  void tell_python(Told told) {
    {
      const std::lock_guard lock(told_mutex_);
      told_.push_back(std::move(told));
    }
    ears.ring();
  }

  // The first request's reply is written, as far as the client takes it: go on with another request, the rest of this body,
  // or the end.
  void answered(Connection& one, bool goes_ahead = true) {
    HttpRequest& request = *one.requests.front();
    asking_.erase(request.number);
    hold(request.held, 0);
    if (!request.is_whole) {
      // A client that still writes when the connection closes may never see its reply.
      if (request.state == HttpState::kHanded && expected(request)) return say_goodbye(one);
      request.state = HttpState::kPassing;
      request.until = now_ + limits_.body_s;
      return;
    }
    const bool closes = request.closes || (is_closing_ && one.requests.size() == 1);
    one.requests.pop_front();
    if (closes) {
      while (!one.requests.empty()) drop_last(one);
      return end(one);
    }
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
    engine_.tally.inc(fault.status == 429 ? Count::kOutOfRoom : Count::kBadHttp);
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
    if (asking_.erase(request.number)) tell_python(Left{request.number});
    hold(request.held, 0);
    one.requests.pop_back();
  }

  // No request is left: close, once all is written.
  void end(Connection& one) {
    one.closes = true;
    if (one.fault.status) {
      write(one, error_reply(std::exchange(one.fault, {}), {}, true, false));
      say_goodbye(one);
    } else if (one.out.empty()) {
      close(one);
    }
  }

  // Closing at once would reset a client that still writes, before it reads the reply.
  void say_goodbye(Connection& one) {
    while (!one.requests.empty()) drop_last(one);
    one.closes = one.is_ended = true;
    one.head_since = one.unfinished_since = 0.0;
    one.goodbye_until = now_ + kGoodbyeS;
    if (one.out.empty()) shutdown(one.descriptor, SHUT_WR);
    watch(one, true, one.writes);
  }

  void close(Connection& one, Count reason) {
    engine_.tally.inc(reason);
    close(one);
  }

  void close(Connection& one) {
    if (one.descriptor < 0) return;
    if (!one.requests.empty()) leave(*one.requests.front());
    while (!one.requests.empty()) drop_last(one);
    hold(one.held_head, 0);
    poller_.remove(one.descriptor);
    ::close(std::exchange(one.descriptor, -1));
    count_--;
    // Its events of this turn may follow.
    dead_.push_back(&one);
  }

  // The client of a request that is not answered leaves.
  void leave(HttpRequest& request) {
    if (request.state == HttpState::kComing) engine_.tally.inc(Count::kGone);
    FrontJob* const job = std::exchange(request.job, nullptr);
    if (!job) return;
    job->connection = nullptr;
    job->hang_up();
    if (!engine_.leave(*job)) return;
    engine_.tally.note([](auto inc, auto) {
      inc(Count::kGone);
      inc(Count::kShedGone);
    });
    release(*job);
  }

  // Writing

  void write(Connection& one, std::string_view bytes) {
    if (bytes.empty() || one.is_lost) return;
    size_t done = 0;
    if (one.out.empty()) {
      const ssize_t size = ::send(one.descriptor, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
      if (size < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) return lose(one);
      done = static_cast<size_t>(std::max<ssize_t>(size, 0));
    }
    if (done == bytes.size()) return;
    if (one.out.empty()) one.unread_since = now_;
    one.out.append(bytes.substr(done));
    watch(one, one.reads, true);
  }

  // Close it soon: its requests are still at work.
  void lose(Connection& one) {
    one.is_lost = true;
    lost_.push_back(&one);
  }

  void flush(Connection& one) {
    const ssize_t size = ::send(one.descriptor, one.out.data(), one.out.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (size < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) return close(one);
    one.out.erase(0, static_cast<size_t>(std::max<ssize_t>(size, 0)));
    if (one.out.empty()) {
      one.unread_since = 0.0;
      watch(one, one.reads, false);
      if (one.goodbye_until > 0.0)
        shutdown(one.descriptor, SHUT_WR);
      else if (one.closes)
        return close(one);
    }
    go_ahead(one);
  }

  void watch(Connection& one, bool reads, bool writes) {
    if (one.reads == reads && one.writes == writes) return;
    one.reads = reads;
    one.writes = writes;
    poller_.change(one.descriptor, &one, reads, writes);
  }

  Engine& engine_;
  const Limits limits_;
  std::string process_;
  uint64_t numbers_ = 0;  // of requests
  std::thread thread_;

  // The thread's.
  Poller poller_;
  Bell bell_;
  int listener_ = -1;
  bool is_stopped_ = false, is_closing_ = false;
  double now_ = 0.0, resting_until_ = 0.0;
  std::vector<char> buffer_ = std::vector<char>(65'536);
  std::unordered_map<Connection*, std::unique_ptr<Connection>> connections_;
  std::vector<Connection*> lost_, dead_;  // to be closed, and to be forgotten
  std::unordered_map<uint64_t, Connection*> asking_;  // by the number of its handed request
  std::time_t date_of_ = 0;
  std::string date_;

  std::atomic<bool> is_draining_{false};
  std::atomic<size_t> count_{0}, held_{0}, jobs_{0};

  std::mutex mail_mutex_;  // guards what this thread is to do
  std::vector<std::function<void()>> letters_;
  std::vector<FrontJob*> ended_;

  std::mutex plans_mutex_;  // guards what Python has said last
  std::shared_ptr<const Plan> plan_;
  std::vector<std::shared_ptr<const Plan>> plans_;
  std::unordered_map<std::string, double> keys_;

  std::mutex told_mutex_;  // guards what Python is to hear
  std::vector<Told> told_;
  std::atomic<size_t> told_bytes_{0};  // of bodies
};

}  // namespace
