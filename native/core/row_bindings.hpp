// Rows and live states as Python holds them, for the core to read. Does not know who fetches them.
#pragma once

#include "python.hpp"
#include "tensors.hpp"

namespace {

using namespace native;

struct HeldRowFile {
  using Section = std::pair<size_t, size_t>;  // (start, size)

  HeldRowFile(nb::handle body_, nb::handle proved_, nb::handle checksums_, int descriptor, size_t base, Section starts,
              Section row_starts, Section rows, size_t seed, size_t width, size_t count, size_t start_bytes, size_t record_size)
      : body(body_, true),
        proved(proved_, true, blocks()),
        checksums(checksums_, false, 4 * blocks()),
        file{body.as<uint8_t>(), body.size(), proved.as<uint8_t>(), checksums.as<const uint8_t>(), descriptor, base,
             place(starts), place(row_starts), place(rows), seed, width, count, start_bytes, record_size} {
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
  RowFile file;
};

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

// (Unix s, item's ID, shown, clicked) of an impression
using Seen = std::tuple<double, std::string, double, double>;

// Rows that Python fetched; of a user, with the history. `stale` is None if their source answered.
class FetchedRows {
 public:
  FetchedRows(nb::handle records, nb::handle found, const std::optional<nb::object>& stale, std::vector<Seen> history)
      : history(std::move(history)), records_(records, false), found_(found, false) {
    if (stale) stale_.emplace(*stale, false);
  }

  const std::vector<Seen> history;

  GivenRows of(const Side& side) const {
    const size_t count = records_.size() / side.layout.size;
    if (found_.size() < count || (stale_ && stale_->size() < count))
      throw nb::value_error("a buffer is smaller than what is to be in it");
    return {records_.as<const uint8_t>(), found_.as<const uint8_t>(), stale_ ? stale_->as<const uint8_t>() : nullptr, count};
  }

 private:
  const Buffer records_, found_;
  std::optional<Buffer> stale_;
};

// Those of a request. Views are of rows that outlive it.
inline Given given_of(const Schema& schema, const FetchedRows& user, const FetchedRows& items) {
  Given given{user.of(schema.user), items.of(schema.item), {}, {}};
  for (const auto& [at, id, shown, clicked] : user.history) {
    given.impressions.push_back({at, shown, clicked});
    given.history.push_back(id);
  }
  return given;
}

// Packed states of a user and of candidates, None for none; (since, until) of the stream, or None; `unknown`: `Live`'s, or
// None if it is known of all whether they have a state.
class LiveStates {
 public:
  LiveStates(std::optional<nb::bytes> user, std::vector<std::optional<nb::bytes>> items,
             const std::optional<std::pair<double, double>>& stream, double lag_s, double user_half_life_s,
             double item_half_life_s, std::optional<nb::bytes> unknown)
      : user_(std::move(user)), items_(std::move(items)), unknown_(std::move(unknown)) {
    const auto packed = [](const auto& state) { return state ? view_of(*state) : std::string_view(); };
    live_.user = packed(user_);
    live_.unknown = packed(unknown_);
    for (const std::optional<nb::bytes>& item : items_) live_.items.push_back(packed(item));
    live_.has_stream = stream.has_value();
    if (stream) std::tie(live_.since, live_.until) = *stream;
    live_.lag_s = lag_s;
    live_.user_half_life_s = user_half_life_s;
    live_.item_half_life_s = item_half_life_s;
  }

  const Live& of(size_t candidates) const {
    if (live_.items.size() != candidates || (unknown_ && live_.unknown.size() != candidates + 1))
      throw nb::value_error("there is a state, or None, for each candidate");
    return live_;
  }

 private:
  const std::optional<nb::bytes> user_;
  const std::vector<std::optional<nb::bytes>> items_;
  const std::optional<nb::bytes> unknown_;
  Live live_;
};

// Asked for the states of a user, None if it is anonymous, and of candidates; None: no live state is at hand.
using AskLive = nb::typed<nb::callable, std::optional<LiveStates*>(std::optional<std::string>, std::vector<std::string>)>;

inline std::shared_ptr<LiveStates> live_of(const AskLive& ask, const Frame& frame) {
  const std::string_view user = frame.request().user_id;
  const nb::object found = ask(user.empty() ? nb::none() : nb::cast(user), frame.candidates());
  return found.is_none() ? nullptr : nb::cast<std::shared_ptr<LiveStates>>(found);
}

// What Python has fetched for a request: rows of the user, of candidates and history, live states or None; the request's
// time; the seconds that this took; and what is Python's own.
struct Fetched {
  std::shared_ptr<FetchedRows> user, items;
  std::optional<std::shared_ptr<LiveStates>> live;
  double at, seconds;
  AnyObject of;
};

// Of one side
using RowsInMemory = std::variant<const HeldRowFile*, const HeldArena*>;

// From rows in memory; those of arenas count by their epochs.
inline FillResult fill_from(Frame& frame, const RowsInMemory& users, const RowsInMemory& items,
                            const std::vector<int64_t>& epochs, double now) {
  if (users.index() == 0) return frame.fill(std::get<0>(users)->file, std::get<0>(items)->file, now);
  return frame.fill(std::get<1>(users)->arena, std::get<1>(items)->arena, epochs, now);
}

void add_id_map(nb::module_& module) {
  nb::class_<IdMap>(module, "IdMap")
      .def(nb::init<size_t>(), nb::arg("capacity"))
      .def("__len__", [](const IdMap& map) {
        const auto lock = map.reading();
        return map.size();
      })
      .def_prop_ro("end", [](const IdMap& map) {
        const auto lock = map.reading();
        return map.end();
      })
      .def("put", [](IdMap& map, int64_t place, std::string_view id, const nb::bytes& tail) {
        map.put(place, id, view_of(tail));
      }, nb::arg("place"), nb::arg("id"), nb::arg("tail"))
      .def("drop", &IdMap::drop, nb::arg("id"))
      .def("trim", &IdMap::trim, nb::arg("most"))
      .def("find", [](const IdMap& map, std::string_view id) {
        const auto lock = map.reading();
        return map.find(id);
      }, nb::arg("id"))
      // The place of each id into an array of int64, −1 where it is not held.
      .def("find_all", [](const IdMap& map, const std::vector<std::string_view>& ids, nb::handle places) {
        const Buffer into(places, true, sizeof(int64_t) * ids.size());
        const auto lock = map.reading();
        for (size_t k = 0; k < ids.size(); k++) into.as<int64_t>()[k] = map.find(ids[k]);
      }, nb::arg("ids"), nb::arg("places"))
      .def("id", [](const IdMap& map, int64_t place) {
        const auto lock = map.reading();
        return map.is_held(place) ? std::optional(map.id(place)) : std::nullopt;
      }, nb::arg("place"))
      .def("tail", [](const IdMap& map, int64_t place) {
        const auto lock = map.reading();
        return bytes_of(map.is_held(place) ? std::string_view(map.tail(place)) : std::string_view());
      }, nb::arg("place"));
}

void add_rows(nb::module_& module) {
  add_id_map(module);
  using Section = HeldRowFile::Section;
  nb::class_<HeldRowFile>(module, "RowFile")
      .def(nb::init<nb::handle, nb::handle, nb::handle, int, size_t, Section, Section, Section, size_t, size_t, size_t, size_t, size_t>(),
           nb::kw_only(), nb::arg("body"), nb::arg("proved"), nb::arg("checksums"), nb::arg("descriptor"), nb::arg("base"),
           nb::arg("starts"), nb::arg("row_starts"), nb::arg("rows"), nb::arg("seed"), nb::arg("width"), nb::arg("count"),
           nb::arg("start_bytes"), nb::arg("record_size"))
      // Rows of an arena count in place of the file's. To be called before a request is scored.
      .def("lay", [](HeldRowFile& held, const HeldArena& newer) { held.file.newer = &newer.arena; },
           nb::keep_alive<1, 2>(), nb::arg("newer"));
  nb::class_<HeldArena>(module, "Arena")
      .def(nb::init<const IdMap&, nb::handle, nb::handle, nb::handle, nb::handle, size_t>(), nb::keep_alive<1, 2>(),
           nb::arg("ids"), nb::arg("records"), nb::arg("found"), nb::arg("epochs"), nb::arg("touched"), nb::arg("record_size"));
  nb::class_<FetchedRows>(module, "FetchedRows")
      .def(nb::init<nb::handle, nb::handle, const std::optional<nb::object>&, std::vector<Seen>>(), nb::arg("records"),
           nb::arg("found"), nb::arg("stale") = nb::none(), nb::arg("history") = nb::tuple());
  nb::class_<LiveStates>(module, "LiveStates")
      .def(nb::init<std::optional<nb::bytes>, std::vector<std::optional<nb::bytes>>,
                    const std::optional<std::pair<double, double>>&, double, double, double, std::optional<nb::bytes>>(),
           nb::kw_only(), nb::arg("user"), nb::arg("items"), nb::arg("stream"), nb::arg("lag_s"), nb::arg("user_half_life_s"),
           nb::arg("item_half_life_s"), nb::arg("unknown"));
  made_struct<Fetched>(module, "Fetched", field("user", &Fetched::user), field("items", &Fetched::items),
                       field("live", &Fetched::live), field("at", &Fetched::at), field("seconds", &Fetched::seconds),
                       field("of", &Fetched::of));
}

}  // namespace
