// With what requests are scored: loaded models, each thread's buffers of one, and plans.
#pragma once

#include <array>
#include <optional>

#include "../core/bindings.hpp"
#include "../core/infer_reply.hpp"
#include "ort_bindings.hpp"
#include "queue_bindings.hpp"

namespace {

constexpr size_t kMostThreads = 512;

// One thread's buffers for requests of one model.
struct Desk {
  nb::object frame, tensors;
  std::optional<nb::object> run;  // `run(count)` of a runtime that is Python's gives the scores [N] of each head
  HeldFrame* held = nullptr;      // in `frame`
  std::vector<std::vector<float>> scores;  // by head, and their uncertainty
  std::vector<float*> into;                // by head
  Run heads{{}, 0};
  std::unique_ptr<BoundOrtModel> model;
  InferReply infer;
  std::string whole;  // a reply with its head
};

// What `new_desk()` returns: (frame, tensors, run(count) or None)
using DeskForm = std::tuple<nb::object, nb::object, std::optional<nb::object>>;

// Of one side
using RowsInMemory = std::variant<const HeldRowFile*, const HeldArena*>;

// A model as scoring threads run it. Without an OrtModel its runtime is Python's.
struct LoadedModel {
  LoadedModel(const Schema& schema, Runner& runner, std::vector<std::string> heads,
              std::optional<const HeldOrtModel*> of_ort, std::optional<RowsInMemory> users,
              std::optional<RowsInMemory> items, nb::object new_desk, size_t capacity, std::optional<HeldOpenrtb*> openrtb)
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
  const nb::object new_desk;
  const size_t capacity;
  HeldOpenrtb* const openrtb;  // or none
  std::array<std::unique_ptr<Desk>, kMostThreads> desks;  // each is its thread's own

  bool has_files() const { return users && std::holds_alternative<const HeldRowFile*>(*users); }

  // With Python's lock.
  std::unique_ptr<Desk> make_desk() const {
    auto desk = std::make_unique<Desk>();
    std::tie(desk->frame, desk->tensors, desk->run) = nb::cast<DeskForm>(new_desk());
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

// With what to score a request: (model, arm's name or None, its slot or 0, epochs or None, live or None, reads_texts,
// corrections), and what is Python's own. `live` is asked for live states, as `Frame.take` does.
struct Assignment {
  nb::object given;
  LoadedModel* model;
  std::string arm;
  size_t slot;
  std::vector<int64_t> epochs;
  std::optional<nb::object> live;
  bool reads_texts;
  std::vector<Correction> corrections;

  explicit Assignment(const nb::object& told)
      : given(told),
        model(nb::cast<LoadedModel*>(given[0])),
        arm(nb::cast<std::optional<std::string>>(given[1]).value_or("")),
        slot(std::min(nb::cast<size_t>(given[2]), kMostArms)),
        epochs(nb::cast<std::optional<std::vector<int64_t>>>(given[3]).value_or(std::vector<int64_t>())),
        live(nb::cast<std::optional<nb::object>>(given[4])),
        reads_texts(nb::cast<bool>(given[5])),
        corrections(corrections_of(nb::cast<CorrectionForm>(given[6]))) {}
};

// With what requests are scored until the next swap. Shared by those under way, and freed with Python's lock.
struct Plan {
  const nb::object of;  // Python's name for it
  const nb::object of_first;
  LoadedModel& first;  // reads requests
  // Returns an assignment, called with a user's ID, empty if it is anonymous, and a request's; or is one, which is fixed.
  const nb::object assign;
  std::optional<Assignment> fixed;
  const bool is_by_user;                  // whether that needs the user's ID
  const std::optional<nb::object> wants;  // says, by a request's ID, whether it is followed
  const nb::object look;                  // called with what is to be known of a scored request
  // Makes scoring requests of other forms: see `ScoringJob::translate`. Without it these go to the app.
  const std::optional<nb::object> translate;

  Plan(nb::object of, const nb::object& model, const nb::object& assignment, bool is_by_user,
       std::optional<nb::object> wants, nb::object look, std::optional<nb::object> translate)
      : of(std::move(of)),
        of_first(model),
        first(nb::cast<LoadedModel&>(model)),
        assign(assignment),
        is_by_user(is_by_user),
        wants(std::move(wants)),
        look(std::move(look)),
        translate(std::move(translate)) {
    if (nb::isinstance<nb::tuple>(assignment)) fixed.emplace(assignment);
  }
};

}  // namespace
