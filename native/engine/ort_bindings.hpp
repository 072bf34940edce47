// ONNX Runtime's graphs for Python.
#pragma once

#include <map>

#include "../core/python.hpp"
#include "ort.hpp"

namespace native {

// Element types by the runtime's numbers: numpy's names and characters for them, and their bytes.
struct Element {
  const char* name;
  char character;
  size_t size;
};
inline constexpr Element kElements[] = {
    {"undefined", 0, 0}, {"float32", 'f', 4}, {"uint8", 'B', 1},   {"int8", 'b', 1},    {"uint16", 'H', 2},
    {"int16", 'h', 2},   {"int32", 'i', 4},   {"int64", 'l', 8},   {"string", 0, 0},    {"bool", '?', 1},
    {"float16", 'e', 2}, {"float64", 'd', 8}, {"uint32", 'I', 4},  {"uint64", 'L', 8}};

inline const Element& element_of(int type) {
  const bool is_known = type > 0 && static_cast<size_t>(type) < std::size(kElements);
  return kElements[is_known ? type : 0];
}

inline int type_of(std::string_view character) {
  for (size_t type = 1; type < std::size(kElements); type++)
    if (kElements[type].size && character == std::string_view(&kElements[type].character, 1)) return static_cast<int>(type);
  raise(PyExc_TypeError, "the runtime has no such element type");
}

inline std::vector<int64_t> shape_of(PyObject* tuple) {
  std::vector<int64_t> shape;
  for (Py_ssize_t axis = 0; axis < PyTuple_Size(tuple); axis++) shape.push_back(place_from(item_of(tuple, axis)));
  return shape;
}

inline size_t bytes_of(const std::vector<int64_t>& shape, int type) {
  size_t size = element_of(type).size;
  for (const int64_t axis : shape) size *= static_cast<size_t>(std::max<int64_t>(axis, 0));
  return size;
}

inline Ref to_python(const std::vector<int64_t>& shape) {
  Ref tuple(checked(PyTuple_New(static_cast<Py_ssize_t>(shape.size()))));
  for (size_t axis = 0; axis < shape.size(); axis++)
    PyTuple_SET_ITEM(tuple.get(), static_cast<Py_ssize_t>(axis), checked(PyLong_FromLongLong(shape[axis])));
  return tuple;
}

inline void append(const Ref& list, PyObject* owned) {
  const Ref item(checked(owned));
  if (PyList_Append(list.get(), item.get())) throw PythonError{};
}

// OrtModel(library, path, threads): paths as bytes

// Freeing one may take tens of milliseconds, for which no lock is held.
struct HeldOrtModel {
  std::unique_ptr<OrtModel> model;

  explicit HeldOrtModel(std::unique_ptr<OrtModel> made) : model(std::move(made)) {}
  ~HeldOrtModel() {
    const Unlocked unlocked;
    model = nullptr;
  }
};

inline HeldOrtModel* make_ort_model(PyObject* arguments) {
  // By path; sessions may outlive each other.
  static auto* const libraries = new std::map<std::string, std::shared_ptr<const OrtLibrary>>();
  PyObject *library, *path;
  int threads;
  if (!PyArg_ParseTuple(arguments, "SSi", &library, &path, &threads)) throw PythonError{};
  const std::string library_path(bytes_of(library)), model_path(bytes_of(path));
  auto& opened = (*libraries)[library_path];
  if (!opened) opened = std::make_shared<const OrtLibrary>(library_path);
  const auto held = opened;
  std::unique_ptr<OrtModel> made;
  {
    const Unlocked unlocked;
    made = std::make_unique<OrtModel>(held, model_path, threads);
  }
  return new HeldOrtModel(std::move(made));
}

inline PyObject* ort_model_version(const HeldOrtModel& held) { return to_python(held.model->library().version); }

inline PyObject* forms_to_python(const std::vector<OrtForm>& forms) {
  Ref list(checked(PyList_New(0)));
  for (const OrtForm& form : forms)
    append(list, Py_BuildValue("(ssO)", form.name.c_str(), element_of(form.type).name, to_python(form.shape).get()));
  return Py_NewRef(list.get());
}

// (name, type, shape) of each input and output; an axis of −1 may have any length
inline PyObject* ort_model_inputs(const HeldOrtModel& held) { return forms_to_python(held.model->inputs); }

inline PyObject* ort_model_outputs(const HeldOrtModel& held) { return forms_to_python(held.model->outputs); }

// run(names, inputs): inputs are (name, contiguous array, its type's character, shape); outputs (bytes, type, shape)
inline PyObject* ort_model_run(HeldOrtModel& held, Arguments given) {
  const OrtModel& model = *held.model;
  std::vector<const char*> wanted, names;
  for (Py_ssize_t k = 0; k < PyTuple_Size(given[0]); k++) wanted.push_back(text_of(item_of(given[0], k)).data());
  const size_t count = static_cast<size_t>(PyTuple_Size(given[1]));
  if (PyErr_Occurred()) throw PythonError{};
  std::vector<Buffer> buffers;
  OrtValues values(model.library(), count), found(model.library(), wanted.size());
  for (size_t k = 0; k < count; k++) {
    PyObject* told = item_of(given[1], static_cast<Py_ssize_t>(k));
    const int type = type_of(text_of(item_of(told, 2)));
    const std::vector<int64_t> shape = shape_of(item_of(told, 3));
    names.push_back(text_of(item_of(told, 0)).data());
    buffers.emplace_back(item_of(told, 1), false, bytes_of(shape, type));
    values.set(k, buffers.back().as<void>(), bytes_of(shape, type), shape, type);
  }
  {
    const Unlocked unlocked;
    model.run(names, values, wanted, found);
  }
  Ref list(checked(PyList_New(0)));
  for (size_t k = 0; k < found.size(); k++) {
    const OrtForm form = found.form(k);
    const Ref bytes(checked(PyByteArray_FromStringAndSize(static_cast<const char*>(found.memory(k)),
                                                          static_cast<Py_ssize_t>(bytes_of(form.shape, form.type)))));
    append(list, Py_BuildValue("(OsO)", bytes.get(), element_of(form.type).name, to_python(form.shape).get()));
  }
  return Py_NewRef(list.get());
}

inline PyMethodDef ort_model_methods[] = {method<HeldOrtModel, 2, ort_model_run>("run"), {}};
inline PyGetSetDef ort_model_values[] = {value<HeldOrtModel, ort_model_version>("version"),
                                         value<HeldOrtModel, ort_model_inputs>("inputs"),
                                         value<HeldOrtModel, ort_model_outputs>("outputs"),
                                         {}};

inline bool add_ort_model(PyObject* module) {
  return add_type<HeldOrtModel>(module, "native._core.OrtModel",
                            {creator<HeldOrtModel, make_ort_model>(),
                             {Py_tp_methods, ort_model_methods},
                             {Py_tp_getset, ort_model_values}});
}

}  // namespace native
