// Columns of a tensor from decayed counts, alike for one request's rows and for a dataset's.
#pragma once

#include <algorithm>
#include <vector>

#include "live.hpp"

namespace native {

// The odds of a click rate, smoothed towards the prior as if `strength` impressions had shown it.
inline double odds_of(const StateRule& state, const Counts& counts) {
  double rate = (counts.clicks + state.smoothing) / (counts.impressions + state.strength);
  rate = std::min(std::max(rate, kRarest), 1.0 - kRarest);
  return rate / (1.0 - rate);
}

// What of counts is computed together.
struct CountColumns {
  std::vector<double> odds, shown, age;

  // Writes of each of some counts, as seen at `at(k)`: log-odds above the prior's, which vary as much where clicks are rare
  // as where they are frequent; the logarithm of impressions; and of the age in days, which is limited so that a service's
  // clock never leads the model out of what it was trained on. `stride`: from the features of one to those of the next.
  template <class At>
  void encode(const StateRule& state, const Ufuncs& ufuncs, const std::vector<Counts>& counts, At at, float* to,
              size_t stride) {
    const size_t count = counts.size();
    odds.resize(count), shown.resize(count), age.resize(count);
    for (size_t k = 0; k < count; k++) {
      odds[k] = odds_of(state, counts[k]);
      shown[k] = counts[k].impressions;
      age[k] = std::min(std::max(at(k) - counts[k].as_of, 0.0), state.age_cap_s) / kSecondsPerDay;
    }
    ufuncs.log(odds.data(), count);
    ufuncs.log1p(shown.data(), count);
    ufuncs.log1p(age.data(), count);
    for (size_t k = 0; k < count; k++) {
      to[stride * k] = static_cast<float>(odds[k] - state.prior_log_odds);
      to[stride * k + 1] = static_cast<float>(shown[k]);
      to[stride * k + 2] = static_cast<float>(age[k]);
    }
  }
};

}  // namespace native
