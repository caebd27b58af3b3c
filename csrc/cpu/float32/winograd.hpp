// 3x3 convolutions with stride 1 by Winograd's minimal filtering: kOut x kOut outputs from (kOut + 2)^2 products a
// channel pair instead of 9 kOut^2 (Lavin and Gray, arXiv 1509.09308).
//
//   Y = A^T [ sum over channels of (G g G^T) . (B^T d B) ] A
//
// with tiles d of the input that overlap by two pixels. What depends on the tile only is done a vector of channels at a
// time; the sums over channels are one matrix product for each of the (kOut + 2)^2 places, tiles x channels in by
// channels in x channels out.
#pragma once

#include <algorithm>
#include <cstring>

#include "product.hpp"

namespace cpu {

template <int kOut>
struct Winograd;

template <>
struct Winograd<2> {
  static constexpr int kIn = 4;
  static constexpr double kG[4][3] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};

  static void input(const Vec d[4], Vec y[4]) {
    y[0] = d[0] - d[2];
    y[1] = d[1] + d[2];
    y[2] = d[2] - d[1];
    y[3] = d[1] - d[3];
  }
  static void output(const Vec m[4], Vec y[2]) {
    y[0] = m[0] + m[1] + m[2];
    y[1] = m[1] - m[2] - m[3];
  }
};

template <>
struct Winograd<4> {
  static constexpr int kIn = 6;
  static constexpr double kG[6][3] = {{1.0 / 4, 0, 0},
                                      {-1.0 / 6, -1.0 / 6, -1.0 / 6},
                                      {-1.0 / 6, 1.0 / 6, -1.0 / 6},
                                      {1.0 / 24, 1.0 / 12, 1.0 / 6},
                                      {1.0 / 24, -1.0 / 12, 1.0 / 6},
                                      {0, 0, 1}};

  static void input(const Vec d[6], Vec y[6]) {
    const Vec two = set1(2.0f), four = set1(4.0f), five = set1(5.0f);
    const Vec a = fnma(four, d[2], d[4]), b = fnma(four, d[1], d[3]), c = d[4] - d[2], e = d[3] - d[1];
    y[0] = fma(four, d[0], fnma(five, d[2], d[4]));
    y[1] = a + b;
    y[2] = a - b;
    y[3] = fma(two, e, c);
    y[4] = fnma(two, e, c);
    y[5] = fma(four, d[1], fnma(five, d[3], d[5]));
  }
  static void output(const Vec m[6], Vec y[4]) {
    const Vec two = set1(2.0f), four = set1(4.0f), eight = set1(8.0f);
    const Vec s = m[1] + m[2], d = m[1] - m[2], s2 = m[3] + m[4], d2 = m[3] - m[4];
    y[0] = m[0] + s + s2;
    y[1] = fma(two, d2, d);
    y[2] = fma(four, s2, s);
    y[3] = fma(eight, d2, d) + m[5];
  }
  static void turned_output(const Vec y[4], Vec m[6]) {
    const Vec two = set1(2.0f), four = set1(4.0f), even = y[0] + y[2], odd = y[1] + y[3];
    const Vec even2 = fma(four, y[2], y[0]), odd2 = two * fma(four, y[3], y[1]);
    m[0] = y[0];
    m[1] = even + odd;
    m[2] = even - odd;
    m[3] = even2 + odd2;
    m[4] = even2 - odd2;
    m[5] = y[3];
  }
};

constexpr int kInCache = 320 * 1024 / sizeof(float);  // numbers that the second-level cache holds beside others

// How a map of h x w pixels is cut into tiles, and how many rows of tiles are worked on at once: as many as leave their
// transforms in the second-level cache. A map whose transforms are fewer numbers than the weights', and these too many
// for the cache, is worked on as a whole: so its weights are read once.
struct TilePlan {
  int out, in, across, down, rows, pitch;  // pitch: pixels of a row of the input, laid out with its border
  int step, places;
  bool whole;

  TilePlan(int out, int h, int w, int step, int out_step) : out(out), in(out + 2), step(step), places(in * in) {
    across = (w + out - 1) / out;
    down = (h + out - 1) / out;
    whole = across * down <= out_step && weight_size(out_step) > kInCache;
    rows = whole ? down : std::clamp(kInCache / (places * across * step), 1, down);
    pitch = across * out + 2;
  }
  int tiles() const { return rows * across; }
  int strips() const { return (down + rows - 1) / rows; }
  int rows_of(int strip) const { return std::min(rows, down - strip * rows); }
  // Places lie an odd number of cache lines apart, or they would compete for the same few sets of the cache.
  size_t input_place() const { return static_cast<size_t>(tiles()) * step + 16; }
  size_t output_place() const { return static_cast<size_t>(tiles()) * kPanel + 16; }
  size_t laid_size() const { return static_cast<size_t>(rows * out + 2) * pitch * step; }
  size_t input_size() const { return places * input_place(); }
  size_t grad_place(int out_step) const { return static_cast<size_t>(tiles()) * out_step + 16; }
  size_t scratch_size() const { return laid_size() + input_size() + places * output_place(); }
  size_t weight_grads_scratch_size(int out_step) const {
    return laid_size() + places * (input_place() + grad_place(out_step) + static_cast<size_t>(step) * out_step);
  }
  size_t weight_size(int out_step) const { return static_cast<size_t>(places) * step * out_step; }
};

// G g G^T of every pair of channels, packed: [panel of out][place][in][columns of the panel].
// weight(o, i, tap) gives the weight, 0 where there is no channel; out_step: padded channels.
template <int kOut, typename Weight>
void transform_weight(int step, int out_step, float* to, Weight&& weight) {
  using W = Winograd<kOut>;
  for (int first = 0; first < out_step; first += kPanel) {
    const int columns = std::min(kPanel, out_step - first);
    for (int i = 0; i < step; ++i) {
      for (int o = 0; o < columns; ++o) {
        double half[W::kIn][3];
        float g[9];
        for (int tap = 0; tap < 9; ++tap) g[tap] = weight(first + o, i, tap);
        for (int y = 0; y < W::kIn; ++y) {
          for (int x = 0; x < 3; ++x) half[y][x] = W::kG[y][0] * g[x] + W::kG[y][1] * g[3 + x] + W::kG[y][2] * g[6 + x];
        }
        float* at = to + static_cast<size_t>(i) * columns + o;
        for (int y = 0; y < W::kIn; ++y) {
          for (int x = 0; x < W::kIn; ++x, at += static_cast<size_t>(step) * columns) {
            *at = static_cast<float>(half[y][0] * W::kG[x][0] + half[y][1] * W::kG[x][1] + half[y][2] * W::kG[x][2]);
          }
        }
      }
    }
    to += static_cast<size_t>(W::kIn * W::kIn) * step * columns;
  }
}

struct Channels {  // first to end, whole blocks
  int first, end;
  int count() const { return end - first; }
};

// Lays the rows of a strip of tiles beside each other and transforms its tiles: [place][tile][all channels].
// lay(y, channels, to): row y of the input to pitch pixels, one of border first; y may be -1 or beyond the last, which
// are 0. goes_on: laid holds the strip before, whose last two rows are the first of this one.
template <int kOut, typename Lay>
void transform_input(const TilePlan& plan, int strip, Channels channels, bool goes_on, float* laid, float* input,
                     Lay&& lay) {
  constexpr int kIn = kOut + 2;
  const int step = channels.count(), rows = plan.rows_of(strip), top = strip * plan.rows * kOut - 1;
  const size_t row_size = static_cast<size_t>(plan.pitch) * step, in_place = plan.input_place();
  if (goes_on) std::memcpy(laid, laid + plan.rows * kOut * row_size, 2 * row_size * sizeof(float));
  for (int y = goes_on ? 2 : 0; y < rows * kOut + 2; ++y) lay(top + y, channels, laid + y * row_size);
  for (int tile = 0; tile < rows * plan.across; ++tile) {
    const int left = tile % plan.across * kOut;
    const float* corner = laid + tile / plan.across * kOut * row_size + static_cast<size_t>(left) * step;
    for (int c = 0; c < step; c += kLanes) {
      Vec half[kIn][kIn];  // [column][row of B^T d]
      for (int x = 0; x < kIn; ++x) {
        Vec d[kIn];
        for (int y = 0; y < kIn; ++y) d[y] = load(corner + y * row_size + x * step + c);
        Winograd<kOut>::input(d, half[x]);
      }
      float* to = input + static_cast<size_t>(tile) * plan.step + channels.first + c;
      for (int y = 0; y < kIn; ++y) {
        Vec d[kIn], v[kIn];
        for (int x = 0; x < kIn; ++x) d[x] = half[x][y];
        Winograd<kOut>::input(d, v);
        for (int x = 0; x < kIn; ++x, to += in_place) store(to, v[x]);
      }
    }
  }
}

// The products of a strip of transformed tiles with a panel of weights, and back to pixels. first: the panel's channel.
// Of sink.open(block, strip, true): put(pixel, sums) for every output of a block, then close().
template <int kOut, typename Sink>
void multiply_tiles(const TilePlan& plan, int h, int w, int strip, int first, int out_step, const float* input,
                    const float* weight, float* sums, Sink&& sink) {
  constexpr int kIn = kOut + 2;
  const int step = plan.step, tiles = plan.rows_of(strip) * plan.across, columns = std::min(kPanel, out_step - first);
  const size_t in_place = plan.input_place(), out_place = plan.output_place();
  const float* panel = weight + static_cast<size_t>(plan.places) * step * first;
  for (int place = 0; place < kIn * kIn; ++place, panel += static_cast<size_t>(step) * columns) {
    const float* next = plan.whole ? panel + static_cast<size_t>(step) * columns : nullptr;  // behind the last: any
    const Run run{input + place * in_place, step, static_cast<size_t>(step)};
    multiply(&run, 1, tiles, panel, columns / kLanes, sums + place * out_place, columns, next);
  }
  for (int c = 0; c < columns; c += kLanes) {
    auto column = sink.open((first + c) / kLanes, strip, true);
    for (int tile = 0; tile < tiles; ++tile) {
      const float* from = sums + static_cast<size_t>(tile) * columns + c;
      Vec half[kIn][kOut];  // [column][row of A^T m]
      for (int x = 0; x < kIn; ++x) {
        Vec m[kIn];
        for (int y = 0; y < kIn; ++y) m[y] = load(from + (y * kIn + x) * out_place);
        Winograd<kOut>::output(m, half[x]);
      }
      const int top = (strip * plan.rows + tile / plan.across) * kOut, left = tile % plan.across * kOut;
#pragma GCC unroll 4
      for (int y = 0; y < kOut; ++y) {
        if (top + y >= h) break;
        Vec m[kIn], out[kOut];
        for (int x = 0; x < kIn; ++x) m[x] = half[x][y];
        Winograd<kOut>::output(m, out);
#pragma GCC unroll 4
        for (int x = 0; x < kOut; ++x) {
          if (left + x < w) column.put((top + y) * w + left + x, out[x]);
        }
      }
    }
    column.close();
  }
}

// A strip of the convolution, by one thread. The sink is that of multiply_tiles, of lay and goes_on see transform_input.
template <int kOut, typename Lay, typename Sink>
void winograd_strip(const TilePlan& plan, int h, int w, int strip, bool goes_on, int out_step, const float* weight,
                    float* scratch, Lay&& lay, Sink&& sink) {
  float *laid = scratch, *input = laid + plan.laid_size(), *sums = input + plan.input_size();
  transform_input<kOut>(plan, strip, {0, plan.step}, goes_on, laid, input, lay);
  for (int first = 0; first < out_step; first += kPanel) {
    multiply_tiles<kOut>(plan, h, w, strip, first, out_step, input, weight, sums, sink);
  }
}

// The gradient of the weights, which turns the scheme around:
//   dg = G^T [ sum over tiles of (B^T d B) . (A dY A^T) ] G
// grads: of the outputs, [h, w, out_step]. products [tap][in][out]: the gradient is added to them.
template <int kOut, typename Lay>
void winograd_weight_grads(const TilePlan& plan, int h, int w, int out_step, const float* grads, float* scratch,
                           float* products, Lay&& lay) {
  using W = Winograd<kOut>;
  constexpr int kIn = W::kIn;
  const int step = plan.step;
  const size_t in_place = plan.input_place(), grad_place = plan.grad_place(out_step);
  const size_t pairs = static_cast<size_t>(step) * out_step;
  float *laid = scratch, *input = laid + plan.laid_size(), *turned = input + plan.places * in_place;
  float* sums = turned + plan.places * grad_place;  // [place][in][out]
  std::fill(sums, sums + plan.places * pairs, 0.0f);
  for (int strip = 0; strip < plan.strips(); ++strip) {
    const int tiles = plan.rows_of(strip) * plan.across;
    transform_input<kOut>(plan, strip, {0, step}, strip > 0, laid, input, lay);
    for (int tile = 0; tile < tiles; ++tile) {
      const int top = (strip * plan.rows + tile / plan.across) * kOut, left = tile % plan.across * kOut;
      const bool whole = top + kOut <= h && left + kOut <= w;
      const float* corner = grads + (static_cast<size_t>(top) * w + left) * out_step;
      for (int c = 0; c < out_step; c += kLanes) {
        Vec half[kOut][kIn];  // [column][row of A dY]
        for (int x = 0; x < kOut; ++x) {
          Vec d[kOut];
          for (int y = 0; y < kOut; ++y) {
            const bool inside = whole || (top + y < h && left + x < w);
            d[y] = inside ? load(corner + (static_cast<size_t>(y) * w + x) * out_step + c) : set1(0.0f);
          }
          W::turned_output(d, half[x]);
        }
        float* to = turned + static_cast<size_t>(tile) * out_step + c;
        for (int y = 0; y < kIn; ++y) {
          Vec d[kOut], v[kIn];
          for (int x = 0; x < kOut; ++x) d[x] = half[x][y];
          W::turned_output(d, v);
          for (int x = 0; x < kIn; ++x, to += grad_place) store(to, v[x]);
        }
      }
    }
    for (int place = 0; place < kIn * kIn; ++place) {
      add_outer(input + place * in_place, 0, step, turned + place * grad_place, 0, out_step, 1, tiles, step, out_step,
                sums + place * pairs);
    }
  }
  for (size_t pair = 0; pair < pairs; pair += kLanes) {
    Vec half[kIn][3];  // [column][row of G^T sums]
    for (int x = 0; x < kIn; ++x) {
      for (int k = 0; k < 3; ++k) {
        half[x][k] = set1(0.0f);
        for (int y = 0; y < kIn; ++y) {
          half[x][k] = fma(set1(static_cast<float>(W::kG[y][k])), load(sums + (y * kIn + x) * pairs + pair), half[x][k]);
        }
      }
    }
    for (int tap = 0; tap < 9; ++tap) {
      float* to = products + tap * pairs + pair;
      Vec sum = load(to);
      for (int x = 0; x < kIn; ++x) sum = fma(set1(static_cast<float>(W::kG[x][tap % 3])), half[x][tap / 3], sum);
      store(to, sum);
    }
  }
}

}  // namespace cpu
