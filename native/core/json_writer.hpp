// JSON, byte for byte as orjson writes it.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

namespace native {

constexpr size_t kMostNumberChars = 32;

namespace detail {

// Digits with an exponent, as d.ddde+16, become plain: zeros up to the point, or the point between them.
inline char* write_plainly(char* start, char* end) {
  char digits[kMostNumberChars];
  char* const exponent = std::find(start, end, 'e');
  char* const first = start + (*start == '-');
  size_t whole = 0, count = 0;
  std::from_chars(exponent + 2, end, whole);
  for (const char* at = first; at != exponent; at++)
    if (*at != '.') digits[count++] = *at;
  whole++;
  for (; count < whole; count++) digits[count] = '0';
  std::memcpy(first, digits, whole);
  first[whole] = '.';
  if (count == whole) digits[count++] = '0';
  std::memcpy(first + whole + 1, digits + whole, count - whole);
  return first + count + 1;
}

}  // namespace detail

// The shortest digits that read back as the same number: plain for numbers of a range, always with a point.
template <class Float>
char* write_number(char* to, Float value) {
  constexpr bool is_double = sizeof(Float) == 8;
  // From `kShortest` on, plain digits of the library are more than are needed.
  constexpr Float kLeastPlain = is_double ? 1e-5 : 1e-6, kShortest = is_double ? 1e15 : 1e7;
  constexpr Float kMostPlain = is_double ? 1e16 : 1e13;
  const Float size = std::fabs(value);
  if (size == 0 || (size >= kLeastPlain && size < kShortest)) {
    char* end = std::to_chars(to, to + kMostNumberChars, value, std::chars_format::fixed).ptr;
    if (value != static_cast<Float>(static_cast<int64_t>(value))) return end;
    std::memcpy(end, ".0", 2);
    return end + 2;
  }
  char* end = std::to_chars(to, to + kMostNumberChars, value, std::chars_format::scientific).ptr;
  if (size >= kShortest && size < kMostPlain) return detail::write_plainly(to, end);
  if (end[-3] != '-' || end[-2] != '0') return end;
  // e-07 -> e-7
  end[-2] = end[-1];
  return end - 1;
}

// Writes one document. A comma follows each value; the end of a list or an object takes it back.
class JsonWriter {
 public:
  std::string_view bytes() const { return {out_.data(), size_}; }
  void clear() { size_ = 0; }

  // Text as it stands.
  void put(std::string_view text) {
    std::memcpy(room(text.size()), text.data(), text.size());
    size_ += text.size();
  }

  void key(std::string_view name) {
    put_quoted(name);
    put(":");
  }

  void string(std::string_view text) {
    put_quoted(text);
    put(",");
  }

  // A number that is not finite becomes null.
  template <class Float>
  void number(Float value) {
    if (!std::isfinite(value)) return put("null,");
    char* const start = room(kMostNumberChars + 1);
    char* const end = write_number(start, value);
    *end = ',';
    size_ += end + 1 - start;
  }

  template <class Value>
  void value(const Value& one) {
    if constexpr (std::is_same_v<Value, bool>) {
      put(one ? "true," : "false,");
    } else if constexpr (std::is_integral_v<Value>) {
      char* const start = room(kMostNumberChars);
      size_ += std::to_chars(start, start + kMostNumberChars, one).ptr - start;
      put(",");
    } else if constexpr (std::is_floating_point_v<Value>) {
      number(one);
    } else {
      string(one);
    }
  }

  template <class Value>
  void member(std::string_view name, const Value& one) {
    key(name);
    value(one);
  }

  // An object or a list, which is a member.
  void open(std::string_view name, char bracket) {
    key(name);
    put({&bracket, 1});
  }

  void end(char bracket) {
    if (size_ && out_[size_ - 1] == ',') size_--;
    put({&bracket, 1});
    put(",");
  }

  // Of the document.
  void finish() {
    end('}');
    size_--;
  }

 private:
  char* room(size_t more) {
    if (out_.size() - size_ < more) out_.resize(2 * (size_ + more));
    return out_.data() + size_;
  }

  void put_quoted(std::string_view text) {
    char* at = room(6 * text.size() + 2);
    char* const start = at;
    *at++ = '"';
    for (const char byte : text) {
      const auto code = static_cast<uint8_t>(byte);
      if (code >= 0x20 && byte != '"' && byte != '\\')
        *at++ = byte;
      else
        at = put_escaped(at, code);
    }
    *at++ = '"';
    size_ += at - start;
  }

  static char* put_escaped(char* at, uint8_t code) {
    constexpr std::string_view kShort = "\"\\\b\f\n\r\t", kLetters = "\"\\bfnrt", kHex = "0123456789abcdef";
    *at++ = '\\';
    const size_t place = kShort.find(static_cast<char>(code));
    if (place != std::string_view::npos) {
      *at++ = kLetters[place];
      return at;
    }
    std::memcpy(at, "u00", 3);
    at[3] = kHex[code >> 4];
    at[4] = kHex[code & 15];
    return at + 5;
  }

  std::vector<char> out_;
  size_t size_ = 0;
};

}  // namespace native
