// Jobs of scoring threads, and the order of those that wait.
#pragma once

#include <algorithm>
#include <atomic>
#include <vector>

#include "admission.hpp"
#include "tally.hpp"

namespace native {

// One scoring thread, as its jobs see it.
struct Worker {
  size_t number = 0;
  Tally* tally = nullptr;
  void* python = nullptr;  // its state in Python's interpreter, if it has needed one
  void (*leave)(Worker&) = nullptr;  // to be called at the thread's end
  bool gives_way = false;  // its runs have a low priority
};

enum class Ending {
  kDone,
  kLate,     // the deadline passed before a thread was free
  kNoTime,   // too little time was left for one run
  kFailed,   // the job holds the reason
};

class Job;

// Whoever puts jobs in. The engine holds no job: it hands each back, to its keeper, who frees it or puts it in again.
class Keeper {
 public:
  virtual ~Keeper() = default;
  // In any thread. May not call the engine.
  virtual void take_back(Job& job) = 0;
  // Whether it has not yet looked at what it took back.
  virtual bool is_behind() = 0;
};

// Work for one scoring thread with one model run in it.
class Job {
 public:
  Job(Runner& runner, size_t rows, double deadline) : runner(&runner), rows(rows), deadline(deadline) {}
  Job(const Job&) = delete;
  virtual ~Job() = default;

  // In a scoring thread: whether the job should still run, perhaps on fewer candidates; else `ending` says why.
  virtual bool fit(Worker& worker, double now) = 0;
  // In a scoring thread. Throws nothing; `ending` says how it went.
  virtual void run(Worker& worker) = 0;

  // Take the right to answer, which is given once: a job past its deadline may be answered while it still runs.
  bool claim() { return !is_claimed_.exchange(true); }
  bool is_claimed() const { return is_claimed_.load(); }
  // By whoever has claimed it, and puts it in again.
  void reopen() { is_claimed_ = false; }

  Keeper* keeper = nullptr;
  Runner* runner;        // whose run times are learned
  size_t rows;           // candidates, of which the engine learns; 0: no run was made
  double deadline;          // changed by its keeper alone, while the engine does not have it
  Form form = Form::kScore;
  bool has_one_run = true;
  bool is_heavy = false;    // it may take long before its run
  bool is_patient = false;  // heavy, or its deadline is longer than the service's default: it leaves one thread to others
  double queued_at = 0.0, due = 0.0, expected_s = 0.0;
  double started = 0.0, ended = 0.0;  // of its run; 0 if it has not begun
  Ending ending = Ending::kDone;

 private:
  std::atomic<bool> is_claimed_{false};
};

// The share of the remaining time that a run may be planned for. Half of all runs exceed their estimate: with this
// margin, nearly all end in time.
constexpr double kPlanned = 0.7;

// How long a run that starts now is allowed to be expected to take.
inline double seconds_for_run(double now, double deadline) { return kPlanned * (deadline - now); }

// Waiting jobs. Its owner calls it from one thread at a time.
class Waiting {
 public:
  explicit Waiting(size_t threads) : threads_(threads) {}

  // Seconds after a request with a normal deadline for which one thread is kept from jobs with longer ones.
  double reserved_s = 1.0;

  size_t size() const { return prompt_.size() + patient_.size(); }

  void put(Job& job) {
    std::vector<Entry>& heap = job.is_patient ? patient_ : prompt_;
    heap.push_back({job.due, numbers_++, &job});
    std::push_heap(heap.begin(), heap.end());
    if (!job.is_patient) prompt_at_ = job.queued_at;
  }

  // Remove and return the job that is due first; nullptr if a thread may take none beside those that run.
  template <class Running>
  Job* pop(const Running& running, double now) {
    const bool is_patient = !patient_.empty() && (prompt_.empty() || prompt_.front() < patient_.front()) &&
                            !is_reserved(running, now);
    std::vector<Entry>& heap = is_patient ? patient_ : prompt_;
    if (heap.empty()) return nullptr;
    std::pop_heap(heap.begin(), heap.end());
    Job* const job = heap.back().job;
    heap.pop_back();
    return job;
  }

  // Whether jobs of the ended one's kind wait, which a free thread may have skipped.
  bool is_held_back(const Job& ended) const { return ended.is_patient && !patient_.empty(); }

  // Remove and return a keeper's jobs past their deadline; of all keepers, without one; of all times, with infinity.
  std::vector<Job*> take_late(double now, const Keeper* keeper) {
    std::vector<Job*> late;
    const auto is_late = [&](Job* job) {
      const bool is = job->deadline < now && (!keeper || job->keeper == keeper);
      if (is) late.push_back(job);
      return is;
    };
    for (std::vector<Entry>* heap : {&prompt_, &patient_}) {
      std::erase_if(*heap, [&](const Entry& entry) { return is_late(entry.job); });
      std::make_heap(heap->begin(), heap->end());
    }
    return late;
  }

 private:
  struct Entry {
    double due;
    uint64_t number;
    Job* job;
    // The first is the greatest, as a heap has it.
    bool operator<(const Entry& other) const {
      return due != other.due ? due > other.due : number > other.number;
    }
  };

  // Whether the last free thread is reserved, because jobs with long deadlines may have long runs.
  template <class Running>
  bool is_reserved(const Running& running, double now) const {
    if (threads_ == 1 || now - prompt_at_ > reserved_s) return false;
    const auto patient = std::count_if(running.begin(), running.end(), [](const Job* job) { return job && job->is_patient; });
    return static_cast<size_t>(patient) >= threads_ - 1;
  }

  const size_t threads_;
  std::vector<Entry> prompt_, patient_;  // heaps by due time, then arrival
  uint64_t numbers_ = 0;
  double prompt_at_ = 0.0;
};

}  // namespace native
