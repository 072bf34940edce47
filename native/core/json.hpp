// JSON, read as Python's `json` reads it.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <list>
#include <string>
#include <string_view>
#include <vector>

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

// Append a code point in UTF-8; half of a surrogate pair too, which `is_utf8` refuses.
inline void append_point(std::string& text, uint32_t point) {
  if (point < 0x80) {
    text += static_cast<char>(point);
    return;
  }
  const int more = point < 0x800 ? 1 : point < 0x10000 ? 2 : 3;
  constexpr uint32_t kFirst[] = {0, 0xC0, 0xE0, 0xF0};
  text += static_cast<char>(kFirst[more] | point >> (6 * more));
  for (int step = more - 1; step >= 0; step--) text += static_cast<char>(0x80 | (point >> (6 * step) & 0x3F));
}

// Keys and values of a document, each of which a colon, a comma or a bracket precedes. Bytes that are not JSON have some
// number, too.
inline size_t parts_of(std::string_view text) {
  size_t parts = 0;
  for (size_t at = 0; at < text.size(); at++) {
    const char one = text[at];
    parts += one == ':' || one == ',' || one == '[' || one == '{';
    if (one != '"') continue;
    for (at++; at < text.size() && text[at] != '"'; at++) at += text[at] == '\\';
  }
  return parts;
}

// More keys and values than a body that Python parses may have without a look at the service's limits.
inline bool has_many_parts(std::string_view text) {
  constexpr ptrdiff_t kMost = 20'000;
  const auto is_mark = [](char one) { return (one == ':') | (one == ',') | (one == '[') | (one == '{'); };
  return std::count_if(text.begin(), text.end(), is_mark) > kMost && parts_of(text) > kMost;
}

// Whether every parser reads a JSON document alike: no object has a key twice, as far as is seen without reading escapes,
// no number is long, and nothing is nested deeply. Bytes that are not JSON may be plain.
inline bool is_plain(std::string_view text) {
  constexpr size_t kMostDigits = 18, kMostDepth = 200;
  std::vector<std::string_view> keys;  // of the open objects
  std::vector<size_t> opened;          // the number of keys before each open bracket
  std::string_view last;
  size_t digits = 0;
  for (size_t at = 0; at < text.size(); at++) {
    const char one = text[at];
    digits = one >= '0' && one <= '9' ? digits + 1 : 0;
    if (digits > kMostDigits || opened.size() > kMostDepth) return false;
    if (one == '"') {
      const size_t start = ++at;
      for (; at < text.size() && text[at] != '"'; at++) at += text[at] == '\\';
      last = text.substr(start, at - start);
    } else if (one == ':') {
      if (last.find('\\') != std::string_view::npos) return false;
      keys.push_back(last);
    } else if (one == '{' || one == '[') {
      opened.push_back(keys.size());
    } else if (one == '}' || one == ']') {
      if (opened.empty()) return false;
      const auto first = keys.begin() + static_cast<ptrdiff_t>(opened.back());
      std::sort(first, keys.end());
      if (std::adjacent_find(first, keys.end()) != keys.end()) return false;
      keys.erase(first, keys.end());
      opened.pop_back();
    }
  }
  return true;
}

// Strings whose escapes were read. Views of them stay valid.
using Decoded = std::list<std::string>;

// Reads one document of valid UTF-8 from its beginning to its end. Once something is refused `is_ok` stays false.
class JsonReader {
 public:
  JsonReader(std::string_view text, Decoded& decoded)
      : at_(text.data()), end_(text.data() + text.size()), decoded_(decoded) {}

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

  // A string of whole characters; a view of the document, or of what its escapes say.
  std::string_view string() {
    bool is_whole = true;
    const std::string_view found = any_string(is_whole);
    return is_whole ? found : (refuse(), std::string_view());
  }

  // A string that may have halves of surrogate pairs, which only escapes can write.
  std::string_view any_string() {
    bool is_whole;
    return any_string(is_whole);
  }

  bool is_at(char wanted) {
    skip_space();
    return at_ != end_ && *at_ == wanted;
  }
  bool is_at_string() { return is_at('"'); }

  // An object as it stands, read no further than to where it ends if it is JSON.
  std::string_view skip_object() {
    skip_space();
    if (at_ == end_ || *at_ != '{') return refuse(), std::string_view();
    const char* start = at_;
    for (size_t depth = 0; at_ != end_; at_++) {
      if (*at_ == '"') {
        for (at_++; at_ != end_ && *at_ != '"'; at_++)
          if (*at_ == '\\' && ++at_ == end_) return refuse(), std::string_view();
        if (at_ == end_) return refuse(), std::string_view();
      } else if (*at_ == '{' || *at_ == '[') {
        depth++;
      } else if ((*at_ == '}' || *at_ == ']') && --depth == 0) {
        at_++;
        return {start, static_cast<size_t>(at_ - start)};
      }
    }
    return refuse(), std::string_view();
  }

  struct Number {
    double value;
    std::string_view text;
    bool is_integer;
  };

  // A number, correctly rounded. Refused: what overflows, and integers that Python does not convert. Other integers that
  // are too large are infinite.
  Number number() {
    Number found = unread_number();
    if (!is_ok_) return Number{};
    const char* const end = found.text.data() + found.text.size();
    if (std::from_chars(found.text.data(), end, found.value).ec != std::errc()) found.value = far(found.text);
    if (!found.is_integer && !std::isfinite(found.value)) return refuse(), Number{};
    return found;
  }

  // The same without its value, so that what overflows is not seen.
  Number unread_number() {
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
    if (is_integer && count > kMostDigits) return refuse(), Number{};
    // An integer has no signed zero.
    if (is_integer && *digits == '0') start = digits;
    return {0.0, std::string_view(start, at_ - start), is_integer};
  }

  // Reads a list; `on_entry` reads an entry, and says whether that is as it should be.
  template <class Entry>
  bool each(Entry on_entry) {
    need('[');
    if (!is_ok_ || take(']')) return is_ok_;
    do
      if (!on_entry()) return false;
    while (is_ok_ && take(','));
    need(']');
    return is_ok_;
  }

  // What stands in a list, still to be read; a list within it is refused.
  std::string_view unread_list() {
    need('[');
    const char* const start = at_;
    while (is_ok_ && at_ != end_ && *at_ != ']' && *at_ != '[') {
      if (*at_ == '"')
        any_string();
      else
        at_++;
    }
    const std::string_view list(start, at_ - start);
    need(']');
    return list;
  }

 private:
  // As many as Python converts by default.
  static constexpr size_t kMostDigits = 4300;

  static bool is_digit(char one) { return one >= '0' && one <= '9'; }

  // A number that is out of range: zero, or infinite.
  static double far(std::string_view text) { return std::strtod(std::string(text).c_str(), nullptr); }

  std::string_view any_string(bool& is_whole) {
    skip_space();
    if (at_ == end_ || *at_ != '"') return refuse(), std::string_view();
    const char* start = ++at_;
    while (at_ != end_ && *at_ != '"') {
      if (static_cast<uint8_t>(*at_) < 0x20) return refuse(), std::string_view();
      if (*at_ == '\\') return decoded_from(start, is_whole);
      at_++;
    }
    if (at_ == end_) return refuse(), std::string_view();
    const std::string_view found(start, at_ - start);
    at_++;
    return found;
  }

  // A string with escapes, from the first of them on.
  std::string_view decoded_from(const char* start, bool& is_whole) {
    std::string text(start, at_);
    while (at_ != end_ && *at_ != '"') {
      if (static_cast<uint8_t>(*at_) < 0x20) return refuse(), std::string_view();
      if (*at_ != '\\')
        text += *at_++;
      else if (!escape(text, is_whole))
        return refuse(), std::string_view();
    }
    if (at_ == end_) return refuse(), std::string_view();
    at_++;
    return decoded_.emplace_back(std::move(text));
  }

  bool escape(std::string& text, bool& is_whole) {
    constexpr std::string_view kLetters = "\"\\/bfnrt", kMeanings = "\"\\/\b\f\n\r\t";
    if (end_ - at_ < 2) return false;
    const size_t place = kLetters.find(at_[1]);
    if (place != std::string_view::npos) {
      text += kMeanings[place];
      at_ += 2;
      return true;
    }
    uint32_t point, low;
    if (!unit(at_, point)) return false;
    at_ += kUnit;
    if (point >> 10 == 0x36 && unit(at_, low) && low >> 10 == 0x37) {
      point = 0x10000 + ((point & 0x3FF) << 10 | (low & 0x3FF));
      at_ += kUnit;
    }
    if (point >> 11 == 0x1B) is_whole = false;
    append_point(text, point);
    return true;
  }

  // A unit of UTF-16, as \uXXXX.
  bool unit(const char* at, uint32_t& value) const {
    if (end_ - at < kUnit || at[0] != '\\' || at[1] != 'u') return false;
    const auto read = std::from_chars(at + 2, at + kUnit, value, 16);
    return read.ec == std::errc() && read.ptr == at + kUnit;
  }

  static constexpr ptrdiff_t kUnit = 6;

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
  Decoded& decoded_;
  bool is_ok_ = true;
};

}  // namespace native
