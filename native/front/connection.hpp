// What the front knows of one client's connection and of its requests. Touched by the front's thread alone.
#pragma once

#include <deque>
#include <memory>

#include "scoring_head.hpp"

namespace {

using namespace native;

class ScoringJob;

enum class HttpState {
  kWaiting,  // behind others, or for a client that does not read
  kAsked,    // Python is asked whether its key is good
  kComing,   // for the engine, once its body is there
  kScored,   // by the engine
  kHanded,   // to Python, with its body as that comes
  kPassing,  // answered; the rest of its body passes
};

// One request, until its reply is written.
struct HttpRequest {
  HttpHead head;
  ScoringHead asked;  // what the head says to the engine, if it is for the engine
  std::vector<std::string> pieces;  // of the body, so that memory of large ones is soon that of others
  uint64_t number = 0;
  double began = 0.0;
  HttpState state = HttpState::kWaiting;
  bool is_whole = false;     // all of its body has come
  bool is_begun = false;     // a part of its reply is written
  bool has_gone_on = false;  // `100 Continue` was sent
  bool is_judged = false;    // Python has looked at its key
  bool closes = false;       // the connection ends with it
  size_t head_bytes = 0, body_bytes = 0;
  size_t held = 0;           // bytes in flight
  double until = 0.0;        // while it is coming, or passing
  ScoringJob* job = nullptr;

  void add(std::string_view bytes) {
    if (pieces.empty() || pieces.back().size() + bytes.size() > kPiece) pieces.emplace_back();
    pieces.back().append(bytes);
  }

  // The body as far as it has come, once.
  std::string take_body() {
    std::string body;
    if (pieces.size() == 1)
      body = std::move(pieces.front());
    else
      for (const std::string& piece : pieces) body.append(piece);
    pieces.clear();
    return body;
  }

 private:
  static constexpr size_t kPiece = 65'536;
};

struct Connection {
  Connection(int descriptor, bool is_secure, double now, size_t max_head, size_t max_body)
      : descriptor(descriptor), is_secure(is_secure), parser(max_head, max_body), head_since(now), opened(now) {}

  int descriptor;        // −1 once it is closed
  const bool is_secure;  // its bytes come from TLS, which somebody else speaks
  Parser parser;
  double head_since;  // since when a head is waited for; 0: it is not
  double began = 0.0;                              // when the head's first byte came
  std::deque<std::unique_ptr<HttpRequest>> requests;  // in order; the first is the one that is answered
  std::string out;                                // what the client has not taken
  bool reads = true, writes = false;              // as the poller knows
  bool is_silent = true;      // no whole head has come yet
  bool is_ended = false;      // nothing more is read: the client has ended, or is at fault
  bool closes = false;        // once all is written
  bool is_lost = false;       // its client has left
  Fault fault;                // told after pending replies
  size_t held_head = 0;       // bytes in flight, of an unfinished head
  size_t passed = 0;          // bytes that were not wanted
  const double opened;
  double idle_since = 0.0, unfinished_since = 0.0, unread_since = 0.0, goodbye_until = 0.0;  // 0: it is not

  bool is_idle() const { return idle_since > 0.0; }
  // Whether a whole request is not answered yet.
  bool is_owed_replies() const {
    return requests.size() > 1 || (requests.size() == 1 && requests.front()->is_whole) || !out.empty();
  }
};

}  // namespace
