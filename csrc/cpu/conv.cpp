// Convolution as a matrix product on AMX tiles.
//
// Before: the input, normalised and activated once, is laid into a padded copy [H+2, W+2, C] (a 1x1 convolution reads
// the values themselves). A tile of A is 16 output pixels at an even distance in it x 32 channels of one tap; B is the
// weight of that tap. Pixels that lie in the padding are computed with the others and dropped.
// After: bias, residual, statistics for the next norm, all while the sums are in the first-level cache.
#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "program.hpp"

namespace cpu {
namespace {

bf16 to_bf16(float x) {  // to the nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<bf16>((bits >> 16) | 0x40);
  return static_cast<bf16>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

enum class Prologue { copy, normalise, normalise_silu };

template <Prologue kPrologue>
void lay_row(const bf16* from, int pixels, int from_step, bf16* to, int to_step, int repeat, const float* gain,
             const float* offset) {
  Pair g{}, o{}, ge{}, oe{};
  if constexpr (kPrologue != Prologue::copy) {
    const __m512 log2e = _mm512_set1_ps(-kLog2E);
    g = {_mm512_loadu_ps(gain), _mm512_loadu_ps(gain + kLanes)};
    o = {_mm512_loadu_ps(offset), _mm512_loadu_ps(offset + kLanes)};
    ge = {_mm512_mul_ps(g.lo, log2e), _mm512_mul_ps(g.hi, log2e)};
    oe = {_mm512_mul_ps(o.lo, log2e), _mm512_mul_ps(o.hi, log2e)};
  }
  for (int i = 0; i < pixels; ++i, from += from_step) {
    if constexpr (kPrologue == Prologue::copy) {
      const __m512i x = _mm512_loadu_si512(from);
      for (int k = 0; k < repeat; ++k, to += to_step) _mm512_storeu_si512(to, x);
    } else {
      const Pair x = load_block(from);
      Pair z{_mm512_fmadd_ps(x.lo, g.lo, o.lo), _mm512_fmadd_ps(x.hi, g.hi, o.hi)};
      if constexpr (kPrologue == Prologue::normalise_silu) {
        z.lo = silu(z.lo, _mm512_fmadd_ps(x.lo, ge.lo, oe.lo));
        z.hi = silu(z.hi, _mm512_fmadd_ps(x.hi, ge.hi, oe.hi));
      }
      for (int k = 0; k < repeat; ++k, to += to_step) store_block(to, z);
    }
  }
}

class Conv : public Op {
 public:
  Conv(const std::vector<Value>& values, const ConvSpec& spec, int out_value)
      : spec_(spec), out_value_(out_value) {
    const Value& x = values[spec.inputs[0]];
    for (int input : spec.inputs) {
      channels_.push_back(values[input].channels);
      blocks_ += values[input].blocks();
    }
    repeat_ = spec.upsample ? 2 : 1;
    h_ = x.h * repeat_, w_ = x.w * repeat_;
    out_h_ = (h_ - 1) / spec.stride + 1, out_w_ = (w_ - 1) / spec.stride + 1;
    out_blocks_ = (spec.out_channels + kBlock - 1) / kBlock;
    taps_ = spec.kernel * spec.kernel;
    padded_w_ = spec.kernel == 3 ? w_ + 2 : w_;
    plan_tiles();
    weight_.reset(static_cast<uint8_t*>(std::aligned_alloc(kCacheLine, weight_bytes())));
    std::memset(weight_.get(), 0, weight_bytes());
    bias_.assign(out_blocks_ * kBlock, 0.0f);
  }

  Norm* norm() override { return &spec_.norm; }

  int weight_size() const override {
    int in_channels = 0;
    for (int c : channels_) in_channels += c;
    return spec_.out_channels * in_channels * taps_;
  }

  int bias_size() const override { return spec_.out_channels; }

  // weight [O, I, k, k], bias [O]
  void set_weight(const float* weight, const float* bias) override {
    int in_channels = 0;
    for (int c : channels_) in_channels += c;
    auto* to = reinterpret_cast<bf16*>(weight_.get());
    for (int pair = 0; pair < out_blocks_; ++pair) {
      for (int tap = 0; tap < taps_; ++tap) {
        int first = 0;
        for (int channels : channels_) {
          for (int block = 0; block < (channels + kBlock - 1) / kBlock; ++block) {
            for (int half = 0; half < 2; ++half) {
              for (int row = 0; row < kLanes; ++row) {
                for (int column = 0; column < kLanes; ++column) {
                  for (int odd = 0; odd < 2; ++odd) {
                    const int o = pair * kBlock + half * kLanes + column;
                    const int i = block * kBlock + row * 2 + odd;
                    const bool exists = o < spec_.out_channels && i < channels;
                    *to++ = exists ? to_bf16(weight[(static_cast<size_t>(o) * in_channels + first + i) * taps_ + tap]) : 0;
                  }
                }
              }
            }
          }
          first += channels;
        }
      }
    }
    for (int o = 0; o < spec_.out_channels; ++o) bias_[o] = bias[o];
  }

  bool redirect(int output) override {
    output_ = output;
    return true;
  }

  size_t scratch_bytes() const override {
    const size_t pixels = static_cast<size_t>(h_ + 2) * (w_ + 2) + 4 * (w_ + 2) + 8 * kLanes;
    return pixels * blocks_ * kBlock * sizeof(bf16) + 2 * blocks_ * kBlock * sizeof(float);
  }

  void run(const Sample& sample) const override {
    std::vector<const uint8_t*> sources;
    std::vector<int> pixel_bytes;
    if (spec_.kernel == 3) {
      sources.push_back(lay(sample));
      pixel_bytes.push_back(blocks_ * kBlock * sizeof(bf16));
    } else {
      for (int input : spec_.inputs) {
        sources.push_back(reinterpret_cast<const uint8_t*>(sample.data(input)));
        pixel_bytes.push_back(sample.values[input].padded() * sizeof(bf16));
      }
    }
    std::vector<Chunk> chunks;
    for (int tap = 0; tap < taps_; ++tap) {
      for (size_t s = 0; s < sources.size(); ++s) {
        const int at = (tap / 3 * padded_w_ + tap % 3) * pixel_bytes[s];
        for (int block = 0; block < pixel_bytes[s] / kCacheLine; ++block) {
          chunks.push_back({sources[s] + at + block * kCacheLine, pixel_bytes[s]});
        }
      }
    }
    const bool residual = spec_.residual >= 0;
    for (int pair = 0; pair < out_blocks_; ++pair) {
      if (output_ >= 0) {
        residual ? product<true, true>(sample, chunks, pair) : product<false, true>(sample, chunks, pair);
      } else {
        residual ? product<true, false>(sample, chunks, pair) : product<false, false>(sample, chunks, pair);
      }
    }
  }

 private:
  struct Chunk {  // 32 input channels of one tap
    const uint8_t* base;
    int pixel_bytes;
  };
  struct Tile {  // 16 output pixels
    int first;            // distance of the first one's input from the chunk's base, in pixels
    int outputs[kLanes];  // which pixel each is, or -1
  };

  size_t weight_bytes() const { return static_cast<size_t>(out_blocks_) * taps_ * blocks_ * 2 * kTileBytes; }

  void plan_tiles() {
    const int pitch = padded_w_;  // of output rows, in steps of the stride
    const int by_rows = out_h_ * ((out_w_ + kLanes - 1) / kLanes);
    const int flat = ((out_h_ - 1) * pitch + out_w_ + kLanes - 1) / kLanes;
    auto add = [&](int start) {
      Tile tile;
      tile.first = start * spec_.stride;
      for (int i = 0; i < kLanes; ++i) {
        const int y = (start + i) / pitch, x = (start + i) % pitch;
        tile.outputs[i] = y < out_h_ && x < out_w_ ? y * out_w_ + x : -1;
      }
      tiles_.push_back(tile);
    };
    if (by_rows <= flat) {
      for (int y = 0; y < out_h_; ++y) {
        for (int x = 0; x < out_w_; x += kLanes) {
          add(y * pitch + x);
          for (int i = out_w_ - x; i < kLanes; ++i) tiles_.back().outputs[i] = -1;  // the next row has its own tiles
        }
      }
    } else {
      for (int i = 0; i < flat; ++i) add(i * kLanes);
    }
    if (tiles_.size() % 2) {
      tiles_.push_back(tiles_.back());
      for (int& output : tiles_.back().outputs) output = -1;
    }
  }

  const uint8_t* lay(const Sample& sample) const {
    auto* padded = reinterpret_cast<bf16*>(sample.scratch);
    const int step = blocks_ * kBlock;
    const size_t row = static_cast<size_t>(padded_w_) * step;
    float *gain = nullptr, *offset = nullptr;
    if (spec_.norm.groups > 0) {
      gain = reinterpret_cast<float*>(sample.scratch + scratch_bytes()) - 2 * step;
      offset = gain + step;
      gain_and_offset(spec_.norm, sample, spec_.inputs, gain, offset);
    }
    std::memset(padded, 0, row * sizeof(bf16));
    std::memset(padded + row * (h_ + 1), 0, row * sizeof(bf16));
    for (int y = 0; y < h_; y += repeat_) {
      bf16* to = padded + (y + 1) * row;
      std::memset(to, 0, step * sizeof(bf16));
      std::memset(to + row - step, 0, step * sizeof(bf16));
      int first_block = 0;
      for (int input : spec_.inputs) {
        const Value& v = sample.values[input];
        const bf16* from = sample.data(input) + static_cast<size_t>(y / repeat_) * v.w * v.padded();
        for (int block = 0; block < v.blocks(); ++block) {
          const int c = (first_block + block) * kBlock;
          const bf16* f = from + block * kBlock;
          bf16* t = to + step + c;
          if (spec_.norm.groups == 0) {
            lay_row<Prologue::copy>(f, v.w, v.padded(), t, step, repeat_, nullptr, nullptr);
          } else if (spec_.norm.silu) {
            lay_row<Prologue::normalise_silu>(f, v.w, v.padded(), t, step, repeat_, gain + c, offset + c);
          } else {
            lay_row<Prologue::normalise>(f, v.w, v.padded(), t, step, repeat_, gain + c, offset + c);
          }
        }
        first_block += v.blocks();
      }
      if (repeat_ == 2) std::memcpy(to + row, to, row * sizeof(bf16));
    }
    return sample.scratch;
  }

  template <bool kResidual, bool kPlanes>
  void product(const Sample& sample, const std::vector<Chunk>& chunks, int pair) const {
    alignas(kCacheLine) float sums[2][2][kLanes * kLanes];  // [tile][half of the channels]
    const uint8_t* weight = weight_.get() + chunks.size() * 2 * kTileBytes * pair;
    const Pair bias{_mm512_loadu_ps(&bias_[pair * kBlock]), _mm512_loadu_ps(&bias_[pair * kBlock + kLanes])};
    Pair pivot{}, sum{}, squares{};
    bool first = true;
    const int out_step = out_blocks_ * kBlock;
    const bf16* residual = kResidual ? sample.data(spec_.residual) + pair * kBlock : nullptr;
    bf16* out = kPlanes ? nullptr : sample.data(out_value_) + pair * kBlock;
    for (size_t t = 0; t < tiles_.size(); t += 2) {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
      const uint8_t* b = weight;
      const Tile *upper = &tiles_[t], *lower = upper + 1;
      for (const Chunk& chunk : chunks) {
        const size_t step = static_cast<size_t>(chunk.pixel_bytes) * spec_.stride;
        _tile_loadd(4, chunk.base + static_cast<size_t>(upper->first) * chunk.pixel_bytes, step);
        _tile_loadd(6, b, 64);
        _tile_loadd(5, chunk.base + static_cast<size_t>(lower->first) * chunk.pixel_bytes, step);
        _tile_loadd(7, b + kTileBytes, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        b += 2 * kTileBytes;
      }
      _tile_stored(0, sums[0][0], 64);
      _tile_stored(1, sums[0][1], 64);
      _tile_stored(2, sums[1][0], 64);
      _tile_stored(3, sums[1][1], 64);
      for (int half = 0; half < 2; ++half) {
        for (int i = 0; i < kLanes; ++i) {
          const int pixel = upper[half].outputs[i];
          if (pixel < 0) continue;
          Pair y{_mm512_add_ps(_mm512_load_ps(&sums[half][0][i * kLanes]), bias.lo),
                 _mm512_add_ps(_mm512_load_ps(&sums[half][1][i * kLanes]), bias.hi)};
          if constexpr (kResidual) {
            const Pair r = load_block(residual + static_cast<size_t>(pixel) * out_step);
            y = {_mm512_add_ps(y.lo, r.lo), _mm512_add_ps(y.hi, r.hi)};
          }
          if constexpr (kPlanes) {
            store_planes(sample, pair, pixel, y);
            continue;
          }
          store_block(out + static_cast<size_t>(pixel) * out_step, y);
          if (first) pivot = y, first = false;
          const Pair d{_mm512_sub_ps(y.lo, pivot.lo), _mm512_sub_ps(y.hi, pivot.hi)};
          sum = {_mm512_add_ps(sum.lo, d.lo), _mm512_add_ps(sum.hi, d.hi)};
          squares = {_mm512_fmadd_ps(d.lo, d.lo, squares.lo), _mm512_fmadd_ps(d.hi, d.hi, squares.hi)};
        }
      }
    }
    if constexpr (!kPlanes) {
      const Stats stats = sample.stats(out_value_);
      auto store = [&](float* to, const Pair& x) {
        _mm512_storeu_ps(to + pair * kBlock, x.lo);
        _mm512_storeu_ps(to + pair * kBlock + kLanes, x.hi);
      };
      store(stats.pivot, pivot);
      store(stats.sum, sum);
      store(stats.squares, squares);
    }
  }

  void store_planes(const Sample& sample, int pair, int pixel, const Pair& y) const {
    const int pixels = out_h_ * out_w_;
    float* out = sample.call.outputs[output_] + static_cast<size_t>(sample.index) * spec_.out_channels * pixels + pixel;
    alignas(kCacheLine) float row[kBlock];
    _mm512_store_ps(row, y.lo);
    _mm512_store_ps(row + kLanes, y.hi);
    const int channels = std::min(kBlock, spec_.out_channels - pair * kBlock);
    for (int c = 0; c < channels; ++c) out[static_cast<size_t>(pair * kBlock + c) * pixels] = row[c];
  }

  struct Free {
    void operator()(void* p) const { std::free(p); }
  };

  ConvSpec spec_;
  const int out_value_;
  int output_ = -1;
  std::vector<int> channels_;  // of every input
  int blocks_ = 0, out_blocks_ = 0, repeat_ = 1, taps_ = 9;
  int h_ = 0, w_ = 0, padded_w_ = 0, out_h_ = 0, out_w_ = 0;
  std::vector<Tile> tiles_;
  std::unique_ptr<uint8_t, Free> weight_;
  std::vector<float> bias_;
};

}  // namespace

std::unique_ptr<Op> make_conv(const std::vector<Value>& values, const ConvSpec& spec, int out_value) {
  return std::make_unique<Conv>(values, spec, out_value);
}

}  // namespace cpu
