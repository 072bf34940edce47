// Scores requests outside of the queue: one after the other in the calling thread, by the jobs that serve, from a request's
// bytes to its reply's. The model's runs give way to all other threads.
#pragma once

#include "scoring_job.hpp"

namespace {

// OfflineScorer(plan, max_candidates): the plan's models are loaded for it alone
class OfflineScorer {
 public:
  OfflineScorer(std::shared_ptr<const Plan> plan, size_t max_candidates)
      : plan_(std::move(plan)), max_candidates_(max_candidates) {}

  // The reply's body. `fetched`: rows in place of the model's, or None; `most`: how many different candidates are in the run,
  // or 0 for all. ValueError if the request is refused, lacks rows, or has a score that is not finite; or what Python has
  // raised.
  nb::bytes score(std::string request_id, const nb::bytes& body, const std::optional<std::shared_ptr<Fetched>>& fetched, size_t most) {
    constexpr double kEver = std::numeric_limits<double>::infinity();
    Sent sent{Form::kScore, "/v1/score", {}, true, std::move(request_id), std::string(view_of(body))};
    ScoringJob job(plan_, std::move(sent), max_candidates_, {}, 0, kEver, clock_s(), {-1, "", kHeadEnd});
    job.most = most;
    run(job);
    if (fetched && job.has(Outcome::kLacking)) {
      job.go_on(*fetched);
      run(job);
    }
    const JobResult result = job.result();
    if (job.has(Outcome::kRefused)) throw nb::value_error("the core refuses the request");
    if (job.has(Outcome::kLacking)) throw nb::value_error("the core lacks rows of the request");
    if (!job.has(Outcome::kScored)) throw nb::value_error("a score is not finite");
    if (!job.is_sent) return result.reply;
    return bytes_of(std::string_view(job.left).substr(job.left.find(kWholeHeadEnd) + std::strlen(kWholeHeadEnd)));
  }

 private:
  static constexpr const char *kHeadEnd = "\r\n", *kWholeHeadEnd = "\r\n\r\n";

  void run(ScoringJob& job) {
    Worker worker{0, &tally_, PyEval_SaveThread(), nullptr, true};
    job.started = job.queued_at = clock_s();
    if (job.fit(worker, job.started)) job.run(worker);
    PyEval_RestoreThread(static_cast<PyThreadState*>(worker.python));
  }

  const std::shared_ptr<const Plan> plan_;
  const size_t max_candidates_;
  Tally tally_{Tally::Histograms(kMeasures)};  // which nobody reads
};

void add_offline(nb::module_& module) {
  nb::class_<OfflineScorer>(module, "OfflineScorer")
      .def(nb::init<std::shared_ptr<Plan>, size_t>(), nb::arg("plan"), nb::arg("max_candidates"))
      .def("score", &OfflineScorer::score, nb::arg("request_id"), nb::arg("body"), nb::arg("fetched").none(), nb::arg("most"));
}

}  // namespace
