// With what requests are scored: loaded models, each thread's buffers of one, and plans.
#pragma once

#include <array>
#include <optional>

#include "forms.hpp"
#include "ort_bindings.hpp"
#include "queue_bindings.hpp"

namespace {

constexpr size_t kMostThreads = 512;

// A runtime that is Python's: the scores [N] of each head, of the first N candidates.
using RunModel = nb::typed<nb::callable, nb::typed<nb::tuple, AnyObject, nb::ellipsis>(size_t)>;
using NamedTensors = nb::typed<nb::dict, std::string, AnyObject>;
// A thread's own frame and its tensors; without an OrtModel, how the model is run.
using NewDesk = nb::typed<nb::callable, std::tuple<HeldFrame*, NamedTensors, std::optional<RunModel>>()>;

// One thread's buffers for requests of one model.
struct Desk {
  nb::object frame;
  NamedTensors tensors;
  std::optional<RunModel> run;
  HeldFrame* held = nullptr;               // in `frame`
  std::vector<std::vector<float>> scores;  // by head, and their uncertainty
  std::vector<float*> into;                // by head
  Run heads{{}, 0};
  std::unique_ptr<BoundOrtModel> model;
  InferReply infer;
  std::string whole;  // a reply with its head
};

// A model as scoring threads run it. Without an OrtModel its runtime is Python's.
struct LoadedModel {
  LoadedModel(const Schema& schema, Runner& runner, std::vector<std::string> heads,
              std::optional<const HeldOrtModel*> of_ort, std::optional<RowsInMemory> users,
              std::optional<RowsInMemory> items, NewDesk new_desk, size_t capacity, std::optional<HeldOpenrtb*> openrtb)
      : schema(schema),
        runner(runner),
        heads(std::move(heads)),
        ort(of_ort ? (*of_ort)->model.get() : nullptr),
        users(users),
        items(items),
        new_desk(std::move(new_desk)),
        capacity(capacity),
        openrtb(openrtb.value_or(nullptr)) {
    if (this->heads.empty()) throw nb::value_error("a model has one head at least");
    if (users.has_value() != items.has_value() || (users && users->index() != items->index()))
      throw nb::type_error("rows are in files, in arenas, or not in memory");
  }

  const Schema& schema;
  Runner& runner;
  const std::vector<std::string> heads;
  const OrtModel* const ort;
  const std::optional<RowsInMemory> users, items;
  const NewDesk new_desk;
  const size_t capacity;
  HeldOpenrtb* const openrtb;  // or none
  std::array<std::unique_ptr<Desk>, kMostThreads> desks;  // each is its thread's own

  bool has_files() const { return users && std::holds_alternative<const HeldRowFile*>(*users); }

  // With Python's lock.
  std::unique_ptr<Desk> make_desk() const {
    auto desk = std::make_unique<Desk>();
    std::tie(desk->frame, desk->tensors, desk->run) =
        nb::cast<std::tuple<nb::object, NamedTensors, std::optional<RunModel>>>(new_desk());
    desk->held = nb::cast<HeldFrame*>(desk->frame);
    for (const std::string& head : heads) {
      desk->into.push_back(desk->scores.emplace_back(capacity).data());
      desk->heads.heads.push_back({head, desk->into.back()});
    }
    desk->scores.emplace_back(capacity);
    if (ort) desk->model = std::make_unique<BoundOrtModel>(*ort, desk->held->memory, heads);
    return desk;
  }
};

// With what to score a request.
struct Assignment {
  LoadedModel& model;
  const std::string arm;  // empty unless there are several
  const size_t slot;      // the arm's; 0 unless there are several
  const std::vector<int64_t> epochs;  // which rows of arenas count by
  const std::optional<AskLive> live;
  const bool reads_texts;  // whether the texts of candidates without a row are encoded
  const std::vector<Correction> corrections;
  const AnyObject of;  // Python's own

  Assignment(LoadedModel& model, std::optional<std::string> arm, size_t slot, std::optional<std::vector<int64_t>> epochs,
             std::optional<AskLive> live, bool reads_texts, std::vector<Correction> corrections, AnyObject of)
      : model(model),
        arm(std::move(arm).value_or("")),
        slot(std::min(slot, kMostArms)),
        epochs(std::move(epochs).value_or(std::vector<int64_t>())),
        live(std::move(live)),
        reads_texts(reads_texts),
        corrections(std::move(corrections)),
        of(std::move(of)) {}
};

// What is to be known of a scored request before its frame is another's.
struct ScoredPart {
  nb::typed<nb::object, HeldFrame> frame;
  NamedTensors tensors;
  size_t ran;      // the first candidates, which were in the run
  bool is_shared;  // whether other requests' were, too
  double parse_s, rows_s, queue_s, run_s;
  nb::typed<nb::object, Assignment> assignment;
  std::string request_id;
  nb::bytes body;
  double began;  // of the clock of `time.perf_counter`
  AnyObject fetched;  // what is Python's own of the rows that were fetched, or None
  bool is_followed, is_explained;
};

// With what requests are scored until the next swap. Shared by those under way, and freed with Python's lock.
struct Plan {
  // Called with a user's ID, empty if it is anonymous, and a request's.
  using Assign = nb::typed<nb::callable, Assignment*(std::string_view, std::string_view)>;
  using Wants = nb::typed<nb::callable, bool(std::string_view)>;
  using Look = nb::typed<nb::callable, AnyObject(ScoredPart)>;
  // Called with a request's path, the length of its JSON if that is given, its ID and its body.
  using Translate =
      nb::typed<nb::callable, Translation*(std::string, std::optional<nb::bytes>, std::string, nb::bytes)>;

  const AnyObject of;  // Python's name for it
  const nb::object of_first;
  LoadedModel& first;  // reads requests
  const std::variant<std::shared_ptr<Assignment>, Assign> assign;
  const bool is_by_user;              // whether that needs the user's ID
  const std::optional<Wants> wants;   // says, by a request's ID, whether it is followed
  const Look look;                    // called with a scored request that is followed or explained
  const std::optional<Translate> translate;  // requests of other forms; without it these go to the app

  Plan(AnyObject of, LoadedModel& model, std::variant<std::shared_ptr<Assignment>, Assign> assign, bool is_by_user,
       std::optional<Wants> wants, Look look, std::optional<Translate> translate)
      : of(std::move(of)),
        of_first(nb::find(model)),
        first(model),
        assign(std::move(assign)),
        is_by_user(is_by_user),
        wants(std::move(wants)),
        look(std::move(look)),
        translate(std::move(translate)) {}

  // The one assignment, unless Python is asked for each.
  const Assignment* fixed() const {
    const auto* const held = std::get_if<std::shared_ptr<Assignment>>(&assign);
    return held ? held->get() : nullptr;
  }
};

}  // namespace
