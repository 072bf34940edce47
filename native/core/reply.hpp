// From scores to the reply's bytes, as `tests.reference.reply` writes them.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "correction.hpp"
#include "exploration.hpp"
#include "json_writer.hpp"
#include "pricing.hpp"
#include "tensors.hpp"

namespace native {

// The last column of scores with an uncertainty: the standard deviation of log-odds.
constexpr std::string_view kUncertainty = "logit_std";

struct Head {
  std::string name;
  const float* scores;
};

// What a run gave: the scores of the first rows of a frame and, if these are not all, behind them those of an unknown
// candidate.
struct Run {
  std::vector<Head> heads;
  size_t rows;
};

// The first places of a page, best first: their candidates, by place in the request, and scores by head.
struct Page {
  std::vector<size_t> candidates;
  std::vector<Column> columns;
  std::vector<double> ecpm;
};

// How a reply names what it answers; `arm` is empty unless there are several.
struct Named {
  std::string_view request_id, arm;
};

class Reply {
 public:
  std::vector<Column> columns;      // in the request's order
  std::vector<Degraded> degraded;   // candidates, each once

  std::vector<Correction> corrected;  // by what, without segments

  std::optional<Choice> choice;
  Page page;  // of none without places
  size_t ran = 0;  // the first candidates, which were in the run

  // To the frame's current request. False for a score that is not finite.
  bool score(const Frame& frame, std::string_view request_id, const Run& run, const std::vector<Correction>& corrections) {
    const Request& request = frame.request();
    spread(request, run);
    declare(frame, run.rows);
    corrected.clear();
    for (const Correction& correction : corrections) {
      corrected.push_back(correction.within(frame));
      for (Column& column : columns)
        if (column.name == correction.head) corrected.back().apply(column.values, frame.schema().ufuncs, scratch_);
    }
    if (!is_finite()) return false;
    ecpm_.assign(request.ids.size(), kNone);
    if (request.has_bids) price(request.bids, request.pricing, frame.model().formula, columns, ecpm_);
    put_in_order(frame, request_id);
    if (request.page) lay_out(request);
    return true;
  }

  // The row of the run at a place of the page.
  size_t row_at(size_t place) const { return rows_[page.candidates[place]]; }

  // That a place of the page has the score of an unknown candidate.
  void declare_prior(std::string_view id) {
    const auto is_same = [&](const Degraded& one) { return one.id == id; };
    const auto found = std::find_if(degraded.begin(), degraded.end(), is_same);
    if (found == degraded.end()) degraded.push_back({id, Rung::kPrior});
    else found->rung = Rung::kPrior;
  }

  // A place of the page from a run of its candidate there, which the frame's first row is. False for a score that is not
  // finite.
  bool place(const Frame& frame, size_t place, const Run& run, const std::vector<Correction>& corrections) {
    const Request& request = frame.request();
    const size_t candidate = page.candidates[place];
    for (size_t head = 0; head < page.columns.size(); head++) {
      one_.assign(1, run.heads[head].scores[0]);
      for (const Correction& correction : corrections)
        if (correction.head == run.heads[head].name) correction.within(frame).apply(one_, frame.schema().ufuncs, scratch_);
      if (!std::isfinite(one_[0])) return false;
      page.columns[head].values[place] = one_[0];
    }
    if (!request.has_bids) return true;
    std::vector<Column> alone;
    for (const Column& column : page.columns) alone.push_back({column.name, {column.values[place]}});
    std::vector<double> ecpm(1, kNone);
    const std::vector<Pricing> pricing(request.pricing.empty() ? 0 : 1, request.pricing.empty() ? Pricing() : request.pricing[candidate]);
    price({request.bids[candidate]}, pricing, frame.model().formula, alone, ecpm);
    page.ecpm[place] = ecpm[0];
    return true;
  }

  // Once it has its scores.
  void write(const Frame& frame, const Named& named) {
    out_.clear();
    out_.put("{");
    out_.member("request_id", named.request_id);
    after_id_ = out_.bytes().size();
    out_.member("model_version", frame.model().version);
    if (!named.arm.empty()) out_.member("arm", named.arm);
    put_candidates(frame.request().ids);
    if (is_degraded(frame)) put_degraded(frame);
    if (choice) put_choice(frame.request().ids);
    if (frame.request().page) put_page(frame.request());
    out_.finish();
  }

  std::string_view bytes() const { return out_.bytes(); }
  // To a request that says the same, by another ID: as bytes, but for their beginning.
  std::string again(std::string_view request_id) {
    JsonWriter first;
    first.put("{");
    first.member("request_id", request_id);
    return std::string(first.bytes()).append(bytes().substr(after_id_));
  }
  // The candidates in the reply, by their places in the request.
  const std::vector<size_t>& order() const { return order_; }
  // Of each candidate of the request; NaN without a bid
  const std::vector<double>& ecpm() const { return ecpm_; }

  bool is_degraded(const Frame& frame) const {
    return frame.user_rung != UserRung::kOwn || !degraded.empty() || !frame.unknown.empty() || frame.unknown_history;
  }

  // What is degraded of candidates, and categories that the model has never seen, as JSON.
  void put_rungs(JsonWriter& to) const {
    to.put("{");
    for (const Degraded& one : degraded) to.member(one.id, name_of(one.rung));
    to.end('}');
  }
  static void put_unknown(JsonWriter& to, const std::vector<std::string>& places) {
    to.put("{");
    for (const std::string& place : places) to.member(place, "unknown");
    to.end('}');
  }

 private:
  // Gives candidates that were not in the run their own score, if they are there twice, or the unknown one's.
  void spread(const Request& request, const Run& run) {
    rows_ = request.rows;
    const auto left = std::find_if(rows_.begin(), rows_.end(), [&](uint32_t row) { return row >= run.rows; });
    ran = static_cast<size_t>(left - rows_.begin());
    is_run_.assign(run.rows + 1, false);
    for (auto row = rows_.begin(); row != left; row++) is_run_[*row] = true;
    for (auto row = left; row != rows_.end(); row++)
      if (*row >= run.rows || !is_run_[*row]) *row = static_cast<uint32_t>(run.rows);
    columns.resize(run.heads.size());
    for (size_t head = 0; head < columns.size(); head++) {
      columns[head].name = run.heads[head].name;
      columns[head].values.resize(rows_.size());
      for (size_t k = 0; k < rows_.size(); k++) columns[head].values[k] = run.heads[head].scores[rows_[k]];
    }
  }

  // A non-finite score makes the sum non-finite.
  bool is_finite() const {
    return std::all_of(columns.begin(), columns.end(), [](const Column& column) {
      return std::isfinite(std::accumulate(column.values.begin(), column.values.end(), 0.0));
    });
  }

  // Candidates that only the unknown one's score is known of are declared beside those that the frame has.
  void declare(const Frame& frame, size_t run_rows) {
    const std::vector<std::string_view>& ids = frame.request().ids;
    degraded = frame.degraded;
    if (ran == ids.size()) return;
    NameMap<size_t> places;
    for (size_t k = 0; k < degraded.size(); k++) places.emplace(degraded[k].id, k);
    for (size_t k = ran; k < ids.size(); k++) {
      if (rows_[k] < run_rows) continue;
      const auto [place, is_new] = places.try_emplace(ids[k], degraded.size());
      if (is_new) degraded.push_back({ids[k], Rung::kPrior});
      degraded[place->second].rung = Rung::kPrior;
    }
  }

  // Best first with `top_k`, and ahead of all others the candidate that is chosen if the request explores.
  void put_in_order(const Frame& frame, std::string_view request_id) {
    const Request& request = frame.request();
    choice.reset();
    if (request.top_k || request.explore || request.page) rank(ecpm_, columns[0].values, order_);
    if (request.explore) choice = choose(frame, request_id, order_[0]);
    if (choice) {
      const auto first = std::find(order_.begin(), order_.end(), choice->first);
      std::rotate(order_.begin(), first, first + 1);
    }
    page.candidates.assign(order_.begin(), order_.begin() + static_cast<ptrdiff_t>(std::min(request.page, order_.size())));
    if (request.top_k) {
      order_.resize(std::min(request.top_k, order_.size()));
    } else {
      order_.resize(ecpm_.size());
      std::iota(order_.begin(), order_.end(), size_t{0});
    }
  }

  // Without an uncertainty of the scores, the best for certain unless the draw is uniform.
  Choice choose(const Frame& frame, std::string_view request_id, size_t greedy) {
    const Request& request = frame.request();
    const ServedModel& model = frame.model();
    const Explore& asked = *request.explore;
    std::string seed = asked.seed ? std::to_string(*asked.seed) : std::string(request_id);
    const bool is_uncertain = columns.back().name == kUncertainty;
    if (!is_uncertain && asked.policy != Policy::kUniform)
      return {"greedy", 0.0, std::move(seed), false, greedy, 1.0};
    Exploration exploration(frame.schema().ufuncs, model.quadrature);
    exploration.compete(request, model.formula, ecpm_, columns[0].values,
                        is_uncertain ? columns.back().values : std::vector<float>(ecpm_.size()));
    return exploration.choose(asked, std::isnan(asked.share) ? model.explore_share : asked.share, std::move(seed),
                              greedy);
  }

  // As if scores were the same in all places.
  void lay_out(const Request& request) {
    page.columns.clear();
    for (const Column& column : columns) {
      if (column.name == kUncertainty) continue;
      page.columns.push_back({column.name, {}});
      for (const size_t candidate : page.candidates) page.columns.back().values.push_back(column.values[candidate]);
    }
    page.ecpm.clear();
    for (const size_t candidate : page.candidates) page.ecpm.push_back(ecpm_[candidate]);
  }

  void put_page(const Request& request) {
    out_.open("page", '{');
    out_.open("id", '[');
    for (const size_t candidate : page.candidates) out_.value(request.ids[candidate]);
    out_.end(']');
    out_.open("slot", '[');
    for (size_t place = 0; place < page.candidates.size(); place++) out_.value(request.slot + place);
    out_.end(']');
    for (const Column& column : page.columns) put_all(column.name, column.values);
    put_all("ecpm", page.ecpm);
    double total = 0.0;
    for (const double ecpm : page.ecpm) total += ecpm;
    out_.member("total_ecpm", total);
    out_.end('}');
  }

  template <class Values>
  void put_all(std::string_view name, const Values& values) {
    out_.open(name, '[');
    for (const auto value : values) out_.value(value);
    out_.end(']');
  }

  void put_choice(const std::vector<std::string_view>& ids) {
    out_.open("explore", '{');
    out_.member("policy", choice->policy);
    out_.member("share", choice->share);
    out_.member("seed", choice->seed);
    out_.member("explored", choice->explored);
    out_.member("first", ids[choice->first]);
    out_.member("propensity", choice->propensity);
    out_.end('}');
  }

  void put_candidates(const std::vector<std::string_view>& ids) {
    out_.open("candidates", '{');
    put_column("id", ids);
    for (const Column& column : columns) put_column(column.name, column.values);
    put_column("ecpm", ecpm_);
    out_.end('}');
  }

  template <class Values>
  void put_column(std::string_view name, const Values& values) {
    out_.open(name, '[');
    for (const size_t place : order_) out_.value(values[place]);
    out_.end(']');
  }

  void put_degraded(const Frame& frame) {
    out_.open("degraded", '{');
    if (frame.user_rung != UserRung::kOwn) out_.member("user", name_of(frame.user_rung));
    if (!degraded.empty()) {
      out_.key("candidates");
      put_rungs(out_);
    }
    if (!frame.unknown.empty()) {
      out_.key("values");
      put_unknown(out_, frame.unknown);
    }
    if (frame.unknown_history) out_.member("history", frame.unknown_history);
    out_.end('}');
  }

  JsonWriter out_;
  size_t after_id_ = 0;  // in the reply
  std::vector<size_t> order_;
  std::vector<double> ecpm_, scratch_;
  std::vector<float> one_;
  std::vector<uint32_t> rows_;  // by candidate, of the run
  std::vector<bool> is_run_;    // by row
};

}  // namespace native
