// What the headers beside it do, for Python. Work on a request holds no Python lock.
#pragma once

#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#include "python.hpp"

#include <numpy/ndarraytypes.h>
#include <numpy/ufuncobject.h>

#include <bit>
#include <mutex>

#include "openrtb.hpp"
#include "reply.hpp"

namespace {

using namespace native;

// Schema(user, item, history_length, context_categorical, context_dense, slot_categorical, slot_dense, context,
// (log, log1p, exp, exp2, expm1))

// (name, kind, start, width, buckets, is_log, mean, scale, vocabulary)
using FieldForm =
    std::tuple<std::string, int, size_t, size_t, uint64_t, bool, double, double, std::vector<std::string>>;
using FieldForms = std::vector<FieldForm>;
// (layout of records, rule of decayed counts or None, missing record, fields that a request may set)
using SideForm = std::tuple<std::array<size_t, 12>, std::optional<std::array<double, 4>>, nb::bytes, FieldForms>;

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

template <class T>
std::vector<T> numbers_of(const nb::bytes& bytes) {
  std::vector<T> numbers(bytes.size() / sizeof(T));
  if (!numbers.empty()) std::memcpy(numbers.data(), bytes.data(), sizeof(T) * numbers.size());
  return numbers;
}

Fields fields_of(const FieldForms& forms) {
  Fields fields;
  for (const auto& [name, kind, start, width, buckets, is_log, mean, scale, vocabulary] : forms) {
    ValueField& field = fields[name];
    field = {static_cast<ValueField::Kind>(kind), start, width, buckets, is_log, mean, scale, {}};
    for (const std::string& word : vocabulary)
      field.vocabulary.emplace(word, static_cast<int32_t>(field.vocabulary.size()) + kUnknownIndex + 1);
  }
  return fields;
}

Side side_of(const SideForm& form) {
  const auto& [layout, state, missing, fields] = form;
  Side side{std::bit_cast<RecordLayout>(layout), {}, numbers_of<uint8_t>(missing), fields_of(fields)};
  if (state) side.state = {true, (*state)[0], (*state)[1], (*state)[2], (*state)[3]};
  if (side.missing.size() != side.layout.size) throw nb::value_error("the missing record is not of the layout's size");
  return side;
}

Schema make_schema(const SideForm& user, const SideForm& item, size_t history_length, const nb::bytes& categorical,
                   const nb::bytes& dense, const nb::bytes& slot_categorical, const nb::bytes& slot_dense,
                   const FieldForms& context, const std::array<nb::object, 5>& ufuncs) {
  return {side_of(user),
          side_of(item),
          history_length,
          numbers_of<int32_t>(categorical),
          numbers_of<float>(dense),
          numbers_of<int32_t>(slot_categorical),
          numbers_of<float>(slot_dense),
          fields_of(context),
          {ufunc_of(ufuncs[0]), ufunc_of(ufuncs[1]), ufunc_of(ufuncs[2]), ufunc_of(ufuncs[3]), ufunc_of(ufuncs[4])}};
}

// RowFile(body, proved, checksums, descriptor, base, (starts, row_starts, rows), (seed, width, count, start_bytes,
// record_size)); sections are (start, size)

struct HeldRowFile {
  using Section = std::pair<size_t, size_t>;

  HeldRowFile(nb::handle body_, nb::handle proved_, nb::handle checksums_, int descriptor, size_t base,
              const std::array<Section, 3>& sections, const std::array<size_t, 5>& numbers)
      : body(body_, true),
        proved(proved_, true, blocks()),
        checksums(checksums_, false, 4 * blocks()),
        file{body.as<uint8_t>(), body.size(), proved.as<uint8_t>(), checksums.as<const uint8_t>(), descriptor, base,
             place(sections[0]), place(sections[1]), place(sections[2]),
             numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]} {
    const bool fits = file.starts.size >= 2 * kStart && file.width && !(file.width % kWord) && file.record_size &&
                      file.count <= file.rows.size / (file.width + file.record_size) &&
                      (!file.row_starts.size || file.row_starts.size >= file.start_bytes * (file.count + 1));
    if (!fits) throw nb::value_error("the sections do not fit the count");
  }

  size_t blocks() const { return (body.size() + kBlock - 1) >> kBlockBits; }

  RowFile::Place place(const Section& section) const {
    const auto [start, size] = section;
    if (start > body.size() || size > body.size() - start) throw nb::value_error("a section does not fit the file");
    return {start, size};
  }

  const Buffer body, proved, checksums;
  const RowFile file;
};

// Arena(ids, records, found, epochs, touched, record_size)

struct HeldArena {
  HeldArena(const IdMap& ids, nb::handle records_, nb::handle found_, nb::handle epochs_, nb::handle touched_,
            size_t record_size)
      : records(records_, false),
        capacity(record_size ? records.size() / record_size : throw nb::value_error("a record has a size")),
        found(found_, false, capacity),
        epochs(epochs_, false, sizeof(int64_t) * capacity),
        touched(touched_, true, capacity),
        arena{&ids,        records.as<const uint8_t>(), found.as<const uint8_t>(), epochs.as<const int64_t>(),
              touched.as<uint8_t>(), record_size,        capacity} {}

  const Buffer records;
  const size_t capacity;
  const Buffer found, epochs, touched;
  const Arena arena;
};

// ServedModel(version, formula, explore_share, (nodes, weights, log_normal), uncertainty): heads by pricing;
// (precision, variance), or None

ServedModel make_model(std::string version, const std::map<std::string, std::vector<std::string>>& formula,
                       double explore_share, const std::tuple<nb::bytes, nb::bytes, nb::bytes>& quadrature,
                       const std::optional<std::pair<double, double>>& uncertainty) {
  const auto& [nodes, weights, log_normal] = quadrature;
  ServedModel model{std::move(version), {}, explore_share,
                    {numbers_of<double>(nodes), numbers_of<double>(weights), numbers_of<double>(log_normal)}, {}};
  if (uncertainty) model.uncertainty = {uncertainty->first, uncertainty->second};
  if (model.quadrature.nodes.size() != model.quadrature.weights.size() || model.quadrature.log_normal.size() < 2)
    throw nb::value_error("a node has a weight, and a table two entries at least");
  for (size_t one = 0; one < kPricings.size(); one++)
    if (const auto heads = formula.find(std::string(kPricings[one])); heads != formula.end())
      model.formula.heads[one] = heads->second;
  return model;
}

// (user's state or None, those of the candidates, (since, until) of the stream or None, lag_s, half-lives of users and
// items, `Live::unknown` or None)
using LiveForm = std::tuple<std::optional<nb::bytes>, std::vector<std::optional<nb::bytes>>,
                            std::optional<std::pair<double, double>>, double, double, double, std::optional<nb::bytes>>;

// What is live for a request that was read, for as long as its frame is read.
struct HeldLive {
  // Of so many candidates.
  HeldLive(LiveForm given, size_t candidates) : form(std::move(given)) {
    const auto& [user, items, stream, lag_s, user_half_life_s, item_half_life_s, unknown] = form;
    if (items.size() != candidates || (unknown && unknown->size() != candidates + 1))
      throw nb::value_error("there is a state, or None, for each candidate");
    const auto packed = [](const auto& state) { return state ? view_of(*state) : std::string_view(); };
    live.user = packed(user);
    live.unknown = packed(unknown);
    for (const std::optional<nb::bytes>& item : items) live.items.push_back(packed(item));
    live.has_stream = stream.has_value();
    if (stream) std::tie(live.since, live.until) = *stream;
    live.lag_s = lag_s;
    live.user_half_life_s = user_half_life_s;
    live.item_half_life_s = item_half_life_s;
  }

  const LiveForm form;
  Live live;
};

// Asks for what is live: `ask(user_id, ids)`, without a user if it is anonymous, returns a `LiveForm`, or None if no
// live state is at hand.
std::unique_ptr<HeldLive> live_of(nb::handle ask, const Frame& frame) {
  const std::string_view user = frame.request().user_id;
  auto form = nb::cast<std::optional<LiveForm>>(ask(user.empty() ? nb::none() : nb::cast(user), frame.candidates()));
  return form ? std::make_unique<HeldLive>(std::move(*form), frame.candidates().size()) : nullptr;
}

// (Unix s, item's ID, shown, clicked) of an impression
using Seen = std::tuple<double, std::string, double, double>;
// (records, whether each was found, whether each is stale or None), the user's with a history behind them
using ItemRows = std::tuple<nb::object, nb::object, nb::object>;
using UserRows = std::tuple<nb::object, nb::object, nb::object, std::vector<Seen>>;

// Rows that Python fetched, for as long as their frame is filled, and its facts are read.
struct HeldGiven {
  HeldGiven(const UserRows& users, const ItemRows& items, const Schema& schema) : history(std::get<3>(users)) {
    given.user = rows_of(std::get<0>(users), std::get<1>(users), std::get<2>(users), schema.user.layout.size);
    given.items = rows_of(std::get<0>(items), std::get<1>(items), std::get<2>(items), schema.item.layout.size);
    for (const auto& [at, id, shown, clicked] : history) {
      given.impressions.push_back({at, shown, clicked});
      given.history.push_back(id);
    }
  }

  GivenRows rows_of(nb::handle records, nb::handle found, nb::handle stale, size_t record_size) {
    const auto memory = [&](nb::handle object, size_t least) {
      return buffers.emplace_back(object, false, least).as<const uint8_t>();
    };
    const uint8_t* const content = memory(records, 0);
    const size_t count = buffers.back().size() / record_size;
    const uint8_t* const flags = memory(found, count);
    return {content, flags, stale.is_none() ? nullptr : memory(stale, count), count};
  }

  const std::vector<Seen> history;
  std::vector<Buffer> buffers;
  Given given;
};

// Corrections: (head, centre, shift, slope, [(column, value, shift) of segments]) of each
using CorrectionForm =
    std::vector<std::tuple<std::string, double, double, double, std::vector<std::tuple<int32_t, int32_t, double>>>>;

std::vector<Correction> corrections_of(const CorrectionForm& form) {
  std::vector<Correction> found;
  for (const auto& [head, centre, shift, slope, segments] : form) {
    found.push_back({head, centre, shift, slope, {}});
    for (const auto& [column, value, own] : segments) found.back().segments.push_back({column, value, own});
  }
  return found;
}

// Frame(schema, model, tensors, capacity): tensors by name

struct HeldFrame {
  HeldFrame(const Schema& schema_, const ServedModel& model, const nb::dict& tensors, size_t capacity)
      : schema(schema_), frame(schema, model, tensors_of(tensors, capacity), capacity) {
    frame.take({&request});
  }

  const Schema& schema;
  std::vector<Buffer> buffers;
  std::vector<Memory> memory;  // in these
  Request request;             // of Python's own
  Frame frame;
  Reply reply;
  nb::bytes body;
  std::unique_ptr<HeldLive> live;
  std::unique_ptr<HeldGiven> given;

 private:
  Tensors tensors_of(const nb::dict& tensors, size_t capacity) {
    const auto tensor = [&]<class T>(T*, const char* name, const std::vector<size_t>& row) -> T* {
      const bool is_per_candidate = std::string_view(name).starts_with("item_");
      size_t size = sizeof(T) * (is_per_candidate ? capacity : 1);
      for (const size_t axis : row) size *= axis;
      if (!size) return nullptr;
      T* const data = buffers.emplace_back(tensors[name], true, size).template as<T>();
      memory.push_back({name, data, size, std::is_same_v<T, float>, is_per_candidate, {row.begin(), row.end()}});
      return data;
    };
    constexpr int32_t* kIntegers = nullptr;
    constexpr float* kFloats = nullptr;
    const RecordLayout &user = schema.user.layout, &item = schema.item.layout;
    const size_t length = schema.history_length;
    return {tensor(kIntegers, "user_categorical", {user.categoricals}),
            tensor(kIntegers, "item_categorical", {item.categoricals}),
            tensor(kIntegers, "context_categorical", {schema.context_categorical.size()}),
            tensor(kIntegers, "history_categorical", {length, item.categoricals}),
            tensor(kFloats, "user_dense", {schema.user.dense_width()}),
            tensor(kFloats, "user_semantic", {user.dim}),
            tensor(kFloats, "item_dense", {schema.item.dense_width()}),
            tensor(kFloats, "item_semantic", {item.dim}),
            tensor(kFloats, "context_dense", {schema.context_dense.size()}),
            tensor(kFloats, "history_semantic", {length, item.dim}),
            tensor(kFloats, "history_mask", {length}),
            tensor(kFloats, "history_outcomes", {length, kOutcomeFeatures})};
  }
};

// read(body, max_candidates): whether `msd.contract` accepts the body, for whoever needs the user first
bool frame_read(HeldFrame& held, const nb::bytes& body, size_t max_candidates) {
  held.body = body;
  const nb::gil_scoped_release unlocked;
  if (!held.request.read(view_of(body), std::min(max_candidates, held.frame.capacity()))) return false;
  held.frame.take({&held.request});
  return true;
}

// take(body, max_candidates, users, items, now, epochs, live, reads_texts, keeps_rows): an outcome, by number. Reads,
// and fills from files, from arenas, or from given rows. `live` is asked for live states; None: there are none.
template <class Users, class Items>
int frame_take(HeldFrame& held, const nb::bytes& body, size_t max_candidates, const Users& users, const Items& items,
               double now, const std::optional<std::vector<int64_t>>& epochs, const std::optional<nb::object>& live,
               bool reads_texts, bool keeps_rows) {
  Frame& frame = held.frame;
  held.live = nullptr;
  frame.live = nullptr;
  frame.reads_texts = reads_texts;
  frame.keeps_rows = keeps_rows;
  if constexpr (std::is_same_v<Users, UserRows>) held.given = std::make_unique<HeldGiven>(users, items, held.schema);
  if constexpr (std::is_same_v<Users, HeldArena>)
    if (!epochs) throw nb::type_error("rows of an arena count by their epochs");
  const auto fill = [&] {
    if constexpr (std::is_same_v<Users, UserRows>) return frame.fill(held.given->given, now);
    else if constexpr (std::is_same_v<Users, HeldArena>) return frame.fill(users.arena, items.arena, *epochs, now);
    else return frame.fill(users.file, items.file, now);
  };
  if (!frame_read(held, body, max_candidates)) return static_cast<int>(FillResult::kUnread);
  if (live) {
    held.live = live_of(*live, frame);
    if (!held.live) return static_cast<int>(FillResult::kLacking);
    frame.live = &held.live->live;
  }
  const nb::gil_scoped_release unlocked;
  const FillResult outcome = fill();
  if (outcome == FillResult::kFilled) frame.turn_to(held.request);
  return static_cast<int>(outcome);
}

// cut(count): puts an unknown candidate behind the first rows
void frame_cut(HeldFrame& held, size_t count) {
  if (count >= held.frame.candidates().size()) throw nb::value_error("a cut leaves fewer candidates");
  held.frame.cut(count);
}

// deviate(scores): the standard deviations of log-odds of the first rows, as bytes; None if the model has none
std::optional<nb::bytes> frame_deviate(HeldFrame& held, nb::handle given) {
  const Buffer scores(given, false);
  std::vector<float> found(scores.size() / sizeof(float));
  if (found.size() > held.frame.candidates().size()) throw nb::value_error("more scores than candidates");
  if (!held.frame.deviate(scores.as<const float>(), found.size(), found.data())) return std::nullopt;
  return bytes_of(found);
}

// reply(request_id, arm, heads, ran, corrections, places): the document's bytes; ValueError for a score that is not finite.
// Heads are scores by name, of the first `ran` rows and, if these are not all, of an unknown candidate. `places`: heads of
// one row, for each place of a page behind its first.
nb::bytes frame_reply(HeldFrame& held, std::string_view request_id, const std::optional<std::string_view>& arm,
                      const nb::dict& heads, size_t ran, const CorrectionForm& form, const std::vector<nb::dict>& places) {
  const size_t candidates = held.frame.candidates().size();
  if (!heads.size()) throw nb::type_error("there is one head at least");
  if (ran > candidates) throw nb::value_error("more candidates were scored than there are");
  std::vector<Buffer> buffers;
  const auto run_of = [&](const nb::dict& given, size_t rows, size_t count) {
    Run run{{}, rows};
    for (const auto [name, scores] : given) {
      buffers.emplace_back(scores, false, sizeof(float) * count);
      run.heads.push_back({nb::cast<std::string>(name), buffers.back().as<const float>()});
    }
    return run;
  };
  const Run run = run_of(heads, ran, ran + (ran < candidates));
  std::vector<Run> at_places;
  for (const nb::dict& one : places) {
    at_places.push_back(run_of(one, 1, 1));
    if (at_places.back().heads.size() != run.heads.size()) throw nb::type_error("a place has all heads");
  }
  const std::vector<Correction> corrections = corrections_of(form);
  bool is_finite;
  {
    const nb::gil_scoped_release unlocked;
    is_finite = held.reply.score(held.frame, request_id, run, corrections);
    for (size_t k = 1; is_finite && k < std::min(at_places.size() + 1, held.reply.page.candidates.size()); k++) {
      held.frame.put_first(held.reply.row_at(k), held.request.slot + k);
      is_finite = held.reply.place(held.frame, k, at_places[k - 1], corrections);
    }
    if (!at_places.empty()) held.frame.put_first(0, held.request.slot);
    if (is_finite) held.reply.write(held.frame, {request_id, arm.value_or("")});
  }
  if (!is_finite) throw nb::value_error("a score is not finite");
  return bytes_of(held.reply.bytes());
}

// The last reply's choice: (policy, share, seed, explored, first, propensity), or None
nb::object frame_choice(const HeldFrame& held) {
  if (!held.reply.choice) return nb::none();
  const auto& [policy, share, seed, explored, first, propensity] = *held.reply.choice;
  return nb::make_tuple(policy, share, seed, explored, first, propensity);
}

// What the last reply's scores were corrected by: centre, shift and slope of each corrected head; or None
std::optional<std::vector<double>> frame_correction(const HeldFrame& held) {
  if (held.reply.corrected.empty()) return std::nullopt;
  std::vector<double> values;
  for (const Correction& one : held.reply.corrected) values.insert(values.end(), {one.centre, one.shift, one.slope});
  return values;
}

std::vector<Seen> history_of(const std::vector<std::string_view>& ids, size_t first,
                             const std::vector<Impression>& impressions) {
  std::vector<Seen> history;
  for (const Impression& seen : impressions)
    history.emplace_back(seen.at, ids[first + history.size()], seen.shown, seen.clicked);
  return history;
}

// (user's ID, IDs, time or None, own history or None, texts by candidate): what rows, states and vectors are fetched
// for
nb::tuple asked_of(const Request& request, const std::vector<std::string_view>& ids) {
  nb::dict texts;
  for (const Described& item : request.items)
    if (!item.text.empty()) texts[nb::cast(item.id)] = item.text;
  const auto at = std::isnan(request.at) ? std::nullopt : std::optional(request.at);
  const auto history =
      request.has_history ? std::optional(history_of(request.history, 0, request.impressions)) : std::nullopt;
  return nb::make_tuple(request.user_id, ids, at, history, texts);
}

// (user's record, records of all candidates and history, whether each has a row, history): what was used, if rows are
// kept
nb::tuple frame_kept(const HeldFrame& held) {
  const Frame& frame = held.frame;
  return nb::make_tuple(bytes_of(frame.kept.user), bytes_of(frame.kept.items), bytes_of(frame.kept.found),
                        history_of(frame.wanted(), frame.candidates().size(), frame.impressions()));
}

// The places of the current request's candidates, and of the history, among the rows that are kept.
std::vector<size_t> frame_rows(const HeldFrame& held) {
  const std::vector<uint32_t>& own = held.frame.request().rows;
  std::vector<size_t> rows(own.begin(), own.end());
  for (size_t row = held.frame.candidates().size(); row < held.frame.wanted().size(); row++) rows.push_back(row);
  return rows;
}

// The last reply's scores, as float32, by head
nb::dict frame_columns(const HeldFrame& held) {
  nb::dict columns;
  for (const Column& column : held.reply.columns) columns[column.name.c_str()] = bytes_of(column.values);
  return columns;
}

// What the last reply declares of candidates: rungs by ID.
nb::dict frame_rungs(const HeldFrame& held) {
  nb::dict rungs;
  for (const Degraded& one : held.reply.degraded) rungs[nb::cast(one.id)] = name_of(one.rung);
  return rungs;
}

// The user's rung, or None
nb::object name_or_none(UserRung rung) { return rung == UserRung::kOwn ? nb::none() : nb::cast(name_of(rung)); }

// (has_user, items found, items asked for, user written at, first item written at, live age or NaN)
nb::tuple frame_found(const HeldFrame& held) {
  const auto& [has_user, items, asked, user_written_at, item_written_at, live_age_s] = held.frame.found;
  return nb::make_tuple(has_user, items, asked, user_written_at, item_written_at, live_age_s);
}

// json_parts(body): the number of keys and values of a JSON document
size_t json_parts(const nb::bytes& body) {
  const nb::gil_scoped_release unlocked;
  return parts_of(view_of(body));
}

// Openrtb(paths of the user's ID, [(feature, path, whether it is personal)], paths of signals, what says of these, as a list
// in JSON, whether they permit)
class HeldOpenrtb {
 public:
  HeldOpenrtb(const std::vector<std::string>& users, const std::vector<OpenrtbMapping::Feature>& features,
              const std::vector<std::string>& signals, nb::object permits)
      : mapping(users, features, signals), permits_(std::move(permits)) {}

  const OpenrtbMapping mapping;

  // `ask(work)` does work with Python's lock. The same bytes have the same answer.
  template <class Ask>
  bool has_consent(const std::string& signals, Ask ask) {
    {
      const std::lock_guard lock(mutex_);
      if (const auto found = known_.find(signals); found != known_.end()) return found->second;
    }
    const bool is_permitted = ask([&] { return nb::cast<bool>(permits_(bytes_of(signals))); });
    const std::lock_guard lock(mutex_);
    if (known_.size() >= kMostKnown) known_.clear();
    if (signals.size() <= kMostBytes) known_.emplace(signals, is_permitted);
    return is_permitted;
  }

 private:
  static constexpr size_t kMostKnown = 4'096, kMostBytes = 2'048;

  const nb::object permits_;
  std::mutex mutex_;  // guards what follows
  std::unordered_map<std::string, bool> known_;
};

// read(body, schema): (ID, whether the user may be known, [(imp.id, its place, body of its scoring request)], how many values
// are unfit), or None if Python is to read it
nb::object openrtb_read(HeldOpenrtb& held, const nb::bytes& body, const Schema& schema) {
  OpenrtbRequest request;
  if (!request.read(view_of(body), held.mapping)) return nb::none();
  if (!request.identify(held.has_consent(request.signals(), [](auto work) { return work(); }))) return nb::none();
  nb::list parts;
  size_t unfit = 0;
  for (size_t k = 0; k < request.candidates.size(); k++)
    parts.append(nb::make_tuple(request.candidates[k].first, request.place_of(k), bytes_of(request.body_of(k, schema, unfit))));
  return nb::make_tuple(request.id, request.has_consent, parts, unfit);
}

void add_id_map(nb::module_& module) {
  nb::class_<IdMap>(module, "IdMap")
      .def(nb::init<size_t>())
      .def("__len__", [](const IdMap& map) {
        const auto lock = map.reading();
        return map.size();
      })
      .def_prop_ro("end", [](const IdMap& map) {
        const auto lock = map.reading();
        return map.end();
      })
      .def("put", [](IdMap& map, int64_t place, std::string_view id, const nb::bytes& tail) {
        if (place < 0 || !map.put(place, id, view_of(tail)))
          throw nb::value_error("the place, or the id, is held already, or there is no such place");
      })
      .def("drop", &IdMap::drop)
      .def("trim", &IdMap::trim)
      .def("find", [](const IdMap& map, std::string_view id) {
        const auto lock = map.reading();
        return map.find(id);
      })
      // The place of each id into an array of int64, −1 where it is not held.
      .def("find_all", [](const IdMap& map, const std::vector<std::string_view>& ids, nb::handle places) {
        const Buffer into(places, true, sizeof(int64_t) * ids.size());
        const auto lock = map.reading();
        for (size_t k = 0; k < ids.size(); k++) into.as<int64_t>()[k] = map.find(ids[k]);
      })
      .def("id", [](const IdMap& map, int64_t place) {
        const auto lock = map.reading();
        return map.is_held(place) ? std::optional(map.id(place)) : std::nullopt;
      })
      .def("tail", [](const IdMap& map, int64_t place) {
        const auto lock = map.reading();
        return bytes_of(map.is_held(place) ? std::string_view(map.tail(place)) : std::string_view());
      });
}

void add_frames(nb::module_& module) {
  module.def("json_parts", &json_parts);
  add_id_map(module);
  nb::class_<Schema>(module, "Schema").def(nb::new_(&make_schema));
  nb::class_<HeldOpenrtb>(module, "Openrtb")
      .def(nb::init<const std::vector<std::string>&, const std::vector<OpenrtbMapping::Feature>&,
                    const std::vector<std::string>&, nb::object>())
      .def("read", &openrtb_read);
  nb::class_<HeldRowFile>(module, "RowFile")
      .def(nb::init<nb::handle, nb::handle, nb::handle, int, size_t, const std::array<HeldRowFile::Section, 3>&,
                    const std::array<size_t, 5>&>());
  nb::class_<HeldArena>(module, "Arena")
      .def(nb::init<const IdMap&, nb::handle, nb::handle, nb::handle, nb::handle, size_t>(), nb::keep_alive<1, 2>());
  nb::class_<ServedModel>(module, "ServedModel").def(nb::new_(&make_model));
  nb::class_<HeldFrame>(module, "Frame")
      .def(nb::init<const Schema&, const ServedModel&, const nb::dict&, size_t>(), nb::keep_alive<1, 2>(),
           nb::keep_alive<1, 3>())
      .def("read", &frame_read)
      .def("take", &frame_take<HeldRowFile, HeldRowFile>)
      .def("take", &frame_take<HeldArena, HeldArena>)
      .def("take", &frame_take<UserRows, ItemRows>)
      .def("cut", &frame_cut)
      .def("deviate", &frame_deviate)
      .def("reply", &frame_reply)
      .def_prop_ro("count", [](const HeldFrame& held) { return held.frame.request().ids.size(); })
      .def_prop_ro("rows", &frame_rows)
      .def_prop_ro("at", [](const HeldFrame& held) { return held.frame.at(); })
      .def_prop_ro("shown", [](const HeldFrame& held) { return held.frame.shown(); })
      // The candidates in the last reply, by their places in the request.
      .def_prop_ro("order", [](const HeldFrame& held) { return held.reply.order(); })
      .def_prop_ro("asked", [](const HeldFrame& held) { return asked_of(held.request, held.frame.candidates()); })
      .def_prop_ro("kept", &frame_kept)
      .def_prop_ro("found", &frame_found)
      .def_prop_ro("columns", &frame_columns)
      .def_prop_ro("choice", &frame_choice)
      .def_prop_ro("correction", &frame_correction)
      .def_prop_ro("rungs", &frame_rungs)
      .def_prop_ro("user_rung", [](const HeldFrame& held) { return name_or_none(held.frame.user_rung); });
}

}  // namespace
