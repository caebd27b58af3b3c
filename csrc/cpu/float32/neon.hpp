// Vectors of four float32 numbers: NEON of 64-bit ARM.
#pragma once

#include <arm_neon.h>

namespace cpu {

constexpr int kLanes = 4;
constexpr int kRows = 12;  // of a product's register block, two vectors wide: 24 sums in 32 registers

using Vec = float32x4_t;

inline Vec load(const float* from) { return vld1q_f32(from); }
inline void store(float* to, Vec x) { vst1q_f32(to, x); }
inline Vec set1(float x) { return vdupq_n_f32(x); }
inline Vec fma(Vec a, Vec b, Vec c) { return vfmaq_f32(c, a, b); }              // a b + c
inline Vec fms(Vec a, Vec b, Vec c) { return vfmaq_f32(vnegq_f32(c), a, b); }   // a b - c
inline Vec fnma(Vec a, Vec b, Vec c) { return vfmsq_f32(c, a, b); }             // c - a b
inline Vec max(Vec a, Vec b) { return vmaxq_f32(a, b); }
inline Vec max_or_nan(Vec a, Vec b) { return vmaxq_f32(a, b); }
inline Vec min(Vec a, Vec b) { return vminq_f32(a, b); }
inline Vec reciprocal(Vec x) { return set1(1.0f) / x; }
inline float reduce_add(Vec x) { return vaddvq_f32(x); }
inline float reduce_max(Vec x) { return vmaxvq_f32(x); }

// The first n lanes of x, the others of rest.
inline Vec first(int n, Vec x, Vec rest) {
  const uint32_t lanes[4] = {0, 1, 2, 3};
  return vbslq_f32(vcltq_u32(vld1q_u32(lanes), vdupq_n_u32(static_cast<uint32_t>(n))), x, rest);
}

inline Vec nearest(Vec x) { return vrndnq_f32(x); }

// 2^n of whole numbers n from -126 to 127
inline Vec power_of_2(Vec n) {
  return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23));
}

}  // namespace cpu

#include "block.hpp"
