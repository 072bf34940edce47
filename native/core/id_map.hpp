// Map from ids to places of an arena, each with a tail of bytes (a user's history): written by one thread with
// the map's lock held, read by many. The arena itself (`service/rows/arena.py`) says who is moved out.
#pragma once

#include <cstdint>
#include <mutex>
#include <random>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <vector>

#include "bytes.hpp"

namespace native {

class IdMap {
 public:
  IdMap() : seed_(std::random_device()() | uint64_t{std::random_device()()} << 32) { slots_.resize(kFewest); }

  // With the mutex held.
  int64_t find(std::string_view id) const { return find(id, hash(id)); }
  size_t home_of(uint64_t hash) const { return hash & (slots_.size() - 1); }
  const uint32_t* slot_of(uint64_t hash) const { return &slots_[home_of(hash)]; }
  const std::string& tail(int64_t place) const { return entries_[place].tail; }

  int64_t find(std::string_view id, uint64_t hash) const {
    for (size_t slot = home_of(hash); slots_[slot]; slot = (slot + 1) & (slots_.size() - 1)) {
      const Entry& entry = entries_[slots_[slot] - 1];
      if (entry.hash == hash && entry.id == id) return slots_[slot] - 1;
    }
    return -1;
  }

  uint64_t hash(std::string_view id) const {
    uint64_t hash = seed_ ^ id.size();
    size_t start = 0;
    for (; start + 8 <= id.size(); start += 8) hash = mix(hash ^ load<uint64_t>(id.data() + start));
    uint64_t word = 0;
    if (start < id.size()) std::memcpy(&word, id.data() + start, id.size() - start);
    return mix(mix(hash ^ word) ^ 0x9E3779B97F4A7C15ull);
  }

  // Each of these takes the mutex itself.

  // Put a new id into a free place.
  void put(int64_t place, std::string_view id, std::string_view tail) {
    const std::unique_lock lock(mutex_);
    if (static_cast<size_t>(place) >= entries_.size()) entries_.resize(place + 1);
    if (2 * (count_ + 1) > slots_.size()) grow();
    entries_[place] = Entry{hash(id), std::string(id), std::string(tail), true};
    insert(static_cast<uint32_t>(place));
    count_++;
  }

  // Remove an id; return its place, −1 if it had none.
  int64_t drop(std::string_view id) {
    const std::unique_lock lock(mutex_);
    const int64_t place = find(id);
    if (place >= 0) erase(place);
    return place;
  }

  // Remove up to `count` of the last places; return whether there were more.
  bool trim(size_t most) {
    const std::unique_lock lock(mutex_);
    for (; most && !entries_.empty(); most--) {
      if (entries_.back().is_held) erase(entries_.size() - 1);
      entries_.pop_back();
    }
    if (!entries_.empty()) return true;
    std::vector<Entry>().swap(entries_);
    std::vector<uint32_t>(kFewest).swap(slots_);
    return false;
  }

  // For readers without Python's lock, while they read rows of places that they found.
  std::shared_lock<std::shared_mutex> reading() const { return std::shared_lock(mutex_); }
  size_t size() const { return count_; }
  size_t end() const { return entries_.size(); }
  bool is_held(int64_t place) const { return place >= 0 && static_cast<size_t>(place) < end() && entries_[place].is_held; }
  const std::string& id(int64_t place) const { return entries_[place].id; }

 private:
  struct Entry {
    uint64_t hash = 0;
    std::string id, tail;
    bool is_held = false;
  };

  static constexpr size_t kFewest = 64;

  static uint64_t mix(uint64_t word) {
    const auto product = static_cast<unsigned __int128>(word) * 0xE7037ED1A0B428DBull;
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  }

  void insert(uint32_t place) {
    size_t slot = home_of(entries_[place].hash);
    while (slots_[slot]) slot = (slot + 1) & (slots_.size() - 1);
    slots_[slot] = place + 1;
  }

  void grow() {
    std::vector<uint32_t> before(2 * slots_.size());
    before.swap(slots_);
    for (const uint32_t held : before)
      if (held) insert(held - 1);
  }

  // Linear probing without tombstones: later entries move up where possible.
  void erase(int64_t place) {
    const size_t last = slots_.size() - 1;
    size_t hole = home_of(entries_[place].hash);
    while (slots_[hole] != static_cast<uint32_t>(place) + 1) hole = (hole + 1) & last;
    for (size_t slot = (hole + 1) & last; slots_[slot]; slot = (slot + 1) & last) {
      const size_t home = home_of(entries_[slots_[slot] - 1].hash);
      if (((slot - home) & last) < ((slot - hole) & last)) continue;
      slots_[hole] = slots_[slot];
      hole = slot;
    }
    slots_[hole] = 0;
    entries_[place] = Entry{};
    count_--;
  }

  const uint64_t seed_;
  mutable std::shared_mutex mutex_;
  std::vector<Entry> entries_;   // by place
  std::vector<uint32_t> slots_;  // place + 1, or 0
  size_t count_ = 0;
};

}  // namespace native
