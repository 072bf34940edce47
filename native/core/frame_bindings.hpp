// A frame for Python: filled with a request, and read once it has a reply. Work on a request holds no Python lock.
#pragma once

#include "reply.hpp"
#include "row_bindings.hpp"
#include "schema_bindings.hpp"

namespace {

struct HeldFrame {
  HeldFrame(const Schema& schema_, const ServedModel& model, const std::map<std::string, nb::object>& tensors, size_t capacity)
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
  std::shared_ptr<LiveStates> live;
  std::vector<nb::object> rows;  // which the frame's facts are read from

 private:
  Tensors tensors_of(const std::map<std::string, nb::object>& tensors, size_t capacity) {
    const auto tensor = [&]<class T>(T*, const char* name, const std::vector<size_t>& row) -> T* {
      const bool is_per_candidate = std::string_view(name).starts_with("item_");
      size_t size = sizeof(T) * (is_per_candidate ? capacity : 1);
      for (const size_t axis : row) size *= axis;
      if (!size) return nullptr;
      const auto found = tensors.find(name);
      if (found == tensors.end()) throw nb::key_error(name);
      T* const data = buffers.emplace_back(found->second, true, size).template as<T>();
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

using RowSource = std::variant<const HeldRowFile*, const HeldArena*, const FetchedRows*>;

// Reads, and fills from files, from arenas, or from fetched rows. `live` is asked for live states; None: there are none.
FillResult frame_take(HeldFrame& held, const nb::bytes& body, size_t max_candidates, RowSource users, RowSource items,
                      double now, const std::optional<std::vector<int64_t>>& epochs, const std::optional<AskLive>& live,
                      bool reads_texts, bool keeps_rows) {
  Frame& frame = held.frame;
  held.live = nullptr;
  frame.live = nullptr;
  frame.reads_texts = reads_texts;
  frame.keeps_rows = keeps_rows;
  if (users.index() != items.index()) throw nb::type_error("rows of both sides are held alike");
  if (std::holds_alternative<const HeldArena*>(users) && !epochs) throw nb::type_error("rows of an arena count by their epochs");
  const auto as_object = [](const auto* source) { return nb::find(*source); };
  held.rows = {std::visit(as_object, users), std::visit(as_object, items)};
  const auto* const fetched = std::get_if<const FetchedRows*>(&users);
  const Given given = fetched ? given_of(held.schema, **fetched, *std::get<const FetchedRows*>(items)) : Given{};
  if (!frame_read(held, body, max_candidates)) return FillResult::kUnread;
  if (live) {
    held.live = live_of(*live, frame);
    if (!held.live) return FillResult::kLacking;
    frame.live = &held.live->of(frame.candidates().size());
  }
  const nb::gil_scoped_release unlocked;
  const auto in_memory = [](const RowSource& source) -> RowsInMemory {
    if (const auto* file = std::get_if<const HeldRowFile*>(&source)) return *file;
    return std::get<const HeldArena*>(source);
  };
  const FillResult outcome = fetched ? frame.fill(given, now)
                                     : fill_from(frame, in_memory(users), in_memory(items),
                                                 epochs.value_or(std::vector<int64_t>()), now);
  if (outcome == FillResult::kFilled) frame.turn_to(held.request);
  return outcome;
}

// Puts an unknown candidate behind the first rows.
void frame_cut(HeldFrame& held, size_t count) {
  if (count >= held.frame.candidates().size()) throw nb::value_error("a cut leaves fewer candidates");
  held.frame.cut(count);
}

// The standard deviations of log-odds of the first rows, as bytes; None if the model has none
std::optional<nb::bytes> frame_deviate(HeldFrame& held, nb::handle given) {
  const Buffer scores(given, false);
  std::vector<float> found(scores.size() / sizeof(float));
  if (found.size() > held.frame.candidates().size()) throw nb::value_error("more scores than candidates");
  if (!held.frame.deviate(scores.as<const float>(), found.size(), found.data())) return std::nullopt;
  return bytes_of(found);
}

using HeadScores = nb::typed<nb::dict, std::string, AnyObject>;

// The document's bytes; ValueError for a score that is not finite. Heads are scores by name, of the first `ran` rows and, if
// these are not all, of an unknown candidate. `places`: heads of one row, for each place of a page behind its first.
nb::bytes frame_reply(HeldFrame& held, std::string_view request_id, const std::optional<std::string_view>& arm,
                      const HeadScores& heads, size_t ran, const std::vector<Correction>& corrections,
                      const std::vector<HeadScores>& places) {
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

// What rows, states and vectors are fetched for.
struct Asked {
  std::string user_id;  // empty: anonymous
  std::vector<std::string> ids;
  std::optional<double> at;
  std::optional<std::vector<Seen>> history;  // its own
  nb::typed<nb::dict, std::string, std::string> texts;  // by candidate

  Asked(const Request& request, const std::vector<std::string_view>& candidates)
      : user_id(request.user_id), ids(candidates.begin(), candidates.end()) {
    for (const Described& item : request.items)
      if (!item.text.empty()) texts[nb::cast(item.id)] = item.text;
    if (!std::isnan(request.at)) at = request.at;
    if (request.has_history) history = history_of(request.history, 0, request.impressions);
  }
};

// What was used, if rows are kept: the user's record, those of all candidates and of the history, whether each has a row.
struct Kept {
  nb::bytes user, items, found;
  std::vector<Seen> history;

  explicit Kept(const Frame& frame)
      : user(bytes_of(frame.kept.user)),
        items(bytes_of(frame.kept.items)),
        found(bytes_of(frame.kept.found)),
        history(history_of(frame.wanted(), frame.candidates().size(), frame.impressions())) {}
};

// The places of the current request's candidates, and of the history, among the rows that are kept.
std::vector<size_t> frame_rows(const HeldFrame& held) {
  const std::vector<uint32_t>& own = held.frame.request().rows;
  std::vector<size_t> rows(own.begin(), own.end());
  for (size_t row = held.frame.candidates().size(); row < held.frame.wanted().size(); row++) rows.push_back(row);
  return rows;
}

// The last reply's scores, as float32, by head
nb::typed<nb::dict, std::string, nb::bytes> frame_columns(const HeldFrame& held) {
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

void add_facts(nb::module_& module) {
  nb::enum_<FillResult>(module, "FillResult")
      .value("FILLED", FillResult::kFilled)
      .value("UNREAD", FillResult::kUnread)
      .value("LACKING", FillResult::kLacking);
  nb::class_<Choice>(module, "Choice")
      .def_prop_ro("policy", [](const Choice& choice) { return choice.policy; },
                   nb::sig("def policy(self, /) -> typing.Literal['thompson', 'ucb', 'uniform', 'greedy']"))
      .def_ro("share", &Choice::share)
      .def_ro("seed", &Choice::seed)
      .def_ro("explored", &Choice::explored)
      .def_ro("first", &Choice::first)
      .def_ro("propensity", &Choice::propensity);
  read_struct<Found>(module, "Found", field("has_user", &Found::has_user), field("items", &Found::items),
                     field("asked", &Found::asked), field("user_written_at", &Found::user_written_at),
                     field("item_written_at", &Found::item_written_at), field("live_age_s", &Found::live_age_s));
  read_struct<Kept>(module, "Kept", field("user", &Kept::user), field("items", &Kept::items), field("found", &Kept::found),
                    field("history", &Kept::history));
  read_struct<Asked>(module, "Asked", field("user_id", &Asked::user_id), field("ids", &Asked::ids), field("at", &Asked::at),
                     field("history", &Asked::history), field("texts", &Asked::texts));
}

void add_frame(nb::module_& module) {
  add_facts(module);
  nb::class_<HeldFrame>(module, "Frame")
      .def(nb::init<const Schema&, const ServedModel&, const std::map<std::string, nb::object>&, size_t>(),
           nb::keep_alive<1, 2>(), nb::keep_alive<1, 3>(), nb::arg("schema"), nb::arg("served"), nb::arg("tensors"),
           nb::arg("capacity"))
      .def("read", &frame_read, nb::arg("body"), nb::arg("max_candidates"))
      .def("take", &frame_take, nb::arg("body"), nb::arg("max_candidates"), nb::arg("users"), nb::arg("items"), nb::arg("now"),
           nb::arg("epochs") = nb::none(), nb::arg("live") = nb::none(), nb::arg("reads_texts") = false,
           nb::arg("keeps_rows") = false)
      .def("cut", &frame_cut, nb::arg("count"))
      .def("deviate", &frame_deviate, nb::arg("scores"))
      .def("reply", &frame_reply, nb::arg("request_id"), nb::arg("arm").none(), nb::arg("heads"), nb::arg("ran"),
           nb::arg("corrections"), nb::arg("places"))
      .def_prop_ro("count", [](const HeldFrame& held) { return held.frame.request().ids.size(); })
      .def_prop_ro("rows", &frame_rows)
      .def_prop_ro("at", [](const HeldFrame& held) { return held.frame.at(); })
      .def_prop_ro("shown", [](const HeldFrame& held) { return held.frame.shown(); })
      // The candidates in the last reply, by their places in the request.
      .def_prop_ro("order", [](const HeldFrame& held) { return held.reply.order(); })
      .def_prop_ro("asked", [](const HeldFrame& held) { return Asked(held.request, held.frame.candidates()); })
      .def_prop_ro("kept", [](const HeldFrame& held) { return Kept(held.frame); })
      .def_prop_ro("found", [](const HeldFrame& held) { return held.frame.found; })
      .def_prop_ro("columns", &frame_columns)
      .def_prop_ro("choice", [](const HeldFrame& held) { return held.reply.choice; })
      .def_prop_ro("correction", &frame_correction)
      .def_prop_ro("rungs", &frame_rungs,
                   nb::sig("def rungs(self, /) -> dict[str, typing.Literal['cached', 'encoded', 'category_prior', 'prior']]"))
      .def_prop_ro("user_rung", [](const HeldFrame& held) -> std::optional<std::string_view> {
        if (held.frame.user_rung == UserRung::kOwn) return std::nullopt;
        return name_of(held.frame.user_rung);
      }, nb::sig("def user_rung(self, /) -> typing.Literal['cached', 'unknown'] | None"));
}

}  // namespace
