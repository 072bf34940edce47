// The front for Python.
#pragma once

#include <arpa/inet.h>

#include "front.hpp"

namespace {

// Front(engine, (max_connections, max_waiting, max_body, max_head, inflight, max_candidates), (head_s, body_s, reply_s,
// deadline_s, max_deadline_s), needs_keys)

struct HeldFront {
  Ref of_engine;
  std::shared_ptr<Front> front;

  ~HeldFront() {
    stop();
    // A thread that is left hands its job back to it.
    if (front->jobs()) static_cast<void>(new std::shared_ptr<Front>(front));
  }
  void stop() {
    const Unlocked unlocked;
    front->stop();
  }
};

HeldFront* make_front(PyObject* arguments) {
  PyObject *engine, *sizes, *times;
  int needs_keys;
  if (!PyArg_ParseTuple(arguments, "OO!O!p", &engine, &PyTuple_Type, &sizes, &PyTuple_Type, &times, &needs_keys)) throw PythonError{};
  const Limits limits{size_of(sizes, 0),   size_of(sizes, 1),   size_of(sizes, 2),   size_of(sizes, 3),
                      size_of(sizes, 4),   size_of(sizes, 5),   double_of(times, 0), double_of(times, 1),
                      double_of(times, 2), double_of(times, 3), double_of(times, 4), needs_keys == 1};
  auto held = std::make_unique<HeldFront>();
  held->front = std::make_shared<Front>(*Box<HeldEngine>::of(engine).engine, limits);
  held->of_engine = Ref::to(engine);
  return held.release();
}

PyObject* nothing() { return Py_NewRef(Py_None); }

// start(descriptor of a listener, or −1), which it closes
PyObject* front_start(HeldFront& held, Arguments given) {
  held.front->start(static_cast<int>(place_from(given[0])));
  return nothing();
}

PyObject* front_stop(HeldFront& held, Arguments) {
  held.stop();
  return nothing();
}

// serve(plan or None)
PyObject* front_serve(HeldFront& held, Arguments given) {
  held.front->serve(given[0] == Py_None ? nullptr : Box<HeldPlan>::of(given[0]).plan);
  return nothing();
}

PyObject* front_forget_plans(HeldFront& held, Arguments) {
  held.front->forget_plans();
  return nothing();
}

// reply(number, bytes, is_last, closes)
PyObject* front_reply(HeldFront& held, Arguments given) {
  held.front->reply(size_from(given[0]), std::string(bytes_of(given[1])), PyObject_IsTrue(given[2]) == 1, PyObject_IsTrue(given[3]) == 1);
  return nothing();
}

PyObject* front_go_on(HeldFront& held, Arguments given) {
  held.front->go_on(size_from(given[0]));
  return nothing();
}

PyObject* front_abandon(HeldFront& held, Arguments given) {
  held.front->abandon(size_from(given[0]));
  return nothing();
}

// adopt(descriptor, whether its bytes come from TLS)
PyObject* front_adopt(HeldFront& held, Arguments given) {
  held.front->adopt(static_cast<int>(place_from(given[0])), PyObject_IsTrue(given[1]) == 1);
  return nothing();
}

PyObject* front_make_room(HeldFront& held, Arguments) {
  held.front->make_room();
  return nothing();
}

// know_key(key, until)
PyObject* front_know_key(HeldFront& held, Arguments given) {
  held.front->know_key(std::string(bytes_of(given[0])), double_from(given[1]));
  return nothing();
}

PyObject* front_forget_keys(HeldFront& held, Arguments) {
  held.front->forget_keys();
  return nothing();
}

PyObject* front_drain(HeldFront& held, Arguments) {
  {
    const Unlocked unlocked;
    held.front->drain();
  }
  return nothing();
}

PyObject* front_close_listener(HeldFront& held, Arguments) {
  {
    const Unlocked unlocked;
    held.front->close_listener();
  }
  return nothing();
}

PyObject* front_close_idle(HeldFront& held, Arguments) {
  {
    const Unlocked unlocked;
    held.front->close_idle();
  }
  return nothing();
}

// A job of the front while Python fetches what it lacks; the front has it again once this is freed.

struct AwayJob {
  std::shared_ptr<Front> front;
  FrontJob* job;

  ~AwayJob() {
    if (job) front->take_back(*job);
  }
};

// go_on(given), as a scoring job takes it: once
PyObject* away_job_go_on(AwayJob& away, Arguments given) {
  if (!away.job) raise(PyExc_ValueError, "the front has the job again");
  away.job->go_on(given[0]);
  away.front->take_back(*std::exchange(away.job, nullptr));
  return nothing();
}

PyMethodDef away_job_methods[] = {method<AwayJob, 1, away_job_go_on>("go_on"), {}};

struct Telling {
  const std::shared_ptr<Front>& front;

  static Ref address(const sockaddr_storage& client) {
    char text[INET6_ADDRSTRLEN] = "";
    int port = 0;
    if (client.ss_family == AF_INET) {
      const auto& four = reinterpret_cast<const sockaddr_in&>(client);
      inet_ntop(AF_INET, &four.sin_addr, text, sizeof text);
      port = ntohs(four.sin_port);
    } else if (client.ss_family == AF_INET6) {
      const auto& six = reinterpret_cast<const sockaddr_in6&>(client);
      inet_ntop(AF_INET6, &six.sin6_addr, text, sizeof text);
      port = ntohs(six.sin6_port);
    } else {
      return Ref::to(Py_None);
    }
    return Ref(checked(Py_BuildValue("(si)", text, port)));
  }

  PyObject* operator()(const HandedRequest& one) const {
    const auto bytes = [&](HttpHead::Place place) { return Ref(checked(to_bytes(one.head.at(place)))); };
    const Ref headers(checked(PyList_New(0)));
    for (const HttpHead::Header& header : one.head.headers)
      if (PyList_Append(headers.get(), Ref(checked(PyTuple_Pack(2, bytes(header.name).get(), bytes(header.value).get()))).get()))
        throw PythonError{};
    const auto truth = [](bool is) { return is ? Py_True : Py_False; };
    return Py_BuildValue("(sKOOOOOOOOdO)", "request", static_cast<unsigned long long>(one.number), bytes(one.head.method).get(),
                         bytes(one.head.target).get(), headers.get(), truth(one.is_whole), truth(one.is_secure), truth(one.head.is_old), truth(one.head.closes), truth(one.head.expects), one.began,
                         address(one.client).get());
  }
  PyObject* operator()(const HandedBody& one) const {
    return Py_BuildValue("(sKOO)", "body", static_cast<unsigned long long>(one.number), Ref(checked(to_bytes(one.bytes))).get(),
                         one.is_last ? Py_True : Py_False);
  }
  PyObject* operator()(const Left& one) const { return Py_BuildValue("(sK)", "left", static_cast<unsigned long long>(one.number)); }
  PyObject* operator()(const NotAccepted& one) const { return Py_BuildValue("(si)", "not_accepted", one.reason); }
  PyObject* operator()(const Lacking& lacking) const {
    const FrontJob& job = *lacking.job;
    const Ref away(Box<AwayJob>::wrap(std::unique_ptr<AwayJob>(new AwayJob{front, lacking.job})));
    return Py_BuildValue("(sOOOd)", "lacking", away.get(), job.assignment().told.get(), Ref(checked(asked_of(job.asked()))).get(),
                         job.deadline);
  }
  PyObject* operator()(const std::unique_ptr<FrontJob>& job) const {
    PyObject* const followed = job->followed();
    return Py_BuildValue("(sO)", "scored", followed ? followed : Py_None);
  }
};

// take_told(): what has happened since the last time, in order: ("request", number, method, target, headers, whether its
// body is whole, whether it came over TLS, whether it is of HTTP/1.0, whether the connection ends with it, whether it
// expects `100 Continue`, when it began, client or None); ("body", number, bytes, whether they are all of it); ("left",
// number) of a client; ("not_accepted", reason); ("lacking", a job that goes on with what is fetched for it, the assignment,
// what was asked for, the deadline); or ("scored", what `look` said or None)
PyObject* front_take_told(HeldFront& held, Arguments) {
  const std::vector<Told> all = held.front->take_told();
  const Ref list(checked(PyList_New(0)));
  for (const Told& told : all)
    if (PyList_Append(list.get(), Ref(checked(std::visit(Telling{held.front}, told))).get())) throw PythonError{};
  return Py_NewRef(list.get());
}

PyObject* front_descriptor(const HeldFront& held) { return PyLong_FromLong(held.front->ears.descriptor()); }

PyObject* front_connections(const HeldFront& held) { return PyLong_FromSize_t(held.front->connections()); }

PyObject* front_held(const HeldFront& held) { return PyLong_FromSize_t(held.front->held()); }

PyMethodDef front_methods[] = {method<HeldFront, 1, front_start>("start"),
                               method<HeldFront, 0, front_stop>("stop"),
                               method<HeldFront, 1, front_serve>("serve"),
                               method<HeldFront, 0, front_forget_plans>("forget_plans"),
                               method<HeldFront, 4, front_reply>("reply"),
                               method<HeldFront, 1, front_go_on>("go_on"),
                               method<HeldFront, 1, front_abandon>("abandon"),
                               method<HeldFront, 2, front_adopt>("adopt"),
                               method<HeldFront, 0, front_make_room>("make_room"),
                               method<HeldFront, 2, front_know_key>("know_key"),
                               method<HeldFront, 0, front_forget_keys>("forget_keys"),
                               method<HeldFront, 0, front_drain>("drain"),
                               method<HeldFront, 0, front_close_listener>("close_listener"),
                               method<HeldFront, 0, front_close_idle>("close_idle"),
                               method<HeldFront, 0, front_take_told>("take_told"),
                               {}};
PyGetSetDef front_values[] = {value<HeldFront, front_descriptor>("descriptor"),
                              value<HeldFront, front_connections>("connections"),
                              value<HeldFront, front_held>("held"),
                              {}};

bool add_front(PyObject* module) {
  return add_type<AwayJob>(module, "native._core.AwayJob", {{Py_tp_methods, away_job_methods}}) &&
         add_type<HeldFront>(module, "native._core.Front",
                             {creator<HeldFront, make_front>(), {Py_tp_methods, front_methods}, {Py_tp_getset, front_values}});
}

}  // namespace
