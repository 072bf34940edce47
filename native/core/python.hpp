// What C++ needs to speak with Python: references, buffers, errors, its lock, and types that hold a value of C++.
#pragma once

#define PY_SSIZE_T_CLEAN
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <new>
#include <stdexcept>
#include <string_view>
#include <utility>
#include <vector>

namespace native {

namespace nb = nanobind;

// Thrown if a Python error is set.
using PythonError = nb::python_error;

inline PyObject* checked(PyObject* object) {
  if (!object) throw PythonError{};
  return object;
}

[[noreturn]] inline void raise(PyObject* type, const char* message) {
  PyErr_SetString(type, message);
  throw PythonError{};
}

// A reference that is released at the end of the scope.
class Ref {
 public:
  Ref() = default;
  explicit Ref(PyObject* owned) : object_(owned) {}
  Ref(Ref&& other) noexcept : object_(other.object_) { other.object_ = nullptr; }
  Ref& operator=(Ref&& other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Ref() { Py_XDECREF(object_); }
  static Ref to(PyObject* borrowed) { return Ref(Py_XNewRef(borrowed)); }
  PyObject* get() const { return object_; }

 private:
  PyObject* object_ = nullptr;
};

// An object's memory, for as long as this lives.
class Buffer {
 public:
  Buffer() { view_.obj = nullptr; }
  Buffer(nb::handle object, bool is_written, size_t least = 0) {
    view_.obj = nullptr;
    if (PyObject_GetBuffer(object.ptr(), &view_, is_written ? PyBUF_CONTIG : PyBUF_CONTIG_RO)) throw PythonError{};
    if (size() < least) {
      PyBuffer_Release(&view_);
      raise(PyExc_ValueError, "a buffer is smaller than what is to be in it");
    }
  }
  Buffer(Buffer&& other) noexcept : view_(other.view_) { other.view_.obj = nullptr; }
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(view_, other.view_);
    return *this;
  }
  ~Buffer() { PyBuffer_Release(&view_); }
  template <class T>
  T* as() const {
    return static_cast<T*>(view_.obj ? view_.buf : nullptr);
  }
  size_t size() const { return static_cast<size_t>(view_.len); }

 private:
  Py_buffer view_;
};

// Release Python's lock within the scope.
class Unlocked {
 public:
  Unlocked() : state_(PyEval_SaveThread()) {}
  ~Unlocked() { PyEval_RestoreThread(state_); }

 private:
  PyThreadState* state_;
};

// Run a function that may throw.
template <class Work>
auto guarded(Work work, decltype(work()) failed) noexcept -> decltype(work()) {
  try {
    return work();
  } catch (PythonError& error) {
    error.restore();
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return failed;
}

inline std::string_view text_of(PyObject* object) {
  Py_ssize_t size;
  const char* text = PyUnicode_AsUTF8AndSize(object, &size);
  if (!text) throw PythonError{};
  return {text, static_cast<size_t>(size)};
}

inline std::string_view bytes_of(PyObject* object) {
  char* bytes;
  Py_ssize_t size;
  if (PyBytes_AsStringAndSize(object, &bytes, &size)) throw PythonError{};
  return {bytes, static_cast<size_t>(size)};
}

inline std::string_view view_of(const nb::bytes& bytes) { return {bytes.c_str(), bytes.size()}; }

inline nb::bytes bytes_of(std::string_view bytes) { return nb::bytes(bytes.data(), bytes.size()); }

template <class T>
nb::bytes bytes_of(const std::vector<T>& numbers) {
  return nb::bytes(numbers.data(), sizeof(T) * numbers.size());
}

inline PyObject* item_of(PyObject* tuple, Py_ssize_t place) { return checked(PyTuple_GetItem(tuple, place)); }

inline size_t size_from(PyObject* number) {
  const size_t size = PyLong_AsSize_t(number);
  if (PyErr_Occurred()) throw PythonError{};
  return size;
}

inline int64_t place_from(PyObject* number) {
  const int64_t place = PyLong_AsLongLong(number);
  if (PyErr_Occurred()) throw PythonError{};
  return place;
}

inline double double_from(PyObject* number) {
  const double value = PyFloat_AsDouble(number);
  if (PyErr_Occurred()) throw PythonError{};
  return value;
}

inline size_t size_of(PyObject* tuple, Py_ssize_t place) { return size_from(item_of(tuple, place)); }

inline double double_of(PyObject* tuple, Py_ssize_t place) { return double_from(item_of(tuple, place)); }

inline PyObject* to_python(std::string_view text) {
  return PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), nullptr);
}

inline PyObject* to_bytes(std::string_view bytes) {
  return PyBytes_FromStringAndSize(bytes.data(), static_cast<Py_ssize_t>(bytes.size()));
}

// A Python object that holds a value of C++.
template <class T>
struct Box {
  PyObject_HEAD
  T* value;

  static PyTypeObject* type;

  static T& of(PyObject* object) {
    if (!PyObject_TypeCheck(object, type)) {
      PyErr_Format(PyExc_TypeError, "expected %s, got %s", type->tp_name, Py_TYPE(object)->tp_name);
      throw PythonError{};
    }
    return *reinterpret_cast<Box*>(object)->value;
  }

  static void dealloc(PyObject* object) {
    PyTypeObject* own = Py_TYPE(object);
    delete reinterpret_cast<Box*>(object)->value;
    own->tp_free(object);
    Py_DECREF(own);
  }

  static PyObject* wrap(std::unique_ptr<T> made) {
    PyObject* object = checked(type->tp_alloc(type, 0));
    reinterpret_cast<Box*>(object)->value = made.release();
    return object;
  }

  template <T* (*make)(PyObject*)>
  static PyObject* create(PyTypeObject*, PyObject* arguments, PyObject*) {
    return guarded([&] { return wrap(std::unique_ptr<T>(make(arguments))); }, nullptr);
  }
};

template <class T>
PyTypeObject* Box<T>::type = nullptr;

// What Python calls for a method with so many arguments, and for a value that is read.
using Arguments = PyObject* const*;

template <class T, Py_ssize_t wanted, PyObject* (*work)(T&, Arguments)>
PyObject* called(PyObject* self, Arguments given, Py_ssize_t count) {
  return guarded(
      [&]() -> PyObject* {
        if (count != wanted) raise(PyExc_TypeError, "not as many arguments as the method takes");
        return work(Box<T>::of(self), given);
      },
      nullptr);
}

template <class T, PyObject* (*work)(const T&)>
PyObject* got(PyObject* self, void*) {
  return guarded([&] { return work(Box<T>::of(self)); }, nullptr);
}

template <class T, Py_ssize_t wanted, PyObject* (*work)(T&, Arguments)>
PyMethodDef method(const char* name) {
  const auto function = reinterpret_cast<void (*)()>(called<T, wanted, work>);
  return {name, reinterpret_cast<PyCFunction>(function), METH_FASTCALL, nullptr};
}

template <class T, PyObject* (*work)(const T&)>
PyGetSetDef value(const char* name) {
  return {name, got<T, work>, nullptr, nullptr, nullptr};
}

template <class T>
bool add_type(PyObject* module, const char* name, std::vector<PyType_Slot> slots) {
  slots.push_back({Py_tp_dealloc, reinterpret_cast<void*>(Box<T>::dealloc)});
  slots.push_back({0, nullptr});
  PyType_Spec spec{name, sizeof(Box<T>), 0, Py_TPFLAGS_DEFAULT, slots.data()};
  PyObject* type = PyType_FromSpec(&spec);
  if (!type) return false;
  Box<T>::type = reinterpret_cast<PyTypeObject*>(type);
  return !PyModule_AddType(module, Box<T>::type);
}

template <class T, T* (*make)(PyObject*)>
PyType_Slot creator() {
  return {Py_tp_new, reinterpret_cast<void*>(&Box<T>::template create<make>)};
}

}  // namespace native
