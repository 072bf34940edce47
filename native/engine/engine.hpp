// The service's one queue of scoring jobs, by earliest due time, and its threads. Keepers put jobs in, and take them back.
// Knows neither rows nor HTTP nor Python.
#pragma once

#include <pthread.h>

#include <condition_variable>
#include <string>
#include <thread>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include "job.hpp"

namespace native {

// The progress of the scoring threads; times are seconds.
struct Heartbeat {
  size_t threads, running, waiting;  // threads; those that run a job; waiting jobs
  double quiet_s;    // since a thread last began or ended a job, or work arrived at an idle queue; 0 without work
  double longest_s;  // of the longest current run; 0 without one
};

class Engine {
 public:
  Engine(size_t threads, size_t max_rows, size_t max_candidates, double patience_s, Tally::Histograms measures)
      : tally(std::move(measures)),
        admission_(max_rows, threads, max_candidates, patience_s),
        waiting_(threads),
        running_(threads),
        began_(threads),
        workers_(threads) {
    for (size_t k = 0; k < threads; k++) workers_[k] = {k, &tally};
#if defined(__GLIBC__)
    // Or the larger allocations of each request would merge all small ones that were freed.
    mallopt(M_MXFAST, 0);
#endif
  }
  Engine(const Engine&) = delete;

  Tally tally;

  // Put a job in; false once the engine is closed.
  bool put(Job& job) {
    job.queued_at = clock_s();
    job.due = due_at(job.queued_at, job.deadline);
    job.expected_s = job.runner->turn_s(job.rows, job.form);
    job.is_patient = job.is_heavy || job.deadline - job.queued_at > admission_.patience_s;
    {
      const std::lock_guard lock(mutex_);
      if (is_closed_) return false;
      start();
      if (is_idle()) moved_at_ = job.queued_at;
      waiting_.put(job);
    }
    more_.notify_one();
    return true;
  }

  struct Late {
    std::vector<Job*> waiting, running;  // those that run change in their threads
  };

  // Claim a keeper's jobs past their deadline: to be answered even if no thread becomes free. What waits in vain is handed
  // back.
  Late claim_late(const Keeper& keeper) {
    const double now = clock_s();
    Late found;
    std::vector<Job*> late;
    {
      const std::lock_guard lock(mutex_);
      late = waiting_.take_late(now, &keeper);
      for (Job* const job : running_)
        if (job && job->keeper == &keeper && job->deadline + kOverrunS < now && job->claim()) found.running.push_back(job);
    }
    for (Job* const job : late)
      if (job->claim()) found.waiting.push_back(job);
    hand_back(late);
    return found;
  }

  // Claim a job whose client has left, unless it runs; it delays no other job any more.
  bool leave(Job& job) {
    const std::lock_guard lock(mutex_);
    return std::find(running_.begin(), running_.end(), &job) == running_.end() && job.claim();
  }

  Heartbeat heartbeat() {
    const double now = clock_s();
    const std::lock_guard lock(mutex_);
    Heartbeat beat{workers_.size(), 0, waiting_.size(), 0.0, 0.0};
    for (size_t k = 0; k < running_.size(); k++) {
      if (!running_[k]) continue;
      beat.running++;
      beat.longest_s = std::max(beat.longest_s, now - began_[k]);
    }
    if (beat.running || beat.waiting) beat.quiet_s = now - moved_at_;
    return beat;
  }

  // Work with the admission, and the runs that it may ask for.
  template <class Work>
  auto admit(Work work) {
    const std::lock_guard lock(mutex_);
    return work(admission_, [this](double due) { return runs_for(due); });
  }

  void reserve(double seconds) {
    const std::lock_guard lock(mutex_);
    waiting_.reserved_s = seconds;
  }

  // Begin no more jobs; hand back, and claim, those that wait.
  void close() {
    std::vector<Job*> left;
    {
      const std::lock_guard lock(mutex_);
      is_closed_ = true;
      left = waiting_.take_late(std::numeric_limits<double>::infinity(), nullptr);
    }
    more_.notify_all();
    for (Job* const job : left) job->claim();
    hand_back(left);
  }

  // After `close`: wait a bounded time for current runs, and claim those that are left.
  void join(double seconds) {
    std::unique_lock lock(mutex_);
    fewer_.wait_for(lock, std::chrono::duration<double>(seconds), [&] { return !alive_; });
    for (Job* const job : running_)
      if (job) job->claim();
    const bool is_left = alive_ > 0;
    lock.unlock();
    for (std::thread& thread : threads_)
      if (thread.joinable()) is_left ? thread.detach() : thread.join();
  }

  // Whether a thread is left, for which this has to live on.
  bool is_left() {
    const std::lock_guard lock(mutex_);
    return alive_ > 0;
  }

 private:
  // A run may end shortly after the deadline, and its reply is still sent; after this it is abandoned.
  static constexpr double kOverrunS = 5.0;
  static constexpr double kEver = std::numeric_limits<double>::infinity();

  bool is_idle() const {
    return !waiting_.size() && std::none_of(running_.begin(), running_.end(), [](const Job* job) { return job; });
  }

  Runs runs_for(double due) const {
    const double now = clock_s();
    Runs runs;
    double kept_s = kEver, any_s = kEver;
    for (size_t k = 0; k < running_.size(); k++) {
      const Job* const job = running_[k];
      const double left_s = job ? std::max(0.0, job->expected_s - (now - began_[k])) : 0.0;
      any_s = std::min(any_s, left_s);
      if (!job || !job->is_patient) kept_s = std::min(kept_s, left_s);
      if (!job) continue;
      runs.left_s.push_back(left_s);
      if (job->due >= due) continue;
      runs.taken_on_s += job->expected_s;
      if (!job->is_patient) runs.prompt_taken_on_s += job->expected_s;
    }
    runs.kept_free_s = kept_s < kEver ? kept_s : any_s;
    return runs;
  }

  // With the first job: a process that forks has none of them before.
  void start() {
    if (!threads_.empty()) return;
    alive_ = workers_.size();
    for (Worker& worker : workers_) threads_.emplace_back([this, &worker] { score(worker); });
  }

  // In the scoring threads

  void score(Worker& worker) {
#if defined(__linux__)
    pthread_setname_np(pthread_self(), ("scoring-" + std::to_string(worker.number + 1)).substr(0, 15).c_str());
#endif
    double free_at = 0.0;
    std::unique_lock lock(mutex_);
    while (Job* const job = take(worker, lock)) {
      const double started = clock_s();
      job->started = started;
      lock.unlock();
      job->run(worker);
      const double ended = job->ended = clock_s();
      if (job->rows) {
        if (job->has_one_run) job->runner->run_s.learn(job->rows, ended - started);
        job->runner->learn_turn(job->rows, job->form, ended - std::max(free_at, job->queued_at));
      }
      free_at = ended;
      lock.lock();
      running_[worker.number] = nullptr;
      moved_at_ = ended;
      // Another thread may have skipped jobs of this one's kind.
      if (waiting_.is_held_back(*job)) more_.notify_one();
      // While requests are refused, a keeper that is behind needs this core to read and refuse more of them in time.
      const bool yields = admission_.is_shedding() && job->keeper->is_behind();
      job->keeper->take_back(*job);
      if (!yields) continue;
      lock.unlock();
      std::this_thread::yield();
      lock.lock();
    }
    if (worker.leave) {
      lock.unlock();
      worker.leave(worker);
      lock.lock();
    }
    alive_--;
    fewer_.notify_all();
  }

  // Wait for the job that is due first, and hand back those that should not run; nullptr once the engine is closed.
  Job* take(Worker& worker, std::unique_lock<std::mutex>& lock) {
    while (!is_closed_) {
      Job* const job = waiting_.pop(running_, clock_s());
      if (!job) {
        more_.wait(lock);
        continue;
      }
      began_[worker.number] = moved_at_ = clock_s();
      running_[worker.number] = job;
      lock.unlock();
      const bool is_fit = !job->is_claimed() && job->fit(worker, clock_s()) && !job->is_claimed();
      lock.lock();
      if (is_fit) return job;
      running_[worker.number] = nullptr;
      job->keeper->take_back(*job);
    }
    return nullptr;
  }

  static void hand_back(const std::vector<Job*>& jobs) {
    for (Job* const job : jobs) job->keeper->take_back(*job);
  }

  std::mutex mutex_;  // guards what follows; held briefly, never during a run
  std::condition_variable more_, fewer_;  // jobs; threads
  Admission admission_;
  Waiting waiting_;
  std::vector<Job*> running_;          // by thread
  std::vector<double> began_;          // by thread
  double moved_at_ = 0.0;
  bool is_closed_ = false;
  size_t alive_ = 0;

  std::vector<Worker> workers_;
  std::vector<std::thread> threads_;
};

}  // namespace native
