// The head of a reply, and replies that are errors, as `service.errors` writes them.
#pragma once

#include <ctime>

#include "../engine/admission.hpp"
#include "parser.hpp"

namespace native {

class Replies {
 public:
  // With drained replies the connection ends.
  bool is_draining = false;

  // The first bytes of a reply.
  std::string opening(int status) {
    const std::time_t now = std::time(nullptr);
    if (now != date_of_) {
      date_of_ = now;
      std::tm parts{};
      gmtime_r(&now, &parts);
      static constexpr const char* days[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
      static constexpr const char* months[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
      char text[64];
      std::snprintf(text, sizeof text, "date: %s, %02d %s %d %02d:%02d:%02d GMT\r\n", days[parts.tm_wday], parts.tm_mday,
                    months[parts.tm_mon], parts.tm_year + 1900, parts.tm_hour, parts.tm_min, parts.tm_sec);
      date_ = text;
    }
    return std::string("HTTP/1.1 ") + phrase(status) + "\r\n" + date_ + (is_draining ? kClose : "");
  }

  // The reply to a fault of the connection, which it ends.
  std::string fault(const Fault& fault) { return error(fault, kClose, {}); }

  // The reply to one request.
  std::string refusal(const Fault& fault, Form form, std::string_view request_id, bool closes) {
    std::string more = "x-request-id: " + std::string(request_id) + "\r\n";
    if (closes && !is_draining) more += kClose;
    return error(fault, {}, more, form);
  }

 private:
  static constexpr const char* kClose = "connection: close\r\n";

  static const char* phrase(int status) {
    switch (status) {
      case 200: return "200 OK";
      case 400: return "400 Bad Request";
      case 414: return "414 URI Too Long";
      case 429: return "429 Too Many Requests";
      case 431: return "431 Request Header Fields Too Large";
      case 501: return "501 Not Implemented";
      case 504: return "504 Gateway Timeout";
      default: return "505 HTTP Version Not Supported";
    }
  }

  // Its message is of printable characters, without quotes.
  std::string error(const Fault& fault, std::string_view before, std::string_view after, Form form = Form::kScore) {
    const std::string body =
        form == Form::kInfer
            ? "{\"error\":\"" + fault.message + "\"}"
            : std::string("{\"error\":{\"code\":\"") + fault.code + "\",\"message\":\"" + fault.message + "\",\"field\":null}}";
    std::string whole = opening(fault.status) + "content-type: application/json\r\n";
    if (fault.status == 429) whole += "retry-after: 1\r\n";
    if (!is_draining) whole += before;
    whole += "content-length: " + std::to_string(body.size()) + "\r\n";
    return whole.append(after).append("\r\n").append(body);
  }

  std::time_t date_of_ = 0;
  std::string date_;
};

}  // namespace native
