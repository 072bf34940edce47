// Plain JSON, read strictly. Unusual input that may be valid (escapes, huge integers) is refused here and left to
// Python.
#pragma once

#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "bytes.hpp"

namespace native {

// Whether bytes are UTF-8 as Python decodes it: no surrogates, nothing overlong.
inline bool is_utf8(const char* text, size_t size) {
  const auto* at = reinterpret_cast<const uint8_t*>(text);
  const auto* end = at + size;
  while (at < end) {
    if (end - at >= 8 && !(load<uint64_t>(at) & 0x8080808080808080ull)) {
      at += 8;
      continue;
    }
    const uint8_t first = *at++;
    if (first < 0x80) continue;
    const int more = first >= 0xC2 && first < 0xE0 ? 1 : first >= 0xE0 && first < 0xF0 ? 2
                   : first >= 0xF0 && first < 0xF5 ? 3 : 0;
    if (!more || end - at < more) return false;
    const uint8_t low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
    const uint8_t high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
    if (at[0] < low || at[0] > high) return false;
    for (int step = 1; step < more; step++)
      if ((at[step] & 0xC0) != 0x80) return false;
    at += more;
  }
  return true;
}

// At most `limit` code points, of valid UTF-8.
inline bool is_within(std::string_view text, size_t limit) {
  if (text.size() <= limit) return true;
  size_t points = 0;
  for (const char byte : text) points += (byte & 0xC0) != 0x80;
  return points <= limit;
}

// Reads one document from its beginning to its end. Once something is refused `is_ok` stays false.
class JsonReader {
 public:
  explicit JsonReader(std::string_view text) : at_(text.data()), end_(text.data() + text.size()) {}

  bool is_ok() const { return is_ok_; }
  void refuse() { is_ok_ = false; }
  const char* position() const { return at_; }
  bool is_at_end() {
    skip_space();
    return at_ == end_;
  }

  bool take(char wanted) {
    skip_space();
    if (at_ == end_ || *at_ != wanted) return false;
    at_++;
    return true;
  }

  void need(char wanted) {
    if (!take(wanted)) refuse();
  }

  bool take_word(std::string_view word) {
    skip_space();
    if (static_cast<size_t>(end_ - at_) < word.size() || std::memcmp(at_, word.data(), word.size())) return false;
    at_ += word.size();
    return true;
  }

  bool take_null() { return take_word("null"); }

  // A string without escapes; a view of the document.
  std::string_view string() {
    skip_space();
    if (at_ == end_ || *at_ != '"') return refuse(), std::string_view();
    const char* start = ++at_;
    while (at_ != end_ && *at_ != '"') {
      if (*at_ == '\\' || static_cast<uint8_t>(*at_) < 0x20) return refuse(), std::string_view();
      at_++;
    }
    if (at_ == end_) return refuse(), std::string_view();
    const std::string_view found(start, at_ - start);
    at_++;
    return found;
  }

  bool is_at_string() {
    skip_space();
    return at_ != end_ && *at_ == '"';
  }

  struct Number {
    double value;
    std::string_view text;
    bool is_integer;
  };

  // A number, correctly rounded. Refused: integers of more than 15 digits, signed zeros, which Python tells
  // apart by how they are written; what overflows.
  Number number() {
    skip_space();
    const char* start = at_;
    if (at_ != end_ && *at_ == '-') at_++;
    const char* digits = at_;
    while (at_ != end_ && is_digit(*at_)) at_++;
    const size_t count = at_ - digits;
    if (!count || (count > 1 && *digits == '0')) return refuse(), Number{};
    bool is_integer = true;
    if (at_ != end_ && *at_ == '.') {
      is_integer = false;
      if (!digits_after(1)) return refuse(), Number{};
    }
    if (at_ != end_ && (*at_ == 'e' || *at_ == 'E')) {
      is_integer = false;
      const bool has_sign = end_ - at_ > 1 && (at_[1] == '-' || at_[1] == '+');
      if (!digits_after(1 + has_sign)) return refuse(), Number{};
    }
    if (is_integer && count > 15) return refuse(), Number{};
    Number found{0.0, std::string_view(start, at_ - start), is_integer};
    const auto read = std::from_chars(start, at_, found.value);
    if (read.ec != std::errc() || read.ptr != at_) return refuse(), Number{};
    if (found.value == 0.0 && *start == '-') return refuse(), Number{};
    return found;
  }

 private:
  static bool is_digit(char one) { return one >= '0' && one <= '9'; }

  bool digits_after(int skipped) {
    at_ += skipped;
    const char* start = at_;
    while (at_ < end_ && is_digit(*at_)) at_++;
    return at_ > start;
  }

  void skip_space() {
    while (at_ != end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\t' || *at_ == '\r')) at_++;
  }

  const char* at_;
  const char* end_;
  bool is_ok_ = true;
};

}  // namespace native
