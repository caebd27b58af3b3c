// Vectors of eight float32 numbers: AVX2 with FMA.
#pragma once

#include <immintrin.h>

namespace cpu {

constexpr int kLanes = 8;
constexpr int kRows = 6;  // of a product's register block, two vectors wide: 12 sums in 16 registers

using Vec = __m256;

inline Vec load(const float* from) { return _mm256_loadu_ps(from); }
inline void store(float* to, Vec x) { _mm256_storeu_ps(to, x); }
inline Vec set1(float x) { return _mm256_set1_ps(x); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }    // a b + c
inline Vec fms(Vec a, Vec b, Vec c) { return _mm256_fmsub_ps(a, b, c); }    // a b - c
inline Vec fnma(Vec a, Vec b, Vec c) { return _mm256_fnmadd_ps(a, b, c); }  // c - a b
inline Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }  // b if one is not a number
inline Vec max_or_nan(Vec a, Vec b) { return _mm256_blendv_ps(max(a, b), a, _mm256_cmp_ps(a, a, _CMP_UNORD_Q)); }
inline Vec min(Vec a, Vec b) { return _mm256_min_ps(a, b); }

// 1 / x to within 2e-7 of it, 0 for what is too large; a division takes several times as long.
inline Vec reciprocal(Vec x) {
  const Vec r = _mm256_rcp_ps(x);
  return fma(fnma(x, r, set1(1.0f)), r, r);
}

inline float reduce_add(Vec x) {
  __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  y = _mm_add_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_add_ss(y, _mm_movehdup_ps(y)));
}

inline float reduce_max(Vec x) {
  __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  y = _mm_max_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_max_ss(y, _mm_movehdup_ps(y)));
}

// The first n lanes of x, the others of rest.
inline Vec first(int n, Vec x, Vec rest) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_blendv_ps(rest, x, _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane)));
}

inline Vec nearest(Vec x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

// 2^n of whole numbers n from -126 to 127
inline Vec power_of_2(Vec n) {
  const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}

}  // namespace cpu

#include "block.hpp"
