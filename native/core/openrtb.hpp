// A body of POST /v1/openrtb, taken apart: Python reads the BidRequest, and a scoring job what is asked of each impression.
#pragma once

#include <string>

#include "request.hpp"

namespace native {

struct OpenrtbBody {
  std::string_view request;                                                // an object as it stands, as those by imp.id
  std::vector<std::pair<std::string_view, std::string_view>> candidates;  // their brackets match, no more is known
  std::string more;                                                       // members of each scoring request

  // False for what `msd.contract.openrtb` refuses for its members.
  bool read(std::string_view body) {
    if (!is_utf8(body.data(), body.size())) return false;
    JsonReader json(body, decoded_);
    unsigned seen = 0;
    const bool is_read = detail::read_object(json, [&](std::string_view key) {
      if (key == "request") {
        request = json.skip_object();
        return detail::once(json, seen, 0);
      }
      if (key == "candidates")
        return detail::once(json, seen, 1) && detail::read_object(json, [&](std::string_view imp) {
          candidates.emplace_back(imp, json.skip_object());
          return json.is_ok();
        });
      if ((key != "at" && key != "top_k") || !detail::once(json, seen, key == "at" ? 2 : 3)) return false;
      if (!json.take_null()) more.append(",\"").append(key).append("\":").append(json.number().text);
      return json.is_ok();
    });
    return is_read && json.is_at_end() && (seen & 3) == 3;
  }

 private:
  Decoded decoded_;
};

}  // namespace native
