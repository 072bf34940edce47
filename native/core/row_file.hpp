// Rows of one side in a bundle's file, looked up without Python: the index, ids and rows that `msd.contract.row_file`
// lays out, in memory that it owns. A block is read, and proved by its checksum, when it is first touched.
#pragma once

#include <unistd.h>

#include <string_view>
#include <vector>

#include "bytes.hpp"

namespace native {

constexpr size_t kBlockBits = 12, kBlock = size_t{1} << kBlockBits, kWord = 8;

// A row's bytes; empty if the file has none.
struct RowBytes {
  const uint8_t* at = nullptr;
  size_t size = 0;
};

// Thrown if a block is damaged or unreadable. Python reads it again, and names it.
struct Damaged {};

class RowFile {
 public:
  struct Probe {
    uint64_t hash = 0, slot = 0;
    int64_t place = -1;
  };
  using Scratch = std::vector<Probe>;

  struct Place {
    size_t start, size;
  };

  struct Parts {
    uint8_t* body;
    size_t body_size;
    uint8_t* proved;         // one flag a block
    const uint8_t* checksums;  // four bytes a block
    int descriptor;
    size_t base;
    Place slots, ids, starts, rows;
    uint64_t homes, seed;
    size_t width, count, start_bytes, record_size;
  };

  explicit RowFile(const Parts& parts) : file_(parts) {}

  // The rows of many ids. Each stage touches the memory of all ids, so that one miss of the caches hides the others.
  void find(const std::vector<std::string_view>& ids, Scratch& scratch, std::vector<RowBytes>& found) const {
    found.assign(ids.size(), RowBytes{});
    if (!file_.count) return;
    scratch.assign(ids.size(), Probe{});
    for (size_t k = 0; k < ids.size(); k++) {
      scratch[k].hash = hash(ids[k]);
      scratch[k].slot = scratch[k].hash % file_.homes;
      prefetch(file_.body + file_.slots.start + kWord * scratch[k].slot);
    }
    for (Probe& probe : scratch) {
      probe.place = next(probe);
      if (probe.place < 0) continue;
      prefetch(file_.body + file_.ids.start + file_.width * probe.place);
      if (!file_.starts.size)
        prefetch(file_.body + file_.rows.start + file_.record_size * probe.place, file_.record_size);
    }
    for (size_t k = 0; k < ids.size(); k++) {
      Probe& probe = scratch[k];
      while (probe.place >= 0 && !is_of(probe.place, ids[k])) {
        probe.slot++;
        probe.place = next(probe);
      }
      if (probe.place >= 0) found[k] = row(probe.place);
    }
  }

 private:
  uint64_t hash(std::string_view id) const {
    uint64_t hash = file_.seed;
    for (size_t start = 0; start < file_.width; start += kWord) {
      uint64_t word = 0;
      if (start < id.size()) std::memcpy(&word, id.data() + start, std::min(kWord, id.size() - start));
      hash = (hash ^ word) * 0x9E3779B97F4A7C15ull;
      hash ^= hash >> 32;
    }
    hash *= 0xC4CEB9FE1A85EC53ull;
    return hash ^ hash >> 32;
  }

  // The place of the first slot from the probe's on that may be its id's, and moves the probe there; -1: there is none.
  int64_t next(Probe& probe) const {
    for (const uint64_t end = file_.slots.size / kWord; probe.slot < end; probe.slot++) {
      const uint64_t held = load<uint64_t>(proved(file_.slots.start + kWord * probe.slot, kWord));
      if (!held) return -1;
      const uint64_t place = (held & 0xFFFFFFFF) - 1;
      if (held >> 32 == probe.hash >> 32 && place < file_.count) return static_cast<int64_t>(place);
    }
    return -1;
  }

  bool is_of(int64_t place, std::string_view id) const {
    if (id.size() >= file_.width) return false;
    const uint8_t* own = proved(file_.ids.start + file_.width * place, file_.width);
    return !std::memcmp(own, id.data(), id.size()) && !own[id.size()];
  }

  RowBytes row(int64_t place) const {
    size_t start = file_.record_size * place, stop = start + file_.record_size;
    if (file_.starts.size) {
      const uint8_t* ends = proved(file_.starts.start + file_.start_bytes * place, 2 * file_.start_bytes);
      start = file_.start_bytes == 4 ? load<uint32_t>(ends) : load<uint64_t>(ends);
      stop = file_.start_bytes == 4 ? load<uint32_t>(ends + 4) : load<uint64_t>(ends + 8);
    }
    if (start > stop || stop > file_.rows.size || stop - start < file_.record_size) throw Damaged{};
    return {proved(file_.rows.start + start, stop - start), stop - start};
  }

  // Bytes that may be read.
  const uint8_t* proved(size_t start, size_t size) const {
    if (size)
      for (size_t block = start >> kBlockBits, last = (start + size - 1) >> kBlockBits; block <= last; block++)
        if (!__atomic_load_n(file_.proved + block, __ATOMIC_ACQUIRE)) prove(block);
    return file_.body + start;
  }

  // Threads that verify one block concurrently write the same bytes.
  void prove(size_t block) const {
    uint8_t content[kBlock];
    const size_t start = block << kBlockBits, size = std::min(kBlock, file_.body_size - start);
    for (size_t done = 0; done < size;) {
      const ssize_t part = pread(file_.descriptor, content + done, size - done, file_.base + start + done);
      if (part <= 0) throw Damaged{};
      done += part;
    }
    if (Crc32::of(content, size) != load<uint32_t>(file_.checksums + 4 * block)) throw Damaged{};
    std::memcpy(file_.body + start, content, size);
    __atomic_store_n(file_.proved + block, uint8_t{1}, __ATOMIC_RELEASE);
  }

  const Parts file_;
};

}  // namespace native
