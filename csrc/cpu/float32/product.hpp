// A matrix product in blocks of kRows rows and two vectors of columns, whose sums stay in registers.
#pragma once

#include <algorithm>
#include <cstddef>

namespace cpu {

constexpr int kPanel = 2 * kLanes;  // columns of a packed matrix that lie together

struct Run {  // what rows of a matrix have at so many successive places, the next row a step further
  const float* from;
  int length;
  size_t step;
};

// to[r][n] = sum over runs and k of run[r][k] * b[.][k][n], of kR rows from the first on and kV vectors of columns
// next: what is fetched from memory meanwhile, fetch numbers with every k; nothing if that is 0.
template <int kR, int kV>
inline void multiply_block(const Run* runs, int num_runs, int first, const float* b, float* to, size_t to_step,
                           const float* next, int fetch) {
  Vec sum[kR][kV];
#pragma GCC unroll 16
  for (int r = 0; r < kR; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kV; ++v) sum[r][v] = set1(0.0f);
  }
  for (int i = 0; i < num_runs; ++i) {
    const size_t step = runs[i].step;
    const float* a = runs[i].from + first * step;
    for (int k = 0; k < runs[i].length; ++k, ++a, b += kV * kLanes, next += fetch) {
      Vec column[kV];
      if (fetch > 0) __builtin_prefetch(next);
#pragma GCC unroll 2
      for (int v = 0; v < kV; ++v) column[v] = load(b + v * kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < kR; ++r) {
        const Vec x = set1(a[r * step]);
#pragma GCC unroll 2
        for (int v = 0; v < kV; ++v) sum[r][v] = fma(x, column[v], sum[r][v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kR; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kV; ++v) store(to + r * to_step + v * kLanes, sum[r][v]);
  }
}

// to[i][n] += sum over pixels (y, x) of a[y][x][i] * b[y][x][n], of kR rows i and kV vectors of columns
template <int kR, int kV>
inline void outer_block(const float* a, size_t a_row, size_t a_step, const float* b, size_t b_row, size_t b_step, int h,
                        int w, float* to, size_t to_step) {
  Vec sum[kR][kV];
#pragma GCC unroll 16
  for (int r = 0; r < kR; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kV; ++v) sum[r][v] = load(to + r * to_step + v * kLanes);
  }
  for (int y = 0; y < h; ++y) {
    const float *left = a + y * a_row, *right = b + y * b_row;
    for (int x = 0; x < w; ++x, left += a_step, right += b_step) {
      Vec column[kV];
#pragma GCC unroll 2
      for (int v = 0; v < kV; ++v) column[v] = load(right + v * kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < kR; ++r) {
        const Vec s = set1(left[r]);
#pragma GCC unroll 2
        for (int v = 0; v < kV; ++v) sum[r][v] = fma(s, column[v], sum[r][v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kR; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kV; ++v) store(to + r * to_step + v * kLanes, sum[r][v]);
  }
}

// Calls function with the numbers of rows and vectors as constants.
template <int kR = kRows, typename Function>
inline void with_constants(int rows, int vectors, Function&& function) {
  if constexpr (kR > 1) {
    if (rows < kR) return with_constants<kR - 1>(rows, vectors, function);
  }
  using Rows = std::integral_constant<int, kR>;
  if (vectors == 2) {
    function(Rows(), std::integral_constant<int, 2>());
  } else {
    function(Rows(), std::integral_constant<int, 1>());
  }
}

// Calls function(first, count) for groups of at most kRows of so many rows, as equal as can be.
template <typename Function>
inline void in_groups(int rows, Function&& function) {
  const int groups = (rows + kRows - 1) / kRows;
  for (int g = 0; g < groups; ++g) {
    const int first = rows * g / groups;
    function(first, rows * (g + 1) / groups - first);
  }
}

// So many rows of runs, one beside the other, times a packed panel of so many vectors -> [rows, to_step]
// next: the panel that will be wanted then, if it is worth fetching from memory in time.
inline void multiply(const Run* runs, int num_runs, int rows, const float* b, int vectors, float* to, size_t to_step,
                     const float* next = nullptr) {
  int length = 0;
  for (int i = 0; i < num_runs; ++i) length += runs[i].length;
  const int groups = (rows + kRows - 1) / kRows, fetch = next == nullptr ? 0 : (vectors * kLanes + groups - 1) / groups;
  in_groups(rows, [&](int first, int count) {
    with_constants(count, vectors, [&](auto r, auto v) {
      multiply_block<decltype(r)::value, decltype(v)::value>(runs, num_runs, first, b, to + first * to_step, to_step, next,
                                                             fetch);
    });
    next += static_cast<size_t>(fetch) * length;
  });
}

// to [in, out] += sum over pixels (y, x) of a[y][x] [in] times b[y][x] [out]
inline void add_outer(const float* a, size_t a_row, size_t a_step, const float* b, size_t b_row, size_t b_step, int h,
                      int w, int in, int out, float* to) {
  for (int first_out = 0; first_out < out; first_out += kPanel) {
    const int vectors = std::min(kPanel, out - first_out) / kLanes;
    in_groups(in, [&](int first, int count) {
      with_constants(count, vectors, [&](auto r, auto v) {
        outer_block<decltype(r)::value, decltype(v)::value>(a + first, a_row, a_step, b + first_out, b_row, b_step, h, w,
                                                            to + static_cast<size_t>(first) * out + first_out, out);
      });
    });
  }
}

}  // namespace cpu
