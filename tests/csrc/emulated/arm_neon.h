// The instructions that csrc/cpu/float32/neon.hpp is written in, in plain C++; see immintrin.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

using float32x4_t = float __attribute__((vector_size(16)));
using int32x4_t = int32_t __attribute__((vector_size(16)));
using uint32x4_t = uint32_t __attribute__((vector_size(16)));

inline float32x4_t vld1q_f32(const float* from) { return float32x4_t{from[0], from[1], from[2], from[3]}; }
inline void vst1q_f32(float* to, float32x4_t x) { std::memcpy(to, &x, sizeof x); }
inline float32x4_t vdupq_n_f32(float x) { return float32x4_t{x, x, x, x}; }
inline float32x4_t vfmaq_f32(float32x4_t c, float32x4_t a, float32x4_t b) { return c + a * b; }
inline float32x4_t vfmsq_f32(float32x4_t c, float32x4_t a, float32x4_t b) { return c - a * b; }
inline float32x4_t vnegq_f32(float32x4_t x) { return -x; }
inline float32x4_t vmaxq_f32(float32x4_t a, float32x4_t b) { return (a > b) | (a != a) ? a : b; }  // NaN if one is
inline float32x4_t vminq_f32(float32x4_t a, float32x4_t b) { return (a < b) | (a != a) ? a : b; }
inline float vaddvq_f32(float32x4_t x) { return x[0] + x[1] + x[2] + x[3]; }
inline float vmaxvq_f32(float32x4_t x) { return std::fmax(std::fmax(x[0], x[1]), std::fmax(x[2], x[3])); }
inline float32x4_t vrndnq_f32(float32x4_t x) {
  return float32x4_t{std::nearbyint(x[0]), std::nearbyint(x[1]), std::nearbyint(x[2]), std::nearbyint(x[3])};
}
inline uint32x4_t vld1q_u32(const uint32_t* from) { return uint32x4_t{from[0], from[1], from[2], from[3]}; }
inline uint32x4_t vdupq_n_u32(uint32_t x) { return uint32x4_t{x, x, x, x}; }
inline uint32x4_t vcltq_u32(uint32x4_t a, uint32x4_t b) { return a < b; }
inline float32x4_t vbslq_f32(uint32x4_t which, float32x4_t a, float32x4_t b) { return which ? a : b; }
inline int32x4_t vdupq_n_s32(int32_t x) { return int32x4_t{x, x, x, x}; }
inline int32x4_t vaddq_s32(int32x4_t a, int32x4_t b) { return a + b; }
inline int32x4_t vcvtq_s32_f32(float32x4_t x) { return __builtin_convertvector(x, int32x4_t); }
inline int32x4_t vshlq_n_s32(int32x4_t x, int by) { return x << by; }
inline float32x4_t vreinterpretq_f32_s32(int32x4_t x) { return reinterpret_cast<float32x4_t>(x); }
