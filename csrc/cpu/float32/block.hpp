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

// What follows is for several vectors at once, step by step: each step of one would have to wait for the step before,
// and meanwhile those of the others are done. kAtOnce is a number that leaves enough registers.
constexpr int kAtOnce = 4;

template <int kN, typename Step>
inline void for_each_of(Step&& step) {
#pragma GCC unroll 4
  for (int i = 0; i < kN; ++i) step(i);
}

// t = 2^t to within 3e-7 of it; 2^-126 or 2^127 beyond. A Taylor series gives the fraction of t, which is at most 1/2,
// and the exponent takes the whole part. What is not a number stays so.
template <int kN>
inline void exp2_fast(Vec (&t)[kN]) {
  constexpr float kTaylor[] = {1.3333558e-3f, 9.6181291e-3f, 5.5504109e-2f, 0.24022651f, 0.69314718f, 1.0f};
  Vec whole[kN], p[kN];
  for_each_of<kN>([&](int i) { t[i] = min(set1(127.0f), max(set1(-126.0f), t[i])); });
  for_each_of<kN>([&](int i) { whole[i] = nearest(t[i]); });
  for_each_of<kN>([&](int i) { t[i] = t[i] - whole[i]; });
  for_each_of<kN>([&](int i) { p[i] = set1(1.5403530e-4f); });
#pragma GCC unroll 6
  for (float factor : kTaylor) for_each_of<kN>([&](int i) { p[i] = fma(p[i], t[i], set1(factor)); });
  for_each_of<kN>([&](int i) { t[i] = p[i] * power_of_2(whole[i]); });
}

// z = sigmoid(z)
template <int kN>
inline void sigmoid(Vec (&z)[kN]) {
  for_each_of<kN>([&](int i) { z[i] = z[i] * set1(-kLog2E); });
  exp2_fast(z);
  for_each_of<kN>([&](int i) { z[i] = reciprocal(set1(1.0f) + z[i]); });
}

// z = z sigmoid(z)
template <int kN>
inline void silu(Vec (&z)[kN]) {
  Vec s[kN];
  for_each_of<kN>([&](int i) { s[i] = z[i]; });
  sigmoid(s);
  for_each_of<kN>([&](int i) { z[i] = z[i] * s[i]; });
}

// z = d silu / d z = s (1 + z (1 - s)), s = sigmoid(z)
template <int kN>
inline void silu_slope(Vec (&z)[kN]) {
  const Vec one = set1(1.0f);
  Vec s[kN];
  for_each_of<kN>([&](int i) { s[i] = z[i]; });
  sigmoid(s);
  for_each_of<kN>([&](int i) { z[i] = s[i] * fma(z[i], one - s[i], one); });
}

struct Tiles {  // nothing to hold
  Tiles() {}
};

}  // namespace cpu
