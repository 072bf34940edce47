// What the head of a request says to the engine, if it is for the engine.
#pragma once

#include "parser.hpp"

namespace native {

struct ScoringHead {
  Form form = Form::kScore;
  std::string_view path;
  bool is_aside = false;             // for the model that the playground compares with
  double seconds = 0.0;              // until its deadline; 0: as by default
  std::string_view key, request_id;  // empty if they are not given
  std::string_view json_length;      // of a body that goes on in bytes; null: it does not

  // False if the app is to look at it: it is no scoring request, or something about it is wrong or unusual.
  bool read(const HttpHead& head, double most_s) {
    if (head.at(head.method) != "POST") return false;
    const std::string_view target = head.at(head.target);
    path = target.substr(0, target.find('?'));
    if (path == "/v1/openrtb")
      form = Form::kOpenrtb;
    else if (path.starts_with("/v2/models/") && path.ends_with("/infer"))
      form = Form::kInfer;
    else if (path == "/playground/score-without")
      is_aside = true;
    else if (path != "/v1/score")
      return false;
    bool is_json = form == Form::kInfer, is_typed = false, is_of_page = false;
    for (const HttpHead::Header& header : head.headers) {
      const std::string_view name = head.at(header.name), value = head.at(header.value);
      if (name == "content-type") {
        is_typed = true;
        const std::string_view type = trimmed(value.substr(0, value.find(';')));
        is_json = is_same(type, "application/json") || (form == Form::kInfer && is_same(type, "application/octet-stream"));
      } else if (name == "origin") {
        is_of_page = true;
      } else if (name == "content-encoding") {
        if (!is_same(value, "identity")) return false;
      } else if (name == "x-deadline-ms") {
        if (seconds > 0.0 || !read_ms(value, most_s)) return false;
      } else if (name == "inference-header-content-length" && form == Form::kInfer) {
        if (json_length.data()) return false;
        json_length = value;
      } else if (name == "x-request-id") {
        if (request_id.empty() && is_id(value)) request_id = value;
      } else if (name == "x-api-key") {
        if (key.empty()) key = value;
      } else if (name == "authorization") {
        if (key.empty() && is_same(value.substr(0, 7), "bearer ")) key = trimmed(value.substr(7));
      }
    }
    // Clients of that protocol may leave the type out; a page that does so is told by its origin. Browsers send the other
    // header to no other origin without asking.
    return (is_json && (is_typed || !is_of_page)) || json_length.data();
  }

 private:
  bool read_ms(std::string_view value, double most_s) {
    unsigned ms = 0;
    if (value.size() > 9 || !read_whole(value, ms)) return false;
    seconds = ms / 1000.0;
    return ms && seconds <= most_s;
  }

  static bool is_id(std::string_view value) {
    return !value.empty() && value.size() <= 128 &&
           std::all_of(value.begin(), value.end(), [](char byte) { return byte >= 0x20 && byte <= 0x7E; });
  }
};

}  // namespace native
