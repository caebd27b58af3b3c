// The vector and matrix instructions everything here is made of: AVX-512 with bfloat16, and AMX tiles.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "blocks.hpp"

namespace cpu {

constexpr int kTileBytes = 1024;  // 16 rows of 64 bytes

struct Pair {  // a block of channels as float32
  __m512 lo, hi;
};

inline __m512 widen(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }

inline float widen(bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float y;
  std::memcpy(&y, &bits, sizeof y);
  return y;
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
    _tile_loadconfig(&config);
  }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

}  // namespace cpu
