// Map from ids to places of an arena, each with a tail of bytes (a user's history): written by one thread with
// the map's lock held, read by many. The arena itself (`service/rows/arena.py`) says who is moved out.
#pragma once

#include <cstdint>
#include <mutex>
#include <shared_mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "bytes.hpp"

namespace native {

class IdMap {
 public:
  // `capacity`: of places. All memory is reserved at once: growing would stop the event loop and all readers.
  explicit IdMap(size_t capacity) : capacity_(capacity) {
    size_t slots = kFewest;
    while (slots < 2 * capacity) slots *= 2;
    slots_.resize(slots);
    entries_.reserve(capacity);
  }

  // With the mutex held: for `reading()`, which readers without Python's lock keep while they read rows.
  std::shared_lock<std::shared_mutex> reading() const { return std::shared_lock(mutex_); }
  int64_t find(std::string_view id) const { return find(id, hash_of(id)); }
  size_t home_of(uint64_t hash) const { return hash & (slots_.size() - 1); }
  const uint32_t* slot_of(uint64_t hash) const { return &slots_[home_of(hash)]; }
  size_t size() const { return count_; }
  size_t end() const { return entries_.size(); }
  bool is_held(int64_t place) const { return place >= 0 && static_cast<size_t>(place) < end() && entries_[place].is_held; }
  const std::string& id(int64_t place) const { return entries_[place].id; }
  const std::string& tail(int64_t place) const { return entries_[place].tail; }

  int64_t find(std::string_view id, uint64_t hash) const {
    for (size_t slot = home_of(hash); slots_[slot]; slot = (slot + 1) & (slots_.size() - 1)) {
      const Entry& entry = entries_[slots_[slot] - 1];
      if (entry.hash == hash && entry.id == id) return slots_[slot] - 1;
    }
    return -1;
  }

  // Each of these takes the mutex itself.

  // Put an id into a free place, in exchange for the one that it had: readers find one of both. Throws
  // std::invalid_argument if the place is held, or beyond the capacity.
  void put(int64_t place, std::string_view id, std::string_view tail) {
    const std::unique_lock lock(mutex_);
    if (is_held(place) || static_cast<size_t>(place) >= capacity_) throw std::invalid_argument("the place is held already, or there is no such place");
    if (const int64_t before = find(id); before >= 0) erase(before);
    if (static_cast<size_t>(place) >= entries_.size()) entries_.resize(place + 1);
    entries_[place] = Entry{hash_of(id), std::string(id), std::string(tail), true};
    size_t slot = home_of(entries_[place].hash);
    while (slots_[slot]) slot = (slot + 1) & (slots_.size() - 1);
    slots_[slot] = static_cast<uint32_t>(place) + 1;
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
    capacity_ = 0;
    return false;
  }

 private:
  struct Entry {
    uint64_t hash = 0;
    std::string id, tail;
    bool is_held = false;
  };

  static constexpr size_t kFewest = 64;

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

  mutable std::shared_mutex mutex_;
  std::vector<Entry> entries_;   // by place
  std::vector<uint32_t> slots_;  // place + 1, or 0; at most half are taken
  size_t capacity_;
  size_t count_ = 0;
};

}  // namespace native
