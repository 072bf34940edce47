// Values that a request sets, encoded.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "json.hpp"
#include "schema.hpp"

namespace native {

constexpr size_t kMaxValueChars = 256;

// The columns of some objects of features, one after another.
class EncodedFeatures {
 public:
  // The fields of one object.
  struct Range {
    size_t begin = 0, end = 0;
    bool says_something = false;  // a value that is not null
  };

  void clear() {
    columns_.clear();
    indices_.clear();
    numbers_.clear();
  }

  // Encodes an object, which `skip_features` has read, or nothing. False if a name or a value does not fit the fields.
  // Appends to `unknown` the places of categories that are not in their vocabulary, each once.
  bool add(const Fields& fields, std::string_view object, const Ufuncs& ufuncs, const char* place, Range& range,
           std::vector<std::string>& unknown) {
    range = {columns_.size(), columns_.size(), false};
    if (object.empty()) return true;
    Decoded decoded;
    JsonReader json(object, decoded);
    json.need('{');
    do {
      const auto named = fields.find(std::string(json.any_string()));
      json.need(':');
      if (named == fields.end() || has(range.begin, named->second)) return false;
      bool is_known = true, is_null = json.take_null();
      columns_.push_back({&named->second, indices_.size(), numbers_.size()});
      if (named->second.kind == ValueField::kNumeric)
        add_number(json, named->second, is_null, ufuncs);
      else if (!add_indices(json, named->second, is_null, is_known))
        return false;
      range.says_something |= !is_null;
      if (!is_known) note(unknown, place + named->first);
    } while (json.is_ok() && json.take(','));
    range.end = columns_.size();
    return json.is_ok();
  }

  // Puts the values of an object over a row of categories.
  void put_categorical(const Range& range, int32_t* row) const {
    for (size_t k = range.begin; k < range.end; k++) {
      const ValueField& field = *columns_[k].field;
      if (field.kind != ValueField::kNumeric)
        std::copy_n(indices_.data() + columns_[k].index, field.width, row + field.start);
    }
  }

  // And over a row of numbers.
  void put_numeric(const Range& range, float* row) const {
    for (size_t k = range.begin; k < range.end; k++) {
      const ValueField& field = *columns_[k].field;
      if (field.kind == ValueField::kNumeric)
        std::copy_n(numbers_.data() + columns_[k].number, field.width, row + field.start);
    }
  }

 private:
  struct Columns {
    const ValueField* field;
    size_t index, number;
  };

  bool has(size_t begin, const ValueField& field) const {
    return std::any_of(columns_.begin() + static_cast<ptrdiff_t>(begin), columns_.end(),
                       [&](const Columns& one) { return one.field == &field; });
  }

  static void note(std::vector<std::string>& unknown, std::string place) {
    if (std::find(unknown.begin(), unknown.end(), place) == unknown.end()) unknown.push_back(std::move(place));
  }

  void add_number(JsonReader& json, const ValueField& field, bool is_null, const Ufuncs& ufuncs) {
    const double number = is_null ? 0.0 : json.number().value;
    if (!std::isfinite(number)) json.refuse();
    numbers_.push_back(is_null ? 0.0f : standardise(field, number, ufuncs));
    numbers_.push_back(is_null ? 1.0f : 0.0f);
  }

  bool add_indices(JsonReader& json, const ValueField& field, bool is_null, bool& is_known) {
    const size_t start = indices_.size();
    indices_.resize(start + field.width, kMissingIndex);
    if (is_null) return true;
    if (field.kind == ValueField::kCategorical) {
      const std::string_view text = read_category(json);
      if (json.is_ok()) indices_[start] = look_up(field, text, is_known);
      return json.is_ok();
    }
    size_t count = 0;
    return json.each([&] {
      const std::string_view text = read_category(json);
      // Further values have no effect, so that they cost no lookup.
      if (count < field.width && json.is_ok()) indices_[start + count++] = look_up(field, text, is_known);
      return true;
    });
  }

  // A category: a text, or a whole number of 64 bits.
  static std::string_view read_category(JsonReader& json) {
    if (json.is_at_string()) {
      const std::string_view text = json.any_string();
      if (!is_within(text, kMaxValueChars)) json.refuse();
      return text;
    }
    const JsonReader::Number number = json.unread_number();
    int64_t whole = 0;
    const auto read = std::from_chars(number.text.data(), number.text.data() + number.text.size(), whole);
    if (!number.is_integer || read.ec != std::errc() || whole == std::numeric_limits<int64_t>::min()) json.refuse();
    return number.text;
  }

  static int32_t look_up(const ValueField& field, std::string_view text, bool& is_known) {
    const int32_t index = index_of(field, text);
    if (!field.buckets && index == kUnknownIndex) is_known = false;
    return index;
  }

  std::vector<Columns> columns_;
  std::vector<int32_t> indices_;
  std::vector<float> numbers_;
};

}  // namespace native
