// Inference requests of the Open Inference Protocol, made scoring requests as `service/routes/oip` makes them: that
// translates also what is refused here, and has the words of its errors. Whether the scoring request is one is seen when
// it is read.
#pragma once

#include "json_writer.hpp"
#include "request.hpp"

namespace native {

// Which tensors of a reply are asked for, and which of them in bytes.
struct Outputs {
  std::vector<std::pair<std::string, bool>> named;  // all, if none is
  bool in_bytes = false;                            // all
};

class InferRequest {
 public:
  std::string id;  // empty: not given
  Outputs outputs;
  std::string body;  // of the scoring request

  // `rest`: bytes behind the JSON, if it says where that ends.
  bool read(std::string_view json, std::optional<std::string_view> rest, const Schema& schema) {
    if (!is_utf8(json.data(), json.size()) || has_many_parts(json)) return false;
    JsonReader reader(json, decoded_);
    if (!read_document(reader) || !reader.is_at_end() || !share(rest)) return false;
    if (tensors_.size() == 1 && tensors_[0].name == "request") return read_whole(tensors_[0]);
    for (const Tensor& one : tensors_)
      if (!place(one, schema)) return false;
    join();
    return true;
  }

 private:
  static constexpr size_t kMostTensors = 1'000, kMostIdChars = 128;
  static constexpr double kMostSize = 2'147'483'648.0;

  struct Tensor {
    std::string_view name, datatype;
    std::optional<std::string_view> data;  // what stands in the list
    std::optional<size_t> size;            // or how many bytes behind the JSON
    std::string_view bytes;                // these
    size_t count = 0;
  };

  // Members of one object of the scoring request.
  enum Object { kTop, kCandidates, kContext, kUser, kUserFeatures, kObjects };

  bool read_document(JsonReader& json) {
    const bool is_read = detail::read_members(
        json, 1,
        "inputs", [&] { return detail::read_list(json, kMostTensors, tensors_, read_input); },
        "outputs", [&] { return json.take_null() || detail::read_list(json, kMostTensors, wanted_, read_output); },
        "id", [&] {
          if (!json.take_null()) id = json.string();
          return id.size() <= kMostIdChars &&
                 std::all_of(id.begin(), id.end(), [](char one) { return one >= ' ' && one <= '~'; });
        },
        "parameters", [&] {
          return read_parameter(json, "binary_data_output", [&] { outputs.in_bytes = detail::read_flag(json); });
        });
    for (const auto& [name, in_bytes] : wanted_) outputs.named.emplace_back(name, in_bytes.value_or(outputs.in_bytes));
    return is_read;
  }

  // An object with one known member at most, or null.
  template <class Read>
  static bool read_parameter(JsonReader& json, std::string_view name, Read read) {
    return json.take_null() || detail::read_members(json, 0, name, [&] { if (!json.take_null()) read(); });
  }

  static size_t read_size(JsonReader& json) {
    const JsonReader::Number number = json.number();
    if (!number.is_integer || !(number.value >= 0 && number.value <= kMostSize)) json.refuse();
    return json.is_ok() ? static_cast<size_t>(number.value) : 0;
  }

  static std::pair<std::string_view, std::optional<bool>> read_output(JsonReader& json) {
    std::pair<std::string_view, std::optional<bool>> output;
    const bool is_read = detail::read_members(
        json, 1,
        "name", [&] { output.first = detail::read_id(json); },
        "parameters", [&] {
          return read_parameter(json, "binary_data", [&] { output.second = detail::read_flag(json); });
        });
    if (!is_read) json.refuse();
    return output;
  }

  // With one axis.
  static Tensor read_input(JsonReader& json) {
    Tensor one;
    const bool is_read = detail::read_members(
        json, 3,
        "name", [&] { one.name = json.string(); },
        "datatype", [&] { one.datatype = json.string(); },
        "shape", [&] {
          json.need('[');
          one.count = read_size(json);
          json.need(']');
        },
        "data", [&] { if (!json.take_null()) one.data = json.unread_list(); },
        "parameters", [&] { return read_parameter(json, "binary_data_size", [&] { one.size = read_size(json); }); });
    if (!is_read || one.data.has_value() == one.size.has_value()) json.refuse();
    return one;
  }

  // Share out the bytes behind the JSON, which may be neither more nor fewer.
  bool share(std::optional<std::string_view> rest) {
    std::string_view left = rest.value_or(std::string_view());
    for (Tensor& one : tensors_) {
      if (!one.size) continue;
      if (!rest || *one.size > left.size()) return false;
      one.bytes = left.substr(0, *one.size);
      left.remove_prefix(*one.size);
    }
    return left.empty();
  }

  // A scoring request in one tensor.
  bool read_whole(const Tensor& one) {
    if (one.datatype != "BYTES" || one.count != 1) return false;
    return each_text(one, [&](std::string_view text) { body = text; }) && !body.empty() && !has_many_parts(body);
  }

  // Put a tensor where its name says; descriptions of ads are for Python.
  bool place(const Tensor& one, const Schema& schema) {
    constexpr std::string_view kOfContext = "context.", kOfUser = "user.features.";
    if (one.name == "user_id" || one.name == "at" || one.name == "top_k") return put(kTop, one.name, one, false);
    if (one.name == "candidates.id") return put(kCandidates, "id", one, true);
    if (one.name == "candidates.bid") return put(kCandidates, "bid", one, true);
    if (one.name == "user.history") return put(kUser, "history", one, true);
    if (one.name.starts_with(kOfContext))
      return put_feature(kContext, one.name.substr(kOfContext.size()), one, schema.context);
    return one.name.starts_with(kOfUser) &&
           put_feature(kUserFeatures, one.name.substr(kOfUser.size()), one, schema.user.fields);
  }

  bool put_feature(Object object, std::string_view name, const Tensor& one, const Fields& fields) {
    const auto field = fields.find(std::string(name));
    return field != fields.end() && put(object, name, one, field->second.kind == ValueField::kBag);
  }

  bool put(Object object, std::string_view name, const Tensor& one, bool is_list) {
    // Without values its datatype would not show.
    if (is_list ? !one.count || (object != kCandidates && one.count > kMaxHistory) : one.count != 1) return false;
    JsonWriter& to = objects_[object];
    to.key(name);
    if (is_list) to.put("[");
    if (!put_values(to, one)) return false;
    if (is_list) to.end(']');
    return true;
  }

  bool put_values(JsonWriter& to, const Tensor& one) {
    if (one.datatype == "BYTES") return each_text(one, [&](std::string_view value) { to.string(value); });
    if (one.datatype == "FP32") return put_numbers<float>(to, one);
    if (one.datatype == "FP64") return put_numbers<double>(to, one);
    if (one.datatype == "INT32") return put_numbers<int32_t>(to, one);
    return one.datatype == "INT64" && put_numbers<int64_t>(to, one);
  }

  template <class Each>
  bool each_text(const Tensor& one, Each each) {
    if (one.data) return each_listed(one, [&](JsonReader& json) { each(json.string()); });
    std::string_view left = one.bytes;
    for (size_t k = 0; k < one.count; k++) {
      if (left.size() < sizeof(uint32_t)) return false;
      const size_t size = load<uint32_t>(left.data());
      left.remove_prefix(sizeof(uint32_t));
      if (size > left.size() || !is_utf8(left.data(), size)) return false;
      each(left.substr(0, size));
      left.remove_prefix(size);
    }
    return left.empty();
  }

  template <class T>
  bool put_numbers(JsonWriter& to, const Tensor& one) {
    if (one.data) return each_listed(one, [&](JsonReader& json) { put_listed<T>(to, json); });
    if (one.bytes.size() != one.count * sizeof(T)) return false;
    for (size_t k = 0; k < one.count; k++)
      if (!put_number(to, load<T>(one.bytes.data() + k * sizeof(T)))) return false;
    return true;
  }

  template <class T>
  static void put_listed(JsonWriter& to, JsonReader& json) {
    JsonReader::Number number = json.unread_number();
    if (!json.is_ok()) return;
    const char* const end = number.text.data() + number.text.size();
    // The same number is read from it later.
    if (std::is_same_v<T, double> && !number.is_integer) return to.put(number.text), to.put(",");
    T value{};
    if constexpr (std::is_integral_v<T>) {
      if (!number.is_integer || std::from_chars(number.text.data(), end, value).ec != std::errc()) json.refuse();
    } else {
      if (std::from_chars(number.text.data(), end, number.value).ec != std::errc()) json.refuse();
      value = static_cast<T>(number.value);
    }
    if (!put_number(to, value)) json.refuse();
  }

  template <class T>
  static bool put_number(JsonWriter& to, T value) {
    to.value(std::conditional_t<std::is_integral_v<T>, T, double>{value});
    return std::isfinite(value);
  }

  // As many values as the tensor's shape says.
  template <class Each>
  bool each_listed(const Tensor& one, Each each) {
    JsonReader json(*one.data, decoded_);
    for (size_t k = 0; k < one.count && json.is_ok(); k++) {
      if (k) json.need(',');
      each(json);
    }
    return json.is_ok() && json.is_at_end();
  }

  void join() {
    const auto put_in = [&](Object outer, std::string_view name, Object inner) {
      if (objects_[inner].bytes().empty()) return;
      objects_[outer].open(name, '{');
      objects_[outer].put(objects_[inner].bytes());
      objects_[outer].end('}');
    };
    put_in(kUser, "features", kUserFeatures);
    put_in(kTop, "candidates", kCandidates);
    put_in(kTop, "context", kContext);
    put_in(kTop, "user", kUser);
    objects_[kTop].finish();
    body.append("{").append(objects_[kTop].bytes());
  }

  std::vector<Tensor> tensors_;
  std::vector<std::pair<std::string_view, std::optional<bool>>> wanted_;
  std::array<JsonWriter, kObjects> objects_;
  Decoded decoded_;
};

}  // namespace native
