// The instructions that csrc/cpu is written in for AMX and AVX-512, in plain C++, so that its logic is tested on any
// processor. Found before the compiler's own header. They round like the real ones, except that a product is rounded
// before it is added and an approximate reciprocal is a division.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

using __m512 = float __attribute__((vector_size(64), may_alias));
using __m512i = int __attribute__((vector_size(64), may_alias));
using __m512bh = uint16_t __attribute__((vector_size(64), may_alias));
using __m256i = int __attribute__((vector_size(32), may_alias));
using __m128 = float __attribute__((vector_size(16), may_alias));
using __m128i = int __attribute__((vector_size(16), may_alias));
using __m128bh = uint16_t __attribute__((vector_size(16), may_alias));
using __mmask16 = uint16_t;

#define _MM_FROUND_TO_NEAREST_INT 0
#define _MM_FROUND_TO_NEG_INF 1
#define _MM_FROUND_NO_EXC 8
#define _CMP_UNORD_Q 3

namespace emulated {

template <typename To, typename From>
To as(const From& x) {
  static_assert(sizeof(To) == sizeof(From));
  To y;
  std::memcpy(&y, &x, sizeof y);
  return y;
}

template <typename T>
T read(const void* from) {
  T x;
  std::memcpy(&x, from, sizeof x);
  return x;
}

template <typename T, size_t kSize>
struct Lanes {
  T at[kSize / sizeof(T)];
};
using Shorts = Lanes<uint16_t, 64>;
using Ints = Lanes<uint32_t, 64>;
using Longs = Lanes<uint64_t, 64>;

template <typename Function>
__m512 each(Function&& function) {
  __m512 y;
  for (int i = 0; i < 16; ++i) y[i] = function(i);
  return y;
}

inline uint16_t to_bf16(float x) {  // to the nearest, ties to even
  const auto bits = as<uint32_t>(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

inline float from_bf16(uint16_t x) { return as<float>(static_cast<uint32_t>(x) << 16); }

// Within each 128 bits: numbers of a and b in turn, from half of them on.
template <typename L>
__m512i unpack(__m512i a, __m512i b, bool upper) {
  const auto x = as<L>(a), y = as<L>(b);
  constexpr int kIn = 16 / sizeof(x.at[0]);
  L z;
  for (int i = 0; i < 4 * kIn; ++i) {
    const int from = i / kIn * kIn + (upper ? kIn / 2 : 0) + i % kIn / 2;
    z.at[i] = i % 2 ? y.at[from] : x.at[from];
  }
  return as<__m512i>(z);
}

struct TileState {
  bool configured = false;
  uint8_t rows[8][16][64];
};
inline thread_local TileState tiles;

inline uint8_t (&tile(int i))[16][64] {
  if (!tiles.configured) std::fputs("a tile is used outside of a configuration\n", stderr), std::abort();
  return tiles.rows[i];
}

}  // namespace emulated

inline __m512 _mm512_set1_ps(float x) { return emulated::each([=](int) { return x; }); }
inline __m512 _mm512_loadu_ps(const void* from) { return emulated::read<__m512>(from); }
inline __m512 _mm512_load_ps(const void* from) { return emulated::read<__m512>(from); }
inline void _mm512_storeu_ps(void* to, __m512 x) { std::memcpy(to, &x, sizeof x); }
inline void _mm512_store_ps(void* to, __m512 x) { std::memcpy(to, &x, sizeof x); }
inline __m512i _mm512_loadu_si512(const void* from) { return emulated::read<__m512i>(from); }
inline __m512i _mm512_load_si512(const void* from) { return emulated::read<__m512i>(from); }
inline void _mm512_storeu_si512(void* to, __m512i x) { std::memcpy(to, &x, sizeof x); }
inline void _mm512_store_si512(void* to, __m512i x) { std::memcpy(to, &x, sizeof x); }

inline __m512 _mm512_add_ps(__m512 a, __m512 b) { return a + b; }
inline __m512 _mm512_sub_ps(__m512 a, __m512 b) { return a - b; }
inline __m512 _mm512_mul_ps(__m512 a, __m512 b) { return a * b; }
inline __m512 _mm512_max_ps(__m512 a, __m512 b) {
  return emulated::each([&](int i) { return a[i] > b[i] ? a[i] : b[i]; });
}
inline __m512 _mm512_min_ps(__m512 a, __m512 b) {
  return emulated::each([&](int i) { return a[i] < b[i] ? a[i] : b[i]; });
}
inline __m512 _mm512_fmadd_ps(__m512 a, __m512 b, __m512 c) { return a * b + c; }
inline __m512 _mm512_fmsub_ps(__m512 a, __m512 b, __m512 c) { return a * b - c; }
inline __m512 _mm512_fnmadd_ps(__m512 a, __m512 b, __m512 c) { return c - a * b; }
inline __m512 _mm512_rcp14_ps(__m512 a) { return 1.0f / a; }
inline __m512 _mm512_reduce_ps(__m512 a, int) {
  return emulated::each([&](int i) { return a[i] - std::floor(a[i]); });
}
inline __m512 _mm512_roundscale_ps(__m512 a, int) {
  return emulated::each([&](int i) { return std::nearbyint(a[i]); });
}
inline __m512 _mm512_scalef_ps(__m512 a, __m512 b) {
  return emulated::each([&](int i) { return a[i] * std::exp2(std::floor(b[i])); });
}
inline __m512 _mm512_mask_mov_ps(__m512 rest, __mmask16 mask, __m512 a) {
  return emulated::each([&](int i) { return mask >> i & 1 ? a[i] : rest[i]; });
}
inline __mmask16 _mm512_cmp_ps_mask(__m512 a, __m512 b, int) {  // _CMP_UNORD_Q alone
  unsigned mask = 0;
  for (int i = 0; i < 16; ++i) mask |= (a[i] != a[i] || b[i] != b[i] ? 1u : 0u) << i;
  return static_cast<__mmask16>(mask);
}
inline float _mm512_reduce_add_ps(__m512 a) {
  float sum = 0;
  for (int i = 0; i < 16; ++i) sum += a[i];
  return sum;
}
inline float _mm512_reduce_max_ps(__m512 a) {
  float largest = a[0];
  for (int i = 1; i < 16; ++i) largest = a[i] > largest ? a[i] : largest;
  return largest;
}

inline __m512bh _mm512_cvtne2ps_pbh(__m512 upper, __m512 lower) {
  emulated::Shorts y;
  for (int i = 0; i < 16; ++i) y.at[i] = emulated::to_bf16(lower[i]), y.at[16 + i] = emulated::to_bf16(upper[i]);
  return emulated::as<__m512bh>(y);
}
inline __m128 _mm_set1_ps(float x) { return __m128{x, x, x, x}; }
inline __m128bh _mm_cvtneps_pbh(__m128 x) {
  __m128bh y{};
  for (int i = 0; i < 4; ++i) y[i] = emulated::to_bf16(x[i]);
  return y;
}
inline int _mm_extract_epi16(__m128i x, int i) { return emulated::as<__m128bh>(x)[i]; }

inline __m512 _mm512_castsi512_ps(__m512i x) { return emulated::as<__m512>(x); }
inline __m256i _mm512_extracti64x4_epi64(__m512i x, int half) {
  __m256i y;
  std::memcpy(&y, reinterpret_cast<const char*>(&x) + 32 * half, sizeof y);
  return y;
}
inline __m256i _mm512_castsi512_si256(__m512i x) { return _mm512_extracti64x4_epi64(x, 0); }
inline __m512i _mm512_cvtepu16_epi32(__m256i x) {
  const auto from = emulated::as<emulated::Lanes<uint16_t, 32>>(x);
  __m512i y;
  for (int i = 0; i < 16; ++i) y[i] = from.at[i];
  return y;
}
inline __m512i _mm512_slli_epi32(__m512i x, int by) { return x << by; }
inline __m512i _mm512_set1_epi16(int16_t x) {
  emulated::Shorts y;
  for (auto& each : y.at) each = static_cast<uint16_t>(x);
  return emulated::as<__m512i>(y);
}
inline __m512i _mm512_add_epi16(__m512i a, __m512i b) {
  auto x = emulated::as<emulated::Shorts>(a);
  const auto y = emulated::as<emulated::Shorts>(b);
  for (int i = 0; i < 32; ++i) x.at[i] = static_cast<uint16_t>(x.at[i] + y.at[i]);
  return emulated::as<__m512i>(x);
}
inline __m512i _mm512_permutex2var_epi16(__m512i a, __m512i index, __m512i b) {
  const auto x = emulated::as<emulated::Shorts>(a), y = emulated::as<emulated::Shorts>(b),
             from = emulated::as<emulated::Shorts>(index);
  emulated::Shorts z;
  for (int i = 0; i < 32; ++i) z.at[i] = (from.at[i] & 32 ? y : x).at[from.at[i] & 31];
  return emulated::as<__m512i>(z);
}
inline __m512i _mm512_unpacklo_epi32(__m512i a, __m512i b) { return emulated::unpack<emulated::Ints>(a, b, false); }
inline __m512i _mm512_unpackhi_epi32(__m512i a, __m512i b) { return emulated::unpack<emulated::Ints>(a, b, true); }
inline __m512i _mm512_unpacklo_epi64(__m512i a, __m512i b) { return emulated::unpack<emulated::Longs>(a, b, false); }
inline __m512i _mm512_unpackhi_epi64(__m512i a, __m512i b) { return emulated::unpack<emulated::Longs>(a, b, true); }
inline __m512i _mm512_shuffle_i32x4(__m512i a, __m512i b, int which) {
  __m512i y;
  for (int i = 0; i < 16; ++i) y[i] = (i < 8 ? a : b)[(which >> i / 4 * 2 & 3) * 4 + i % 4];
  return y;
}

inline void _tile_loadconfig(const void* config) {
  const auto* bytes = static_cast<const uint8_t*>(config);
  for (int i = 0; i < 8; ++i) {
    if (bytes[0] != 1 || bytes[16 + 2 * i] != 64 || bytes[17 + 2 * i] != 0 || bytes[48 + i] != 16) std::abort();
  }
  emulated::tiles.configured = true;
}
inline void _tile_release() { emulated::tiles.configured = false; }
inline void _tile_zero(int t) { std::memset(emulated::tile(t), 0, 1024); }
inline void _tile_loadd(int t, const void* base, size_t step) {
  for (int i = 0; i < 16; ++i) std::memcpy(emulated::tile(t)[i], static_cast<const char*>(base) + i * step, 64);
}
inline void _tile_stored(int t, void* base, size_t step) {
  for (int i = 0; i < 16; ++i) std::memcpy(static_cast<char*>(base) + i * step, emulated::tile(t)[i], 64);
}
inline void _tile_dpbf16ps(int to, int a, int b) {  // c[m][n] += sum over pairs k of a[m][k] . b[k][n]
  float left[16][32], right[16][2][16];
  for (int i = 0; i < 16; ++i) {
    for (int k = 0; k < 32; ++k) {
      left[i][k] = emulated::from_bf16(emulated::read<uint16_t>(emulated::tile(a)[i] + 2 * k));
      right[i][k % 2][k / 2] = emulated::from_bf16(emulated::read<uint16_t>(emulated::tile(b)[i] + 2 * k));
    }
  }
  for (int m = 0; m < 16; ++m) {
    float sums[16];
    std::memcpy(sums, emulated::tile(to)[m], sizeof sums);
    for (int k = 0; k < 16; ++k) {
      for (int n = 0; n < 16; ++n) sums[n] += left[m][2 * k] * right[k][0][n];
      for (int n = 0; n < 16; ++n) sums[n] += left[m][2 * k + 1] * right[k][1][n];
    }
    std::memcpy(emulated::tile(to)[m], sums, sizeof sums);
  }
}
