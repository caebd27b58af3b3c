// Vectors of four float32 numbers, by the compilers' vector types: for any processor.
#pragma once

namespace cpu {

constexpr int kLanes = 4;
constexpr int kRows = 4;  // of a product's register block, two vectors wide: 8 sums in 16 registers

using Vec = float __attribute__((vector_size(16)));
using Ints = int __attribute__((vector_size(16)));

inline Vec load(const float* from) { return Vec{from[0], from[1], from[2], from[3]}; }
inline void store(float* to, Vec x) {
  for (int i = 0; i < kLanes; ++i) to[i] = x[i];
}
inline Vec set1(float x) { return Vec{x, x, x, x}; }
inline Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
inline Vec fms(Vec a, Vec b, Vec c) { return a * b - c; }
inline Vec fnma(Vec a, Vec b, Vec c) { return c - a * b; }
inline Vec max(Vec a, Vec b) { return a > b ? a : b; }  // b if one is not a number
inline Vec max_or_nan(Vec a, Vec b) { return a != a ? a : max(a, b); }
inline Vec min(Vec a, Vec b) { return a < b ? a : b; }
inline Vec reciprocal(Vec x) { return set1(1.0f) / x; }
inline float reduce_add(Vec x) { return (x[0] + x[1]) + (x[2] + x[3]); }
inline float reduce_max(Vec x) {
  float largest = x[0];
  for (int i = 1; i < kLanes; ++i) largest = x[i] > largest ? x[i] : largest;
  return largest;
}

// The first n lanes of x, the others of rest.
inline Vec first(int n, Vec x, Vec rest) { return Ints{0, 1, 2, 3} < Ints{n, n, n, n} ? x : rest; }

inline Vec nearest(Vec x) {  // of |x| < 2^22: beyond 2^23 a float32 has no fraction
  const Vec whole = set1(12582912.0f);
  return (x + whole) - whole;
}

// 2^n of whole numbers n from -126 to 127
inline Vec power_of_2(Vec n) {
  return reinterpret_cast<Vec>((__builtin_convertvector(n, Ints) + 127) << 23);
}

}  // namespace cpu

#include "block.hpp"
