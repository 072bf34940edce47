// Bytes as numpy, zlib and IEEE 754 have them: unaligned loads, hashes, half floats, CRC-32. Knows nothing of rows.
#pragma once

#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <string_view>
#include <unordered_map>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace native {

template <class T>
inline T load(const void* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

// Reads a whole number; false if a text is none, or more.
template <class T>
inline bool read_whole(std::string_view text, T& number, int base = 10) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number, base);
  return error == std::errc() && end == text.data() + text.size();
}

// Up to eight bytes as a word, the rest zeros. Not by memcpy: a word that was written in parts cannot be read at once.
inline uint64_t word_of(const char* at, size_t size) {
  if (size >= 8) return load<uint64_t>(at);
  if (size >= 4) return load<uint32_t>(at) | uint64_t{load<uint32_t>(at + size - 4)} << 8 * (size - 4);
  uint64_t word = 0;
  while (size--) word = word << 8 | static_cast<uint8_t>(at[size]);
  return word;
}

inline void prefetch(const void* at) { __builtin_prefetch(at); }

// Prefetch a row's cache lines.
inline void prefetch(const uint8_t* at, size_t size) {
  for (size_t byte = 0; byte < size; byte += 64) prefetch(at + byte);
}

// Hash with a seed of the process, so that nobody can choose bytes that collide.
inline uint64_t hash_of(std::string_view bytes) {
  static const uint64_t seed = std::random_device()() | uint64_t{std::random_device()()} << 32;
  const auto mix = [](uint64_t word) {
    const auto product = static_cast<unsigned __int128>(word) * 0xE7037ED1A0B428DBull;
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  };
  uint64_t hash = seed ^ bytes.size();
  size_t start = 0;
  for (; start + 8 <= bytes.size(); start += 8) hash = mix(hash ^ load<uint64_t>(bytes.data() + start));
  return mix(mix(hash ^ word_of(bytes.data() + start, bytes.size() - start)) ^ 0x9E3779B97F4A7C15ull);
}

// A map of what a client names.
struct SeededHash {
  size_t operator()(std::string_view name) const { return hash_of(name); }
};
template <class T>
using NameMap = std::unordered_map<std::string_view, T, SeededHash>;

// Finds the first of equal things.
class Firsts {
 public:
  // `most`: how many there may be.
  void clear(size_t most) {
    size_t slots = 4;
    while (slots < 2 * most) slots *= 2;
    slots_.assign(slots, {});
  }

  // The first one that equals this one, or itself.
  template <class Equals>
  size_t of(uint64_t hash, size_t own, Equals equals) {
    size_t slot = hash & (slots_.size() - 1);
    for (; slots_[slot].next; slot = (slot + 1) & (slots_.size() - 1))
      if (slots_[slot].hash == hash && equals(slots_[slot].next - 1)) return slots_[slot].next - 1;
    slots_[slot] = {hash, own + 1};
    return own;
  }

 private:
  struct Slot {
    uint64_t hash;
    size_t next;  // 0: none
  };
  std::vector<Slot> slots_;
};

namespace half {

// Finite halves only: what a row holds was checked when it was packed.
inline float widen_one(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16, fraction = bits & 0x3FF;
  const uint32_t exponent = (bits >> 10) & 0x1F;
  if (exponent == 0x1F) return load<float>(std::array<uint32_t, 1>{sign | 0x7F800000 | fraction << 13}.data());
  if (exponent) return load<float>(std::array<uint32_t, 1>{sign | (exponent + 112) << 23 | fraction << 13}.data());
  const float subnormal = static_cast<float>(fraction) * 0x1p-24f;
  return sign ? -subnormal : subnormal;
}

inline void widen_portably(const uint8_t* from, float* to, size_t count) {
  for (size_t k = 0; k < count; k++) to[k] = widen_one(load<uint16_t>(from + 2 * k));
}

#if defined(__x86_64__)
__attribute__((target("avx,f16c"))) inline void widen_f16c(const uint8_t* from, float* to, size_t count) {
  size_t k = 0;
  for (; k + 8 <= count; k += 8)
    _mm256_storeu_ps(to + k, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 2 * k))));
  widen_portably(from + 2 * k, to + k, count - k);
}
#endif

using Widen = void (*)(const uint8_t*, float*, size_t);

// The fastest variant for this processor: one build runs anywhere.
inline Widen chosen() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("f16c") && __builtin_cpu_supports("avx")) return widen_f16c;
#endif
  return widen_portably;
}

inline const char* chosen_name() {
  return chosen() == widen_portably ? "portable" : "f16c";
}

}  // namespace half

// Convert `count` half floats.
inline void widen(const uint8_t* from, float* to, size_t count) {
  static const half::Widen fastest = half::chosen();
  fastest(from, to, count);
}

// zlib's CRC-32, eight bytes a step ("slicing by 8").
class Crc32 {
 public:
  static uint32_t of(const uint8_t* bytes, size_t size) {
    static const Crc32 tables;
    uint32_t crc = ~0u;
    for (; size >= 8; size -= 8, bytes += 8) {
      const uint64_t word = load<uint64_t>(bytes) ^ crc;
      crc = 0;
      for (int k = 0; k < 8; k++) crc ^= tables.at_[7 - k][(word >> (8 * k)) & 0xFF];
    }
    while (size--) crc = (crc >> 8) ^ tables.at_[0][(crc ^ *bytes++) & 0xFF];
    return ~crc;
  }

 private:
  Crc32() {
    for (uint32_t byte = 0; byte < 256; byte++) {
      uint32_t crc = byte;
      for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ (crc & 1 ? 0xEDB88320u : 0);
      at_[0][byte] = crc;
    }
    for (int step = 1; step < 8; step++)
      for (int byte = 0; byte < 256; byte++)
        at_[step][byte] = (at_[step - 1][byte] >> 8) ^ at_[0][at_[step - 1][byte] & 0xFF];
  }

  uint32_t at_[8][256];
};

}  // namespace native
