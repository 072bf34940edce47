// The front for Python.
#pragma once

#include <arpa/inet.h>

#include "front.hpp"

namespace {

struct HeldFront {
  std::shared_ptr<Front> front;

  HeldFront(const HeldEngine& engine, const Limits& limits) : front(std::make_shared<Front>(*engine.engine, limits)) {}
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

  const ScoringJob& held() const { return job ? *job : throw nb::value_error("the front has the job again"); }

  // Once.
  void go_on(std::shared_ptr<Fetched> fetched) {
    held();
    job->go_on(std::move(fetched));
    front->take_back(*std::exchange(job, nullptr));
  }
};

// (address, port), or None
std::optional<std::pair<std::string, int>> address_of(const sockaddr_storage& client) {
  const bool is_six = client.ss_family == AF_INET6;
  if (!is_six && client.ss_family != AF_INET) return std::nullopt;
  const auto& four = reinterpret_cast<const sockaddr_in&>(client);
  const auto& six = reinterpret_cast<const sockaddr_in6&>(client);
  char text[INET6_ADDRSTRLEN] = "";
  inet_ntop(client.ss_family, is_six ? static_cast<const void*>(&six.sin6_addr) : &four.sin_addr, text, sizeof text);
  return std::pair(text, ntohs(is_six ? six.sin6_port : four.sin_port));
}

std::vector<std::pair<nb::bytes, nb::bytes>> headers_of(const HttpHead& head) {
  std::vector<std::pair<nb::bytes, nb::bytes>> headers;
  for (const HttpHead::Header& header : head.headers)
    headers.emplace_back(bytes_of(head.at(header.name)), bytes_of(head.at(header.value)));
  return headers;
}

using PythonEvent = std::variant<HandedRequest, HandedBody, UnknownKey, ClientGone, NotAccepted, AwayJob, Answered>;

// What has happened since the last time, in order.
nb::typed<nb::list, PythonEvent> front_take_events(HeldFront& held) {
  nb::list list;
  for (FrontEvent& event : held.front->take_events())
    std::visit([&]<class Event>(Event& one) {
      if constexpr (std::is_same_v<Event, NeedsRows>) list.append(nb::cast(std::make_unique<AwayJob>(held.front, one.job)));
      else list.append(nb::cast(std::move(one)));
    }, event);
  return list;
}

void add_events(nb::module_& module) {
  // `is_whole`: its body is; `is_late`: it was waited for in vain; `job`: has its body, if there is one.
  nb::class_<HandedRequest>(module, "HandedRequest")
      .def_ro("number", &HandedRequest::number)
      .def_prop_ro("method", [](const HandedRequest& one) { return bytes_of(one.head.at(one.head.method)); })
      .def_prop_ro("target", [](const HandedRequest& one) { return bytes_of(one.head.at(one.head.target)); })
      .def_prop_ro("headers", [](const HandedRequest& one) { return headers_of(one.head); })
      .def_prop_ro("is_old", [](const HandedRequest& one) { return one.head.is_old; })
      .def_prop_ro("closes", [](const HandedRequest& one) { return one.head.closes; })
      .def_prop_ro("expects", [](const HandedRequest& one) { return one.head.expects; })
      .def_prop_ro("client", [](const HandedRequest& one) { return address_of(one.client); })
      .def_prop_ro("job", [](const HandedRequest& one) { return one.job.get(); }, nb::rv_policy::reference_internal,
                   nb::sig("def job(self, /) -> ScoringJob | None"))
      .def_ro("is_secure", &HandedRequest::is_secure)
      .def_ro("is_whole", &HandedRequest::is_whole)
      .def_ro("is_late", &HandedRequest::is_late)
      .def_ro("began", &HandedRequest::began);
  nb::class_<HandedBody>(module, "HandedBody")
      .def_ro("number", &HandedBody::number)
      .def_prop_ro("bytes", [](const HandedBody& one) { return bytes_of(one.bytes); }, nb::sig("def bytes(self, /) -> builtins.bytes"))
      .def_ro("is_last", &HandedBody::is_last);
  nb::class_<UnknownKey>(module, "UnknownKey")
      .def_ro("number", &UnknownKey::number)
      .def_prop_ro("key", [](const UnknownKey& one) { return bytes_of(one.key); });
  read_struct<ClientGone>(module, "ClientGone", field("number", &ClientGone::number));
  read_struct<NotAccepted>(module, "NotAccepted", field("reason", &NotAccepted::reason));
  nb::class_<AwayJob>(module, "AwayJob")
      .def("go_on", &AwayJob::go_on, nb::arg("fetched"))
      .def_prop_ro("assignment", [](const AwayJob& away) { return nb::typed<nb::object, Assignment>(nb::find(away.held().assignment())); })
      .def_prop_ro("asked", [](const AwayJob& away) { return away.held().asked(); })
      .def_prop_ro("deadline", [](const AwayJob& away) { return away.held().deadline; });
  nb::class_<Answered>(module, "Answered").def_prop_ro("seen", [](const Answered& answered) {
    return answered.job->is_sent ? answered.job->followed() : std::vector<AnyObject>();
  });
}

void add_job(nb::module_& module) {
  nb::enum_<Outcome>(module, "Outcome")
      .value("SCORED", Outcome::kScored)
      .value("REFUSED", Outcome::kRefused)
      .value("LACKING", Outcome::kLacking)
      .value("NOT_FINITE", Outcome::kNotFinite)
      .value("TIMED", Outcome::kTimed);
  read_struct<JobResult>(module, "JobResult", field("outcome", &JobResult::outcome), field("seen", &JobResult::seen),
                         field("reply", &JobResult::reply), field("translation", &JobResult::translation),
                         field("part", &JobResult::part));
  nb::class_<ScoringJob>(module, "ScoringJob")
      .def_prop_ro("of", [](const ScoringJob& job) { return job.plan().of; })
      .def_prop_ro("body", [](const ScoringJob& job) { return bytes_of(job.sent.body); })
      .def_prop_ro("request_id", [](const ScoringJob& job) { return job.sent.request_id; })
      .def_prop_ro("shown_id", [](const ScoringJob& job) { return job.shown_id; })
      .def_prop_ro("key", [](const ScoringJob& job) { return job.load.key; })
      .def_prop_ro("deadline", [](const ScoringJob& job) { return job.deadline; })
      .def("result", &ScoringJob::result)
      // `size`: of the reply; `explain_s`: seconds that its explanation took
      .def("head", [](ScoringJob& job, size_t size, double explain_s) { return bytes_of(job.head(size, explain_s)); },
           nb::arg("size"), nb::arg("explain_s"));
}

void add_front(nb::module_& module) {
  add_job(module);
  add_events(module);
  made_struct<Limits>(module, "Limits", field("max_connections", &Limits::max_connections),
                      field("max_waiting", &Limits::max_waiting), field("max_body", &Limits::max_body),
                      field("max_head", &Limits::max_head), field("inflight", &Limits::inflight),
                      field("max_candidates", &Limits::max_candidates), field("head_s", &Limits::head_s),
                      field("body_s", &Limits::body_s), field("reply_s", &Limits::reply_s),
                      field("deadline_s", &Limits::deadline_s), field("max_deadline_s", &Limits::max_deadline_s),
                      field("needs_keys", &Limits::needs_keys));
  nb::class_<HeldFront>(module, "Front")
      .def(nb::init<const HeldEngine&, const Limits&>(), nb::keep_alive<1, 2>(), nb::arg("engine"), nb::arg("limits"))
      // `listener`: its descriptor, or −1; it is closed in the end
      .def("start", [](HeldFront& held, int listener) { held.front->start(listener); }, nb::arg("listener"))
      .def("stop", &HeldFront::stop)
      // serve(plan or None, whether it is for the playground to compare with)
      .def("serve",
           [](HeldFront& held, std::shared_ptr<Plan> plan, bool is_aside) { held.front->serve(std::move(plan), is_aside); },
           nb::arg("plan").none(), nb::arg("is_aside"))
      .def("forget_plans", [](HeldFront& held) { held.front->forget_plans(); })
      .def("reply",
           [](HeldFront& held, uint64_t number, const nb::bytes& bytes, bool is_last, bool closes) {
             held.front->reply(number, std::string(view_of(bytes)), is_last, closes);
           },
           nb::arg("number"), nb::arg("bytes"), nb::arg("is_last"), nb::arg("closes"))
      .def("go_on", [](HeldFront& held, uint64_t number) { held.front->go_on(number); }, nb::arg("number"))
      .def("abandon", [](HeldFront& held, uint64_t number) { held.front->abandon(number); }, nb::arg("number"))
      // `is_secure`: its bytes come from TLS
      .def("adopt", [](HeldFront& held, int descriptor, bool is_secure) { held.front->adopt(descriptor, is_secure); },
           nb::arg("descriptor"), nb::arg("is_secure"))
      .def("make_room", [](HeldFront& held) { held.front->make_room(); })
      .def("know_key",
           [](HeldFront& held, const nb::bytes& key, std::string name, double until) {
             held.front->know_key(std::string(view_of(key)), std::move(name), until);
           },
           nb::arg("key"), nb::arg("name"), nb::arg("until"))
      .def("judged", [](HeldFront& held, uint64_t number) { held.front->judged(number); }, nb::arg("number"))
      .def("forget_keys", [](HeldFront& held) { held.front->forget_keys(); })
      .def("drain", [](HeldFront& held) { held.front->drain(); }, nb::call_guard<nb::gil_scoped_release>())
      .def("close_listener", [](HeldFront& held) { held.front->close_listener(); },
           nb::call_guard<nb::gil_scoped_release>())
      .def("close_idle", [](HeldFront& held) { held.front->close_idle(); }, nb::call_guard<nb::gil_scoped_release>())
      .def("take_events", &front_take_events)
      .def_prop_ro("descriptor", [](const HeldFront& held) { return held.front->python_bell.descriptor(); })
      .def_prop_ro("connections", [](const HeldFront& held) { return held.front->connections(); })
      .def_prop_ro("held", [](const HeldFront& held) { return held.front->held(); });
}

}  // namespace
