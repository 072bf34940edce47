// Which candidate is first if a request explores, and the probability of that choice, as `tests.reference.exploration`:
// the same operations in the same order, with numpy's own functions, so that numbers are equal.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
#include <numeric>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "pricing.hpp"
#include "request.hpp"
#include "schema.hpp"

namespace native {

constexpr size_t kMostCompeting = 200;
constexpr double kUpper = 1.6448536269514722, kWidest = 6.0, kFarthest = 1e-9;
constexpr double kLeastLogit = 1e-7, kLeastChance = 1e-12;
constexpr double kTableFrom = -10.0, kTableSteps = 1024.0, kInfinity = std::numeric_limits<double>::infinity();

// What the contract computes once: nodes and weights of the quadrature, and the logarithm of the normal distribution.
struct Quadrature {
  std::vector<double> nodes, weights, log_normal;
};

// The candidate to show first, by its place.
struct Choice {
  std::string_view policy;
  double share;
  std::string seed;
  bool explored;
  size_t first;
  double propensity;
};

// A draw from [0, 1), by number: SplitMix64.
inline double uniform(uint64_t seed, uint64_t number) {
  uint64_t state = seed + (number + 1) * 0x9E3779B97F4A7C15ull;
  state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9ull;
  state = (state ^ (state >> 27)) * 0x94D049BB133111EBull;
  return static_cast<double>((state ^ (state >> 31)) >> 11) * 0x1p-53;
}

class Exploration {
 public:
  Exploration(const Ufuncs& ufuncs, const Quadrature& quadrature) : ufuncs_(ufuncs), quadrature_(quadrature) {}

  // `greedy`: the place of the best by its score.
  Choice choose(const Explore& asked, double share, std::string seed, size_t greedy) {
    const uint64_t hash = hash_string(seed);
    const bool explored = uniform(hash, 0) < share, is_ucb = asked.policy == Policy::kUcb;
    const bool is_uniform = asked.policy == Policy::kUniform;
    size_t best = 0;
    if (is_uniform) {
      best = std::min(static_cast<size_t>(uniform(hash, 1) * static_cast<double>(size())), size() - 1);
    } else if (is_ucb || explored) {
      draws_.assign(size(), kUpper);
      if (!is_ucb) draw(hash);
      log_value();
      best = std::max_element(values_.begin(), values_.end()) - values_.begin();
    }
    const size_t first = explored ? places_[best] : greedy;
    double chance = 0.0;
    if (is_ucb) {
      chance = first == places_[best];
    } else if (share > 0) {
      const auto found = std::find(places_.begin(), places_.end(), first);
      if (found != places_.end())
        chance = is_uniform ? 1.0 / static_cast<double>(size()) : probability_of_first(found - places_.begin());
    }
    const double propensity = (1.0 - share) * (first == greedy) + share * chance;
    return {kPolicies[static_cast<size_t>(asked.policy)], share, std::move(seed), explored, first,
            std::max(propensity, kLeastChance)};
  }

  // Takes the candidates that may be first: their places, and what their values are made of.
  void compete(const Request& request, const Formula& formula, const std::vector<double>& ecpm,
               const std::vector<float>& pctr, const std::vector<float>& std) {
    const bool is_priced = std::any_of(ecpm.begin(), ecpm.end(), [](double one) { return !std::isnan(one); });
    places_.clear();
    seen_.clear();
    for (size_t k = 0; k < ecpm.size(); k++)
      if (!(is_priced && std::isnan(ecpm[k])) && seen_.insert(request.ids[k]).second) places_.push_back(k);
    for (std::vector<double>* column : {&log_scale_, &logit_, &std_, &scratch_}) column->assign(size(), 0.0);
    std::vector<double> score(size());
    for (size_t k = 0; k < size(); k++) {
      score[k] = std::min(std::max(static_cast<double>(pctr[places_[k]]), kLeastLogit), 1.0 - kLeastLogit);
      scratch_[k] = -score[k];
      std_[k] = static_cast<double>(std[places_[k]]);
    }
    logit_ = score;
    ufuncs_.log(logit_.data(), size());
    if (is_priced) {
      for (size_t k = 0; k < size(); k++) log_scale_[k] = ecpm[places_[k]];
      ufuncs_.log(log_scale_.data(), size());
      for (size_t k = 0; k < size(); k++) {
        log_scale_[k] -= logit_[k];
        if (log_scale_[k] == -kInfinity || !formula.is_paid_by_click(request.pricing, places_[k])) std_[k] = 0.0;
      }
    }
    ufuncs_.log1p(scratch_.data(), size());
    for (size_t k = 0; k < size(); k++) logit_[k] -= scratch_[k];
    keep_most();
  }

 private:
  size_t size() const { return places_.size(); }

  // Those that are most valuable at the end of their interval, in the request's order.
  void keep_most() {
    if (size() <= kMostCompeting) return;
    draws_.assign(size(), kUpper);
    log_value();
    std::vector<size_t> kept(size());
    std::iota(kept.begin(), kept.end(), size_t{0});
    std::stable_sort(kept.begin(), kept.end(), [&](size_t one, size_t other) { return values_[one] > values_[other]; });
    kept.resize(kMostCompeting);
    std::sort(kept.begin(), kept.end());
    for (size_t k = 0; k < kept.size(); k++) {
      places_[k] = places_[kept[k]];
      log_scale_[k] = log_scale_[kept[k]], logit_[k] = logit_[kept[k]], std_[k] = std_[kept[k]];
    }
    places_.resize(kMostCompeting);
  }

  // Standard normals of the candidates' own numbers: the inverse of the interpolated distribution.
  void draw(uint64_t seed) {
    const std::vector<double>& table = quadrature_.log_normal;
    for (size_t k = 0; k < size(); k++)
      draws_[k] = std::min(std::max(uniform(seed, 1 + places_[k]), kFarthest), 1.0 - kFarthest);
    ufuncs_.log(draws_.data(), size());
    for (double& draw : draws_) {
      const size_t place = std::upper_bound(table.begin() + 1, table.end() - 1, draw) - table.begin() - 1;
      const double within = (draw - table[place]) / (table[place + 1] - table[place]);
      draw = kTableFrom + (static_cast<double>(place) + within) / kTableSteps;
    }
  }

  // The logarithm of each value at its draw.
  void log_value() {
    values_.resize(size());
    for (size_t k = 0; k < size(); k++) values_[k] = logit_[k] + std_[k] * draws_[k];
    log_sigmoid(values_);
    for (size_t k = 0; k < size(); k++) values_[k] = log_scale_[k] + values_[k];
  }

  void log_sigmoid(std::vector<double>& logits) {
    scratch_.resize(logits.size());
    for (size_t k = 0; k < logits.size(); k++) scratch_[k] = -std::fabs(logits[k]);
    ufuncs_.exp(scratch_.data(), logits.size());
    ufuncs_.log1p(scratch_.data(), logits.size());
    for (size_t k = 0; k < logits.size(); k++) logits[k] = std::min(logits[k], 0.0) - scratch_[k];
  }

  // The probability that candidate number `own` has the greatest value.
  double probability_of_first(size_t own) {
    draws_.assign(size(), 0.0);
    for (size_t k = 0; k < size(); k++)
      if (std_[k] != 0) draws_[k] = -kWidest;
    log_value();
    if (std_[own] == 0) return probability_if_certain(own);
    double greatest = -kInfinity;
    for (size_t k = 0; k < size(); k++)
      if (k != own) greatest = std::max(greatest, values_[k]);
    const double lowest = normal_at(own, greatest);
    if (lowest >= kWidest) return 0.0;
    const std::vector<double>&nodes = quadrature_.nodes, &weights = quadrature_.weights;
    const double half = (kWidest - lowest) / 2;
    log_values_.resize(nodes.size());
    density_.resize(nodes.size());
    for (size_t m = 0; m < nodes.size(); m++) {
      const double normal = lowest + half * (nodes[m] + 1.0);
      density_[m] = -normal * normal / 2;
      log_values_[m] = logit_[own] + std_[own] * normal;
    }
    log_sigmoid(log_values_);
    for (double& value : log_values_) value = log_scale_[own] + value;
    multiply_by_below(own);
    ufuncs_.exp(density_.data(), density_.size());
    double sum = 0.0;
    for (size_t m = 0; m < density_.size(); m++) sum += weights[m] * density_[m];
    return std::min(1.0, half / std::sqrt(2 * std::numbers::pi) * sum);
  }

  // `values_` are those of the candidates that are certain too. Equal ones go to the earlier place.
  double probability_if_certain(size_t own) {
    const double value = values_[own];
    for (size_t k = 0; k < size(); k++)
      if (std_[k] == 0 && (values_[k] > value || (k < own && values_[k] == value))) return 0.0;
    log_values_.assign(1, value);
    density_.assign(1, 0.0);
    multiply_by_below(own);
    ufuncs_.exp(density_.data(), 1);
    return density_[0];
  }

  // The standard normal, from −6 to 6, at which a candidate has a value.
  double normal_at(size_t own, double log_value) const {
    const double below = std::min(log_value - log_scale_[own], 0.0);
    if (below == -kInfinity) return -kWidest;
    if (below > -1e-15) return kWidest;
    double share = below;
    ufuncs_.exp(&share, 1);
    share = 1.0 - share;
    ufuncs_.log(&share, 1);
    return std::min(std::max((below - share - logit_[own]) / std_[own], -kWidest), kWidest);
  }

  // Adds to `density_` the logarithm of each rival's probability to be below `log_values_` [M].
  void multiply_by_below(size_t own) {
    const std::vector<double>& table = quadrature_.log_normal;
    const double last = static_cast<double>(table.size()) - 2.0;
    draws_.assign(size(), kWidest);
    log_value();
    double scale = std::numeric_limits<double>::quiet_NaN();
    size_t known = 0;
    for (size_t k = 0; k < size(); k++) {
      if (k == own || std_[k] == 0) continue;
      // Above nearly all that a rival can be worth, it is below for sure.
      size_t count = density_.size();
      while (count && !(log_values_[count - 1] < values_[k])) count--;
      if (scale != log_scale_[k] || known < count) {
        scale = log_scale_[k], known = count;
        invert(scale, count);
      }
      for (size_t m = 0; m < count; m++) {
        if (!(log_values_[m] < values_[k])) continue;
        const double position = ((logits_[m] - logit_[k]) / std_[k] - kTableFrom) * kTableSteps;
        if (position < 0) {
          density_[m] = -kInfinity;
          continue;
        }
        const double place = std::trunc(std::min(position, last));
        const size_t at = static_cast<size_t>(place);
        density_[m] += table[at] + (table[at + 1] - table[at]) * (position - place);
      }
    }
  }

  // The log-odds [M] at which a candidate of this scale has the first `count` of `log_values_`.
  void invert(double log_scale, size_t count) {
    scratch_.resize(count);
    logits_.resize(count);
    for (size_t m = 0; m < count; m++) logits_[m] = scratch_[m] = std::min(log_values_[m] - log_scale, 0.0);
    ufuncs_.exp(scratch_.data(), count);
    for (double& one : scratch_) one = 1.0 - one;
    ufuncs_.log(scratch_.data(), count);
    for (size_t m = 0; m < count; m++) logits_[m] -= scratch_[m];
  }

  const Ufuncs& ufuncs_;
  const Quadrature& quadrature_;
  std::vector<size_t> places_;
  std::vector<double> log_scale_, logit_, std_;            // [K] of those that compete
  std::vector<double> draws_, values_, scratch_;           // [K]
  std::vector<double> log_values_, density_, logits_;      // [M] at the nodes
  std::unordered_set<std::string_view, SeededHash> seen_;
};

}  // namespace native
