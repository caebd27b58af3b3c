// A convolution in float32; see conv.cpp for the way forward, conv_backward.cpp for the way back.
#pragma once

#include <cstdlib>
#include <memory>
#include <vector>

#include "../program.hpp"
#include "winograd.hpp"

namespace cpu {

class Writer;

class Conv : public Op {
 public:
  Conv(const std::vector<Value>& values, const ConvSpec& spec, int out_value);

  void run(const Sample& sample) const override;
  size_t scratch_bytes() const override;
  size_t common_bytes(int hands) const override;
  std::vector<int> parts(const Value& written) const override;
  void prepare_backward() override;
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
  // Channels of row y of the input, normalised: pitch pixels, border() of them before the first; 0 outside the map.
  void lay_row(const Sample& sample, const Normaliser* normaliser, int y, int pitch, Channels channels, float* to) const;
  // So many rows from y on, laid_pitch() pixels each; y may lie in the border.
  void lay(const Sample& sample, const Normaliser* normaliser, int y, int rows, float* to) const;
  template <int kOut>
  void run_by_tiles(const Sample& sample, const Normaliser* normaliser) const;
  void run_directly(const Sample& sample, const Normaliser* normaliser) const;
  void run_pixel_by_pixel(const Sample& sample) const;
  void multiply_rows(int strip, int first, const float* laid, float* sums, Writer& writer) const;
  void weight_backward(const Sample& sample, const Normaliser* normaliser, float* scratch, float* products) const;
  void input_backward(const Sample& sample, float* grads, float* scratch) const;

  float weight(int o, int i, int tap) const {  // i: among the padded channels
    const int channel = i < step_ ? in_at_[i] : -1;
    if (o >= spec_.out_channels || channel < 0) return 0.0f;
    return raw_[(static_cast<size_t>(o) * in_channels_ + channel) * taps_ + tap];
  }
  bool by_tiles() const { return spec_.kernel == 3 && spec_.stride == 1; }
  bool weights_by_tiles() const { return by_tiles() && plan_.out == 4; }  // with small tiles little is saved
  // Of 1x1: whether the weights are more than the input and too many for the cache, so that they are read only once.
  bool whole() const { return spec_.kernel == 1 && out_h_ * out_w_ <= out_step_ && products_size() > kInCache; }
  static constexpr int kPixels = 60;  // of 1x1, that are multiplied together: a multiple of most numbers of rows
  int border() const { return spec_.kernel / 2; }
  int laid_pitch() const { return w_ + 2 * border(); }
  size_t laid_size(int rows) const { return static_cast<size_t>(rows) * laid_pitch() * step_; }
  // Of a direct convolution: strips of rows_ output rows, and the rows of the input that such a strip reads.
  int strips() const { return (out_h_ + rows_ - 1) / rows_; }
  int rows_read() const { return (rows_ - 1) * spec_.stride + spec_.kernel; }
  // Whether a strip for each is enough for all; else they share a strip's channels too.
  static bool plenty(int strips, int hands) { return hands == 1 || strips >= 3 * hands; }
  bool by_strips(int hands) const {
    if (plan_.whole) return false;
    return hands == 1 || (plenty(plan_.strips(), hands) && weight_.size() < plan_.strips() * plan_.input_size());
  }
  size_t products_size() const { return static_cast<size_t>(taps_) * step_ * out_step_; }

  ConvSpec spec_;
  const int out_value_;
  int output_ = -1;
  std::vector<int> in_at_;  // of every padded input channel: which one it is, or -1
  int in_channels_ = 0, step_ = 0, out_step_ = 0, repeat_ = 1, taps_ = 9;
  int h_ = 0, w_ = 0, out_h_ = 0, out_w_ = 0;  // h, w: of the input, once upsampled
  int rows_ = 1;
  TilePlan plan_, back_plan_;
  std::vector<float> raw_, weight_, turned_, bias_;  // turned_: for the way back; empty if no longer that of raw_
};

}  // namespace cpu
