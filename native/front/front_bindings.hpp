// The front for Python.
#pragma once

#include <arpa/inet.h>

#include "front.hpp"

namespace {

// (max_connections, max_waiting, max_body, max_head, inflight, max_candidates)
using Sizes = std::array<size_t, 6>;
// (head_s, body_s, reply_s, deadline_s, max_deadline_s)
using Times = std::array<double, 5>;

struct HeldFront {
  std::shared_ptr<Front> front;

  HeldFront(const HeldEngine& engine, const Sizes& sizes, const Times& times, bool needs_keys)
      : front(std::make_shared<Front>(*engine.engine,
                                      Limits{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], times[0],
                                             times[1], times[2], times[3], times[4], needs_keys})) {}
  ~HeldFront() {
    stop();
    // A thread that is left hands its job back to it.
    if (front->jobs()) static_cast<void>(new std::shared_ptr<Front>(front));
  }
  void stop() {
    const nb::gil_scoped_release unlocked;
    front->stop();
  }
};

// A job of the front while Python fetches what it lacks; the front has it again once this is freed.

struct AwayJob {
  std::shared_ptr<Front> front;
  ScoringJob* job;

  AwayJob(std::shared_ptr<Front> front, ScoringJob* job) : front(std::move(front)), job(job) {}
  ~AwayJob() {
    if (job) front->take_back(*job);
  }

  // With what was fetched, as a scoring job takes it: once
  void go_on(const nb::object& given) {
    if (!job) throw nb::value_error("the front has the job again");
    job->go_on(given);
    front->take_back(*std::exchange(job, nullptr));
  }
};

// What has happened, as Python learns it.
struct Telling {
  const std::shared_ptr<Front>& front;

  static nb::object address(const sockaddr_storage& client) {
    const bool is_six = client.ss_family == AF_INET6;
    if (!is_six && client.ss_family != AF_INET) return nb::none();
    const auto& four = reinterpret_cast<const sockaddr_in&>(client);
    const auto& six = reinterpret_cast<const sockaddr_in6&>(client);
    char text[INET6_ADDRSTRLEN] = "";
    inet_ntop(client.ss_family, is_six ? static_cast<const void*>(&six.sin6_addr) : &four.sin_addr, text, sizeof text);
    return nb::make_tuple(text, ntohs(is_six ? six.sin6_port : four.sin_port));
  }

  nb::tuple operator()(HandedRequest& one) const {
    const HttpHead& head = one.head;
    nb::list headers;
    for (const HttpHead::Header& header : head.headers)
      headers.append(nb::make_tuple(bytes_of(head.at(header.name)), bytes_of(head.at(header.value))));
    return nb::make_tuple("request", one.number, bytes_of(head.at(head.method)), bytes_of(head.at(head.target)),
                          headers, one.is_whole, one.is_late, one.is_secure, head.is_old, head.closes, head.expects, one.began,
                          address(one.client), one.job ? nb::cast(std::move(one.job)) : nb::none());
  }
  nb::tuple operator()(HandedBody& one) const {
    return nb::make_tuple("body", one.number, bytes_of(one.bytes), one.is_last);
  }
  nb::tuple operator()(UnknownKey& one) const { return nb::make_tuple("key", one.number, bytes_of(one.bytes)); }
  nb::tuple operator()(ClientGone& one) const { return nb::make_tuple("client_gone", one.number); }
  nb::tuple operator()(NotAccepted& one) const { return nb::make_tuple("not_accepted", one.reason); }
  nb::tuple operator()(NeedsRows& needing) const {
    const ScoringJob& job = *needing.job;
    return nb::make_tuple("needs_rows", std::make_unique<AwayJob>(front, needing.job), job.assignment().given,
                          job.asked(), job.deadline);
  }
  nb::tuple operator()(std::unique_ptr<ScoringJob>& job) const {
    return nb::make_tuple("scored", job->is_sent ? job->followed() : nb::list());
  }
};

// take_events(): what has happened since the last time, in order: ("request", number, method, target, headers, whether
// its body is whole, whether it is too late, whether it came over TLS, whether it is of HTTP/1.0, whether the connection ends with it, whether it
// expects `100 Continue`, when it began, client or None, its job if that has its body, or None); ("body", number, bytes,
// whether they are all of it); ("key", number, bytes), to be judged; ("client_gone", number) of a client; ("not_accepted", reason); ("needs_rows", a job that goes on with
// what is fetched for it, the assignment, what was asked for, the deadline); or ("scored", what `look` said)
nb::list front_take_told(HeldFront& held) {
  std::vector<FrontEvent> all = held.front->take_events();
  nb::list list;
  for (FrontEvent& event : all) list.append(std::visit(Telling{held.front}, event));
  return list;
}

void add_front(nb::module_& module) {
  nb::enum_<Outcome>(module, "Outcome")
      .value("SCORED", Outcome::kScored)
      .value("REFUSED", Outcome::kRefused)
      .value("LACKING", Outcome::kLacking)
      .value("NOT_FINITE", Outcome::kNotFinite)
      .value("TIMED", Outcome::kTimed);
  nb::class_<ScoringJob>(module, "ScoringJob")
      .def_prop_ro("of", [](const ScoringJob& job) { return job.plan().of; })
      .def_prop_ro("body", [](const ScoringJob& job) { return bytes_of(job.sent.body); })
      .def_prop_ro("request_id", [](const ScoringJob& job) { return job.sent.request_id; })
      .def_prop_ro("shown_id", [](const ScoringJob& job) { return job.shown_id; })
      .def_prop_ro("key", [](const ScoringJob& job) { return job.load.key; })
      .def_prop_ro("deadline", [](const ScoringJob& job) { return job.deadline; })
      .def("outcome", &ScoringJob::outcome)
      // head(size of the reply, seconds that its explanation took)
      .def("head", [](ScoringJob& job, size_t size, double explain_s) { return bytes_of(job.head(size, explain_s)); });
  nb::class_<AwayJob>(module, "AwayJob").def("go_on", &AwayJob::go_on);
  nb::class_<HeldFront>(module, "Front")
      .def(nb::init<const HeldEngine&, const Sizes&, const Times&, bool>(), nb::keep_alive<1, 2>())
      // start(descriptor of a listener, or −1), which it closes
      .def("start", [](HeldFront& held, int listener) { held.front->start(listener); })
      .def("stop", &HeldFront::stop)
      // serve(plan or None, whether it is for the playground to compare with)
      .def("serve",
           [](HeldFront& held, std::shared_ptr<Plan> plan, bool is_aside) { held.front->serve(std::move(plan), is_aside); },
           nb::arg("plan").none(), nb::arg("is_aside"))
      .def("forget_plans", [](HeldFront& held) { held.front->forget_plans(); })
      // reply(number, bytes, is_last, closes)
      .def("reply",
           [](HeldFront& held, uint64_t number, const nb::bytes& bytes, bool is_last, bool closes) {
             held.front->reply(number, std::string(view_of(bytes)), is_last, closes);
           })
      .def("go_on", [](HeldFront& held, uint64_t number) { held.front->go_on(number); })
      .def("abandon", [](HeldFront& held, uint64_t number) { held.front->abandon(number); })
      // adopt(descriptor, whether its bytes come from TLS)
      .def("adopt", [](HeldFront& held, int descriptor, bool is_secure) { held.front->adopt(descriptor, is_secure); })
      .def("make_room", [](HeldFront& held) { held.front->make_room(); })
      // know_key(key, name, until)
      .def("know_key",
           [](HeldFront& held, const nb::bytes& key, std::string name, double until) {
             held.front->know_key(std::string(view_of(key)), std::move(name), until);
           })
      .def("judged", [](HeldFront& held, uint64_t number) { held.front->judged(number); })
      .def("forget_keys", [](HeldFront& held) { held.front->forget_keys(); })
      .def("drain", [](HeldFront& held) { held.front->drain(); }, nb::call_guard<nb::gil_scoped_release>())
      .def("close_listener", [](HeldFront& held) { held.front->close_listener(); },
           nb::call_guard<nb::gil_scoped_release>())
      .def("close_idle", [](HeldFront& held) { held.front->close_idle(); }, nb::call_guard<nb::gil_scoped_release>())
      .def("take_events", &front_take_told)
      .def_prop_ro("descriptor", [](const HeldFront& held) { return held.front->python_bell.descriptor(); })
      .def_prop_ro("connections", [](const HeldFront& held) { return held.front->connections(); })
      .def_prop_ro("held", [](const HeldFront& held) { return held.front->held(); });
}

}  // namespace
