// Reads HTTP/1.1 requests from a connection's bytes, strictly and within bounds: what two parsers could read differently is
// refused. Knows no sockets.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "../core/bytes.hpp"

namespace native {

// What is wrong with a connection's bytes; nothing after it is read.
struct Fault {
  int status = 0;
  const char* code = "";
  std::string message;
};

inline bool is_same(std::string_view text, std::string_view lower) {
  return std::equal(text.begin(), text.end(), lower.begin(), lower.end(),
                    [](char one, char other) { return (one >= 'A' && one <= 'Z' ? one + 32 : one) == other; });
}

inline std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

// The head of a request. Its text is that of the connection, with names of headers in lower case.
struct HttpHead {
  struct Place {
    uint32_t start = 0, size = 0;
  };
  struct Header {
    Place name, value;
  };

  std::string text;
  Place method, target;
  std::vector<Header> headers;
  bool is_old = false;      // HTTP/1.0
  bool is_chunked = false;
  bool closes = false;      // the client wants the connection to end with the reply
  bool expects = false;     // the client waits for `100 Continue`
  uint64_t length = 0;      // of the body, unless it is chunked

  std::string_view at(Place place) const { return std::string_view(text).substr(place.start, place.size); }
};

class Parser {
 public:
  enum class Event { kNone, kHead, kBody, kEnd, kFault };

  Parser(size_t max_head, size_t max_body)
      : max_head_(max_head), max_chunks_(std::max(kLeastChunks, max_body / kBytesPerChunk)) {}

  HttpHead head;              // after kHead; it may be moved away
  std::string_view body;  // after kBody
  Fault fault;            // after kFault

  // Read up to the next event, and remove what was read from `data`.
  Event next(std::string_view& data) {
    if (is_whole_) {
      is_whole_ = false;
      return Event::kEnd;
    }
    while (!data.empty()) {
      Event event = Event::kNone;
      switch (part_) {
        case Part::kFirst:
        case Part::kHeader:
          event = read_head(data);
          break;
        case Part::kFixed:
        case Part::kChunk:
          event = read_body(data);
          break;
        default:
          event = read_frame(data);
      }
      if (event != Event::kNone) return event;
    }
    return Event::kNone;
  }

  // Whether a head, or a body, has begun and not ended; and the bytes of an unfinished head.
  bool is_in_head() const { return part_ == Part::kFirst ? !head.text.empty() : part_ == Part::kHeader; }
  bool is_in_body() const { return part_ != Part::kFirst && part_ != Part::kHeader; }
  size_t head_bytes() const { return is_in_body() ? 0 : head.text.size(); }

 private:
  enum class Part { kFirst, kHeader, kFixed, kSize, kChunk, kChunkEnd, kTrailer };

  static constexpr size_t kMostHeaders = 100, kMostTarget = 8192, kLongestMethod = 7;
  // Each chunk costs some time: in a body of maximum size chunks must have 256 bytes on average.
  static constexpr size_t kLeastChunks = 1024, kBytesPerChunk = 256;
  // Around a chunk's data: two line ends, the size in hexadecimal digits, and something for an extension.
  static constexpr size_t kFrameBytes = 32;

  Event fail(int status, const char* code, std::string message) {
    fault = {status, code, std::move(message)};
    return Event::kFault;
  }
  Event fail() { return fail(400, "bad_http", "the request is not valid HTTP/1.1"); }

  Event too_large() {
    return fail(431, "head_too_large",
                "the head has more than " + std::to_string(max_head_) + " bytes or " + std::to_string(kMostHeaders) + " headers");
  }

  // RFC 9110's token.
  static bool is_token(std::string_view text, std::string_view marks = "!#$%&'*+-.^_`|~") {
    return !text.empty() && std::all_of(text.begin(), text.end(), [&](char byte) {
      return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || (byte >= '0' && byte <= '9') ||
             (byte && marks.find(byte) != std::string_view::npos);
    });
  }

  static bool is_value(std::string_view text) {
    return std::all_of(text.begin(), text.end(), [](char byte) {
      const auto code = static_cast<unsigned char>(byte);
      return code == '\t' || (code >= 0x20 && code != 0x7F);
    });
  }

  // Appends up to the end of a line; false if its end has not come.
  static bool take_line(std::string_view& data, std::string& text) {
    const size_t end = data.find('\n');
    const size_t size = end == std::string_view::npos ? data.size() : end + 1;
    text.append(data.substr(0, size));
    data.remove_prefix(size);
    return end != std::string_view::npos;
  }

  Event read_head(std::string_view& data) {
    std::string& text = head.text;
    const bool is_first = part_ == Part::kFirst;
    const bool is_line = take_line(data, text);
    if (is_first && !is_begun()) return fail();
    if (is_first && text.size() > kMostTarget + 32)
      return fail(414, "target_too_long", "the target has more than " + std::to_string(kMostTarget) + " bytes");
    if (text.size() > max_head_) return too_large();
    if (!is_line) return Event::kNone;
    const size_t size = text.size() - line_;
    if (size < 2 || text[text.size() - 2] != '\r') return fail();
    const HttpHead::Place line{static_cast<uint32_t>(line_), static_cast<uint32_t>(size - 2)};
    line_ = text.size();
    if (!line.size && is_first) {  // empty lines before a request are allowed
      text.clear();
      line_ = 0;
      return Event::kNone;
    }
    if (!line.size) return end_head();
    if (is_first) {
      part_ = Part::kHeader;
      return read_first(line);
    }
    return read_header(line);
  }

  // Whether the first bytes may be a method's: what is another protocol's is refused before a line's end.
  bool is_begun() const {
    const std::string_view text = std::string_view(head.text).substr(0, kLongestMethod + 1);
    for (const char byte : text) {
      if (byte == ' ') return &byte != text.data();
      if (byte == '\r' || byte == '\n') return head.text == "\r" || head.text == "\r\n";
      if (byte < 'A' || byte > 'Z') return false;
    }
    return text.size() <= kLongestMethod;
  }

  Event read_first(HttpHead::Place line) {
    const std::string_view text = head.at(line);
    const size_t one = text.find(' '), two = text.rfind(' ');
    if (two == one) return fail();
    const std::string_view method = text.substr(0, one), version = text.substr(two + 1);
    head.method = {line.start, static_cast<uint32_t>(one)};
    head.target = {line.start + static_cast<uint32_t>(one) + 1, static_cast<uint32_t>(two - one - 1)};
    if (method == "CONNECT") return fail(400, "bad_http", "CONNECT: this is no proxy");
    constexpr std::string_view methods[] = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"};
    if (std::find(std::begin(methods), std::end(methods), method) == std::end(methods)) return fail();
    if (head.target.size > kMostTarget)
      return fail(414, "target_too_long", "the target has more than " + std::to_string(kMostTarget) + " bytes");
    const std::string_view target = head.at(head.target);
    const bool is_visible = std::all_of(target.begin(), target.end(), [](char byte) { return byte > 0x20 && byte < 0x7F && byte != '#'; });
    if (!is_visible || !(target.starts_with('/') || cut_authority())) return fail();
    if (version == "HTTP/2.0" || version == "HTTP/0.9")
      return fail(505, "unsupported_version", std::string(version) + ": this service speaks HTTP/1.1");
    if (version != "HTTP/1.1" && version != "HTTP/1.0") return fail();
    head.is_old = version[7] == '0';
    head.closes = head.is_old;
    return Event::kNone;
  }

  // A target may name the server too, and then a path.
  bool cut_authority() {
    const std::string_view target = head.at(head.target);
    const size_t scheme = target.starts_with("http://") ? 7 : target.starts_with("https://") ? 8 : 0;
    const size_t path = target.find_first_of("/?", scheme);
    if (!scheme || path == std::string_view::npos || target[path] == '?') return false;
    if (!is_token(target.substr(scheme, path - scheme), "%-.:[]_~")) return false;
    head.target = {head.target.start + static_cast<uint32_t>(path), head.target.size - static_cast<uint32_t>(path)};
    return true;
  }

  Event read_header(HttpHead::Place line) {
    const std::string_view text = head.at(line);
    const size_t colon = text.find(':');
    if (colon == std::string_view::npos || !is_token(text.substr(0, colon)) || !is_value(text.substr(colon + 1))) return fail();
    if (head.headers.size() == kMostHeaders) return too_large();
    for (size_t k = 0; k < colon; k++) {
      char& byte = head.text[line.start + k];
      if (byte >= 'A' && byte <= 'Z') byte = static_cast<char>(byte + 32);
    }
    const std::string_view name = text.substr(0, colon), value = trimmed(text.substr(colon + 1));
    // Parsers differ about tabs here.
    if ((name == "content-length" || name == "transfer-encoding") && text.find('\t') != std::string_view::npos) return fail();
    // No other protocol is spoken.
    if (name == "upgrade") return Event::kNone;
    head.headers.push_back({{line.start, static_cast<uint32_t>(colon)},
                            {static_cast<uint32_t>(value.data() - head.text.data()), static_cast<uint32_t>(value.size())}});
    return judge(name, value);
  }

  Event judge(std::string_view name, std::string_view value) {
    if (name == "host") {
      hosts_++;
    } else if (name == "content-length") {
      if (has_length_ || value.size() > 15 || !read_whole(value, head.length)) return fail();
      has_length_ = true;
    } else if (name == "transfer-encoding") {
      if (head.is_chunked) return fail();
      if (!is_same(value, "chunked"))
        return fail(501, "unsupported_coding",
                    "Transfer-Encoding: '" + printable(value) + "'; send the body as it is, or chunked");
      head.is_chunked = true;
    } else if (name == "connection") {
      head.closes |= has_word(value, "close");
    } else if (name == "expect") {
      head.expects = is_same(value, "100-continue");
    }
    return Event::kNone;
  }

  static std::string printable(std::string_view value) {
    std::string shown(value.substr(0, 40));
    for (char& byte : shown)
      if (byte < 0x20 || byte >= 0x7F || byte == '"' || byte == '\\') byte = '?';
    return shown;
  }

  static bool has_word(std::string_view list, std::string_view lower) {
    while (!list.empty()) {
      const size_t comma = std::min(list.find(','), list.size());
      if (is_same(trimmed(list.substr(0, comma)), lower)) return true;
      list.remove_prefix(std::min(comma + 1, list.size()));
    }
    return false;
  }

  Event end_head() {
    if (hosts_ > 1 || (!hosts_ && !head.is_old))
      return fail(400, "bad_http", "the request has " + std::to_string(hosts_) + " Host headers and has to have one");
    if (head.is_chunked && head.is_old) return fail(400, "bad_http", "HTTP/1.0 has no Transfer-Encoding");
    if (head.is_chunked && has_length_) return fail();
    if (head.is_old) head.expects = false;
    left_ = head.length;
    is_whole_ = !head.is_chunked && !left_;
    part_ = head.is_chunked ? Part::kSize : left_ ? Part::kFixed : Part::kFirst;
    headers_ = head.headers.size();
    chunks_ = framing_ = hosts_ = line_ = 0;
    has_length_ = false;
    text_.clear();
    return Event::kHead;
  }

  Event read_body(std::string_view& data) {
    body = data.substr(0, static_cast<size_t>(std::min<uint64_t>(left_, data.size())));
    data.remove_prefix(body.size());
    left_ -= body.size();
    if (!left_) {
      is_whole_ = part_ == Part::kFixed;
      part_ = is_whole_ ? Part::kFirst : Part::kChunkEnd;
    }
    return Event::kBody;
  }

  // A line between chunks' data: a size, the end of a chunk, or a trailer, which nothing here uses.
  Event read_frame(std::string_view& data) {
    const size_t before = text_.size();
    const bool is_line = take_line(data, text_);
    framing_ += text_.size() - before;
    if (framing_ > max_chunks_ * kFrameBytes + max_head_ || text_.size() > max_head_)
      return fail(400, "bad_http", "the body's chunks have too many bytes of extensions or trailers");
    if (part_ == Part::kSize && !is_size(text_)) return fail();
    if (!is_line) return Event::kNone;
    if (text_.size() < 2 || text_[text_.size() - 2] != '\r') return fail();
    const std::string line(text_, 0, text_.size() - 2);
    text_.clear();
    if (part_ == Part::kSize) return begin_chunk(line);
    if (part_ == Part::kChunkEnd) {
      part_ = Part::kSize;
      return line.empty() ? Event::kNone : fail();
    }
    if (line.empty()) {
      part_ = Part::kFirst;
      return Event::kEnd;
    }
    const size_t colon = line.find(':');
    if (colon == std::string::npos || !is_token(line.substr(0, colon)) || !is_value(line.substr(colon + 1))) return fail();
    return ++headers_ > kMostHeaders ? too_large() : Event::kNone;
  }

  // Whether it may be the line of a chunk's size.
  static bool is_size(std::string_view text) {
    const size_t digits = text.find_first_not_of("0123456789abcdefABCDEF");
    if (digits == std::string_view::npos) return text.size() <= 12;
    return digits && digits <= 12 && (text[digits] == ';' || text[digits] == '\r');
  }

  // Of a chunk, each after a semicolon: RFC 9112's, but none with quotes.
  static bool are_extensions(std::string_view text) {
    while (!text.empty()) {
      const std::string_view one = text.substr(1, text.find(';', 1) - 1);
      const size_t equals = std::min(one.find('='), one.size());
      if (!is_token(one.substr(0, equals)) || (equals < one.size() && !is_token(one.substr(equals + 1)))) return false;
      text.remove_prefix(1 + one.size());
    }
    return true;
  }

  Event begin_chunk(std::string_view line) {
    const size_t digits = std::min(line.find(';'), line.size());
    if (!read_whole(line.substr(0, digits), left_, 16) || !are_extensions(line.substr(digits))) return fail();
    if (++chunks_ > max_chunks_)
      return fail(400, "bad_http", "the body has more than " + std::to_string(max_chunks_) + " chunks; send larger ones");
    part_ = left_ ? Part::kChunk : Part::kTrailer;
    return Event::kNone;
  }

  const size_t max_head_, max_chunks_;
  Part part_ = Part::kFirst;
  bool is_whole_ = false;  // a request's end is the next event
  bool has_length_ = false;
  size_t line_ = 0, hosts_ = 0, headers_ = 0;  // where the head's line begins; headers and trailers
  uint64_t left_ = 0;                          // bytes of the body, or of a chunk
  size_t chunks_ = 0, framing_ = 0;
  std::string text_;  // a line between chunks
};

}  // namespace native
