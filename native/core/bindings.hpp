// What the headers beside it do, for Python. Work on a request holds no Python lock.
#pragma once

#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#include "python.hpp"

#include <numpy/ndarraytypes.h>
#include <numpy/ufuncobject.h>

#include <chrono>

#include "reply.hpp"

namespace {

using namespace native;

// Schema(user, item, history_length, context_categorical, context_dense, context, (log, log1p, exp, exp2, expm1))

Ufunc ufunc_of(PyObject* object) {
  // Of numpy's own type alone: its layout is what the header says.
  if (std::string_view(Py_TYPE(object)->tp_name) != "numpy.ufunc") raise(PyExc_TypeError, "expected a numpy.ufunc");
  const auto* ufunc = reinterpret_cast<PyUFuncObject*>(object);
  for (int k = 0; k < ufunc->ntypes; k++) {
    const char* types = ufunc->types + static_cast<ptrdiff_t>(k) * ufunc->nargs;
    if (ufunc->nargs == 2 && types[0] == NPY_DOUBLE && types[1] == NPY_DOUBLE)
      return {ufunc->functions[k], ufunc->data ? const_cast<void*>(ufunc->data[k]) : nullptr};
  }
  raise(PyExc_TypeError, "expected a numpy.ufunc of doubles");
}

template <class T>
std::vector<T> numbers_of(PyObject* object) {
  const std::string_view bytes = bytes_of(object);
  std::vector<T> numbers;
  for (size_t at = 0; at + sizeof(T) <= bytes.size(); at += sizeof(T)) numbers.push_back(load<T>(bytes.data() + at));
  return numbers;
}

ValueField field_of(PyObject* told) {
  ValueField field;
  field.kind = static_cast<ValueField::Kind>(size_of(told, 1));
  field.start = size_of(told, 2);
  field.width = size_of(told, 3);
  field.buckets = size_of(told, 4);
  field.is_log = PyObject_IsTrue(item_of(told, 5)) == 1;
  field.mean = double_of(told, 6);
  field.scale = double_of(told, 7);
  PyObject* vocabulary = item_of(told, 8);
  for (Py_ssize_t k = 0; k < PyTuple_Size(vocabulary); k++)
    field.vocabulary.emplace(text_of(item_of(vocabulary, k)), static_cast<int32_t>(k) + kUnknownIndex + 1);
  return field;
}

Fields fields_of(PyObject* told) {
  Fields fields;
  for (Py_ssize_t k = 0; k < PyTuple_Size(told); k++) {
    PyObject* field = item_of(told, k);
    fields.emplace(text_of(item_of(field, 0)), field_of(field));
  }
  return fields;
}

Side side_of(PyObject* told) {
  PyObject *layout = item_of(told, 0), *state = item_of(told, 1);
  Side side;
  size_t* const fields[] = {
      &side.layout.size,        &side.layout.flags,       &side.layout.written_at, &side.layout.impressions,
      &side.layout.clicks,      &side.layout.as_of,       &side.layout.categorical, &side.layout.categoricals,
      &side.layout.numeric,     &side.layout.numerics,    &side.layout.semantic,   &side.layout.dim};
  for (size_t k = 0; k < std::size(fields); k++) *fields[k] = size_of(layout, static_cast<Py_ssize_t>(k));
  side.state.is_on = state != Py_None;
  if (side.state.is_on)
    side.state = {true, double_of(state, 0), double_of(state, 1), double_of(state, 2), double_of(state, 3)};
  const std::string_view missing = bytes_of(item_of(told, 2));
  if (missing.size() != side.layout.size) raise(PyExc_ValueError, "the missing record is not of the layout's size");
  side.missing.assign(missing.begin(), missing.end());
  side.fields = fields_of(item_of(told, 3));
  return side;
}

Schema* make_schema(PyObject* arguments) {
  PyObject *user, *item, *categorical, *dense, *context, *ufuncs;
  Py_ssize_t length;
  if (!PyArg_ParseTuple(arguments, "O!O!nSSO!O!", &PyTuple_Type, &user, &PyTuple_Type, &item, &length, &categorical,
                        &dense, &PyTuple_Type, &context, &PyTuple_Type, &ufuncs))
    throw PythonError{};
  auto schema = std::make_unique<Schema>();
  schema->user = side_of(user);
  schema->item = side_of(item);
  schema->history_length = static_cast<size_t>(length);
  schema->context_categorical = numbers_of<int32_t>(categorical);
  schema->context_dense = numbers_of<float>(dense);
  schema->context = fields_of(context);
  schema->ufuncs = {ufunc_of(item_of(ufuncs, 0)), ufunc_of(item_of(ufuncs, 1)), ufunc_of(item_of(ufuncs, 2)),
                    ufunc_of(item_of(ufuncs, 3)), ufunc_of(item_of(ufuncs, 4))};
  return schema.release();
}

// RowFile(body, proved, checksums, descriptor, base, (slots, ids, starts, rows), (homes, seed, width, count,
// start_bytes, record_size)); sections are (start, size)

struct HeldRowFile {
  Buffer body, proved, checksums;
  std::unique_ptr<RowFile> file;
};

HeldRowFile* make_row_file(PyObject* arguments) {
  PyObject *body, *proved, *checksums, *sections, *numbers;
  int descriptor;
  Py_ssize_t base;
  if (!PyArg_ParseTuple(arguments, "OOOinO!O!", &body, &proved, &checksums, &descriptor, &base, &PyTuple_Type,
                        &sections, &PyTuple_Type, &numbers))
    throw PythonError{};
  auto held = std::make_unique<HeldRowFile>();
  held->body = Buffer(body, true);
  const size_t blocks = (held->body.size() + kBlock - 1) >> kBlockBits;
  held->proved = Buffer(proved, true, blocks);
  held->checksums = Buffer(checksums, false, 4 * blocks);
  const auto place = [&](Py_ssize_t k) {
    PyObject* section = item_of(sections, k);
    const RowFile::Place found{size_of(section, 0), size_of(section, 1)};
    if (found.start > held->body.size() || found.size > held->body.size() - found.start)
      raise(PyExc_ValueError, "a section does not fit the file");
    return found;
  };
  const RowFile::Parts parts{
      held->body.as<uint8_t>(), held->body.size(),   held->proved.as<uint8_t>(), held->checksums.as<const uint8_t>(),
      descriptor,               static_cast<size_t>(base), place(0),             place(1),
      place(2),                 place(3),            size_of(numbers, 0),        size_of(numbers, 1),
      size_of(numbers, 2),      size_of(numbers, 3), size_of(numbers, 4),        size_of(numbers, 5)};
  const bool fits = parts.homes && parts.width && parts.ids.size >= parts.width * parts.count && parts.record_size &&
                    (parts.starts.size ? parts.starts.size >= parts.start_bytes * (parts.count + 1)
                                       : parts.rows.size >= parts.record_size * parts.count);
  if (!fits) raise(PyExc_ValueError, "the sections do not fit the count");
  held->file = std::make_unique<RowFile>(parts);
  return held.release();
}

// IdMap()

IdMap* make_id_map(PyObject* arguments) {
  if (!PyArg_ParseTuple(arguments, "")) throw PythonError{};
  return new IdMap();
}

Py_ssize_t id_map_length(PyObject* self) {
  const IdMap& map = Box<IdMap>::of(self);
  const auto lock = map.reading();
  return static_cast<Py_ssize_t>(map.size());
}

PyObject* id_map_put(IdMap& map, Arguments given) {
  const int64_t place = place_from(given[0]);
  const std::string_view id = text_of(given[1]), tail = bytes_of(given[2]);
  if (place < 0 || !map.put(place, id, tail)) raise(PyExc_ValueError, "the place, or the id, is held already");
  return Py_NewRef(Py_None);
}

PyObject* id_map_drop(IdMap& map, Arguments given) { return PyLong_FromSsize_t(map.drop(text_of(given[0]))); }

PyObject* id_map_find(IdMap& map, Arguments given) {
  const std::string_view id = text_of(given[0]);
  const auto lock = map.reading();
  return PyLong_FromSsize_t(map.find(id));
}

// find_all(ids, places): the place of each id into an array of int64, −1 where it is not held
PyObject* id_map_find_all(IdMap& map, Arguments given) {
  const Ref ids(checked(PySequence_Fast(given[0], "ids are a sequence")));
  const Py_ssize_t size = PySequence_Fast_GET_SIZE(ids.get());
  const Buffer places(given[1], true, sizeof(int64_t) * static_cast<size_t>(size));
  std::vector<std::string_view> texts;
  for (Py_ssize_t k = 0; k < size; k++) texts.push_back(text_of(PySequence_Fast_GET_ITEM(ids.get(), k)));
  const auto lock = map.reading();
  for (size_t k = 0; k < texts.size(); k++) places.as<int64_t>()[k] = map.find(texts[k]);
  return Py_NewRef(Py_None);
}

PyObject* id_map_id(IdMap& map, Arguments given) {
  const int64_t place = place_from(given[0]);
  const auto lock = map.reading();
  return map.is_held(place) ? to_python(map.id(place)) : Py_NewRef(Py_None);
}

PyObject* id_map_tail(IdMap& map, Arguments given) {
  const int64_t place = place_from(given[0]);
  const auto lock = map.reading();
  return to_bytes(map.is_held(place) ? std::string_view(map.tail(place)) : std::string_view());
}

PyObject* id_map_trim(IdMap& map, Arguments given) { return PyBool_FromLong(map.trim(size_from(given[0]))); }

PyObject* id_map_end(const IdMap& map) {
  const auto lock = map.reading();
  return PyLong_FromSize_t(map.end());
}

// json_parts(body): the number of keys and values of a JSON document
PyObject* json_parts(PyObject*, PyObject* body) {
  return guarded(
      [&] {
        const std::string_view text = bytes_of(body);
        size_t parts;
        {
          const Unlocked unlocked;
          parts = parts_of(text);
        }
        return PyLong_FromSize_t(parts);
      },
      nullptr);
}

// Arena(ids, records, found, epochs, touched, record_size)

struct HeldArena {
  Ref ids;
  Buffer records, found, epochs, touched;
  Arena arena;
};

HeldArena* make_arena(PyObject* arguments) {
  PyObject *ids, *records, *found, *epochs, *touched;
  Py_ssize_t record_size;
  if (!PyArg_ParseTuple(arguments, "OOOOOn", &ids, &records, &found, &epochs, &touched, &record_size))
    throw PythonError{};
  if (record_size <= 0) raise(PyExc_ValueError, "a record has a size");
  auto held = std::make_unique<HeldArena>();
  const IdMap& map = Box<IdMap>::of(ids);
  held->ids = Ref::to(ids);
  held->records = Buffer(records, false);
  const size_t capacity = held->records.size() / static_cast<size_t>(record_size);
  held->found = Buffer(found, false, capacity);
  held->epochs = Buffer(epochs, false, sizeof(int64_t) * capacity);
  held->touched = Buffer(touched, true, capacity);
  held->arena = {&map,
                 held->records.as<const uint8_t>(),
                 held->found.as<const uint8_t>(),
                 held->epochs.as<const int64_t>(),
                 held->touched.as<uint8_t>(),
                 static_cast<size_t>(record_size),
                 capacity};
  return held.release();
}

// What is live for a request that was read, for as long as its frame is read.
struct HeldLive {
  Ref told, states;
  Live live;
};

// Rows that Python fetched, for as long as their frame is filled, and its facts are read.
struct HeldGiven {
  std::vector<Buffer> buffers;
  Ref told;
  Given given;

  // (records, whether each was found, whether each is stale or None)
  GivenRows rows_of(PyObject* rows, size_t record_size) {
    const auto memory = [&](Py_ssize_t place, size_t least) -> const Buffer& {
      return buffers.emplace_back(item_of(rows, place), false, least);
    };
    const Buffer& records = memory(0, 0);
    const size_t count = records.size() / record_size;
    const auto* content = records.as<const uint8_t>();
    const auto* found = memory(1, count).as<const uint8_t>();
    const bool has_stale = item_of(rows, 2) != Py_None;
    return {content, found, has_stale ? memory(2, count).as<const uint8_t>() : nullptr, count};
  }
};

// ServedModel(version, formula, explore_share, (nodes, weights, log_normal), uncertainty): heads by pricing; (precision,
// variance), or None

ServedModel* make_model(PyObject* arguments) {
  PyObject *version, *formula, *quadrature, *uncertainty;
  auto model = std::make_unique<ServedModel>();
  if (!PyArg_ParseTuple(arguments, "UO!dO!O", &version, &PyDict_Type, &formula, &model->explore_share, &PyTuple_Type,
                        &quadrature, &uncertainty))
    throw PythonError{};
  model->version = text_of(version);
  if (uncertainty != Py_None) model->uncertainty = {double_of(uncertainty, 0), double_of(uncertainty, 1)};
  model->quadrature = {numbers_of<double>(item_of(quadrature, 0)), numbers_of<double>(item_of(quadrature, 1)),
                       numbers_of<double>(item_of(quadrature, 2))};
  if (model->quadrature.nodes.size() != model->quadrature.weights.size() || model->quadrature.log_normal.size() < 2)
    raise(PyExc_ValueError, "a node has a weight, and a table two entries at least");
  for (size_t one = 0; one < kPricings.size(); one++) {
    PyObject* heads = PyDict_GetItemString(formula, kPricings[one].data());
    if (!heads) continue;
    model->formula.heads[one].emplace();
    for (Py_ssize_t k = 0; k < PyTuple_Size(heads); k++)
      model->formula.heads[one]->emplace_back(text_of(item_of(heads, k)));
  }
  if (PyErr_Occurred()) throw PythonError{};
  return model.release();
}

// Frame(schema, model, tensors, capacity): tensors by name

struct HeldFrame {
  Ref schema, model, body;
  std::unique_ptr<HeldLive> live;
  std::unique_ptr<HeldGiven> given;
  std::vector<Buffer> buffers;
  std::unique_ptr<Frame> frame;
  Reply reply;
  double read_s = 0.0, fill_s = 0.0;
};

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

HeldFrame* make_frame(PyObject* arguments) {
  PyObject *told, *served, *tensors;
  Py_ssize_t capacity;
  if (!PyArg_ParseTuple(arguments, "OOO!n", &told, &served, &PyDict_Type, &tensors, &capacity)) throw PythonError{};
  const Schema& schema = Box<Schema>::of(told);
  const ServedModel& model = Box<ServedModel>::of(served);
  auto held = std::make_unique<HeldFrame>();
  held->model = Ref::to(served);
  held->schema = Ref::to(told);
  const auto memory = [&](const char* name, size_t rows, size_t width) -> void* {
    if (!width) return nullptr;
    PyObject* array = PyDict_GetItemString(tensors, name);
    if (!array) raise(PyExc_KeyError, name);
    held->buffers.emplace_back(array, true, 4 * rows * width);
    return held->buffers.back().as<void>();
  };
  const auto integers = [&](const char* name, size_t rows, size_t width) {
    return static_cast<int32_t*>(memory(name, rows, width));
  };
  const auto floats = [&](const char* name, size_t rows, size_t width) {
    return static_cast<float*>(memory(name, rows, width));
  };
  const RecordLayout &user = schema.user.layout, &item = schema.item.layout;
  const size_t most = static_cast<size_t>(capacity), length = schema.history_length;
  const Tensors found{integers("user_categorical", 1, user.categoricals),
                      integers("item_categorical", most, item.categoricals),
                      integers("context_categorical", 1, schema.context_categorical.size()),
                      integers("history_categorical", length, item.categoricals),
                      floats("user_dense", 1, schema.user.dense_width()),
                      floats("user_semantic", 1, user.dim),
                      floats("item_dense", most, schema.item.dense_width()),
                      floats("item_semantic", most, item.dim),
                      floats("context_dense", 1, schema.context_dense.size()),
                      floats("history_semantic", length, item.dim),
                      floats("history_mask", 1, length),
                      floats("history_outcomes", length, kOutcomeFeatures)};
  held->frame = std::make_unique<Frame>(schema, model, found, most);
  return held.release();
}

// read(body, max_candidates): whether the body is of the plainest form, for whoever needs the user first
PyObject* frame_read(HeldFrame& held, Arguments given) {
  const std::string_view body = bytes_of(given[0]);
  const size_t most = size_from(given[1]);
  held.body = Ref::to(given[0]);
  const Outcome outcome = [&] {
    const Unlocked unlocked;
    return held.frame->read(body, most);
  }();
  return PyBool_FromLong(outcome != Outcome::kUnread);
}

std::vector<int64_t> epochs_of(PyObject* sequence) {
  const Ref told(checked(PySequence_Fast(sequence, "epochs are a sequence")));
  std::vector<int64_t> epochs;
  for (Py_ssize_t k = 0; k < PySequence_Fast_GET_SIZE(told.get()); k++)
    epochs.push_back(place_from(PySequence_Fast_GET_ITEM(told.get(), k)));
  return epochs;
}

// Asks for what is live: `ask(user_id, ids)`, without a user if it is anonymous, returns (the user's state, those of the
// candidates, (since, until) of the stream, lag_s, half-lives of users and items), a state or a stream None where there is
// none; or None, which has no live state that is at hand.
std::unique_ptr<HeldLive> live_of(PyObject* ask, const Request& request) {
  const auto text = [](std::string_view id) { return Ref(checked(to_python(id))); };
  const auto packed = [](PyObject* state) { return state == Py_None ? std::string_view() : bytes_of(state); };
  const size_t count = request.ids.size();
  const Ref user = request.user_id.empty() ? Ref::to(Py_None) : text(request.user_id), ids(checked(PyList_New(static_cast<Py_ssize_t>(count))));
  for (size_t k = 0; k < count; k++)
    PyList_SET_ITEM(ids.get(), static_cast<Py_ssize_t>(k), Py_NewRef(text(request.ids[k]).get()));
  auto held = std::make_unique<HeldLive>();
  held->told = Ref(checked(PyObject_CallFunctionObjArgs(ask, user.get(), ids.get(), nullptr)));
  PyObject* told = held->told.get();
  if (told == Py_None) return nullptr;
  if (!PyTuple_Check(told)) raise(PyExc_TypeError, "what is live is a tuple, or None");
  held->states = Ref(checked(PySequence_Fast(item_of(told, 1), "states are a sequence")));
  if (PySequence_Fast_GET_SIZE(held->states.get()) != static_cast<Py_ssize_t>(count))
    raise(PyExc_ValueError, "there is a state, or None, for each candidate");
  Live& live = held->live;
  live.user = packed(item_of(told, 0));
  for (size_t k = 0; k < count; k++)
    live.items.push_back(packed(PySequence_Fast_GET_ITEM(held->states.get(), static_cast<Py_ssize_t>(k))));
  PyObject* stream = item_of(told, 2);
  live.has_stream = stream != Py_None;
  if (live.has_stream) live.since = double_of(stream, 0), live.until = double_of(stream, 1);
  live.lag_s = double_of(told, 3);
  live.user_half_life_s = double_of(told, 4);
  live.item_half_life_s = double_of(told, 5);
  return held;
}

// Of `Rows`, the user's with a history behind them: (Unix s, item's ID, shown, clicked) of each impression.
std::unique_ptr<HeldGiven> given_of(PyObject* users, PyObject* items, const Schema& schema) {
  auto held = std::make_unique<HeldGiven>();
  held->given.user = held->rows_of(users, schema.user.layout.size);
  held->given.items = held->rows_of(items, schema.item.layout.size);
  PyObject* history = item_of(users, 3);
  held->told = Ref::to(history);
  if (!PyTuple_Check(history)) raise(PyExc_TypeError, "a history is a tuple");
  for (Py_ssize_t k = 0; k < PyTuple_Size(history); k++) {
    PyObject* seen = item_of(history, k);
    held->given.impressions.push_back({double_of(seen, 0), double_of(seen, 2), double_of(seen, 3)});
    held->given.history.push_back(text_of(item_of(seen, 1)));
  }
  return held;
}

// take(body, max_candidates, users, items, now, epochs, live, reads_texts, keeps_rows): an outcome, by number. Reads, and
// fills from files, without epochs, or from arenas, or from given rows, which are tuples. `live` is asked for live states;
// None: there are none, or they are in the given rows.
PyObject* frame_take(HeldFrame& held, Arguments given) {
  const std::string_view body = bytes_of(given[0]);
  const size_t most = size_from(given[1]);
  const double now = double_from(given[4]);
  PyObject* ask = given[6];
  const bool reads_texts = PyObject_IsTrue(given[7]) == 1, keeps_rows = PyObject_IsTrue(given[8]) == 1;
  const auto work = [&](auto fill) {
    Frame& frame = *held.frame;
    held.body = Ref::to(given[0]);
    held.live = nullptr;
    frame.live = nullptr;
    frame.reads_texts = reads_texts;
    frame.keeps_rows = keeps_rows;
    Outcome outcome;
    const double began = seconds();
    double read;
    {
      const Unlocked unlocked;
      outcome = frame.read(body, most);
      read = seconds();
      if (outcome == Outcome::kFilled && ask == Py_None) outcome = fill();
    }
    if (outcome == Outcome::kFilled && ask != Py_None) {
      held.live = live_of(ask, frame.request);
      frame.live = held.live ? &held.live->live : nullptr;
      const Unlocked unlocked;
      outcome = held.live ? fill() : Outcome::kLacking;
    }
    held.read_s = read - began;
    held.fill_s = seconds() - read;
    return outcome;
  };
  Outcome outcome;
  if (PyTuple_Check(given[2])) {
    held.given = given_of(given[2], given[3], Box<Schema>::of(held.schema.get()));
    outcome = work([&] { return held.frame->fill(held.given->given, now); });
  } else if (given[5] == Py_None) {
    const RowFile &users = *Box<HeldRowFile>::of(given[2]).file, &items = *Box<HeldRowFile>::of(given[3]).file;
    outcome = work([&] { return held.frame->fill(users, items, now); });
  } else {
    const Arena &users = Box<HeldArena>::of(given[2]).arena, &items = Box<HeldArena>::of(given[3]).arena;
    const std::vector<int64_t> epochs = epochs_of(given[5]);
    outcome = work([&] { return held.frame->fill(users, items, epochs, now); });
  }
  return PyLong_FromLong(static_cast<long>(outcome));
}

// cut(count): puts an unknown candidate behind the first ones
PyObject* frame_cut(HeldFrame& held, Arguments given) {
  const size_t count = size_from(given[0]);
  if (count >= held.frame->request.ids.size()) raise(PyExc_ValueError, "a cut leaves fewer candidates");
  held.frame->cut(count);
  return Py_NewRef(Py_None);
}

// deviate(scores): the standard deviations of log-odds of the first candidates, as bytes; None if the model has none
PyObject* frame_deviate(HeldFrame& held, Arguments given) {
  const Buffer scores(given[0], false);
  const size_t count = scores.size() / sizeof(float);
  if (count > held.frame->request.ids.size()) raise(PyExc_ValueError, "more scores than candidates");
  std::vector<float> found(count);
  if (!held.frame->deviate(scores.as<const float>(), count, found.data())) return Py_NewRef(Py_None);
  return to_bytes({reinterpret_cast<const char*>(found.data()), sizeof(float) * count});
}

// reply(request_id, arm, heads, ran, correction): the document's bytes; ValueError for a score that is not finite. `arm`
// may be None; heads are scores by name, of the first `ran` candidates and, if these are not all, of an unknown one; a
// correction is (centre, shift, slope), or None.
PyObject* frame_reply(HeldFrame& held, Arguments given) {
  PyObject* const scores_of = given[2];
  if (!PyDict_Check(scores_of) || !PyDict_Size(scores_of)) raise(PyExc_TypeError, "heads are a dict, of one at least");
  const Frame& frame = *held.frame;
  const size_t candidates = frame.request.ids.size();
  Run run{{}, size_from(given[3])};
  if (run.ran > candidates) raise(PyExc_ValueError, "more candidates were scored than there are");
  const size_t count = run.ran + (run.ran < candidates);
  std::vector<Buffer> buffers;
  PyObject *name, *scores;
  for (Py_ssize_t place = 0; PyDict_Next(scores_of, &place, &name, &scores);) {
    buffers.emplace_back(scores, false, sizeof(float) * count);
    run.heads.push_back({std::string(text_of(name)), buffers.back().as<const float>()});
  }
  const Named named{text_of(given[0]), given[1] == Py_None ? std::string_view() : text_of(given[1])};
  std::optional<Correction> correction;
  if (given[4] != Py_None) correction = {double_of(given[4], 0), double_of(given[4], 1), double_of(given[4], 2)};
  bool is_finite;
  {
    const Unlocked unlocked;
    is_finite = held.reply.write(frame, named, run, correction ? &*correction : nullptr);
  }
  if (!is_finite) raise(PyExc_ValueError, "a score is not finite");
  return to_bytes(held.reply.bytes());
}

PyObject* frame_explains(const HeldFrame& held) { return PyBool_FromLong(held.frame->request.is_explained); }

// Whether the request explores, for whoever gives the reply the uncertainty of scores
PyObject* frame_explores(const HeldFrame& held) { return PyBool_FromLong(held.frame->request.explore.has_value()); }

// The last reply's choice: (policy, share, seed, explored, first, propensity), or None
PyObject* frame_choice(const HeldFrame& held) {
  const std::optional<Choice>& choice = held.reply.choice;
  if (!choice) return Py_NewRef(Py_None);
  return Py_BuildValue("(s#ds#Ond)", choice->policy.data(), static_cast<Py_ssize_t>(choice->policy.size()),
                       choice->share, choice->seed.data(), static_cast<Py_ssize_t>(choice->seed.size()),
                       choice->explored ? Py_True : Py_False, static_cast<Py_ssize_t>(choice->first),
                       choice->propensity);
}

template <class Values, class Make>
Ref list_of(const Values& values, Make make) {
  Ref list(checked(PyList_New(static_cast<Py_ssize_t>(values.size()))));
  for (size_t k = 0; k < values.size(); k++) PyList_SET_ITEM(list.get(), static_cast<Py_ssize_t>(k), checked(make(k)));
  return list;
}

Ref texts_of(const std::vector<std::string_view>& texts) {
  return list_of(texts, [&](size_t k) { return to_python(texts[k]); });
}

// Of each impression (Unix s, item's ID, shown, clicked).
Ref history_of(const std::vector<std::string_view>& ids, size_t first, const std::vector<Impression>& impressions) {
  return list_of(impressions, [&](size_t k) {
    const Impression& seen = impressions[k];
    const std::string_view id = ids[first + k];
    return Py_BuildValue("(ds#dd)", seen.at, id.data(), static_cast<Py_ssize_t>(id.size()), seen.shown, seen.clicked);
  });
}

// (user's ID, IDs, time or None, own history or None, texts by candidate): what rows, states and vectors are fetched for
PyObject* asked_of(const Request& request) {
  const Ref texts(checked(PyDict_New())), ids = texts_of(request.ids);
  for (const Described& item : request.items) {
    if (item.text.empty()) continue;
    const Ref id(checked(to_python(item.id))), text(checked(to_python(item.text)));
    if (PyDict_SetItem(texts.get(), id.get(), text.get())) throw PythonError{};
  }
  const Ref at = std::isnan(request.at) ? Ref::to(Py_None) : Ref(checked(PyFloat_FromDouble(request.at)));
  const Ref history = request.has_history ? history_of(request.history, 0, request.impressions) : Ref::to(Py_None);
  const Ref user(checked(to_python(request.user_id)));
  return PyTuple_Pack(5, user.get(), ids.get(), at.get(), history.get(), texts.get());
}

PyObject* frame_asked(const HeldFrame& held) { return asked_of(held.frame->request); }

// (user's record, records of candidates and history, whether each has a row, history): what was used, if rows are kept
PyObject* frame_kept(const HeldFrame& held) {
  const Frame& frame = *held.frame;
  const auto bytes = [](const std::vector<uint8_t>& kept) {
    return Ref(checked(PyBytes_FromStringAndSize(reinterpret_cast<const char*>(kept.data()),
                                                 static_cast<Py_ssize_t>(kept.size()))));
  };
  const Ref user = bytes(frame.kept.user), items = bytes(frame.kept.items), found = bytes(frame.kept.found);
  const Ref history = history_of(frame.wanted(), frame.request.ids.size(), frame.impressions());
  return PyTuple_Pack(4, user.get(), items.get(), found.get(), history.get());
}

PyObject* frame_shown(const HeldFrame& held) { return Py_NewRef(texts_of(held.frame->shown()).get()); }

// The last reply's scores, as float32, by head
PyObject* frame_columns(const HeldFrame& held) {
  const Ref columns(checked(PyDict_New()));
  for (const Column& column : held.reply.columns) {
    const auto* content = reinterpret_cast<const char*>(column.values.data());
    const Ref values(checked(to_bytes({content, sizeof(float) * column.values.size()})));
    if (PyDict_SetItemString(columns.get(), column.name.c_str(), values.get())) throw PythonError{};
  }
  return Py_NewRef(columns.get());
}

// The candidates in the last reply, by their places in the request
PyObject* frame_order(const HeldFrame& held) {
  const std::vector<size_t>& order = held.reply.order();
  return Py_NewRef(list_of(order, [&](size_t k) { return PyLong_FromSize_t(order[k]); }).get());
}

PyObject* frame_at(const HeldFrame& held) { return PyFloat_FromDouble(held.frame->at()); }

// Places of categories that the model has never seen.
PyObject* frame_unknown(const HeldFrame& held) {
  const std::vector<std::string>& places = held.frame->unknown;
  return Py_NewRef(list_of(places, [&](size_t k) { return to_python(places[k]); }).get());
}

// What the last reply declares of candidates: rungs by ID.
PyObject* frame_rungs(const HeldFrame& held) {
  Ref rungs(checked(PyDict_New()));
  for (const Degraded& one : held.reply.degraded) {
    const Ref id(checked(to_python(one.id))), rung(checked(to_python(name_of(one.rung))));
    if (PyDict_SetItem(rungs.get(), id.get(), rung.get())) throw PythonError{};
  }
  return Py_NewRef(rungs.get());
}

// What the last reply declares: (the user's rung or None, the number of candidates by rung)
PyObject* frame_degraded(const HeldFrame& held) {
  const UserRung user = held.frame->user_rung;
  std::array<Py_ssize_t, kRungs.size()> counts{};
  for (const Degraded& one : held.reply.degraded) counts[static_cast<size_t>(one.rung)]++;
  const Ref rungs(checked(PyDict_New()));
  for (size_t rung = 0; rung < counts.size(); rung++)
    if (counts[rung] && PyDict_SetItemString(rungs.get(), kRungs[rung].data(), Ref(PyLong_FromSsize_t(counts[rung])).get()))
      throw PythonError{};
  return Py_BuildValue("(zO)", user == UserRung::kOwn ? nullptr : name_of(user).data(), rungs.get());
}

PyObject* frame_user_id(const HeldFrame& held) { return to_python(held.frame->request.user_id); }

PyObject* frame_count(const HeldFrame& held) { return PyLong_FromSize_t(held.frame->request.ids.size()); }

// What the last take took: seconds of reading and of filling
PyObject* frame_seconds(const HeldFrame& held) { return Py_BuildValue("(dd)", held.read_s, held.fill_s); }

// (has_user, items found, items asked for, user written at, first item written at, live age or NaN)
PyObject* frame_found(const HeldFrame& held) {
  const Found& found = held.frame->found;
  return Py_BuildValue("(Onnddd)", found.has_user ? Py_True : Py_False, static_cast<Py_ssize_t>(found.items),
                       static_cast<Py_ssize_t>(found.asked), found.user_written_at, found.item_written_at,
                       found.live_age_s);
}

PyMethodDef id_map_methods[] = {method<IdMap, 3, id_map_put>("put"),
                                method<IdMap, 1, id_map_drop>("drop"),
                                method<IdMap, 1, id_map_find>("find"),
                                method<IdMap, 2, id_map_find_all>("find_all"),
                                method<IdMap, 1, id_map_id>("id"),
                                method<IdMap, 1, id_map_tail>("tail"),
                                method<IdMap, 1, id_map_trim>("trim"),
                                {}};
PyGetSetDef id_map_values[] = {value<IdMap, id_map_end>("end"), {}};
PyMethodDef frame_methods[] = {method<HeldFrame, 2, frame_read>("read"),
                               method<HeldFrame, 9, frame_take>("take"),
                               method<HeldFrame, 1, frame_cut>("cut"),
                               method<HeldFrame, 1, frame_deviate>("deviate"),
                               method<HeldFrame, 5, frame_reply>("reply"),
                               {}};
PyGetSetDef frame_values[] = {value<HeldFrame, frame_user_id>("user_id"),
                              value<HeldFrame, frame_count>("count"),
                              value<HeldFrame, frame_asked>("asked"),
                              value<HeldFrame, frame_kept>("kept"),
                              value<HeldFrame, frame_shown>("shown"),
                              value<HeldFrame, frame_at>("at"),
                              value<HeldFrame, frame_columns>("columns"),
                              value<HeldFrame, frame_order>("order"),
                              value<HeldFrame, frame_explains>("explains"),
                              value<HeldFrame, frame_unknown>("unknown"),
                              value<HeldFrame, frame_rungs>("rungs"),
                              value<HeldFrame, frame_seconds>("seconds"),
                              value<HeldFrame, frame_found>("found"),
                              value<HeldFrame, frame_explores>("explores"),
                              value<HeldFrame, frame_choice>("choice"),
                              value<HeldFrame, frame_degraded>("degraded"),
                              {}};

PyMethodDef functions[] = {{"json_parts", json_parts, METH_O, nullptr}, {}};

bool add_frames(PyObject* module) {
  return !PyModule_AddFunctions(module, functions) && add_type<Schema>(module, "native._core.Schema", {creator<Schema, make_schema>()}) &&
      add_type<HeldRowFile>(module, "native._core.RowFile", {creator<HeldRowFile, make_row_file>()}) &&
      add_type<IdMap>(module, "native._core.IdMap",
                      {creator<IdMap, make_id_map>(),
                       {Py_tp_methods, id_map_methods},
                       {Py_tp_getset, id_map_values},
                       {Py_sq_length, reinterpret_cast<void*>(id_map_length)}}) &&
      add_type<HeldArena>(module, "native._core.Arena", {creator<HeldArena, make_arena>()}) &&
      add_type<ServedModel>(module, "native._core.ServedModel", {creator<ServedModel, make_model>()}) &&
      add_type<HeldFrame>(
          module, "native._core.Frame",
          {creator<HeldFrame, make_frame>(), {Py_tp_methods, frame_methods}, {Py_tp_getset, frame_values}});
}

}  // namespace
