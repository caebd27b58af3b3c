// Before: the input, normalised and activated once, is laid into a padded copy [H+2, W+2, C] (a 1x1 convolution reads
// the values themselves). A tile of A is 16 output pixels at an even distance in it x 32 channels of one tap; B is the
// weight of that tap. Two taps of at most 16 channels, which lie beside each other, share a tile. Pixels that lie in the padding are computed with the others and dropped.
// After: bias, residual, statistics for the next norm, all while the sums are in the first-level cache.
#include "conv.hpp"

#include <algorithm>
#include <cstring>

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

Bytes zeros(size_t size) {
  Bytes bytes(static_cast<uint8_t*>(std::aligned_alloc(kCacheLine, size)));
  if (bytes == nullptr) throw std::bad_alloc();
  std::memset(bytes.get(), 0, size);
  return bytes;
}

// Tiles of B for a product with 32 columns: for every chunk of 32 rows two tiles of [16 pairs of rows, 16 columns, 2].
// element(row in the chunk, column) gives the weight.
template <typename Element>
bf16* pack_chunk(bf16* to, Element&& element) {
  for (int half = 0; half < 2; ++half) {
    for (int row = 0; row < kLanes; ++row) {
      for (int column = 0; column < kLanes; ++column) {
        for (int odd = 0; odd < 2; ++odd) *to++ = to_bf16(element(row * 2 + odd, half * kLanes + column));
      }
    }
  }
  return to;
}

}  // namespace

std::vector<PixelTile> plan_tiles(int h, int w, int pitch, int stride) {
  std::vector<PixelTile> tiles;
  auto add = [&](int start) {
    PixelTile tile;
    tile.first = start * stride;
    for (int i = 0; i < kLanes; ++i) {
      const int y = (start + i) / pitch, x = (start + i) % pitch;
      tile.outputs[i] = y < h && x < w ? y * w + x : -1;
    }
    tiles.push_back(tile);
  };
  const int by_rows = h * ((w + kLanes - 1) / kLanes);
  const int flat = ((h - 1) * pitch + w + kLanes - 1) / kLanes;
  if (by_rows <= flat) {
    for (int y = 0; y < h; ++y) {
      for (int x = 0; x < w; x += kLanes) {
        add(y * pitch + x);
        for (int i = w - x; i < kLanes; ++i) tiles.back().outputs[i] = -1;  // the next row has its own tiles
      }
    }
  } else {
    for (int i = 0; i < flat; ++i) add(i * kLanes);
  }
  if (tiles.size() % 2) {
    tiles.push_back(tiles.back());
    for (int& output : tiles.back().outputs) output = -1;
  }
  return tiles;
}

Conv::Conv(const std::vector<Value>& values, const ConvSpec& spec, int out_value) : spec_(spec), out_value_(out_value) {
  const Value& x = values[spec.inputs[0]];
  for (int input : spec.inputs) {
    channels_.push_back(values[input].channels);
    in_channels_ += values[input].channels;
    blocks_ += values[input].blocks();
  }
  repeat_ = spec.upsample ? 2 : 1;
  h_ = x.h * repeat_, w_ = x.w * repeat_;
  out_h_ = (h_ - 1) / spec.stride + 1, out_w_ = (w_ - 1) / spec.stride + 1;
  out_blocks_ = (spec.out_channels + kBlock - 1) / kBlock;
  taps_ = spec.kernel * spec.kernel;
  padded_w_ = w_ + 2 * border();
  tiles_ = plan_tiles(out_h_, out_w_, padded_w_, spec.stride);
  input_tiles_ = plan_tiles(h_, w_, padded_w_, 1);
  weight_ = zeros(static_cast<size_t>(out_blocks_) * num_chunks() * 2 * kTileBytes);
  transposed_ = zeros(static_cast<size_t>(out_blocks_) * taps_ * blocks_ * 2 * kTileBytes);
  bias_.assign(out_blocks_ * kBlock, 0.0f);
}

void Conv::set_weight(const float* weight, const float* bias) {
  std::vector<int> first_channel;  // of every input block, and how many it has
  std::vector<int> num_channels;
  int first = 0;
  for (int channels : channels_) {
    for (int c = 0; c < channels; c += kBlock) {
      first_channel.push_back(first + c);
      num_channels.push_back(std::min(kBlock, channels - c));
    }
    first += channels;
  }
  auto at = [&](int o, int block, int i, int tap) {
    if (o >= spec_.out_channels || i >= num_channels[block]) return 0.0f;
    return weight[(static_cast<size_t>(o) * in_channels_ + first_channel[block] + i) * taps_ + tap];
  };
  auto* to = reinterpret_cast<bf16*>(weight_.get());
  for (int out = 0; out < out_blocks_; ++out) {
    for (int chunk = 0; chunk < num_chunks(); ++chunk) {
      to = pack_chunk(to, [&](int row, int column) {
        const int o = out * kBlock + column;
        if (!joins_taps()) return at(o, chunk % blocks_, row, chunk / blocks_);
        const int x = chunk % 2 * 2 + row / kLanes;
        return x < 3 ? at(o, 0, row % kLanes, chunk / 2 * 3 + x) : 0.0f;
      });
    }
  }
  to = reinterpret_cast<bf16*>(transposed_.get());
  for (int in = 0; in < blocks_; ++in) {
    for (int tap = taps_ - 1; tap >= 0; --tap) {
      for (int out = 0; out < out_blocks_; ++out) {
        to = pack_chunk(to, [&](int row, int column) { return at(out * kBlock + row, in, column, tap); });
      }
    }
  }
  std::copy(bias, bias + spec_.out_channels, bias_.begin());
}

size_t Conv::laid_pixels() const {
  const size_t pixels = static_cast<size_t>(h_ + 2 * border()) * padded_w_;
  return pixels + spec_.stride * (2 * kBlock + 2 * padded_w_ + 2);  // tiles may read past the last row
}

size_t Conv::common_bytes(int /*hands*/) const { return spec_.kernel == 3 ? laid_bytes() : 0; }

std::vector<int> Conv::parts(const Value&) const {
  std::vector<int> result;
  for (int part = 0; part < num_parts(); ++part) {
    int pixels = 0;
    for (size_t t = first_tile(part); t < first_tile(part + 1); ++t) {
      pixels += static_cast<int>(std::count_if(tiles_[t].outputs, tiles_[t].outputs + kLanes, [](int o) { return o >= 0; }));
    }
    result.push_back(pixels);
  }
  return result;
}

std::vector<Chunk> Conv::chunks(const std::vector<Chunk>& sources) const {
  std::vector<Chunk> result;
  for (int tap = 0; tap < taps_; ++tap) {
    for (const Chunk& source : sources) {
      const int at = (tap / 3 * padded_w_ + tap % 3) * source.pixel_bytes;
      for (int byte = 0; byte < source.pixel_bytes; byte += kCacheLine) {
        result.push_back({source.base + at + byte, source.pixel_bytes});
      }
    }
  }
  return result;
}

std::vector<Chunk> Conv::joined_chunks(const uint8_t* laid) const {
  constexpr int kPixelBytes = kLanes * sizeof(bf16);
  std::vector<Chunk> result;
  for (int row = 0; row < 3; ++row) {
    for (int x : {0, 2}) result.push_back({laid + (row * padded_w_ + x) * kPixelBytes, kPixelBytes});
  }
  return result;
}

void Conv::run(const Sample& sample) const {
  std::vector<Chunk> sources;
  if (spec_.kernel == 3) {
    lay(sample, laid_step(), reinterpret_cast<bf16*>(sample.common()));
    sources.push_back({sample.common(), static_cast<int>(laid_step() * sizeof(bf16))});
  } else {
    for (int input : spec_.inputs) {
      const int pixel_bytes = sample.values[input].padded() * sizeof(bf16);
      sources.push_back({reinterpret_cast<const uint8_t*>(sample.data(input)), pixel_bytes});
    }
  }
  const std::vector<Chunk> all = joins_taps() ? joined_chunks(sample.common()) : chunks(sources);
  const bool residual = spec_.residual >= 0;
  sample.share_range(out_blocks_ * num_parts(), [&](int begin, int end) {
    for (int i = begin; i < end; ++i) {
      const int pair = i / num_parts(), part = i % num_parts();
      if (output_ >= 0 && sample.has_grad == nullptr) {
        residual ? product<true, true>(sample, all, pair, part) : product<false, true>(sample, all, pair, part);
      } else {
        residual ? product<true, false>(sample, all, pair, part) : product<false, false>(sample, all, pair, part);
      }
    }
  });
}

void Conv::lay(const Sample& sample, int step, bf16* laid) const {
  const int edge = border();
  const size_t row = static_cast<size_t>(padded_w_) * step;
  std::unique_ptr<Normaliser> normaliser;
  if (spec_.norm.groups > 0) normaliser = std::make_unique<Normaliser>(spec_.norm, sample, spec_.inputs);
  std::memset(laid, 0, row * edge * sizeof(bf16));
  const size_t end = row * (h_ + edge);
  std::memset(laid + end, 0, (laid_pixels() * step - end) * sizeof(bf16));
  sample.share_range(h_ / repeat_, [&](int begin, int end) {
    for (int y = begin; y < end; ++y) {
      bf16* to = laid + (y * repeat_ + edge) * row;
      std::memset(to, 0, edge * step * sizeof(bf16));
      int c = edge * step;
      int at = 0;
      for (int input : spec_.inputs) {
        const Value& v = sample.values[input];
        const bf16* from = sample.data(input) + static_cast<size_t>(y) * v.w * v.padded();
        for (int block = 0; block < v.blocks(); ++block, c += kBlock, at += kBlock, from += kBlock) {
          if (normaliser == nullptr) {
            lay_row<Prologue::copy>(from, v.w, v.padded(), to + c, step, repeat_, nullptr, nullptr);
            continue;
          }
          const float *gain = &normaliser->gain[at], *offset = &normaliser->offset[at];
          if (spec_.norm.silu) {
            lay_row<Prologue::normalise_silu>(from, v.w, v.padded(), to + c, step, repeat_, gain, offset);
          } else {
            lay_row<Prologue::normalise>(from, v.w, v.padded(), to + c, step, repeat_, gain, offset);
          }
        }
      }
      // last: a block of more channels than a step has reaches into the next pixel
      std::memset(to + row - edge * step, 0, edge * step * sizeof(bf16));
      if (repeat_ == 2) std::memcpy(to + row, to, row * sizeof(bf16));
    }
  });
}

template <bool kResidual, bool kPlanes>
void Conv::product(const Sample& sample, const std::vector<Chunk>& chunks, int pair, int part) const {
  const uint8_t* weight = weight_.get() + chunks.size() * 2 * kTileBytes * pair;
  const Pair bias{_mm512_loadu_ps(&bias_[pair * kBlock]), _mm512_loadu_ps(&bias_[pair * kBlock + kLanes])};
  Pair pivot{}, sum{}, squares{};
  bool first = true;
  const int out_step = out_blocks_ * kBlock;
  const bf16* residual = kResidual ? sample.data(spec_.residual) + pair * kBlock : nullptr;
  bf16* out = kPlanes ? nullptr : sample.data(out_value_) + pair * kBlock;
  const int out_pixels = out_h_ * out_w_;
  const int channels = std::min(kBlock, spec_.out_channels - pair * kBlock);
  float* plane = nullptr;
  if constexpr (kPlanes) {
    plane = sample.call.outputs[output_] +
            (static_cast<size_t>(sample.index) * spec_.out_channels + pair * kBlock) * out_pixels;
  }
  const auto write = [&](int pixel, Pair y) {
    y = {_mm512_add_ps(y.lo, bias.lo), _mm512_add_ps(y.hi, bias.hi)};
    if constexpr (kResidual) {
      const Pair r = load_block(residual + static_cast<size_t>(pixel) * out_step);
      y = {_mm512_add_ps(y.lo, r.lo), _mm512_add_ps(y.hi, r.hi)};
    }
    if constexpr (kPlanes) {
      alignas(kCacheLine) float row[kBlock];
      _mm512_store_ps(row, y.lo);
      _mm512_store_ps(row + kLanes, y.hi);
      for (int c = 0; c < channels; ++c) plane[static_cast<size_t>(c) * out_pixels + pixel] = row[c];
    } else {
      store_block(out + static_cast<size_t>(pixel) * out_step, y);
      if (first) pivot = y, first = false;
      const Pair d{_mm512_sub_ps(y.lo, pivot.lo), _mm512_sub_ps(y.hi, pivot.hi)};
      sum = {_mm512_add_ps(sum.lo, d.lo), _mm512_add_ps(sum.hi, d.hi)};
      squares = {_mm512_fmadd_ps(d.lo, d.lo, squares.lo), _mm512_fmadd_ps(d.hi, d.hi, squares.hi)};
    }
  };
  multiply(channels, tiles_, first_tile(part), first_tile(part + 1), spec_.stride, chunks, weight, write);
  if constexpr (!kPlanes) {
    const Stats stats = sample.stats(out_value_, part);
    auto store = [&](float* to, const Pair& x) {
      _mm512_storeu_ps(to + pair * kBlock, x.lo);
      _mm512_storeu_ps(to + pair * kBlock + kLanes, x.hi);
    };
    store(stats.pivot, pivot);
    store(stats.sum, sum);
    store(stats.squares, squares);
  }
}

std::unique_ptr<Op> make_conv(const std::vector<Value>& values, const ConvSpec& spec, int out_value) {
  return std::make_unique<Conv>(values, spec, out_value);
}

}  // namespace cpu
