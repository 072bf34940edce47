// What C++ needs to speak with Python, beside nanobind.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unordered_map.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <string_view>
#include <utility>
#include <vector>

namespace native {

namespace nb = nanobind;

// An object that Python alone looks into.
using AnyObject = nb::typed<nb::object, nb::any>;

// An object's memory, for as long as this lives.
class Buffer {
 public:
  Buffer(nb::handle object, bool is_written, size_t least = 0) {
    if (PyObject_GetBuffer(object.ptr(), &view_, is_written ? PyBUF_CONTIG : PyBUF_CONTIG_RO)) throw nb::python_error();
    if (size() < least) {
      PyBuffer_Release(&view_);
      throw nb::value_error("a buffer is smaller than what is to be in it");
    }
  }
  Buffer(Buffer&& other) noexcept : view_(other.view_) { other.view_.obj = nullptr; }
  ~Buffer() { PyBuffer_Release(&view_); }
  template <class T>
  T* as() const {
    return static_cast<T*>(view_.buf);
  }
  size_t size() const { return static_cast<size_t>(view_.len); }

 private:
  Py_buffer view_;
};

inline std::string_view view_of(const nb::bytes& bytes) { return {bytes.c_str(), bytes.size()}; }

inline nb::bytes bytes_of(std::string_view bytes) { return nb::bytes(bytes.data(), bytes.size()); }

template <class T>
nb::bytes bytes_of(const std::vector<T>& numbers) {
  return nb::bytes(numbers.data(), sizeof(T) * numbers.size());
}

inline nb::object or_none(const nb::object& object) { return object.is_valid() ? object : nb::none(); }

// A field of a struct, by its name in Python.
template <class T, class Value>
struct BoundField {
  const char* name;
  Value T::*at;
};
template <class T, class Value>
BoundField<T, Value> field(const char* name, Value T::*at) {
  return {name, at};
}

template <class Value>
auto keyword(const char* name) {
  if constexpr (std::is_same_v<Value, AnyObject>) return nb::arg(name).none();
  else return nb::arg(name);
}

// A struct that Python makes of keywords: of all fields, in their order.
template <class T, class... Values>
nb::class_<T> made_struct(nb::module_& module, const char* name, BoundField<T, Values>... fields) {
  nb::class_<T> made(module, name);
  made.def("__init__", [](T* own, Values... values) { new (own) T{std::move(values)...}; }, nb::kw_only(),
           keyword<Values>(fields.name)...);
  return made;
}

// A struct that Python reads.
template <class T, class... Values>
nb::class_<T> read_struct(nb::module_& module, const char* name, BoundField<T, Values>... fields) {
  nb::class_<T> read(module, name);
  (read.def_ro(fields.name, fields.at), ...);
  return read;
}

}  // namespace native
