// What the engine asks of a model's runtime: scores of the first N candidates in one thread's tensors. Knows no requests,
// no queue, no Python.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace native {

// A tensor of one thread, with room for as many candidates as a request may have.
struct Memory {
  std::string name;
  void* data;
  size_t size;                     // bytes
  bool is_float, is_per_candidate;  // else int32; else one row
  std::vector<int64_t> row;        // the shape of one row
};

// A model bound to one thread's tensors.
class BoundModel {
 public:
  virtual ~BoundModel() = default;
  // Scores [N] by head. Throws what the runtime says, as std::exception. Whoever calls it holds no lock.
  virtual void run(size_t count, const std::vector<float*>& scores) = 0;
};

}  // namespace native
