// Rows of one side in a bundle's file, looked up without Python: the index and rows that `msd.contract.row_file` lays
// out, in memory that it owns. A block is read, and proved by its checksum, when it is first touched.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <string_view>
#include <vector>

#include "bytes.hpp"

namespace native {

constexpr size_t kBlockBits = 12, kBlock = size_t{1} << kBlockBits, kWord = 8, kStart = 4;

struct Arena;

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
    uint64_t hash = 0;
    uint32_t place = 0, end = 0;  // of the rows of its bucket
  };
  struct Scratch {
    std::vector<uint64_t> words;  // of the ids, as the file has them
    std::vector<Probe> probes;
  };

  struct Place {
    size_t start, size;
  };

  uint8_t* body;
  size_t body_size;
  uint8_t* is_proved;        // one flag a block
  const uint8_t* checksums;  // four bytes a block
  int descriptor;
  size_t base;
  Place starts, row_starts, rows;
  uint64_t seed;
  size_t width, count, start_bytes, record_size;
  const Arena* newer = nullptr;  // rows that count in place of the file's, or none

  // The rows of many ids. Each stage touches the memory of all ids, so that one miss of the caches hides the others; apart
  // from the hashes, whose reads would wait for it.
  void find(const std::vector<std::string_view>& ids, Scratch& scratch, std::vector<RowBytes>& found) const {
    found.assign(ids.size(), RowBytes{});
    if (!count) return;
    auto& [words, probes] = scratch;
    const size_t step = width / kWord;
    words.resize(step * ids.size());
    probes.resize(ids.size());
    for (size_t k = 0; k < ids.size(); k++) probes[k].hash = hash(ids[k], &words[step * k]);
    for (Probe& probe : probes) {
      probe.hash %= starts.size / kStart - 1;
      prefetch(body + starts.start + kStart * probe.hash);
    }
    for (Probe& probe : probes) {
      const uint8_t* const bucket = proved(starts.start + kStart * probe.hash, 2 * kStart);
      probe.place = load<uint32_t>(bucket);
      probe.end = std::min(load<uint32_t>(bucket + kStart), static_cast<uint32_t>(count));
      if (!row_starts.size)
        for (size_t place = probe.place; place < probe.end; place++)
          prefetch(body + rows.start + least_size() * place);
    }
    for (size_t k = 0; k < ids.size(); k++)
      for (size_t place = probes[k].place; place < probes[k].end && !found[k].at; place++)
        found[k] = row(place, &words[step * k]);
  }

 private:
  // A row's without a history, with its id.
  size_t least_size() const { return width + record_size; }

  // Of an id, whose words it writes. A longer one is truncated: unlike others', its last byte is not zero.
  uint64_t hash(std::string_view id, uint64_t* words) const {
    uint64_t hash = seed;
    for (size_t start = 0; start < width; start += kWord) {
      const uint64_t word = start < id.size() ? word_of(id.data() + start, id.size() - start) : 0;
      words[start / kWord] = word;
      hash = (hash ^ word) * 0x9E3779B97F4A7C15ull;
      hash ^= hash >> 32;
    }
    hash *= 0xC4CEB9FE1A85EC53ull;
    return hash ^ hash >> 32;
  }

  // What stands at a place, if that is the id's.
  RowBytes row(size_t place, const uint64_t* words) const {
    size_t start = least_size() * place, stop = start + least_size();
    if (row_starts.size) {
      const uint8_t* ends = proved(row_starts.start + start_bytes * place, 2 * start_bytes);
      start = start_bytes == 4 ? load<uint32_t>(ends) : load<uint64_t>(ends);
      stop = start_bytes == 4 ? load<uint32_t>(ends + 4) : load<uint64_t>(ends + 8);
    }
    if (start > stop || stop > rows.size || stop - start < least_size()) throw Damaged{};
    const uint8_t* const own = proved(rows.start + start, width);
    for (size_t at = 0; at < width; at += kWord)
      if (load<uint64_t>(own + at) != words[at / kWord]) return {};
    start += width;
    return {proved(rows.start + start, stop - start), stop - start};
  }

  // Bytes that may be read.
  const uint8_t* proved(size_t start, size_t size) const {
    if (size)
      for (size_t block = start >> kBlockBits, last = (start + size - 1) >> kBlockBits; block <= last; block++)
        if (!__atomic_load_n(is_proved + block, __ATOMIC_ACQUIRE)) prove(block);
    return body + start;
  }

  // Threads that verify one block concurrently write the same bytes.
  void prove(size_t block) const {
    uint8_t content[kBlock];
    const size_t start = block << kBlockBits, size = std::min(kBlock, body_size - start);
    for (size_t done = 0; done < size;) {
      const ssize_t part = pread(descriptor, content + done, size - done, base + start + done);
      if (part <= 0) throw Damaged{};
      done += part;
    }
    if (Crc32::of(content, size) != load<uint32_t>(checksums + 4 * block)) throw Damaged{};
    std::memcpy(body + start, content, size);
    __atomic_store_n(is_proved + block, uint8_t{1}, __ATOMIC_RELEASE);
  }
};

}  // namespace native
