// A correction of calibration, bit for bit as `msd.contract.correction` applies it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "tensors.hpp"

namespace native {

constexpr double kMaxShift = 1.0;

// A shift of log-odds where a column of the frame's segments has a value.
struct SegmentShift {
  int32_t column, value;
  double shift;
};

// Maps the log-odds z of a head to centre + shift + slope × (z − centre).
struct Correction {
  std::string head;
  double centre = 0.0, shift = 0.0, slope = 1.0;
  std::vector<SegmentShift> segments;

  // That of the frame's request.
  Correction within(const Frame& frame) const {
    double moved = shift;
    for (const SegmentShift& one : segments)
      if (frame.segment(one.column) == one.value) moved += one.shift;
    return {head, centre, std::min(std::max(moved, -kMaxShift), kMaxShift), slope, {}};
  }

  // Corrects probabilities; `scratch` holds their odds.
  void apply(std::vector<float>& scores, const Ufuncs& ufuncs, std::vector<double>& scratch) const {
    constexpr float kAbove0 = 1e-38f;
    constexpr double kAbove1 = 1.0 + 1e-12;
    const double offset = centre + shift - slope * centre;
    scratch.resize(scores.size());
    for (size_t k = 0; k < scores.size(); k++)
      scratch[k] = kAbove1 / static_cast<double>(scores[k] + kAbove0) - 1.0;
    ufuncs.log(scratch.data(), scratch.size());
    for (double& odds : scratch) odds = odds * slope - offset;
    ufuncs.exp(scratch.data(), scratch.size());
    for (size_t k = 0; k < scores.size(); k++) scores[k] = static_cast<float>(1.0 / (scratch[k] + 1.0));
  }
};

}  // namespace native
