// From scores to the reply to an inference request: JSON, and behind it the tensors that are sent in bytes.
#pragma once

#include "infer.hpp"
#include "reply.hpp"

namespace native {

class InferReply {
 public:
  // False if an output that is asked for does not exist.
  bool write(const Reply& reply, const Frame& frame, const Named& named, const Outputs& outputs) {
    std::vector<std::pair<std::string_view, bool>> wanted(outputs.named.begin(), outputs.named.end());
    if (wanted.empty()) {
      wanted.emplace_back(kId, outputs.in_bytes);
      for (const Column& column : reply.columns) wanted.emplace_back(column.name, outputs.in_bytes);
      if (has_ecpm(reply)) wanted.emplace_back(kEcpm, outputs.in_bytes);
    }
    out_.clear();
    behind_.clear();
    out_.put("{");
    out_.member("model_name", "msd");
    out_.member("model_version", frame.model().version);
    out_.member("id", named.request_id);
    put_parameters(reply, frame, named.arm);
    out_.open("outputs", '[');
    for (auto one = wanted.begin(); one != wanted.end(); one++) {
      const std::string_view name = one->first;
      const bool is_again = std::any_of(wanted.begin(), one, [&](const auto& earlier) { return earlier.first == name; });
      if (is_again || !put_output(reply, frame.request().ids, name, one->second)) return false;
    }
    out_.end(']');
    out_.finish();
    json_size = out_.bytes().size();
    out_.put(behind_);
    return true;
  }

  std::string_view bytes() const { return out_.bytes(); }
  bool has_bytes() const { return !behind_.empty(); }

  size_t json_size = 0;

 private:
  static constexpr std::string_view kId = "id", kEcpm = "ecpm";

  // Whether every candidate of the reply has a bid.
  static bool has_ecpm(const Reply& reply) {
    return std::none_of(reply.order().begin(), reply.order().end(),
                        [&](size_t place) { return std::isnan(reply.ecpm()[place]); });
  }

  void put_parameters(const Reply& reply, const Frame& frame, std::string_view arm) {
    if (arm.empty() && !reply.is_degraded(frame)) return;
    out_.open("parameters", '{');
    if (!arm.empty()) out_.member("arm", arm);
    if (frame.user_rung != UserRung::kOwn) out_.member("degraded_user", name_of(frame.user_rung));
    if (!reply.degraded.empty()) put_json("degraded_candidates", [&](JsonWriter& to) { reply.put_rungs(to); });
    if (!frame.unknown.empty())
      put_json("degraded_values", [&](JsonWriter& to) { Reply::put_unknown(to, frame.unknown); });
    if (frame.unknown_history) put_json("degraded_history", [&](JsonWriter& to) { to.value(frame.unknown_history); });
    out_.end('}');
  }

  bool put_output(const Reply& reply, const std::vector<std::string_view>& ids, std::string_view name, bool in_bytes) {
    if (name == kId) return put_tensor(name, "BYTES", reply.order(), ids, in_bytes);
    if (name == kEcpm) return has_ecpm(reply) && put_tensor(name, "FP64", reply.order(), reply.ecpm(), in_bytes);
    for (const Column& column : reply.columns)
      if (column.name == name) return put_tensor(name, "FP32", reply.order(), column.values, in_bytes);
    return false;
  }

  template <class T>
  bool put_tensor(std::string_view name, std::string_view datatype, const std::vector<size_t>& order,
                  const std::vector<T>& values, bool in_bytes) {
    out_.put("{");
    out_.member("name", name);
    out_.member("datatype", datatype);
    out_.open("shape", '[');
    out_.value(order.size());
    out_.end(']');
    if (in_bytes) {
      const size_t before = behind_.size();
      for (const size_t place : order) append(values[place]);
      out_.open("parameters", '{');
      out_.member("binary_data_size", behind_.size() - before);
      out_.end('}');
    } else {
      out_.open("data", '[');
      for (const size_t place : order) out_.value(values[place]);
      out_.end(']');
    }
    out_.end('}');
    return true;
  }

  void append(std::string_view text) {
    append(static_cast<uint32_t>(text.size()));
    behind_ += text;
  }
  template <class T>
  void append(T number) {
    behind_.append(reinterpret_cast<const char*>(&number), sizeof number);
  }

  // JSON in a text.
  template <class Put>
  void put_json(std::string_view name, Put put) {
    inner_.clear();
    put(inner_);
    out_.member(name, inner_.bytes().substr(0, inner_.bytes().size() - 1));
  }

  JsonWriter out_, inner_;
  std::string behind_;
};

}  // namespace native
