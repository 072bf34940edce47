// What a schema and a model are made of, for Python. Does not know requests.
#pragma once

#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#include "python.hpp"

#include <numpy/ndarraytypes.h>
#include <numpy/ufuncobject.h>

#include "correction.hpp"

namespace {

using namespace native;

Ufunc ufunc_of(nb::handle object) {
  // Of numpy's own type alone: its layout is what the header says.
  if (std::string_view(Py_TYPE(object.ptr())->tp_name) != "numpy.ufunc") throw nb::type_error("expected a numpy.ufunc");
  const auto* ufunc = reinterpret_cast<PyUFuncObject*>(object.ptr());
  for (int k = 0; k < ufunc->ntypes; k++) {
    const char* types = ufunc->types + static_cast<ptrdiff_t>(k) * ufunc->nargs;
    if (ufunc->nargs == 2 && types[0] == NPY_DOUBLE && types[1] == NPY_DOUBLE)
      return {ufunc->functions[k], ufunc->data ? const_cast<void*>(ufunc->data[k]) : nullptr};
  }
  throw nb::type_error("expected a numpy.ufunc of doubles");
}

// `vocabulary`: each once
void make_field(ValueField* own, ValueField::Kind kind, size_t start, size_t width, uint64_t buckets, bool is_log, double mean,
                double scale, const std::vector<std::string>& vocabulary) {
  new (own) ValueField{kind, start, width, buckets, is_log, mean, scale, {}};
  for (const std::string& word : vocabulary)
    own->vocabulary.emplace(word, static_cast<int32_t>(own->vocabulary.size()) + kUnknownIndex + 1);
}

void make_side(Side* own, const RecordLayout& layout, const std::optional<StateRule>& state, const nb::bytes& missing,
               Fields fields) {
  if (missing.size() != layout.size) throw nb::value_error("the missing record is not of the layout's size");
  const std::string_view record = view_of(missing);
  new (own) Side{layout, state, {record.begin(), record.end()}, std::move(fields)};
}

// `formula`: heads by pricing
void make_model(ServedModel* own, std::string version, const std::map<std::string, std::vector<std::string>>& formula,
                double explore_share, Quadrature quadrature, const std::optional<Uncertainty>& uncertainty) {
  if (quadrature.nodes.size() != quadrature.weights.size() || quadrature.log_normal.size() < 2)
    throw nb::value_error("a node has a weight, and a table two entries at least");
  new (own) ServedModel{std::move(version), {}, explore_share, std::move(quadrature), uncertainty};
  for (size_t one = 0; one < kPricings.size(); one++)
    if (const auto heads = formula.find(std::string(kPricings[one])); heads != formula.end())
      own->formula.heads[one] = heads->second;
}

// `segments`: (column, value, shift) of each
void make_correction(Correction* own, std::string head, double centre, double shift, double slope,
                     const std::vector<std::tuple<int32_t, int32_t, double>>& segments) {
  new (own) Correction{std::move(head), centre, shift, slope, {}};
  for (const auto& [column, value, moved] : segments) own->segments.push_back({column, value, moved});
}

void add_schema(nb::module_& module) {
  nb::enum_<ValueField::Kind>(module, "FieldKind")
      .value("CATEGORICAL", ValueField::kCategorical)
      .value("BAG", ValueField::kBag)
      .value("NUMERIC", ValueField::kNumeric);
  nb::class_<ValueField>(module, "Field")
      .def("__init__", &make_field, nb::kw_only(), nb::arg("kind"), nb::arg("start"), nb::arg("width"), nb::arg("buckets"),
           nb::arg("is_log"), nb::arg("mean"), nb::arg("scale"), nb::arg("vocabulary"));
  made_struct<RecordLayout>(module, "RecordLayout", field("size", &RecordLayout::size), field("flags", &RecordLayout::flags),
                            field("written_at", &RecordLayout::written_at), field("impressions", &RecordLayout::impressions),
                            field("clicks", &RecordLayout::clicks), field("as_of", &RecordLayout::as_of),
                            field("categorical", &RecordLayout::categorical), field("categoricals", &RecordLayout::categoricals),
                            field("numeric", &RecordLayout::numeric), field("numerics", &RecordLayout::numerics),
                            field("semantic", &RecordLayout::semantic), field("dim", &RecordLayout::dim));
  made_struct<StateRule>(module, "StateRule", field("smoothing", &StateRule::smoothing), field("strength", &StateRule::strength),
                         field("prior_log_odds", &StateRule::prior_log_odds), field("age_cap_s", &StateRule::age_cap_s));
  nb::class_<Side>(module, "Side")
      .def("__init__", &make_side, nb::kw_only(), nb::arg("layout"), nb::arg("state"), nb::arg("missing"), nb::arg("fields"));
  nb::class_<Ufuncs>(module, "Ufuncs")
      .def("__init__", [](Ufuncs* own, nb::handle log, nb::handle log1p, nb::handle exp, nb::handle exp2, nb::handle expm1) {
        new (own) Ufuncs{ufunc_of(log), ufunc_of(log1p), ufunc_of(exp), ufunc_of(exp2), ufunc_of(expm1)};
      }, nb::kw_only(), nb::arg("log"), nb::arg("log1p"), nb::arg("exp"), nb::arg("exp2"), nb::arg("expm1"));
  made_struct<Schema>(module, "Schema", field("user", &Schema::user), field("item", &Schema::item),
                      field("history_length", &Schema::history_length),
                      field("context_categorical", &Schema::context_categorical), field("context_dense", &Schema::context_dense),
                      field("slot_categorical", &Schema::slot_categorical), field("slot_dense", &Schema::slot_dense),
                      field("context", &Schema::context), field("ufuncs", &Schema::ufuncs));
  made_struct<Quadrature>(module, "Quadrature", field("nodes", &Quadrature::nodes), field("weights", &Quadrature::weights),
                          field("log_normal", &Quadrature::log_normal));
  made_struct<Uncertainty>(module, "Uncertainty", field("precision", &Uncertainty::precision),
                           field("variance", &Uncertainty::variance));
  nb::class_<ServedModel>(module, "ServedModel")
      .def("__init__", &make_model, nb::kw_only(), nb::arg("version"), nb::arg("formula"), nb::arg("explore_share"),
           nb::arg("quadrature"), nb::arg("uncertainty"));
  nb::class_<Correction>(module, "Correction")
      .def("__init__", &make_correction, nb::arg("head"), nb::arg("centre"), nb::arg("shift"), nb::arg("slope"),
           nb::arg("segments"));
}

}  // namespace
