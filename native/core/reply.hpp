// From scores to the reply's columns, as `service.scoring.reply` writes them: eCPM, the order under `top_k`, what is degraded.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "tensors.hpp"

namespace native {

struct Head {
  std::string name;
  const float* scores;  // [N]
};

class Reply {
 public:
  // `opening` is the document up to the value of "candidates". False for scores whose digits Python has to write.
  bool write(const Frame& frame, std::string_view opening, const std::vector<Head>& heads) {
    const Request& request = frame.request;
    order_.resize(request.ids.size());
    std::iota(order_.begin(), order_.end(), size_t{0});
    price(request, heads[0].scores);
    if (request.top_k) rank(request, heads[0].scores);
    out_.resize(room_for(frame, opening, heads));
    at_ = out_.data();
    put(opening);
    put("{\"id\":[");
    for (const size_t place : order_) put_string(request.ids[place]);
    end_list();
    for (const Head& head : heads) {
      put(",\"");
      put(head.name);
      put("\":[");
      if (!put_column([&](size_t place) { return head.scores[place]; })) return false;
    }
    put(",\"ecpm\":[");
    if (!put_column([&](size_t place) { return ecpm_[place]; })) return false;
    put("}");
    put_degraded(frame);
    put("}");
    return true;
  }

  std::string_view bytes() const { return {out_.data(), static_cast<size_t>(at_ - out_.data())}; }

  static bool is_finite(const Head& head, size_t count) {
    // A non-finite score makes the sum non-finite.
    return std::isfinite(std::accumulate(head.scores, head.scores + count, 0.0));
  }

 private:
  // At least what the document takes.
  size_t room_for(const Frame& frame, std::string_view opening, const std::vector<Head>& heads) const {
    size_t room = opening.size() + 256;
    for (const size_t place : order_) room += frame.request.ids[place].size() + 3;
    for (const Head& head : heads) room += head.name.size() + 8 + kMostNumberChars * order_.size();
    room += kMostNumberChars * order_.size();
    for (const Degraded& one : frame.degraded) room += one.id.size() + 32;
    for (const std::string& place : frame.unknown) room += place.size() + 32;
    return room;
  }

  void put(std::string_view text) {
    std::memcpy(at_, text.data(), text.size());
    at_ += text.size();
  }

  // Of a list: a comma follows, which the list's end takes back.
  void put_string(std::string_view text) {
    *at_++ = '"';
    put(text);
    put("\",");
  }

  void end_list() { at_[-1] = ']'; }

  // NaN, which is written as null, without a bid.
  void price(const Request& request, const float* pctr) {
    ecpm_.assign(request.ids.size(), kNone);
    if (!request.has_bids) return;
    for (size_t k = 0; k < ecpm_.size(); k++) ecpm_[k] = 1000.0 * request.bids[k] * static_cast<double>(pctr[k]);
  }

  // Those with a bid by eCPM, then those without by pCTR; ties keep their order.
  void rank(const Request& request, const float* pctr) {
    std::stable_sort(order_.begin(), order_.end(), [&](size_t one, size_t other) {
      const bool has_price = !std::isnan(ecpm_[one]), has_other = !std::isnan(ecpm_[other]);
      if (has_price != has_other) return has_price;
      return has_price ? ecpm_[one] > ecpm_[other] : pctr[one] > pctr[other];
    });
    order_.resize(std::min(request.top_k, order_.size()));
  }

  template <class Values>
  bool put_column(Values value_of) {
    for (const size_t place : order_) {
      const auto value = value_of(place);
      if (std::isnan(value)) {
        put("null,");
        continue;
      }
      at_ = write_number(at_, value);
      if (!at_) return false;
      *at_++ = ',';
    }
    end_list();
    return true;
  }

  void put_degraded(const Frame& frame) {
    if (frame.user_rung == UserRung::kOwn && frame.degraded.empty() && frame.unknown.empty() && !frame.unknown_history) return;
    put(",\"degraded\":{");
    if (frame.user_rung != UserRung::kOwn) put_member("user", name_of(frame.user_rung));
    if (!frame.degraded.empty()) {
      put("\"candidates\":{");
      for (const Degraded& one : frame.degraded) put_member(one.id, name_of(one.rung));
      end_object();
      put(",");
    }
    if (!frame.unknown.empty()) {
      put("\"values\":{");
      for (const std::string& place : frame.unknown) put_member(place, "unknown");
      end_object();
      put(",");
    }
    if (frame.unknown_history) {
      put("\"history\":");
      put(std::to_string(frame.unknown_history));
      put(",");
    }
    end_object();
  }

  // Of an object: a comma follows, which the object's end takes back.
  void put_member(std::string_view name, std::string_view value) {
    *at_++ = '"';
    put(name);
    put("\":");
    put_string(value);
  }

  void end_object() { at_[-1] = '}'; }

  std::vector<size_t> order_;
  std::vector<double> ecpm_;
  std::vector<char> out_;
  char* at_ = nullptr;
};

}  // namespace native
