// Requests of other forms for Python, and what Python makes of those that the core leaves to it.
#pragma once

#include "../core/frame_bindings.hpp"
#include "../core/infer_reply.hpp"
#include "../core/openrtb.hpp"

#include <mutex>

namespace {

// A bundle's mapping of BidRequests. `permits` says of the values that consent depends on, a list in JSON, whether they do.
class HeldOpenrtb {
 public:
  HeldOpenrtb(const std::vector<std::string>& users, const std::vector<OpenrtbMapping::Feature>& features,
              const std::vector<std::string>& signals, nb::typed<nb::callable, bool(nb::bytes)> permits)
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

  const nb::callable permits_;
  std::mutex mutex_;  // guards what follows
  std::unordered_map<std::string, bool> known_;
};

// A BidRequest that the core maps.
struct MappedRequest {
  std::string id;
  bool has_consent;  // the user may be known
  std::vector<std::tuple<std::string, size_t, nb::bytes>> parts;  // (imp.id, its place, body of its scoring request)
  size_t unfit = 0;  // values
};

// None if Python is to read it.
std::optional<MappedRequest> openrtb_read(HeldOpenrtb& held, const nb::bytes& body, const Schema& schema) {
  OpenrtbRequest request;
  if (!request.read(view_of(body), held.mapping)) return std::nullopt;
  if (!request.identify(held.has_consent(request.signals(), [](auto work) { return work(); }))) return std::nullopt;
  MappedRequest mapped{std::string(request.id), request.has_consent, {}};
  for (size_t k = 0; k < request.candidates.size(); k++)
    mapped.parts.emplace_back(request.candidates[k].first, request.place_of(k), bytes_of(request.body_of(k, schema, mapped.unfit)));
  return mapped;
}

// A request of tensors that the core translates: the scoring request's body.
struct InferTranslation {
  std::string id;
  nb::bytes body;
  Outputs outputs;
};

// Of JSON and the bytes behind it, or None; None if Python is to translate it.
std::optional<InferTranslation> infer_request(const nb::bytes& json, const std::optional<nb::bytes>& rest, const Schema& schema) {
  InferRequest request;
  if (!request.read(view_of(json), rest ? std::optional(view_of(*rest)) : std::nullopt, schema)) return std::nullopt;
  return InferTranslation{request.id, bytes_of(request.body), request.outputs};
}

// The scoring requests that Python makes of another form.
struct Translation {
  using Reply = std::pair<std::vector<std::pair<nb::bytes, nb::bytes>>, nb::bytes>;  // (first headers, body)

  std::string shown_id;                                  // the reply's request ID
  std::vector<std::pair<std::string, nb::bytes>> parts;  // the ID and the body of each scoring request
  std::optional<double> timeout_s;                       // until the deadline, if the head sets none
  // The reply: what stands before, between and after the parts' own in JSON; or what makes it of these.
  std::variant<std::vector<nb::bytes>, nb::typed<nb::callable, Reply(std::vector<nb::bytes>)>> reply;
  // Of tensors, which the core writes: then `reply` raises the error of outputs that do not exist.
  std::optional<Outputs> outputs;
  // The place in this form of what is at fault in a part, by its number and its field.
  nb::typed<nb::callable, std::string(size_t, std::string)> place_of;
};

// json_parts(body): the number of keys and values of a JSON document
size_t json_parts(const nb::bytes& body) {
  const nb::gil_scoped_release unlocked;
  return parts_of(view_of(body));
}

void add_forms(nb::module_& module) {
  module.def("json_parts", &json_parts, nb::arg("body"));
  read_struct<MappedRequest>(module, "MappedRequest", field("id", &MappedRequest::id),
                             field("has_consent", &MappedRequest::has_consent), field("parts", &MappedRequest::parts),
                             field("unfit", &MappedRequest::unfit));
  nb::class_<HeldOpenrtb>(module, "Openrtb")
      .def(nb::init<const std::vector<std::string>&, const std::vector<OpenrtbMapping::Feature>&,
                    const std::vector<std::string>&, nb::typed<nb::callable, bool(nb::bytes)>>(),
           nb::kw_only(), nb::arg("users"), nb::arg("features"), nb::arg("signals"), nb::arg("permits"))
      .def("read", &openrtb_read, nb::arg("body"), nb::arg("schema"));
  made_struct<Outputs>(module, "Outputs", field("named", &Outputs::named), field("in_bytes", &Outputs::in_bytes))
      .def_ro("named", &Outputs::named)
      .def_ro("in_bytes", &Outputs::in_bytes);
  read_struct<InferTranslation>(module, "InferTranslation", field("id", &InferTranslation::id),
                                field("body", &InferTranslation::body), field("outputs", &InferTranslation::outputs));
  module.def("infer_request", &infer_request, nb::arg("json"), nb::arg("rest").none(), nb::arg("schema"));
  made_struct<Translation>(module, "Translation", field("shown_id", &Translation::shown_id), field("parts", &Translation::parts),
                           field("timeout_s", &Translation::timeout_s), field("reply", &Translation::reply),
                           field("outputs", &Translation::outputs), field("place_of", &Translation::place_of))
      .def_ro("parts", &Translation::parts)
      .def_ro("place_of", &Translation::place_of);
}

}  // namespace
