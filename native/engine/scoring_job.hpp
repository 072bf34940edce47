// Scoring jobs: from a request's body to its reply's bytes in one scoring thread. A job that lacks something ends, and
// goes on once Python has fetched that; the body is read once. Python's lock is taken where Python is asked alone: for the
// arm of a user, live states, what followers learn, other forms of requests, and by a runtime that is Python's.
#pragma once

#include <sys/socket.h>

#include <cerrno>
#include <cmath>
#include <list>

#include "plan.hpp"

namespace {

struct Connection;  // of the front

// How a request fares that a thread has read.
enum class Outcome {
  kScored,
  kRefused,  // `msd.contract` says why
  kLacking,  // of something that has to be fetched
  kNotFinite,
  kTimed,    // its body sets a deadline, which is not taken on
};

// Seconds of its stages.
struct Stages {
  double parse = 0.0, rows = 0.0, queue = 0.0, run = 0.0, reply = 0.0;

  void add(const Stages& other) {
    parse += other.parse;
    rows += other.rows;
    queue += other.queue;
    run += other.run;
    reply += other.reply;
  }
};

// A request as its client has sent it.
struct Sent {
  Form form;
  std::string path;
  std::optional<std::string> json_length;  // of a body that goes on in bytes
  bool has_deadline;              // its head does
  std::string request_id, body;
};

// Where a reply goes: the first bytes of its head, and the last.
struct Wire {
  int descriptor;  // −1 if bytes written to it are not the next that the client reads
  std::string head, tail;
};

// A scoring request: the job's own, or one that another form makes.
struct Part {
  std::string request_id, body;  // the job's own, if this is empty
  const Part* like = nullptr;    // the first that has the same body, and is read, scored and answered for both
  Request request;
  const Assignment* assignment = nullptr;  // of one that could be read
  bool is_followed = false;                // keep its rows, and look
  bool is_scored = false;
  std::string reply;
};

// What has become of a job, for Python.
struct JobResult {
  Outcome outcome;
  std::vector<AnyObject> seen;  // what `look` returned of each part
  nb::bytes reply;            // its body, if it is to be explained
  std::optional<std::shared_ptr<Translation>> translation;  // Python's, if it has made one
  size_t part;                // the one that was read last
};

// One request in a scoring thread. Parts that differ in their candidates alone share a run, and those that do not differ all
// of it.
class ScoringJob : public Job {
 public:
  ScoringJob(std::shared_ptr<const Plan> plan, Sent given, size_t max_candidates, Load admitted, int64_t bucket, double deadline,
             double began, Wire wire)
      : Job(plan->first.runner, admitted.rows, deadline),
        sent(std::move(given)),
        load(std::move(admitted)),
        bucket(bucket),
        began(began),
        shown_id(sent.request_id),
        plan_(std::move(plan)),
        max_candidates_(max_candidates),
        wire_(std::move(wire)) {
    form = sent.form;
    if (form == Form::kScore) parts_.emplace_back().request_id = sent.request_id;
    is_heavy = form != Form::kScore && sent.body.size() > kHeavyBytes;
  }

  bool fit(Worker& worker, double now) override {
    try {
      if (now > deadline) return end(Ending::kLate);
      if (parts_.empty()) translate(worker);
    } catch (const Raised&) {
      return end(Ending::kFailed);
    } catch (const std::exception& error) {
      why_ = error.what();
      return end(Ending::kFailed);
    }
    if (!timeout_s_ || sent.has_deadline) return true;
    outcome_ = Outcome::kTimed;
    return end(Ending::kDone);
  }

  void run(Worker& worker) override {
    rows = 0;
    ending = Ending::kDone;
    stages_.queue += started - queued_at;
    try {
      if (!std::exchange(is_read_, true)) read(worker);
      score_all(worker);
      if (outcome_ == Outcome::kRefused && std::exchange(is_translated_here_, false)) {
        shown_id = sent.request_id;
        have_translated(worker);
        read(worker);
        score_all(worker);
      }
      has_one_run = parts_.size() == 1 && !parts_[0].request.page;
      if (parts_.size() < 2) return;
      rows = outcome_ == Outcome::kScored ? candidates_ : 0;
    } catch (const Raised&) {
      end(Ending::kFailed);
    } catch (const std::exception& error) {
      why_ = error.what();
      end(Ending::kFailed);
    }
  }

  // Take the deadline that its body sets on.
  void take_on_deadline() {
    deadline = began + *timeout_s_;
    timeout_s_.reset();
  }

  // Its end was `kDone`, and stays so: a keeper may read it meanwhile.
  void go_on(std::shared_ptr<Fetched> fetched) {
    given_ = given_of(assignment_->model.schema, *fetched->user, *fetched->items);
    live_ = fetched->live.value_or(nullptr);
    if (live_) live_->of(lacked_.size());
    is_given_ = true;
    stages_.rows += fetched->seconds;
    fetched_ = std::move(fetched);
  }

  // What has become of it. Raises, once, the error that it has failed with.
  JobResult result() {
    if (ending == Ending::kFailed) {
      // An error that is raised holds the frames that hold the job, which Python's garbage collector cannot look into.
      const nb::object error = error_.is_valid() ? std::exchange(error_, {}) : nb::handle(PyExc_RuntimeError)(why_);
      PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.ptr())), error.ptr());
      throw nb::python_error();
    }
    return {outcome_, looked_, bytes_of(reply_), made_ ? std::optional(made_) : std::nullopt, part_};
  }

  // Lines of the head of a reply of `size` bytes, with seconds that its explanation took.
  std::string head(size_t size, std::optional<double> explain_s = {}) {
    if (explain_s) ready_at_ = clock_s();
    std::string lines = first_ + "content-length: " + std::to_string(size) + "\r\nserver-timing: ";
    const auto& [parse, rows, queue, run, reply] = all_stages_;
    put_ms(lines, "parse", parse);
    put_ms(lines, ", rows", rows);
    put_ms(lines, ", queue", queue);
    put_ms(lines, ", run", run);
    put_ms(lines, ", total", ready_at_ - began);
    if (explain_s) put_ms(lines, ", explain", *explain_s);
    return lines + "\r\n";
  }

  // What `look` has returned: of each part.
  const std::vector<AnyObject>& followed() const { return looked_; }
  // What is to be fetched.
  Asked asked() const { return {parts_[part_].request, lacked_}; }
  const Plan& plan() const { return *plan_; }

  // Write to the connection no more: it is about to end, and its descriptor will be another's.
  void hang_up() {
    const std::lock_guard lock(mutex_);
    wire_.descriptor = -1;
  }

  // How it has fared, if it has ended of itself.
  bool has(Outcome outcome) const { return ending == Ending::kDone && outcome_ == outcome; }
  // Whether its end can wait until the front's thread wakes for something else.
  bool is_quiet() const { return has_answered && !is_awaited && !holds_python(); }
  // Whether it is to be freed with Python's lock.
  bool holds_python() const {
    return !own_.empty() || live_ || fetched_ || !looked_.empty() || error_.is_valid() || made_;
  }
  size_t candidates() const { return candidates_; }
  double seconds() const { return ready_at_ - began; }
  // With what it is scored, and what it lacks.
  const Assignment& assignment() const { return *assignment_; }
  bool is_given() const { return is_given_; }

  const Sent sent;
  const Load load;
  const int64_t bucket;
  const double began;
  std::string shown_id;  // the reply's; set before its run
  size_t most = 0;       // candidates of its run, if it is made again; 0: as many as there is time for
  Connection* connection = nullptr;  // until its request is answered
  bool is_released = false;          // its load is
  bool is_away = false;              // Python fetches what it lacks
  std::atomic<bool> is_awaited{false};  // the connection has more to do
  std::atomic<bool> has_answered{false};  // all of the reply is written
  std::string left;      // of the reply: what is not written
  bool is_sent = false;  // the job has answered by itself

 private:
  // Translating larger bodies takes long.
  static constexpr size_t kHeavyBytes = 16'384;

  bool end(Ending how) {
    ending = how;
    return false;
  }

  // Thrown where Python has raised an error, which the job keeps.
  struct Raised {};

  template <class Work>
  auto ask(Worker& worker, Work work) -> decltype(work()) {
    const Locked locked(worker);
    try {
      return work();
    } catch (const nb::python_error& error) {
      error_ = nb::borrow(error.value());
      throw Raised{};
    }
  }

  void translate(Worker& worker) {
    const double before = clock_s();
    is_translated_here_ = form == Form::kOpenrtb ? translate_impressions(worker) : translate_tensors();
    if (!is_translated_here_) have_translated(worker);
    const double took = clock_s() - before;
    stages_.parse += took;
    stages_.queue -= took;
  }

  // Make a scoring request of tensors. False if Python is to do that.
  bool translate_tensors() {
    if (sent.path != "/v2/models/msd/infer") return false;
    std::string_view json = sent.body;
    std::optional<std::string_view> rest;
    if (sent.json_length) {
      constexpr size_t kMostLengthDigits = 9;
      size_t length = 0;
      if (sent.json_length->size() > kMostLengthDigits || !read_whole(*sent.json_length, length) || length > json.size()) return false;
      rest = json.substr(length);
      json = json.substr(0, length);
    }
    InferRequest request;
    if (!request.read(json, rest, plan_->first.schema)) return false;
    if (!request.id.empty()) shown_id = request.id;
    Part& part = parts_.emplace_back();
    part.request_id = shown_id;
    part.body = std::move(request.body);
    outputs_ = std::move(request.outputs);
    return true;
  }

  // Make scoring requests of impressions. False if Python is to do that.
  bool translate_impressions(Worker& worker) {
    const LoadedModel* mapped = &plan_->first;  // by which the request is read: the user determines the arm
    OpenrtbRequest request;
    if (!mapped->openrtb || !request.read(sent.body, mapped->openrtb->mapping)) return false;
    const auto as_python = [&](auto work) { return ask(worker, work); };
    if (!request.identify(mapped->openrtb->has_consent(request.signals(), as_python))) return false;
    JsonWriter head;
    head.put("{");
    head.member("id", request.id);
    head.member("consent", request.has_consent);
    head.open("imp", '{');
    for (size_t k = 0; k < request.candidates.size(); k++) {
      Part& part = parts_.emplace_back();
      part.request_id = sent.request_id + "/" + std::to_string(request.place_of(k));
      part.assignment = assigned(worker, request.user_id, part.request_id);
      const LoadedModel* const own = &part.assignment->model;
      if (own != mapped && (!own->openrtb || !request.read(sent.body, own->openrtb->mapping))) return false;
      mapped = own;
      part.body = request.body_of(k, mapped->schema, unfit_);
      head.key(request.candidates[k].first);
      pieces_.emplace_back(head.bytes());
      head.clear();
      head.put(",");
    }
    pieces_.emplace_back("}}");
    user_ = !request.has_consent ? Count::kOpenrtbNoConsent : request.user_id.empty() ? Count::kOpenrtbMissing : Count::kOpenrtbGiven;
    return true;
  }

  // By Python.
  std::shared_ptr<Translation> translated() const {
    const nb::object length = sent.json_length ? nb::object(bytes_of(*sent.json_length)) : nb::none();
    return nb::cast<std::shared_ptr<Translation>>((*plan_->translate)(sent.path, length, sent.request_id, bytes_of(sent.body)));
  }

  void have_translated(Worker& worker) {
    ask(worker, [&] {
      made_ = translated();
      shown_id = made_->shown_id;
      parts_ = std::vector<Part>(made_->parts.size());
      for (size_t k = 0; k < parts_.size(); k++) {
        parts_[k].request_id = made_->parts[k].first;
        parts_[k].body = view_of(made_->parts[k].second);
      }
      part_ = 0;
      timeout_s_ = made_->timeout_s;
      user_.reset();
      pieces_.clear();
      if (const auto* const pieces = std::get_if<0>(&made_->reply))
        for (const nb::bytes& piece : *pieces) pieces_.emplace_back(view_of(piece));
      outputs_ = made_->outputs;
    });
  }

  const std::string& body_of(const Part& part) const { return part.body.empty() ? sent.body : part.body; }

  // Not by printf, which libraries that add conversions to it make slow.
  static void put_ms(std::string& lines, const char* name, double seconds) {
    char text[kMostNumberChars];
    const char* const end = std::to_chars(text, text + sizeof text, 1000 * seconds, std::chars_format::fixed, 3).ptr;
    lines.append(name).append(";dur=").append(text, static_cast<size_t>(end - text));
  }

  // Read the parts, and find with what they are scored. At one that is refused it ends.
  void read(Worker& worker) {
    const double before = clock_s();
    size_t candidates = std::min(max_candidates_, plan_->first.capacity);  // of all parts
    for (Part& part : parts_) {
      if ((part.like = like_of(part, candidates))) {
        part.assignment = part.like->assignment;
      } else if (part.request.read(body_of(part), candidates) && !(is_translated_here_ && (part.request.is_explained || part.request.page))) {
        if (!part.assignment) part.assignment = assigned(worker, part.request.user_id, part.request_id);
      } else {
        part.assignment = nullptr;
        part_ = static_cast<size_t>(&part - parts_.data());
        break;
      }
      if (plan_->wants) part.is_followed = ask(worker, [&] { return (*plan_->wants)(part.request_id).is(Py_True); });
      keeps_rows_ |= part.is_followed;
      candidates -= (part.like ? *part.like : part).request.ids.size();
    }
    stages_.parse += clock_s() - before;
  }

  // An earlier part with the same body, of `most` candidates; none where IDs count: for arms of anonymous users, and seeds.
  const Part* like_of(const Part& part, size_t most) const {
    for (const Part* other = parts_.data(); other != &part; other++) {
      const Request& request = other->request;
      const bool counts_id = request.explore || (plan_->is_by_user && request.user_id.empty());
      if (!other->like && !counts_id && request.ids.size() <= most && body_of(*other) == body_of(part)) return other;
    }
    return nullptr;
  }

  // All parts have one user, and the same assignment unless it depends on the user, who is anonymous.
  const Assignment* assigned(Worker& worker, std::string_view user, const std::string& request_id) {
    if (const Assignment* const fixed = plan_->fixed()) return fixed;
    if (!own_.empty() && !(plan_->is_by_user && user.empty())) return own_.back().get();
    return ask(worker, [&] {
      return own_.emplace_back(nb::cast<std::shared_ptr<Assignment>>(std::get<Plan::Assign>(plan_->assign)(user, request_id))).get();
    });
  }

  // The parts that are scored with the current one.
  std::vector<Part*> together(const Frame& frame) {
    Part& first = parts_[part_];
    std::vector<Part*> parts{&first};
    size_t candidates = first.request.ids.size();
    for (Part& part : parts_) {
      const size_t more = part.request.ids.size();
      if (&part == &first || part.like || part.is_scored || part.assignment != assignment_ || !part.request.is_like(first.request) ||
          !frame.model().allows(part.request) || candidates + more > frame.capacity())
        continue;
      parts.push_back(&part);
      candidates += more;
    }
    return parts;
  }

  Desk& desk_of(LoadedModel& model, Worker& worker) {
    std::unique_ptr<Desk>& desk = model.desks.at(worker.number);
    if (!desk) desk = ask(worker, [&] { return model.make_desk(); });
    return *desk;
  }

  void score_all(Worker& worker) {
    while ((outcome_ = score(worker)) == Outcome::kScored && part_ < parts_.size()) is_given_ = false;
  }

  // Score the current part, and those that are like it.
  Outcome score(Worker& worker) {
    assignment_ = parts_[part_].assignment;
    if (!assignment_) return Outcome::kRefused;
    LoadedModel& model = assignment_->model;
    runner = &model.runner;
    Desk& desk = desk_of(model, worker);
    Frame& frame = desk.held->frame;
    const std::vector<Part*> parts = together(frame);
    const FillResult filled = take(worker, frame, parts);
    if (filled == FillResult::kUnread) return Outcome::kRefused;
    if (filled == FillResult::kLacking) {
      if (is_given_) throw std::runtime_error("the native core lacks rows that it was given");
      lacked_ = frame.candidates();
      return Outcome::kLacking;
    }
    const size_t candidates = frame.candidates().size();
    const double before = clock_s();
    const double for_page = frame.has_places() && frame.request().page ? (frame.request().page - 1) * runner->run_s.of(1) : 0.0;
    const double left_s = seconds_for_run(before, deadline) - for_page;
    const size_t fitting = most ? most + (most < candidates) : runner->run_s.fitting(candidates, left_s);
    if (!fitting) {
      end(Ending::kNoTime);
      return Outcome::kNotFinite;
    }
    desk.heads.rows = fitting == candidates ? candidates : fitting - 1;
    is_partial_ = desk.heads.rows < candidates;
    if (is_partial_) frame.cut(desk.heads.rows);
    run_model(worker, desk, fitting);
    if (frame.forget_unfinite(desk.into, fitting)) run_model(worker, desk, fitting);
    frame.share(desk.into, fitting);
    rows = fitting;
    return reply(worker, desk, parts, before);
  }

  void run_model(Worker& worker, Desk& desk, size_t count) {
    if (desk.model) {
      const auto work = [&] { desk.model->run(count, desk.into); };
      return worker.gives_way ? do_aside(work) : work();
    }
    ask(worker, [&] {
      const nb::object found = (*desk.run)(count);
      for (size_t k = 0; k < desk.into.size(); k++) {
        const Buffer column(found[k], false, sizeof(float) * count);
        std::memcpy(desk.into[k], column.as<const float>(), sizeof(float) * count);
      }
    });
  }

  Outcome reply(Worker& worker, Desk& desk, const std::vector<Part*>& parts, double before) {
    const double after = clock_s();
    stages_.run = after - before;
    for (Part* const part : parts)
      if (!write(worker, desk, *part, parts.size() > 1)) return Outcome::kNotFinite;
    while (part_ < parts_.size() && parts_[part_].is_scored) part_++;
    ready_at_ = clock_s();
    stages_.reply = ready_at_ - after - std::exchange(page_s_, 0.0);
    const Stages own = std::exchange(stages_, {});
    all_stages_.add(own);
    if (part_ == parts_.size()) {
      if (is_in_tensors_) send_tensors(desk);
      else if (form == Form::kScore) send(desk, desk.held->reply.bytes());
      else finish(worker, desk);
    }
    count(*worker.tally, own, desk.held->frame);
    return Outcome::kScored;
  }

  // The reply to a part that has its scores; false for one that is not finite.
  bool write(Worker& worker, Desk& desk, Part& part, bool is_shared) {
    HeldFrame& held = *desk.held;
    std::vector<Head>& heads = desk.heads.heads;
    float* const deviations = desk.scores.back().data();
    held.frame.turn_to(part.request);
    const bool is_uncertain = part.request.explore && held.frame.deviate(heads[0].scores, rows, deviations);
    if (is_uncertain) heads.push_back({std::string(kUncertainty), deviations});
    const bool is_finite = held.reply.score(held.frame, part.request_id, desk.heads, assignment_->corrections);
    if (is_uncertain) heads.pop_back();
    if (!is_finite || !fill_page(worker, desk, part.request)) return false;
    user_rung_ = held.frame.user_rung;
    const Named named{part.request_id, assignment_->arm};
    is_in_tensors_ = outputs_ && desk.infer.write(held.reply, held.frame, named, *outputs_);
    if (!is_in_tensors_) held.reply.write(held.frame, named);
    if (form != Form::kScore) part.reply = held.reply.bytes();
    put_by(worker, desk, part, is_shared);
    for (Part& other : parts_) {
      if (other.like != &part) continue;
      other.reply = held.reply.again(other.request_id);
      put_by(worker, desk, other, is_shared);
    }
    return true;
  }

  // Score each place of a page behind its first, in a run of its own: the place is in the context, which a run has once.
  // A candidate without a finite score there is scored as without a row. False if that score is not finite either.
  bool fill_page(Worker& worker, Desk& desk, const Request& request) {
    Frame& frame = desk.held->frame;
    Reply& reply = desk.held->reply;
    if (request.page < 2 || !frame.has_places()) return true;
    const double before = clock_s();
    const auto is_wrong = [](const float* column) { return !std::isfinite(column[0]); };
    bool is_finite = true;
    for (size_t place = 1; is_finite && place < reply.page.candidates.size(); place++) {
      frame.put_first(reply.row_at(place), request.slot + place);
      run_model(worker, desk, 1);
      if (std::any_of(desk.into.begin(), desk.into.end(), is_wrong)) {
        frame.forget_first();
        reply.declare_prior(request.ids[reply.page.candidates[place]]);
        run_model(worker, desk, 1);
      }
      is_finite = reply.place(frame, place, desk.heads, assignment_->corrections);
    }
    frame.put_first(0, request.slot);
    const double took = clock_s() - before;
    stages_.run += took;
    page_s_ += took;
    return is_finite;
  }

  // A part is answered. The frame is another request's soon.
  void put_by(Worker& worker, const Desk& desk, Part& part, bool is_shared) {
    candidates_ += desk.held->frame.request().ids.size();
    count_part(*worker.tally, desk.held->reply);
    if (part.is_followed || part.request.is_explained) look(worker, desk, part, is_shared);
    part.is_scored = true;
  }

  // Write as much of the reply as the connection takes now; one that is to be explained is for Python.
  void send(Desk& desk, std::string_view reply) {
    if (parts_[0].request.is_explained) {
      reply_ = reply;
      return;
    }
    if (!claim()) return;
    std::string& whole = desk.whole;
    whole.assign(wire_.head).append(head(reply.size())).append("x-request-id: ").append(shown_id).append("\r\n");
    whole.append(wire_.tail).append(reply);
    const std::lock_guard lock(mutex_);
    const ssize_t written = wire_.descriptor < 0 ? 0 : ::send(wire_.descriptor, whole.data(), whole.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    // After another error the client has left, and the front will notice.
    if (written >= 0 || errno == EAGAIN || errno == EWOULDBLOCK) left = whole.substr(static_cast<size_t>(std::max<ssize_t>(written, 0)));
    is_sent = true;
    has_answered = left.empty();
  }

  void send_tensors(Desk& desk) {
    const InferReply& infer = desk.infer;
    if (infer.has_bytes())
      first_ = "content-type: application/octet-stream\r\ninference-header-content-length: " +
               std::to_string(infer.json_size) + "\r\n";
    send(desk, infer.bytes());
  }

  // The reply of the request's own form; or what is wrong with the outputs that it asks for.
  void finish(Worker& worker, Desk& desk) {
    std::string whole;
    for (size_t k = 0; k < pieces_.size(); k++) whole.append(pieces_[k]).append(k < parts_.size() ? parts_[k].reply : "");
    if (user_)
      worker.tally->note([&](auto inc, auto) {
        inc(*user_);
        inc(Count::kOpenrtbUnfit, unfit_);
      });
    if (pieces_.empty()) ask(worker, [&] {
      // Let go of with Python's lock, so that the job needs it no more.
      const std::shared_ptr<Translation> made = made_ ? std::exchange(made_, {}) : translated();
      nb::list replies;
      for (const Part& part : parts_) replies.append(bytes_of(part.reply));
      const auto [headers, body] =
          nb::cast<Translation::Reply>(std::get<1>(made->reply)(replies));
      first_.clear();
      for (const auto& [name, value] : headers) first_.append(view_of(name)).append(": ").append(view_of(value)).append("\r\n");
      whole = view_of(body);
    });
    ready_at_ = clock_s();
    send(desk, whole);
  }

  void count_part(Tally& tally, const Reply& reply) {
    std::array<size_t, kRungs.size()> counts{};
    for (const Degraded& one : reply.degraded) counts[static_cast<size_t>(one.rung)]++;
    tally.note([&](auto inc, auto observe) {
      if (assignment_->slot) inc(static_cast<Count>(static_cast<size_t>(Count::kArm) + assignment_->slot - 1));
      observe(Measure::kCandidates, static_cast<double>(reply.columns[0].values.size()));
      if (user_rung_ != UserRung::kOwn) inc(user_rung_ == UserRung::kCached ? Count::kUserCached : Count::kUserUnknown);
      for (size_t rung = 0; rung < counts.size(); rung++)
        inc(static_cast<Count>(static_cast<size_t>(Count::kCached) + rung), counts[rung]);
      if (reply.choice)
        inc(reply.choice->policy == "greedy" ? Count::kUnavailable : reply.choice->explored ? Count::kExplored : Count::kExploited);
    });
  }

  // A run.
  void count(Tally& tally, const Stages& stages, const Frame& frame) const {
    const double now = unix_s();
    const Found& found = frame.found;
    tally.note([&](auto inc, auto observe) {
      observe(Measure::kParse, stages.parse);
      observe(Measure::kRows, stages.rows);
      observe(Measure::kQueue, stages.queue);
      observe(Measure::kRun, stages.run);
      observe(Measure::kReply, stages.reply);
      observe(Measure::kRunRows, static_cast<double>(rows));
      if (is_partial_) inc(Count::kPartial);
      if (!std::isnan(found.live_age_s)) observe(Measure::kLiveAge, found.live_age_s);
      if (is_given_) return;
      const size_t read = found.items + found.has_user;
      inc(assignment_->model.has_files() ? Count::kRowsOfFile : Count::kRowsOfArena, read);
      inc(Count::kRowsMissing, found.asked - read);
      if (found.user_written_at != 0.0) observe(Measure::kUserAge, now - found.user_written_at);
      if (found.item_written_at != 0.0) observe(Measure::kItemAge, now - found.item_written_at);
    });
  }

  void look(Worker& worker, const Desk& desk, const Part& part, bool is_shared) {
    ask(worker, [&] {
      ScoredPart scored{desk.frame, desk.tensors, desk.held->reply.ran, is_shared, stages_.parse, stages_.rows, stages_.queue,
                        stages_.run, nb::find(*assignment_), part.request_id, bytes_of(body_of(part)), began,
                        is_given_ ? fetched_->of : AnyObject(nb::none()), part.is_followed, part.request.is_explained};
      looked_.emplace_back(plan_->look(std::move(scored)));
    });
  }

  FillResult take(Worker& worker, Frame& frame, const std::vector<Part*>& parts) {
    const double before = clock_s();
    std::vector<Request*> requests;
    for (Part* const part : parts) requests.push_back(&part->request);
    frame.keeps_rows = keeps_rows_;
    frame.live = is_given_ && live_ ? &live_->of(lacked_.size()) : nullptr;
    frame.reads_texts = assignment_->reads_texts;
    frame.take(requests);
    const FillResult filled = is_given_ ? frame.fill(given_, fetched_->at) : fill(worker, frame);
    frame.live = nullptr;
    stages_.rows += clock_s() - before;
    return filled;
  }

  FillResult fill(Worker& worker, Frame& frame) {
    const LoadedModel& model = assignment_->model;
    if (!model.users) return FillResult::kLacking;
    if (assignment_->live) {
      ask(worker, [&] {
        live_ = live_of(*assignment_->live, frame);
        if (live_) frame.live = &live_->of(frame.candidates().size());
      });
      if (!live_) return FillResult::kLacking;
    }
    return fill_from(frame, *model.users, *model.items, assignment_->epochs, unix_s());
  }

  // Of a job that has ended. What Python holds is let go of with its lock.
  const std::shared_ptr<const Plan> plan_;
  const Assignment* assignment_ = nullptr;  // of the current parts
  std::list<std::shared_ptr<Assignment>> own_;  // which Python is asked for
  std::shared_ptr<Fetched> fetched_;
  Given given_;            // views of that
  bool is_given_ = false;  // for the current parts
  std::shared_ptr<LiveStates> live_;
  std::shared_ptr<Translation> made_;
  nb::object error_;
  std::vector<AnyObject> looked_;
  std::string why_;
  Outcome outcome_ = Outcome::kNotFinite;
  size_t candidates_ = 0;
  double page_s_ = 0.0;  // of the current parts' runs for a page
  Stages stages_, all_stages_;  // of the current parts; of all that are scored
  double ready_at_ = 0.0;
  UserRung user_rung_ = UserRung::kOwn;
  std::string reply_;        // kept for Python, which explains it
  std::vector<Part> parts_;  // one at least, once it is translated
  size_t part_ = 0;          // the first that is not scored, or the one that is refused

  const size_t max_candidates_;
  std::vector<std::string_view> lacked_;  // candidates of the current parts, if rows are
  std::optional<double> timeout_s_;   // until the deadline that the body sets
  std::optional<Outputs> outputs_;  // of a request in tensors
  bool is_translated_here_ = false;  // without Python
  std::vector<std::string> pieces_;  // around the replies, of a form in JSON
  std::optional<Count> user_;  // of impressions that are translated here
  size_t unfit_ = 0;
  bool is_in_tensors_ = false;       // the reply that is written last
  std::string first_ = "content-type: application/json\r\n";  // of the reply's head
  bool is_read_ = false;       // whether the parts are
  bool keeps_rows_ = false;    // of parts that are followed
  bool is_partial_ = false;    // only the first candidates are scored
  std::mutex mutex_;  // guards the descriptor
  Wire wire_;
};

}  // namespace
