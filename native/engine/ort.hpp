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

// Of `OrtApi` in onnxruntime_c_api.h: no package of the index has that header.
enum class OrtSlot : size_t {
  kGetErrorMessage = 2, kCreateEnv = 3, kCreateSession = 7, kRun = 9, kCreateSessionOptions = 10,
  kSetSessionExecutionMode = 13, kSetSessionLogSeverityLevel = 22, kSetIntraOpNumThreads = 24,
  kSetInterOpNumThreads = 25, kSessionGetInputCount = 30, kSessionGetOutputCount = 31, kSessionGetInputTypeInfo = 33,
  kSessionGetOutputTypeInfo = 34, kSessionGetInputName = 36, kSessionGetOutputName = 37,
  kCreateTensorWithDataAsOrtValue = 49, kGetTensorMutableData = 51, kCastTypeInfoToTensorInfo = 55,
  kGetTensorElementType = 60, kGetDimensionsCount = 61, kGetDimensions = 62, kGetTensorTypeAndShape = 65,
  kCreateCpuMemoryInfo = 69, kAllocatorFree = 76, kGetAllocatorWithDefaultOptions = 78, kReleaseEnv = 92,
  kReleaseStatus = 93, kReleaseMemoryInfo = 94, kReleaseSession = 95, kReleaseValue = 96, kReleaseTypeInfo = 98,
  kReleaseTensorTypeAndShapeInfo = 99, kReleaseSessionOptions = 100,
};

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
    call<OrtSlot::kCreateEnv>(kOrtErrorsAlone, "msd", &env);
    call<OrtSlot::kCreateCpuMemoryInfo>(kOrtArena, 0, &cpu);
    call<OrtSlot::kGetAllocatorWithDefaultOptions>(&allocator);
  }
  OrtLibrary(const OrtLibrary&) = delete;
  ~OrtLibrary() {
    free<OrtSlot::kReleaseMemoryInfo>(cpu);
    free<OrtSlot::kReleaseEnv>(env);
  }

  // A function that returns a status. Throws std::runtime_error.
  template <OrtSlot place, class... Given>
  void call(Given... given) const {
    OrtStatus* const status = reinterpret_cast<OrtStatus* (*)(Given...)>(at(place))(given...);
    if (!status) return;
    const std::string message = reinterpret_cast<const char* (*)(const OrtStatus*)>(at(OrtSlot::kGetErrorMessage))(status);
    free<OrtSlot::kReleaseStatus>(status);
    throw std::runtime_error(message);
  }

  template <OrtSlot place, class Held>
  void free(Held* held) const {
    if (held) reinterpret_cast<void (*)(Held*)>(at(place))(held);
  }

  std::string version;
  OrtEnv* env = nullptr;
  OrtMemoryInfo* cpu = nullptr;
  OrtAllocator* allocator = nullptr;

 private:
  void* at(OrtSlot place) const { return table_[static_cast<size_t>(place)]; }

  void* const* table_ = nullptr;
};

template <OrtSlot place>
struct OrtFree {
  const OrtLibrary* library = nullptr;

  template <class Held>
  void operator()(Held* held) const {
    library->free<place>(held);
  }
};
// Freed by the function at a place of the table.
template <class Held, OrtSlot place>
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
    for (OrtValue* const value : values_) library_.free<OrtSlot::kReleaseValue>(value);
  }
  size_t size() const { return values_.size(); }
  OrtValue** data() { return values_.data(); }
  OrtValue* operator[](size_t place) const { return values_[place]; }

  // Over memory that outlives it.
  void set(size_t place, void* data, size_t bytes, const std::vector<int64_t>& shape, int type) {
    library_.free<OrtSlot::kReleaseValue>(values_[place]);
    values_[place] = nullptr;
    library_.call<OrtSlot::kCreateTensorWithDataAsOrtValue>(static_cast<const OrtMemoryInfo*>(library_.cpu), data, bytes, shape.data(), shape.size(), type, &values_[place]);
  }

  // What the runtime has made.
  OrtForm form(size_t place) const {
    OrtShape* shape = nullptr;
    library_.call<OrtSlot::kGetTensorTypeAndShape>(static_cast<const OrtValue*>(values_[place]), &shape);
    const OrtHeld<OrtShape, OrtSlot::kReleaseTensorTypeAndShapeInfo> held(shape, {&library_});
    return form_of(library_, shape);
  }
  void* memory(size_t place) const {
    void* data = nullptr;
    library_.call<OrtSlot::kGetTensorMutableData>(values_[place], &data);
    return data;
  }

  static OrtForm form_of(const OrtLibrary& library, const OrtShape* shape) {
    OrtForm form;
    size_t axes = 0;
    library.call<OrtSlot::kGetTensorElementType>(shape, &form.type);
    library.call<OrtSlot::kGetDimensionsCount>(shape, &axes);
    form.shape.resize(axes);
    library.call<OrtSlot::kGetDimensions>(shape, form.shape.data(), axes);
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
    library_->call<OrtSlot::kCreateSessionOptions>(&options);
    const OrtHeld<OrtOptions, OrtSlot::kReleaseSessionOptions> held(options, {library_.get()});
    library_->call<OrtSlot::kSetIntraOpNumThreads>(options, threads);
    library_->call<OrtSlot::kSetInterOpNumThreads>(options, 1);
    library_->call<OrtSlot::kSetSessionExecutionMode>(options, 0);  // one node after the other
    library_->call<OrtSlot::kSetSessionLogSeverityLevel>(options, kOrtErrorsAlone);
    library_->call<OrtSlot::kCreateSession>(static_cast<const OrtEnv*>(library_->env), path.c_str(), static_cast<const OrtOptions*>(options), &session);
    session_ = {session, {library_.get()}};
    inputs = forms<OrtSlot::kSessionGetInputCount, OrtSlot::kSessionGetInputTypeInfo, OrtSlot::kSessionGetInputName>();
    outputs = forms<OrtSlot::kSessionGetOutputCount, OrtSlot::kSessionGetOutputTypeInfo, OrtSlot::kSessionGetOutputName>();
  }

  const OrtLibrary& library() const { return *library_; }

  void run(const std::vector<const char*>& names, OrtValues& values, const std::vector<const char*>& wanted, OrtValues& found) const {
    library_->call<OrtSlot::kRun>(session_.get(), static_cast<const OrtRunOptions*>(nullptr), names.data(), static_cast<const OrtValue* const*>(values.data()),
                      values.size(), wanted.data(), wanted.size(), found.data());
  }

  std::vector<OrtForm> inputs, outputs;

 private:
  template <OrtSlot count_place, OrtSlot type_place, OrtSlot name_place>
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
      const OrtHeld<OrtTypeInfo, OrtSlot::kReleaseTypeInfo> held(info, {library_.get()});
      library_->call<OrtSlot::kCastTypeInfoToTensorInfo>(static_cast<const OrtTypeInfo*>(info), &shape);
      found.push_back(shape ? OrtValues::form_of(*library_, shape) : OrtForm{});
      library_->call<name_place>(session, k, library_->allocator, &name);
      found.back().name = name;
      library_->call<OrtSlot::kAllocatorFree>(library_->allocator, static_cast<void*>(name));
    }
    return found;
  }

  const std::shared_ptr<const OrtLibrary> library_;
  OrtHeld<OrtSession, OrtSlot::kReleaseSession> session_;
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
