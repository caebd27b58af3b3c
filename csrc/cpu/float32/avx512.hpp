// Vectors of 16 float32 numbers: AVX-512.
#pragma once

#include <immintrin.h>

namespace cpu {

constexpr int kLanes = 16;
constexpr int kRows = 12;  // of a product's register block, two vectors wide: 24 sums in 32 registers

using Vec = __m512;

inline Vec load(const float* from) { return _mm512_loadu_ps(from); }
inline void store(float* to, Vec x) { _mm512_storeu_ps(to, x); }
inline Vec set1(float x) { return _mm512_set1_ps(x); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }    // a b + c
inline Vec fms(Vec a, Vec b, Vec c) { return _mm512_fmsub_ps(a, b, c); }    // a b - c
inline Vec fnma(Vec a, Vec b, Vec c) { return _mm512_fnmadd_ps(a, b, c); }  // c - a b
inline Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }  // b if one is not a number
inline Vec max_or_nan(Vec a, Vec b) { return _mm512_mask_mov_ps(max(a, b), _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), a); }
inline Vec min(Vec a, Vec b) { return _mm512_min_ps(a, b); }

// 1 / x to within 2e-7 of it
inline Vec reciprocal(Vec x) {
  const Vec r = _mm512_rcp14_ps(x);
  return fma(fnma(x, r, set1(1.0f)), r, r);
}

inline float reduce_add(Vec x) { return _mm512_reduce_add_ps(x); }
inline float reduce_max(Vec x) { return _mm512_reduce_max_ps(x); }

// The first n lanes of x, the others of rest.
inline Vec first(int n, Vec x, Vec rest) { return _mm512_mask_mov_ps(rest, static_cast<__mmask16>((1u << n) - 1), x); }

inline Vec nearest(Vec x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

// 2^n of whole numbers n from -126 to 127
inline Vec power_of_2(Vec n) { return _mm512_scalef_ps(_mm512_set1_ps(1.0f), n); }

}  // namespace cpu

#include "block.hpp"
