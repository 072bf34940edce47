// Columns of many values or counts, for Python.
#pragma once

#include "columns.hpp"
#include "schema_bindings.hpp"

namespace {

using namespace native;

// Encodes values of one field.
class HeldField {
 public:
  HeldField(const ValueField& field, const Ufuncs& ufuncs) : field_(field), ufuncs_(ufuncs) {}

  // The columns [n, width] of canonical values: texts, lists of texts, or numbers; None or not a number: missing.
  nb::bytes encode(const nb::typed<nb::list, nb::any>& values) const {
    return field_.kind == ValueField::kNumeric ? bytes_of(numbers(values)) : bytes_of(indices(values));
  }

 private:
  std::vector<float> numbers(const nb::list& values) const {
    std::vector<float> columns;
    columns.reserve(2 * values.size());
    for (const nb::handle value : values) {
      const double number = value.is_none() ? NAN : nb::cast<double>(value);
      const bool is_missing = std::isnan(number);
      columns.push_back(is_missing ? 0.0f : standardise(field_, number, ufuncs_));
      columns.push_back(is_missing ? 1.0f : 0.0f);
    }
    return columns;
  }

  std::vector<int32_t> indices(const nb::list& values) const {
    std::vector<int32_t> columns(values.size() * field_.width, kMissingIndex);
    auto row = columns.begin();
    for (const nb::handle value : values) {
      if (!value.is_none() && field_.kind == ValueField::kCategorical)
        *row = index_of(field_, nb::cast<std::string_view>(value));
      else if (!value.is_none()) {
        const auto words = nb::cast<std::vector<std::string_view>>(value);
        const size_t kept = std::min(words.size(), field_.width);  // further ones have no effect
        std::transform(words.begin(), words.begin() + static_cast<ptrdiff_t>(kept), row,
                       [&](std::string_view word) { return index_of(field_, word); });
      }
      row += static_cast<ptrdiff_t>(field_.width);
    }
    return columns;
  }

  const ValueField& field_;
  const Ufuncs ufuncs_;
};

// Writes the features [n, 3] of counts [n], complete up to `as_of` [n], as seen at `at` [n].
void encode_counts(const StateRule& rule, const Ufuncs& ufuncs, nb::handle impressions, nb::handle clicks,
                   nb::handle as_of, nb::handle at, nb::handle features) {
  const Buffer shown(impressions, false);
  const size_t count = shown.size() / sizeof(double);
  const Buffer clicked(clicks, false, shown.size()), ended(as_of, false, shown.size()), seen(at, false, shown.size());
  const Buffer to(features, true, count * kStateFeatures * sizeof(float));
  const nb::gil_scoped_release unlocked;
  std::vector<Counts> counts(count);
  for (size_t k = 0; k < count; k++)
    counts[k] = {shown.as<double>()[k], clicked.as<double>()[k], ended.as<double>()[k]};
  CountColumns().encode(rule, ufuncs, counts, [&](size_t k) { return seen.as<double>()[k]; }, to.as<float>(),
                        kStateFeatures);
}

// The hash of each text, as of words without a vocabulary, as uint64.
nb::bytes hash_texts(const std::vector<std::string_view>& texts) {
  std::vector<uint64_t> hashes(texts.size());
  std::transform(texts.begin(), texts.end(), hashes.begin(), hash_string);
  return bytes_of(hashes);
}

void add_columns(nb::module_& module) {
  nb::class_<HeldField>(module, "FieldEncoder")
      .def(nb::init<const ValueField&, const Ufuncs&>(), nb::keep_alive<1, 2>(), nb::arg("field"), nb::arg("ufuncs"))
      .def("encode", &HeldField::encode, nb::arg("values"));
  module.def("encode_counts", &encode_counts, nb::kw_only(), nb::arg("rule"), nb::arg("ufuncs"), nb::arg("impressions"),
             nb::arg("clicks"), nb::arg("as_of"), nb::arg("at"), nb::arg("features"));
  module.def("hash_texts", &hash_texts, nb::arg("texts"));
}

}  // namespace
