// The connections of a port and their thread: accepts, reads, writes and closes them, within bounds of number and time.
// Does not know what their bytes mean.
#pragma once

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/socket.h>

#if defined(__linux__)
#include <linux/filter.h>
#endif

#include <algorithm>
#include <functional>
#include <future>
#include <thread>
#include <unordered_map>

#include "../engine/queue_bindings.hpp"
#include "connection.hpp"
#include "poller.hpp"

namespace {

struct Limits {
  size_t max_connections, max_waiting, max_body, max_head, inflight, max_candidates;  // `max_waiting`: of a connection
  double head_s, body_s, reply_s, deadline_s, max_deadline_s;
  bool needs_keys;
};

class Sockets {
 public:
  Sockets(Tally& tally, const Limits& limits) : tally_(tally), limits_(limits) {}
  Sockets(const Sockets&) = delete;
  virtual ~Sockets() = default;

  // For any thread

  // `listener` is closed at the end; −1: there is none.
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

  // Take in a connection that another has accepted.
  void adopt(int descriptor, bool is_secure) {
    tell_thread([this, descriptor, is_secure] { admit(descriptor, is_secure); });
  }
  void make_room() {
    tell_thread([this] { close_for_another(); });
  }

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
      if (resting_until_ == 0.0) poller_.remove(listener_);
      ::close(std::exchange(listener_, -1));
    });
  }

  size_t connections() const { return count_; }

 protected:
  static constexpr double kTickS = 0.05;

  // Have the thread do something.
  void tell_thread(std::function<void()> work) {
    {
      const std::lock_guard lock(tasks_mutex_);
      tasks_.push_back(std::move(work));
    }
    bell_.ring();
  }

  // The same, and wait for it.
  void have_done(std::function<void()> work) {
    if (!thread_.joinable()) return;
    std::promise<void> done;
    tell_thread([&] {
      timed(work);
      done.set_value();
    });
    done.get_future().wait();
  }

  // In the thread

  // Bytes have come.
  virtual void come(Connection& one, std::string_view data) = 0;
  // The client has half-closed.
  virtual void half_close(Connection& one) = 0;
  // It has taken some of what was written.
  virtual void go_ahead(Connection& one) = 0;
  // It is about to be closed.
  virtual void leave(Connection& one) = 0;
  // Called after each wait; and several times a second while there is something to look at.
  virtual void look() = 0;
  virtual void tick() = 0;
  virtual bool is_at_work() const = 0;
  virtual void cannot_accept(int reason) = 0;

  // Do a part of one connection's work, or of the thread's own, and note how long it took. Without memory it is not done.
  template <class Work>
  void timed(const Work& work) {
    now_ = clock_s();
    try {
      work();
    } catch (const std::bad_alloc&) {
      tally_.inc(Count::kOutOfRoom);
    }
    tally_.hold(Measure::kFrontHold, clock_s() - now_);
  }

  // Do a part of a connection's work, which is closed if there is no memory for it.
  template <class Work>
  void attempt(Connection& one, const Work& work) {
    try {
      work();
    } catch (const std::bad_alloc&) {
      close(one, Count::kOutOfRoom);
    }
  }

  template <class Work>
  void for_each(Work work) {
    for (const auto& [one, _] : connections_)
      if (one->descriptor >= 0) work(*one);
  }

  // Close what its client does not read, or does not finish, in time.
  void bound_times(Connection& one) {
    if (one.unread_since > 0.0 && now_ - one.unread_since > limits_.reply_s) return close(one, Count::kSlowReader);
    if (one.goodbye_until > 0.0) return now_ > one.goodbye_until ? close(one) : void();
    if (one.head_since > 0.0 && now_ - one.head_since > limits_.head_s && one.reads) return close(one, Count::kSlowHead);
    if (one.is_idle() && now_ - one.idle_since > kKeepAliveS) return close(one);
  }

  // Close those whose clients leave most unread, until all fit.
  void bound_unread() {
    size_t unread = 0;
    for_each([&](Connection& one) { unread += one.out.size(); });
    while (unread > limits_.inflight) {
      Connection* largest = nullptr;
      for_each([&](Connection& one) {
        if (!largest || one.out.size() > largest->out.size()) largest = &one;
      });
      unread -= largest->out.size();
      close(*largest, Count::kSlowReader);
    }
  }

  void write(Connection& one, std::string_view bytes) {
    if (bytes.empty() || one.is_lost) return;
    size_t done = 0;
    if (one.out.empty()) {
      const ssize_t size = ::send(one.descriptor, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
      if (size < 0 && !is_for_later()) return lose(one);
      done = static_cast<size_t>(std::max<ssize_t>(size, 0));
    }
    if (done == bytes.size()) return;
    if (one.out.empty()) one.unread_since = now_;
    one.out.append(bytes.substr(done));
    watch(one, one.reads, true);
  }

  void watch(Connection& one, bool reads, bool writes) {
    if (one.reads == reads && one.writes == writes) return;
    one.reads = reads;
    one.writes = writes;
    poller_.change(one.descriptor, &one, reads, writes);
  }

  // Close it soon: its requests are still at work.
  void lose(Connection& one) {
    one.is_lost = true;
    lost_.push_back(&one);
  }

  // Close it when the client has read what is written, and ends or says no more: closing at once would reset one that still
  // writes, before it reads.
  void say_goodbye(Connection& one) {
    one.closes = one.is_ended = true;
    one.head_since = one.unfinished_since = 0.0;
    one.goodbye_until = now_ + kGoodbyeS;
    if (one.out.empty()) shutdown(one.descriptor, SHUT_WR);
    watch(one, true, one.writes);
  }

  void close(Connection& one, Count reason) {
    tally_.inc(reason);
    close(one);
  }

  void close(Connection& one) {
    if (one.descriptor < 0) return;
    leave(one);
    poller_.remove(one.descriptor);
    ::close(std::exchange(one.descriptor, -1));
    count_--;
    // Its events of this turn may follow.
    dead_.push_back(&one);
  }

  Tally& tally_;
  const Limits limits_;
  Bell bell_;
  double now_ = 0.0;

 private:
  static constexpr size_t kAtOnce = 64;
  static constexpr double kGoodbyeS = 2.0, kKeepAliveS = 75.0, kAcceptAgainS = 0.5;

  static bool is_for_later() { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

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
      look_around();
      for (Connection* const one : lost_) close(*one);
      lost_.clear();
      leaving_.clear();
      for (Connection* const one : dead_) connections_.erase(one);
      dead_.clear();
      if (is_stopped_) break;
      const bool has_timers = count_ || resting_until_ > 0.0 || is_at_work();
      const int most_ms = has_timers ? std::max(0, static_cast<int>(1000 * (tick_at - now_)) + 1) : -1;
      const std::vector<Ready>& found = poller_.wait(most_ms);
      now_ = clock_s();
      // What has ended silently comes before what follows on its connection.
      look_around();
      for (const Ready& ready : found) {
        if (ready.of == &bell_) continue;
        timed([&] {
          if (ready.of == &listener_) return accept_all(kAtOnce);
          auto& one = *static_cast<Connection*>(ready.of);
          attempt(one, [&] { handle(one, ready); });
        });
      }
      now_ = clock_s();
      if (now_ < tick_at) continue;
      if (resting_until_ > 0.0 && now_ >= resting_until_) {
        resting_until_ = 0.0;
        poller_.add(listener_, &listener_, true, false);
      }
      timed([this] { tick(); });
      tick_at = now_ + kTickS;
    }
    for_each([this](Connection& one) { close(one); });
  }

  void look_around() {
    bell_.answer();
    look();
    std::vector<std::function<void()>> tasks;
    {
      const std::lock_guard lock(tasks_mutex_);
      tasks.swap(tasks_);
    }
    for (const auto& task : tasks) timed(task);
  }

  void handle(Connection& one, const Ready& ready) {
    if (one.descriptor < 0) return;
    if (ready.is_broken && !ready.in) return close(one);
    if (ready.out) flush(one);
    if (one.descriptor >= 0 && ready.in) read(one);
  }

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
      cannot_accept(errno);
      resting_until_ = now_ + kAcceptAgainS;
      return poller_.remove(listener_);
    }
  }

  void admit(int descriptor, bool is_secure) {
    if (count_ >= limits_.max_connections && !close_for_another()) {
      tally_.inc(Count::kFull);
      ::close(descriptor);
      return;
    }
    const int on = 1;
    if (!is_secure) setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    Connection* one = nullptr;
    try {
      // Of those that are accepted together, the first is older.
      auto made = std::make_unique<Connection>(descriptor, is_secure, clock_s(), limits_.max_head, limits_.max_body);
      one = made.get();
      connections_.emplace(one, std::move(made));
    } catch (const std::bad_alloc&) {
      ::close(descriptor);
      throw;
    }
    poller_.add(descriptor, one, true, false);
    count_++;
    const Leaving last{rank(*one), one};
    if (!leaving_.empty()) leaving_.insert(std::upper_bound(leaving_.begin(), leaving_.end(), last), last);
  }

  // What could be closed for others: first the oldest without a request, then what is idle for longest, then the oldest
  // unfinished request.
  using Rank = std::pair<int, double>;
  using Leaving = std::pair<Rank, Connection*>;
  static constexpr int kStays = 3;

  static Rank rank(const Connection& one) {
    if (one.descriptor < 0) return {kStays, 0.0};
    if (one.is_silent || one.goodbye_until > 0.0) return {0, one.opened};
    if (one.is_idle()) return {1, one.idle_since};
    return {one.unfinished_since > 0.0 && !one.is_owed_replies() ? 2 : kStays, one.unfinished_since};
  }

  // Whether it has just begun a request. Who never finishes one could say so for ever.
  static bool has_begun(const Connection& one) {
    char byte;
    return one.goodbye_until == 0.0 && one.unfinished_since == 0.0 &&
           recv(one.descriptor, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
  }

  // Close the first of them that has not just begun a request, or else the first.
  bool close_for_another() {
    std::erase_if(leaving_, [](const auto& each) { return rank(*each.second) != each.first; });
    if (leaving_.empty()) {
      for_each([&](Connection& one) {
        if (const Rank found = rank(one); found.first < kStays) leaving_.emplace_back(found, &one);
      });
      const size_t size = std::min(leaving_.size(), kAtOnce);
      std::partial_sort(leaving_.begin(), leaving_.begin() + static_cast<ptrdiff_t>(size), leaving_.end());
      leaving_.resize(size);
    }
    if (leaving_.empty()) return false;
    auto found = std::find_if(leaving_.begin(), leaving_.end(), [](const auto& each) { return !has_begun(*each.second); });
    if (found == leaving_.end()) found = leaving_.begin();
    close(*found->second, Count::kMadeRoom);
    return true;
  }

  void read(Connection& one) {
    const ssize_t size = recv(one.descriptor, buffer_.data(), buffer_.size(), 0);
    if (size > 0) return come(one, {buffer_.data(), static_cast<size_t>(size)});
    if (size < 0 && is_for_later()) return;
    // TLS cannot half-close.
    if (size < 0 || one.is_secure || one.goodbye_until > 0.0) return close(one);
    half_close(one);
  }

  void flush(Connection& one) {
    const ssize_t size = ::send(one.descriptor, one.out.data(), one.out.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (size < 0 && !is_for_later()) return close(one);
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

  Poller poller_;
  int listener_ = -1;
  bool is_stopped_ = false;
  double resting_until_ = 0.0;  // from accepting; 0: it does not
  std::vector<char> buffer_ = std::vector<char>(65'536);
  std::unordered_map<Connection*, std::unique_ptr<Connection>> connections_;
  std::vector<Connection*> lost_, dead_;  // to be closed, and to be forgotten
  std::vector<Leaving> leaving_;          // the next to be closed for others; found once for all that come together
  std::atomic<size_t> count_{0};
  std::thread thread_;

  std::mutex tasks_mutex_;  // guards what the thread is to do
  std::vector<std::function<void()>> tasks_;
};

}  // namespace
