// What a bid is paid for, the eCPM that it gives, and the order of candidates, as `msd.contract.pricing` has them.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace native {

enum class Pricing : uint8_t { kCpm, kCpc, kCpa };
constexpr std::array<std::string_view, 3> kPricings{"cpm", "cpc", "cpa"};
constexpr std::string_view kClickHead = "pctr";
constexpr double kThousand = 1000.0;

// A head's scores [N], or another column of the reply.
struct Column {
  std::string name;
  std::vector<float> values;
};

inline const std::vector<float>& column_of(const std::vector<Column>& columns, std::string_view name) {
  for (const Column& one : columns)
    if (one.name == name) return one.values;
  throw std::invalid_argument("there is no head " + std::string(name));
}

// The heads that a bid of each pricing is multiplied by: none if the bid is an eCPM. Without a list a bundle does not
// support the pricing.
struct Formula {
  std::array<std::optional<std::vector<std::string>>, kPricings.size()> heads;

  const std::vector<std::string>& of(Pricing pricing) const { return *heads[static_cast<size_t>(pricing)]; }

  bool supports(const std::vector<Pricing>& pricing) const {
    return std::all_of(pricing.begin(), pricing.end(),
                       [&](Pricing one) { return heads[static_cast<size_t>(one)].has_value(); });
  }

  // Whether the value of a candidate depends on its pCTR.
  bool is_paid_by_click(const std::vector<Pricing>& pricing, size_t place) const {
    if (pricing.empty()) return true;
    const std::vector<std::string>& names = of(pricing[place]);
    return std::find(names.begin(), names.end(), kClickHead) != names.end();
  }
};

// The eCPM of bids [N], NaN without a bid; without pricing each is paid per click. `pricing` is supported.
inline void price(const std::vector<double>& bids, const std::vector<Pricing>& pricing, const Formula& formula,
                  const std::vector<Column>& columns, std::vector<double>& ecpm) {
  std::array<std::vector<const float*>, kPricings.size()> factors;
  for (size_t one = 0; one < factors.size(); one++)
    if (formula.heads[one])
      for (const std::string& head : *formula.heads[one]) factors[one].push_back(column_of(columns, head).data());
  for (size_t k = 0; k < bids.size(); k++) {
    if (pricing.empty()) {
      ecpm[k] = kThousand * bids[k] * static_cast<double>(columns[0].values[k]);
      continue;
    }
    const std::vector<const float*>& heads = factors[static_cast<size_t>(pricing[k])];
    ecpm[k] = heads.empty() ? bids[k] : kThousand * bids[k];
    for (const float* head : heads) ecpm[k] *= static_cast<double>(head[k]);
  }
}

// All places, best first: those with a bid by eCPM, then those without by pCTR; ties keep their order, NaN is last.
inline void rank(const std::vector<double>& ecpm, const std::vector<float>& pctr, std::vector<size_t>& order) {
  order.resize(ecpm.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t one, size_t other) {
    const bool has_price = !std::isnan(ecpm[one]), has_other = !std::isnan(ecpm[other]);
    if (has_price != has_other) return has_price;
    if (has_price) return ecpm[one] > ecpm[other];
    return std::isnan(pctr[other]) ? !std::isnan(pctr[one]) : pctr[one] > pctr[other];
  });
}

}  // namespace native
