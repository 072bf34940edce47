// The extension `native._core`.
#include "core/bindings.hpp"
#include "engine/ort_bindings.hpp"
#include "engine/queue_bindings.hpp"
#include "engine/scoring_bindings.hpp"
#include "front/front_bindings.hpp"

namespace {

int fill_module(PyObject* module) {
  const bool is_whole = add_frames(module) && add_ort_model(module) && add_queue(module) && add_scoring(module) &&
                        add_front(module);
  return is_whole && !PyModule_AddIntConstant(module, "LAYOUT", NATIVE_LAYOUT) &&
                 !PyModule_AddStringConstant(module, "INSTRUCTIONS", native::half::chosen_name())
             ? 0
             : -1;
}

PyModuleDef_Slot module_slots[] = {{Py_mod_exec, reinterpret_cast<void*>(fill_module)},
#ifdef Py_GIL_DISABLED
                                   {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
                                   {0, nullptr}};
PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_core", nullptr, 0, nullptr, module_slots, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__core() { return PyModuleDef_Init(&definition); }
