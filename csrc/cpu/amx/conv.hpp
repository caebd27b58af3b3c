// A convolution as a matrix product on AMX tiles; see conv.cpp for the way forward, conv_backward.cpp for the way back.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <vector>

#include "../program.hpp"

namespace cpu {

// 32 channels of one tap, or 16 of two taps beside each other, where a tile finds them.
struct Chunk {
  const uint8_t* base;
  int pixel_bytes;
};

// 16 output pixels.
struct PixelTile {
  int first;            // distance of the first one's input from the chunk's base, in pixels
  int outputs[kLanes];  // which pixel each is, or -1
};

// Tiles, an even number, for h x w outputs whose rows lie pitch steps of the stride apart in the input.
std::vector<PixelTile> plan_tiles(int h, int w, int pitch, int stride);

// Calls epilogue(pixel, sums of 32 channels) for every output pixel of tiles first to end; both are even.
// kHalf: only 16 of the channels are there, the others' sums are 0.
template <bool kHalf, typename Epilogue>
inline void multiply(const std::vector<PixelTile>& tiles, size_t first, size_t end, int stride,
                     const std::vector<Chunk>& chunks, const uint8_t* weight, Epilogue&& epilogue) {
  alignas(kCacheLine) float sums[2][2][kLanes * kLanes];  // [tile][half of the channels]
  finish_stores();
  for (size_t t = first; t < end; t += 2) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    const uint8_t* b = weight;
    const PixelTile* pair = &tiles[t];
    for (const Chunk& chunk : chunks) {
      const size_t step = static_cast<size_t>(chunk.pixel_bytes) * stride;
      _tile_loadd(4, chunk.base + static_cast<size_t>(pair[0].first) * chunk.pixel_bytes, step);
      _tile_loadd(6, b, 64);
      _tile_loadd(5, chunk.base + static_cast<size_t>(pair[1].first) * chunk.pixel_bytes, step);
      if constexpr (!kHalf) _tile_loadd(7, b + kTileBytes, 64);
      _tile_dpbf16ps(0, 4, 6);
      if constexpr (!kHalf) _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      if constexpr (!kHalf) _tile_dpbf16ps(3, 5, 7);
      b += 2 * kTileBytes;
    }
    _tile_stored(0, sums[0][0], 64);
    _tile_stored(1, sums[0][1], 64);
    _tile_stored(2, sums[1][0], 64);
    _tile_stored(3, sums[1][1], 64);
    for (int half = 0; half < 2; ++half) {
      for (int i = 0; i < kLanes; ++i) {
        const int pixel = pair[half].outputs[i];
        if (pixel < 0) continue;
        epilogue(pixel, Pair{_mm512_load_ps(&sums[half][0][i * kLanes]), _mm512_load_ps(&sums[half][1][i * kLanes])});
      }
    }
  }
}

template <typename Epilogue>
inline void multiply(int channels, const std::vector<PixelTile>& tiles, size_t first, size_t end, int stride,
                     const std::vector<Chunk>& chunks, const uint8_t* weight, Epilogue&& epilogue) {
  channels <= kLanes ? multiply<true>(tiles, first, end, stride, chunks, weight, epilogue)
                     : multiply<false>(tiles, first, end, stride, chunks, weight, epilogue);
}

struct FreeAligned {
  void operator()(void* p) const { std::free(p); }
};
using Bytes = std::unique_ptr<uint8_t, FreeAligned>;

class Conv : public Op {
 public:
  Conv(const std::vector<Value>& values, const ConvSpec& spec, int out_value);

  void run(const Sample& sample) const override;
  size_t common_bytes(int hands) const override;
  std::vector<int> parts(const Value& written) const override;
  void backward(const Sample& sample, float* weight_grads) const override;
  size_t backward_scratch_bytes() const override;
  size_t weight_grads_size() const override;
  void read_weight_grads(const float* weight_grads, float* weight, float* bias) const override;
  void read_norm_grads(const float* weight_grads, float* weight, float* bias) const override;
  Norm* norm() override { return &spec_.norm; }
  int weight_size() const override { return spec_.out_channels * in_channels_ * taps_; }
  int bias_size() const override { return spec_.out_channels; }
  void set_weight(const float* weight, const float* bias) override;  // [O, I, k, k], [O]
  bool redirect(int output) override {
    output_ = output;
    return true;
  }

 private:
  // Lays the input, normalised, into to: [H+2, W+2, step] with a border of zeros, or [H, W, step] for a 1x1
  // convolution; zeros behind it. step: all blocks, or 16 if there are no more channels.
  void lay(const Sample& sample, int step, bf16* to) const;
  std::vector<Chunk> chunks(const std::vector<Chunk>& sources) const;
  // Of few channels two taps of a row make a chunk, the third one another, whose other half has no weights.
  bool joins_taps() const { return spec_.kernel == 3 && blocks_ == 1 && in_channels_ <= kLanes; }
  std::vector<Chunk> joined_chunks(const uint8_t* laid) const;
  int num_chunks() const { return joins_taps() ? 6 : taps_ * blocks_; }
  int laid_step() const { return joins_taps() ? kLanes : blocks_ * kBlock; }
  template <bool kResidual, bool kPlanes>
  void product(const Sample& sample, const std::vector<Chunk>& chunks, int pair, int part) const;

  int border() const { return spec_.kernel / 2; }
  size_t laid_pixels() const;  // those of zeros behind included
  size_t laid_bytes() const { return laid_pixels() * laid_step() * sizeof(bf16); }
  // Output pixels are shared out in parts, each some pairs of tiles.
  int num_parts() const { return std::clamp(static_cast<int>(tiles_.size()) / 4, 1, 16); }
  size_t first_tile(int part) const { return tiles_.size() / 2 * part / num_parts() * 2; }
  bool input_has_grad(const Sample& sample) const;
  void input_backward(const Sample& sample, const bf16* laid_grads, bf16* grads, float* weight_grads) const;
  size_t products_size() const { return static_cast<size_t>(out_blocks_) * blocks_ * taps_ * kBlock * kBlock; }

  ConvSpec spec_;
  const int out_value_;
  int output_ = -1;
  std::vector<int> channels_;  // of every input
  int in_channels_ = 0, blocks_ = 0, out_blocks_ = 0, repeat_ = 1, taps_ = 9;
  int h_ = 0, w_ = 0, padded_w_ = 0, out_h_ = 0, out_w_ = 0;  // h, w: of the input, once upsampled
  std::vector<PixelTile> tiles_, input_tiles_;
  Bytes weight_, transposed_;
  std::vector<float> bias_;
};

}  // namespace cpu
