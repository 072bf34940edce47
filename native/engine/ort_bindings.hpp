// ONNX Runtime's graphs for Python.
#pragma once

#if defined(__linux__)
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <exception>
#include <mutex>
#include <thread>

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

inline int type_of(char character) {
  for (size_t type = 1; type < std::size(kElements); type++)
    if (kElements[type].size && character == kElements[type].character) return static_cast<int>(type);
  throw nb::type_error("the runtime has no such element type");
}

inline size_t size_of(const std::vector<int64_t>& shape, int type) {
  size_t size = element_of(type).size;
  for (const int64_t axis : shape) size *= static_cast<size_t>(std::max<int64_t>(axis, 0));
  return size;
}

// Work in a thread of low priority, for which this one waits without Python's lock. That thread never takes the lock: while
// it held it and had no core, all others would wait for it.
template <class Work>
void do_aside(Work work) {
  std::exception_ptr error;
  std::thread([&] {
#if defined(__linux__)
    constexpr int kNiceness = 10;
    const auto here = static_cast<id_t>(syscall(SYS_gettid));
    setpriority(PRIO_PROCESS, here, std::max(kNiceness, getpriority(PRIO_PROCESS, here)));
#endif
    try {
      work();
    } catch (...) {
      error = std::current_exception();
    }
  }).join();
  if (error) std::rethrow_exception(error);
}

// Freeing a graph may take tens of milliseconds, for which no lock is held.
struct HeldOrtModel {
  std::unique_ptr<OrtModel> model;

  HeldOrtModel(const nb::bytes& library, const nb::bytes& path, int threads) {
    const std::string library_path(view_of(library)), model_path(view_of(path));
    const nb::gil_scoped_release unlocked;
    model = std::make_unique<OrtModel>(opened(library_path), model_path, threads);
  }
  ~HeldOrtModel() {
    const nb::gil_scoped_release unlocked;
    model = nullptr;
  }

  // A library is opened once; sessions may outlive each other.
  static std::shared_ptr<const OrtLibrary> opened(const std::string& path) {
    static std::mutex mutex;
    static auto* const libraries = new std::map<std::string, std::shared_ptr<const OrtLibrary>>();
    const std::lock_guard lock(mutex);
    std::shared_ptr<const OrtLibrary>& library = (*libraries)[path];
    if (!library) library = std::make_shared<const OrtLibrary>(path);
    return library;
  }

  // (name, contiguous array, its type's character, shape)
  using Input = std::tuple<std::string, nb::object, char, std::vector<int64_t>>;
  // (bytes, type, shape)
  using Output = std::tuple<nb::bytearray, const char*, std::vector<int64_t>>;

  std::vector<Output> run(const std::vector<std::string>& heads, const std::vector<Input>& inputs, bool is_aside) const {
    std::vector<const char*> wanted, names;
    for (const std::string& head : heads) wanted.push_back(head.c_str());
    std::vector<Buffer> buffers;
    OrtValues values(model->library(), inputs.size()), found(model->library(), wanted.size());
    for (const auto& [name, array, character, shape] : inputs) {
      const int type = type_of(character);
      const size_t size = size_of(shape, type);
      names.push_back(name.c_str());
      buffers.emplace_back(array, false, size);
      values.set(buffers.size() - 1, buffers.back().as<void>(), size, shape, type);
    }
    {
      const nb::gil_scoped_release unlocked;
      const auto work = [&] { model->run(names, values, wanted, found); };
      is_aside ? do_aside(work) : work();
    }
    std::vector<Output> outputs;
    for (size_t k = 0; k < found.size(); k++) {
      const OrtForm form = found.form(k);
      outputs.emplace_back(nb::bytearray(found.memory(k), size_of(form.shape, form.type)), element_of(form.type).name,
                           form.shape);
    }
    return outputs;
  }
};

// (name, type, shape) of each input or output; an axis of −1 may have any length
inline std::vector<std::tuple<std::string, const char*, std::vector<int64_t>>> forms_of(const std::vector<OrtForm>& forms) {
  std::vector<std::tuple<std::string, const char*, std::vector<int64_t>>> found;
  for (const OrtForm& form : forms) found.emplace_back(form.name, element_of(form.type).name, form.shape);
  return found;
}

// OrtModel(library, path, threads): paths as bytes
inline void add_ort_model(nb::module_& module) {
  nb::class_<HeldOrtModel>(module, "OrtModel")
      .def(nb::init<const nb::bytes&, const nb::bytes&, int>(), nb::arg("library"), nb::arg("path"), nb::arg("threads"))
      // `is_aside`: at low priority
      .def("run", &HeldOrtModel::run, nb::arg("heads"), nb::arg("inputs"), nb::arg("is_aside"))
      .def_prop_ro("version", [](const HeldOrtModel& held) { return held.model->library().version; })
      .def_prop_ro("inputs", [](const HeldOrtModel& held) { return forms_of(held.model->inputs); })
      .def_prop_ro("outputs", [](const HeldOrtModel& held) { return forms_of(held.model->outputs); });
}

}  // namespace native
