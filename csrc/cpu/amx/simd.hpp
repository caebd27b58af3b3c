// The vector and matrix instructions everything here is made of: AVX-512 with bfloat16, and AMX tiles.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace cpu {

using bf16 = uint16_t;  // the upper half of a float32
using Stored = bf16;

constexpr int kLanes = 16;  // float32 numbers in a vector, and rows, and columns of a tile of float32
constexpr int kBlock = 32;  // bfloat16 numbers in a vector: channels are stored in blocks of as many
constexpr int kTileBytes = 1024;  // 16 rows of 64 bytes

using Vec = __m512;

inline Vec load(const float* from) { return _mm512_loadu_ps(from); }
inline void store(float* to, Vec x) { _mm512_storeu_ps(to, x); }
inline Vec set1(float x) { return _mm512_set1_ps(x); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }  // b if one is not a number
inline float reduce_add(Vec x) { return _mm512_reduce_add_ps(x); }
inline float reduce_max(Vec x) { return _mm512_reduce_max_ps(x); }
inline Vec first(int n, Vec x, Vec rest) { return _mm512_mask_mov_ps(rest, static_cast<__mmask16>((1u << n) - 1), x); }

struct Pair {  // a block of channels as float32
  __m512 lo, hi;
};
using Block = Pair;

inline Pair load_floats(const float* from) { return {_mm512_loadu_ps(from), _mm512_loadu_ps(from + kLanes)}; }
inline void store_floats(float* to, Pair x) {
  _mm512_storeu_ps(to, x.lo);
  _mm512_storeu_ps(to + kLanes, x.hi);
}
inline Pair operator+(Pair a, Pair b) { return {_mm512_add_ps(a.lo, b.lo), _mm512_add_ps(a.hi, b.hi)}; }
inline Pair operator-(Pair a, Pair b) { return {_mm512_sub_ps(a.lo, b.lo), _mm512_sub_ps(a.hi, b.hi)}; }
inline Pair operator*(Pair a, Pair b) { return {_mm512_mul_ps(a.lo, b.lo), _mm512_mul_ps(a.hi, b.hi)}; }
inline Pair fma(Pair a, Pair b, Pair c) {
  return {_mm512_fmadd_ps(a.lo, b.lo, c.lo), _mm512_fmadd_ps(a.hi, b.hi, c.hi)};
}
inline Pair fms(Pair a, Pair b, Pair c) {  // a b - c
  return {_mm512_fmsub_ps(a.lo, b.lo, c.lo), _mm512_fmsub_ps(a.hi, b.hi, c.hi)};
}
inline Pair fnma(Pair a, Pair b, Pair c) {  // c - a b
  return {_mm512_fnmadd_ps(a.lo, b.lo, c.lo), _mm512_fnmadd_ps(a.hi, b.hi, c.hi)};
}
inline Vec max_or_nan(Vec a, Vec b) { return _mm512_mask_mov_ps(max(a, b), _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), a); }
inline Pair max_or_nan(Pair a, Pair b) { return {max_or_nan(a.lo, b.lo), max_or_nan(a.hi, b.hi)}; }

inline __m512 widen(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }

inline float widen(bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float y;
  std::memcpy(&y, &bits, sizeof y);
  return y;
}

inline bf16 narrow(float x) {
  return static_cast<bf16>(_mm_extract_epi16(reinterpret_cast<__m128i>(_mm_cvtneps_pbh(_mm_set1_ps(x))), 0));
}

inline Pair load_block(const bf16* from) {
  const __m512i both = _mm512_loadu_si512(from);
  return {widen(_mm512_castsi512_si256(both)), widen(_mm512_extracti64x4_epi64(both, 1))};
}

inline void store_block(bf16* to, Pair x) {
  _mm512_storeu_si512(to, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(x.hi, x.lo)));
}

// 2^t to within 8e-5; beyond the range of a float32 0 or infinity. The polynomial is for the fraction of t, and
// scalef multiplies by 2 to the power of its whole part.
inline __m512 exp2_fast(__m512 t) {
  const __m512 f = _mm512_reduce_ps(t, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  __m512 p = _mm512_set1_ps(0.07802459f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.22606738f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.69583328f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.99992526f));
  return _mm512_scalef_ps(p, t);
}

constexpr float kLog2E = 1.44269504f;

// z * sigmoid(z), from z and -z * log2(e)
inline __m512 silu(__m512 z, __m512 exponent) {
  return _mm512_mul_ps(z, _mm512_rcp14_ps(_mm512_add_ps(exp2_fast(exponent), _mm512_set1_ps(1.0f))));
}

inline __m512 silu_slope(__m512 z) {
  const __m512 e = exp2_fast(_mm512_mul_ps(z, _mm512_set1_ps(-kLog2E)));
  const __m512 s = _mm512_rcp14_ps(_mm512_add_ps(e, _mm512_set1_ps(1.0f))), one = _mm512_set1_ps(1.0f);
  return _mm512_mul_ps(s, _mm512_fmadd_ps(z, _mm512_sub_ps(one, s), one));
}

// Of several at once; here nothing is gained by more than one.
constexpr int kAtOnce = 1;

inline void exp2_fast(__m512 (&t)[kAtOnce]) { t[0] = exp2_fast(t[0]); }

// z = d silu / d z = s (1 + z (1 - s)), s = sigmoid(z)
inline void silu_slope(Pair (&z)[kAtOnce]) { z[0] = {silu_slope(z[0].lo), silu_slope(z[0].hi)}; }

// To be called before tiles are loaded. GCC's intrinsics do not say which memory they read (of a tile configuration they
// name the first eight bytes), so without this the compiler may put off, or leave out, what was stored for them.
inline void finish_stores() { asm volatile("" ::: "memory"); }

// Eight tiles of 16 rows of 64 bytes, for as long as it lives.
class Tiles {
 public:
  Tiles() {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } config;
    for (int i = 0; i < 8; ++i) config.row_bytes[i] = 64, config.rows[i] = 16;
    asm volatile("" ::"r"(&config) : "memory");  // as finish_stores, for memory that is this function's alone
    _tile_loadconfig(&config);
  }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

}  // namespace cpu
