// ONNX Runtime by its C interface, from the library that its Python wheel ships, opened when it is first asked for. Its
// table of functions only grows at its end: the places that are used here are declared, and a library that is too old for
// them gives no table.
#pragma once

#include <dlfcn.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "../core/tensors.hpp"

namespace native {

// Opaque types of the runtime, and its functions, by their places in the table.
struct OrtStatus;
struct OrtEnv;
struct OrtOptions;
struct OrtSession;
struct OrtValue;
struct OrtMemoryInfo;
struct OrtAllocator;
struct OrtTypeInfo;
struct OrtShape;
struct OrtRunOptions;

constexpr uint32_t kOrtVersion = 20;  // of 1.20, the oldest release that may be installed
constexpr int kOrtFloat = 1, kOrtInt32 = 6, kOrtErrorsAlone = 3, kOrtArena = 1;

class OrtLibrary {
 public:
  // Throws std::runtime_error.
  explicit OrtLibrary(const std::string& path) {
    struct Base {
      void* const* (*api)(uint32_t);
      const char* (*version)();
    };
    // Never closed: its threads and its allocators outlive sessions.
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) throw std::runtime_error(dlerror());
    auto* const base = reinterpret_cast<const Base* (*)()>(dlsym(library, "OrtGetApiBase"));
    if (!base) throw std::runtime_error(path + ": is not ONNX Runtime");
    version = base()->version();
    table_ = base()->api(kOrtVersion);
    if (!table_) throw std::runtime_error(path + ": ONNX Runtime " + version + " is too old; install 1.20 or newer");
    call<3>(kOrtErrorsAlone, "msd", &env);
    call<69>(kOrtArena, 0, &cpu);
    call<78>(&allocator);
  }
  OrtLibrary(const OrtLibrary&) = delete;
  ~OrtLibrary() {
    free<94>(cpu);
    free<92>(env);
  }

  // A function that returns a status. Throws std::runtime_error.
  template <size_t place, class... Given>
  void call(Given... given) const {
    OrtStatus* const status = reinterpret_cast<OrtStatus* (*)(Given...)>(table_[place])(given...);
    if (!status) return;
    const std::string message = reinterpret_cast<const char* (*)(const OrtStatus*)>(table_[2])(status);
    free<93>(status);
    throw std::runtime_error(message);
  }

  template <size_t place, class Held>
  void free(Held* held) const {
    if (held) reinterpret_cast<void (*)(Held*)>(table_[place])(held);
  }

  std::string version;
  OrtEnv* env = nullptr;
  OrtMemoryInfo* cpu = nullptr;
  OrtAllocator* allocator = nullptr;

 private:
  void* const* table_ = nullptr;
};

template <size_t place>
struct OrtFree {
  const OrtLibrary* library = nullptr;

  template <class Held>
  void operator()(Held* held) const {
    library->free<place>(held);
  }
};
// Freed by the function at a place of the table.
template <class Held, size_t place>
using OrtHeld = std::unique_ptr<Held, OrtFree<place>>;

// A tensor's element type, by the runtime's number, and its shape; −1: an axis of any length.
struct OrtForm {
  std::string name;
  int type = 0;
  std::vector<int64_t> shape;
};

// Values that are freed together.
class OrtValues {
 public:
  OrtValues(const OrtLibrary& library, size_t count) : library_(library), values_(count, nullptr) {}
  OrtValues(const OrtValues&) = delete;
  ~OrtValues() {
    for (OrtValue* const value : values_) library_.free<96>(value);
  }
  size_t size() const { return values_.size(); }
  OrtValue** data() { return values_.data(); }
  OrtValue* operator[](size_t place) const { return values_[place]; }

  // Over memory that outlives it.
  void set(size_t place, void* data, size_t bytes, const std::vector<int64_t>& shape, int type) {
    library_.free<96>(values_[place]);
    values_[place] = nullptr;
    library_.call<49>(static_cast<const OrtMemoryInfo*>(library_.cpu), data, bytes, shape.data(), shape.size(), type, &values_[place]);
  }

  // What the runtime has made.
  OrtForm form(size_t place) const {
    OrtShape* shape = nullptr;
    library_.call<65>(static_cast<const OrtValue*>(values_[place]), &shape);
    const OrtHeld<OrtShape, 99> held(shape, {&library_});
    return form_of(library_, shape);
  }
  void* memory(size_t place) const {
    void* data = nullptr;
    library_.call<51>(values_[place], &data);
    return data;
  }

  static OrtForm form_of(const OrtLibrary& library, const OrtShape* shape) {
    OrtForm form;
    size_t axes = 0;
    library.call<60>(shape, &form.type);
    library.call<61>(shape, &axes);
    form.shape.resize(axes);
    library.call<62>(shape, form.shape.data(), axes);
    return form;
  }

 private:
  const OrtLibrary& library_;
  std::vector<OrtValue*> values_;
};

// A loaded graph. Any thread may run it, and several at once.
class OrtModel {
 public:
  // Throws std::runtime_error.
  OrtModel(std::shared_ptr<const OrtLibrary> library, const std::string& path, int threads) : library_(std::move(library)) {
    OrtOptions* options = nullptr;
    OrtSession* session = nullptr;
    library_->call<10>(&options);
    const OrtHeld<OrtOptions, 100> held(options, {library_.get()});
    library_->call<24>(options, threads);
    library_->call<25>(options, 1);
    library_->call<13>(options, 0);  // one node after the other
    library_->call<22>(options, kOrtErrorsAlone);
    library_->call<7>(static_cast<const OrtEnv*>(library_->env), path.c_str(), static_cast<const OrtOptions*>(options), &session);
    session_ = {session, {library_.get()}};
    inputs = forms<30, 33, 36>();
    outputs = forms<31, 34, 37>();
  }

  const OrtLibrary& library() const { return *library_; }

  void run(const std::vector<const char*>& names, OrtValues& values, const std::vector<const char*>& wanted, OrtValues& found) const {
    library_->call<9>(session_.get(), static_cast<const OrtRunOptions*>(nullptr), names.data(), static_cast<const OrtValue* const*>(values.data()),
                      values.size(), wanted.data(), wanted.size(), found.data());
  }

  std::vector<OrtForm> inputs, outputs;

 private:
  template <size_t count_place, size_t type_place, size_t name_place>
  std::vector<OrtForm> forms() const {
    const OrtSession* const session = session_.get();
    size_t count = 0;
    library_->call<count_place>(session, &count);
    std::vector<OrtForm> found;
    for (size_t k = 0; k < count; k++) {
      OrtTypeInfo* info = nullptr;
      const OrtShape* shape = nullptr;  // the info's own
      char* name = nullptr;
      library_->call<type_place>(session, k, &info);
      const OrtHeld<OrtTypeInfo, 98> held(info, {library_.get()});
      library_->call<55>(static_cast<const OrtTypeInfo*>(info), &shape);
      found.push_back(shape ? OrtValues::form_of(*library_, shape) : OrtForm{});
      library_->call<name_place>(session, k, library_->allocator, &name);
      found.back().name = name;
      library_->call<76>(library_->allocator, static_cast<void*>(name));
    }
    return found;
  }

  const std::shared_ptr<const OrtLibrary> library_;
  OrtHeld<OrtSession, 95> session_;
};

// A graph bound to one thread's tensors: its values are made once, those of candidates again where their number changes.
class BoundOrtModel {
 public:
  // Throws std::runtime_error if the graph needs a tensor that is not there.
  BoundOrtModel(const OrtModel& model, const std::vector<Memory>& memory, const std::vector<std::string>& heads)
      : model_(model), heads_(heads), values_(model.library(), model.inputs.size()) {
    for (const OrtForm& input : model.inputs) {
      const auto found = std::find_if(memory.begin(), memory.end(), [&](const Memory& one) { return one.name == input.name; });
      if (found == memory.end()) throw std::runtime_error("the graph has an input that the schema lacks: " + input.name);
      memory_.push_back(*found);
      names_.push_back(input.name.c_str());
      if (!found->is_per_candidate) set(names_.size() - 1, 1);
    }
    for (const std::string& head : heads_) wanted_.push_back(head.c_str());
  }

  // Scores [N] by head of the first N candidates. Throws what the runtime says, as std::runtime_error.
  void run(size_t count, const std::vector<float*>& scores) {
    if (count != count_) {
      count_ = 0;  // until all values have the new one
      for (size_t k = 0; k < memory_.size(); k++)
        if (memory_[k].is_per_candidate) set(k, count);
      count_ = count;
    }
    OrtValues found(model_.library(), wanted_.size());
    model_.run(names_, values_, wanted_, found);
    for (size_t k = 0; k < wanted_.size(); k++) {
      const OrtForm form = found.form(k);
      size_t size = 1;
      for (const int64_t axis : form.shape) size *= static_cast<size_t>(axis);
      if (form.type != kOrtFloat || size != count)
        throw std::runtime_error("the graph's output " + heads_[k] + " is not one fp32 number for each candidate");
      std::memcpy(scores[k], found.memory(k), sizeof(float) * count);
    }
  }

 private:
  void set(size_t place, size_t rows) {
    const Memory& own = memory_[place];
    std::vector<int64_t> shape{static_cast<int64_t>(rows)};
    shape.insert(shape.end(), own.row.begin(), own.row.end());
    size_t size = 4;
    for (const int64_t axis : shape) size *= static_cast<size_t>(axis);
    if (size > own.size) throw std::runtime_error("a tensor has room for fewer candidates: " + own.name);
    values_.set(place, own.data, size, shape, own.is_float ? kOrtFloat : kOrtInt32);
  }

  const OrtModel& model_;
  const std::vector<std::string> heads_;
  std::vector<Memory> memory_;
  std::vector<const char*> names_, wanted_;
  OrtValues values_;
  size_t count_ = 0;
};

}  // namespace native
