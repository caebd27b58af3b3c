// A convolution in float32; see conv.cpp for the way forward, conv_backward.cpp for the way back.
#pragma once

#include <cstdlib>
#include <memory>
#include <vector>

#include "../program.hpp"
#include "winograd.hpp"

namespace cpu {

class Conv : public Op {
 public:
  Conv(const std::vector<Value>& values, const ConvSpec& spec, int out_value);

  void run(const Sample& sample) const override;
  size_t scratch_bytes() const override;
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
  // Row y of the input, normalised: pitch pixels, border() of them before the first; 0 outside the map.
  void lay_row(const Sample& sample, const Normaliser* normaliser, int y, int pitch, float* to) const;
  void lay(const Sample& sample, const Normaliser* normaliser, float* to) const;  // all rows, borders included
  template <typename Sink>
  void direct(const float* laid, float* sums, Sink&& sink) const;
  void weight_backward(const Sample& sample, const Normaliser* normaliser, float* scratch, float* products) const;
  void input_backward(const Sample& sample, float* grads, float* scratch) const;

  float weight(int o, int i, int tap) const {  // i: among the padded channels
    const int channel = i < step_ ? in_at_[i] : -1;
    if (o >= spec_.out_channels || channel < 0) return 0.0f;
    return raw_[(static_cast<size_t>(o) * in_channels_ + channel) * taps_ + tap];
  }
  bool by_tiles() const { return spec_.kernel == 3 && spec_.stride == 1; }
  bool weights_by_tiles() const { return by_tiles() && plan_.out == 4; }  // with small tiles little is saved
  int border() const { return spec_.kernel / 2; }
  int laid_pitch() const { return w_ + 2 * border(); }
  size_t laid_size() const { return static_cast<size_t>(h_ + 2 * border()) * laid_pitch() * step_; }
  size_t products_size() const { return static_cast<size_t>(taps_) * step_ * out_step_; }

  ConvSpec spec_;
  const int out_value_;
  int output_ = -1;
  std::vector<int> in_at_;  // of every padded input channel: which one it is, or -1
  int in_channels_ = 0, step_ = 0, out_step_ = 0, repeat_ = 1, taps_ = 9;
  int h_ = 0, w_ = 0, out_h_ = 0, out_w_ = 0;  // h, w: of the input, once upsampled
  TilePlan plan_, back_plan_;
  std::vector<float> raw_, weight_, turned_, bias_;  // turned_: for the way back; empty if no longer that of raw_
};

}  // namespace cpu
