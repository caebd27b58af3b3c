// The way back through a convolution: two more matrix products.
//
// The output's gradient is laid out like the input, on its grid of H x W pixels with a border of zeros (where the
// stride left pixels out, zeros stand). Then
//   input's gradient = a convolution of it with the weights turned around, as on the way forward;
//   weight's gradient for a tap = sum over pixels of input(pixel + tap) x gradient(pixel): A is the input, laid out as
//   before and transposed to rows of pixels, B the gradient in pairs of pixels. Borders and tails are zeros of B.
#include <algorithm>
#include <cstring>

#include "conv.hpp"

namespace cpu {
namespace {

constexpr int kPixelsAtOnce = 512;  // as much of A and B as the first-level cache holds

// 32 pixels x 32 channels -> pairs of pixels: [half of the channels][pair][channel, 2]
void pair_pixels(const bf16* from, int step, __m512i out[2][kLanes]) {
  alignas(64) static const uint16_t kLow[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const __m512i low = _mm512_load_si512(kLow), high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  for (int pair = 0; pair < kLanes; ++pair, from += 2 * step) {
    const __m512i even = _mm512_loadu_si512(from), odd = _mm512_loadu_si512(from + step);
    out[0][pair] = _mm512_permutex2var_epi16(even, low, odd);
    out[1][pair] = _mm512_permutex2var_epi16(even, high, odd);
  }
}

// 16 x 16 numbers of 32 bits
void transpose(__m512i x[kLanes]) {
  __m512i y[kLanes];
  for (int i = 0; i < kLanes; i += 2) {
    y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
    y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
  }
  for (int i = 0; i < kLanes; i += 4) {
    x[i] = _mm512_unpacklo_epi64(y[i], y[i + 2]);
    x[i + 1] = _mm512_unpackhi_epi64(y[i], y[i + 2]);
    x[i + 2] = _mm512_unpacklo_epi64(y[i + 1], y[i + 3]);
    x[i + 3] = _mm512_unpackhi_epi64(y[i + 1], y[i + 3]);
  }
  // x[4 i + j], 128-bit lane k: rows 4 i to 4 i + 3 of column 4 k + j
  for (int j = 0; j < 4; ++j) {
    const __m512i a = _mm512_shuffle_i32x4(x[j], x[4 + j], 0x88), b = _mm512_shuffle_i32x4(x[8 + j], x[12 + j], 0x88);
    const __m512i c = _mm512_shuffle_i32x4(x[j], x[4 + j], 0xdd), d = _mm512_shuffle_i32x4(x[8 + j], x[12 + j], 0xdd);
    y[j] = _mm512_shuffle_i32x4(a, b, 0x88);
    y[4 + j] = _mm512_shuffle_i32x4(c, d, 0x88);
    y[8 + j] = _mm512_shuffle_i32x4(a, b, 0xdd);
    y[12 + j] = _mm512_shuffle_i32x4(c, d, 0xdd);
  }
  for (int i = 0; i < kLanes; ++i) x[i] = y[i];
}

size_t aligned(size_t bytes) { return (bytes + kCacheLine - 1) / kCacheLine * kCacheLine; }

// Where things lie in the scratch memory of a way back.
struct Places {
  int pixels;        // of the product for the weights, a multiple of 32
  int row_pixels;    // length of a row of the transposed input
  size_t grads, input, rows, pairs, result, size;

  Places(int h, int padded_w, int border, size_t laid_pixels, int blocks, int out_blocks)
      : pixels(round_up(h * padded_w, kBlock)),
        row_pixels(round_up(pixels + 2 * border * (padded_w + 1), kBlock) + kBlock) {
    const size_t block_bytes = kBlock * sizeof(bf16);
    grads = 0;
    input = grads + aligned(laid_pixels * out_blocks * block_bytes);
    rows = input + aligned(laid_pixels * blocks * block_bytes);
    pairs = rows + aligned(static_cast<size_t>(row_pixels) * blocks * block_bytes);
    result = pairs + aligned(static_cast<size_t>(pixels) * out_blocks * block_bytes);
    size = result + aligned(static_cast<size_t>(h) * padded_w * blocks * block_bytes);
  }
};

}  // namespace

size_t Conv::backward_scratch_bytes() const {
  return Places(h_, padded_w_, border(), laid_pixels(), blocks_, out_blocks_).size;
}

size_t Conv::weight_grads_size() const {
  const size_t norm = spec_.norm.groups > 0 && spec_.norm.modulation < 0 ? 2 * static_cast<size_t>(in_channels_) : 0;
  return products_size() + out_blocks_ * kBlock + norm;
}

bool Conv::input_has_grad(const Sample& sample) const {
  return std::any_of(spec_.inputs.begin(), spec_.inputs.end(), [&](int v) { return !sample.values[v].input; });
}

void Conv::backward(const Sample& sample, float* weight_grads) const {
  const Places places(h_, padded_w_, border(), laid_pixels(), blocks_, out_blocks_);
  uint8_t* scratch = sample.scratch();
  auto* grads = reinterpret_cast<bf16*>(scratch + places.grads);
  auto* input = reinterpret_cast<bf16*>(scratch + places.input);
  auto* rows = reinterpret_cast<bf16*>(scratch + places.rows);
  auto* pairs = reinterpret_cast<bf16*>(scratch + places.pairs);
  const int step = blocks_ * kBlock, out_step = out_blocks_ * kBlock, edge = border();
  const bf16* out_grads = sample.grad(out_value_);

  if (spec_.residual >= 0) add_grad(sample, spec_.residual, out_grads, out_blocks_, 0);

  // the output's gradient on the input's grid, and the bias's
  std::memset(grads, 0, laid_pixels() * out_step * sizeof(bf16));
  float* bias_grads = weight_grads + products_size();
  for (int block = 0; block < out_blocks_; ++block) {
    Pair sum{};
    const bf16* from = out_grads + block * kBlock;
    for (int y = 0; y < out_h_; ++y) {
      bf16* to = grads + (static_cast<size_t>(y * spec_.stride + edge) * padded_w_ + edge) * out_step + block * kBlock;
      for (int x = 0; x < out_w_; ++x, from += out_step, to += spec_.stride * out_step) {
        _mm512_storeu_si512(to, _mm512_loadu_si512(from));
        const Pair g = load_block(from);
        sum = {_mm512_add_ps(sum.lo, g.lo), _mm512_add_ps(sum.hi, g.hi)};
      }
    }
    float* to = bias_grads + block * kBlock;
    _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), sum.lo));
    _mm512_storeu_ps(to + kLanes, _mm512_add_ps(_mm512_loadu_ps(to + kLanes), sum.hi));
  }

  // A and B of the weights' gradient
  lay(sample, step, input);
  __m512i block32[2][kLanes];
  const size_t row_length = places.row_pixels;
  const size_t laid = laid_pixels();
  for (int first = 0; first < places.row_pixels; first += kBlock) {
    if (static_cast<size_t>(first) + kBlock > laid) {
      for (int c = 0; c < step; ++c) std::memset(rows + c * row_length + first, 0, kBlock * sizeof(bf16));
      continue;
    }
    for (int block = 0; block < blocks_; ++block) {
      pair_pixels(input + static_cast<size_t>(first) * step + block * kBlock, step, block32);
      for (int half = 0; half < 2; ++half) {
        transpose(block32[half]);
        bf16* to = rows + (block * kBlock + half * kLanes) * row_length + first;
        for (int c = 0; c < kLanes; ++c) _mm512_storeu_si512(to + c * row_length, block32[half][c]);
      }
    }
  }
  const bf16* first_grad = grads + static_cast<size_t>(edge) * (padded_w_ + 1) * out_step;
  for (int first = 0; first < places.pixels; first += kBlock) {
    for (int block = 0; block < out_blocks_; ++block) {
      pair_pixels(first_grad + static_cast<size_t>(first) * out_step + block * kBlock, out_step, block32);
      bf16* to = pairs + (static_cast<size_t>(first) * out_blocks_ + block * kBlock) * kBlock;
      for (int half = 0; half < 2; ++half) {
        for (int i = 0; i < kLanes; ++i) _mm512_store_si512(to + (half * kLanes + i) * kBlock, block32[half][i]);
      }
    }
  }
  finish_stores();
  for (int begin = 0; begin < places.pixels; begin += kPixelsAtOnce) {
    const int end = std::min(begin + kPixelsAtOnce, places.pixels);
    float* products = weight_grads;
    for (int out = 0; out < out_blocks_; ++out) {
      for (int in = 0; in < blocks_; ++in) {
        for (int tap = 0; tap < taps_; ++tap, products += kBlock * kBlock) {
          const bf16* a = rows + in * kBlock * row_length + tap / 3 * padded_w_ + tap % 3;
          constexpr int kTile = kLanes * kLanes;
          _tile_loadd(0, products, 64);
          _tile_loadd(1, products + kTile, 64);
          _tile_loadd(2, products + 2 * kTile, 64);
          _tile_loadd(3, products + 3 * kTile, 64);
          for (int pixel = begin; pixel < end; pixel += kBlock) {
            const bf16* b = pairs + (static_cast<size_t>(pixel) * out_blocks_ + out * kBlock) * kBlock;
            _tile_loadd(4, a + pixel, row_length * sizeof(bf16));
            _tile_loadd(6, b, 64);
            _tile_loadd(5, a + pixel + kLanes * row_length, row_length * sizeof(bf16));
            _tile_loadd(7, b + kLanes * kBlock, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
          }
          _tile_stored(0, products, 64);
          _tile_stored(1, products + kTile, 64);
          _tile_stored(2, products + 2 * kTile, 64);
          _tile_stored(3, products + 3 * kTile, 64);
        }
      }
    }
  }

  if (input_has_grad(sample)) {
    auto* result = reinterpret_cast<bf16*>(scratch + places.result);
    input_backward(sample, grads, result, weight_grads + products_size() + out_blocks_ * kBlock);
  }
}

void Conv::input_backward(const Sample& sample, const bf16* laid_grads, bf16* grads, float* norm_grads) const {
  const int step = blocks_ * kBlock, out_bytes = out_blocks_ * kBlock * static_cast<int>(sizeof(bf16));
  const std::vector<Chunk> all = chunks({{reinterpret_cast<const uint8_t*>(laid_grads), out_bytes}});
  for (int in = 0; in < blocks_; ++in) {
    const uint8_t* weight = transposed_.get() + all.size() * 2 * kTileBytes * in;
    bf16* to = grads + in * kBlock;
    multiply(kBlock, input_tiles_, 0, input_tiles_.size(), 1, all, weight,
             [&](int pixel, Pair y) { store_block(to + static_cast<size_t>(pixel) * step, y); });
  }
  give_to_inputs(spec_, sample, repeat_, grads, norm_grads);
}

void Conv::read_weight_grads(const float* weight_grads, float* weight, float* bias) const {
  const float* products = weight_grads;  // [out block][in block][tap][half of in][half of out][16 in][16 out]
  for (int out = 0; out < out_blocks_; ++out) {
    int in = 0, first = 0;
    for (int channels : channels_) {
      for (int block = 0; block * kBlock < channels; ++block, ++in) {
        for (int tap = 0; tap < taps_; ++tap, products += kBlock * kBlock) {
          for (int i = 0; i < std::min(kBlock, channels - block * kBlock); ++i) {
            for (int o = 0; o < std::min(kBlock, spec_.out_channels - out * kBlock); ++o) {
              const int tile = i / kLanes * 2 + o / kLanes;
              const size_t row = static_cast<size_t>(out * kBlock + o) * in_channels_ + first + block * kBlock + i;
              weight[row * taps_ + tap] = products[(tile * kLanes + i % kLanes) * kLanes + o % kLanes];
            }
          }
        }
      }
      first += channels;
    }
  }
  std::copy_n(weight_grads + products_size(), spec_.out_channels, bias);
}

void Conv::read_norm_grads(const float* weight_grads, float* weight, float* bias) const {
  const float* from = weight_grads + products_size() + out_blocks_ * kBlock;
  std::copy_n(from, in_channels_, weight);
  std::copy_n(from + in_channels_, in_channels_, bias);
}

}  // namespace cpu
