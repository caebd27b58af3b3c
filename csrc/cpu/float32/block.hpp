// Activations of a float32 set: a block is a vector. Included by every set's own file.
#pragma once

namespace cpu {

using Stored = float;
using Block = Vec;

constexpr int kBlock = kLanes;

inline float widen(float x) { return x; }
inline float narrow(float x) { return x; }
inline Block load_block(const float* from) { return load(from); }
inline void store_block(float* to, Block x) { store(to, x); }
inline Block load_floats(const float* from) { return load(from); }
inline void store_floats(float* to, Block x) { store(to, x); }

constexpr float kLog2E = 1.44269504f;

// 2^t to within 3e-7 of it; 2^-126 or 2^127 beyond. A Taylor series gives the fraction of t, which is at most 1/2, and
// the exponent takes the whole part. What is not a number stays so.
inline Vec exp2_fast(Vec t) {
  t = min(set1(127.0f), max(set1(-126.0f), t));
  const Vec whole = nearest(t), f = t - whole;
  Vec p = set1(1.5403530e-4f);
  p = fma(p, f, set1(1.3333558e-3f));
  p = fma(p, f, set1(9.6181291e-3f));
  p = fma(p, f, set1(5.5504109e-2f));
  p = fma(p, f, set1(0.24022651f));
  p = fma(p, f, set1(0.69314718f));
  p = fma(p, f, set1(1.0f));
  return p * power_of_2(whole);
}

inline Vec sigmoid(Vec z) { return set1(1.0f) / (set1(1.0f) + exp2_fast(z * set1(-kLog2E))); }

inline Vec silu(Vec z) { return z / (set1(1.0f) + exp2_fast(z * set1(-kLog2E))); }

// d silu / d z = s (1 + z (1 - s)), s = sigmoid(z)
inline Vec silu_slope(Vec z) {
  const Vec s = sigmoid(z), one = set1(1.0f);
  return s * fma(z, one - s, one);
}

struct Tiles {  // nothing to hold
  Tiles() {}
};

}  // namespace cpu
