// The way back through a convolution.
//
//   input's gradient = a convolution of the output's gradient with the weights turned around; where the stride left
//   pixels out, zeros stand. 3x3 goes by Winograd's tiles.
//   weight's gradient for a tap = sum over pixels of input(pixel + tap) x gradient(pixel): a plain product, or on large
//   maps by Winograd's tiles too.
#include <algorithm>
#include <cstring>

#include "conv.hpp"

namespace cpu {

size_t Conv::backward_scratch_bytes() const {
  const size_t weights = weights_by_tiles() ? plan_.weight_grads_scratch_size(out_step_) : laid_size(h_ + 2 * border());
  const size_t size = static_cast<size_t>(h_) * w_ * step_ + std::max(weights, back_plan_.scratch_size());
  return std::max(scratch_bytes(), size * sizeof(float));
}

size_t Conv::weight_grads_size() const {
  const size_t norm = spec_.norm.groups > 0 && spec_.norm.modulation < 0 ? 2 * static_cast<size_t>(in_channels_) : 0;
  return products_size() + out_step_ + norm;
}

void Conv::prepare_backward() {
  if (!turned_.empty()) return;
  if (spec_.kernel == 3) {
    turned_.assign(back_plan_.weight_size(step_), 0.0f);
    const auto element = [this](int in, int out, int tap) { return weight(out, in, 8 - tap); };
    back_plan_.out == 4 ? transform_weight<4>(out_step_, step_, turned_.data(), element)
                        : transform_weight<2>(out_step_, step_, turned_.data(), element);
    return;
  }
  for (int first = 0; first < step_; first += kPanel) {
    for (int o = 0; o < out_step_; ++o) {
      for (int i = first; i < std::min(first + kPanel, step_); ++i) turned_.push_back(weight(o, i, 0));
    }
  }
}

void Conv::backward(const Sample& sample, float* weight_grads) const {
  const float* out_grads = sample.grad(out_value_);
  if (spec_.residual >= 0) add_grad(sample, spec_.residual, out_grads, out_step_ / kBlock, 0);

  float* bias_grads = weight_grads + products_size();
  for (int c = 0; c < out_step_; c += kBlock) {
    Vec sum = load(bias_grads + c);
    for (int i = 0; i < out_h_ * out_w_; ++i) sum = sum + load(out_grads + static_cast<size_t>(i) * out_step_ + c);
    store(bias_grads + c, sum);
  }

  std::unique_ptr<Normaliser> normaliser;
  if (spec_.norm.groups > 0) normaliser = std::make_unique<Normaliser>(spec_.norm, sample, spec_.inputs);
  auto* grads = reinterpret_cast<float*>(sample.scratch());
  float* scratch = grads + static_cast<size_t>(h_) * w_ * step_;
  weight_backward(sample, normaliser.get(), scratch, weight_grads);

  const auto has_grad = [&](int input) { return !sample.values[input].input; };
  if (std::none_of(spec_.inputs.begin(), spec_.inputs.end(), has_grad)) return;
  input_backward(sample, grads, scratch);
  give_to_inputs(spec_, sample, repeat_, grads, weight_grads + products_size() + out_step_);
}

void Conv::weight_backward(const Sample& sample, const Normaliser* normaliser, float* scratch, float* products) const {
  const float* out_grads = sample.grad(out_value_);
  if (weights_by_tiles()) {
    const auto lay = [&](int y, Channels channels, float* to) {
      lay_row(sample, normaliser, y, plan_.pitch, channels, to);
    };
    winograd_weight_grads<4>(plan_, h_, w_, out_step_, out_grads, scratch, products, lay);
    return;
  }
  lay(sample, normaliser, -border(), h_ + 2 * border(), scratch);
  const size_t row = static_cast<size_t>(laid_pitch()) * step_, out_row = static_cast<size_t>(out_w_) * out_step_;
  const int rows_at_once = std::max(1, 64 / out_w_);  // as much of both as the first-level cache holds
  for (int y = 0; y < out_h_; y += rows_at_once) {
    for (int tap = 0; tap < taps_; ++tap) {
      add_outer(scratch + (y * spec_.stride + tap / 3) * row + tap % 3 * step_, spec_.stride * row, spec_.stride * step_,
                out_grads + y * out_row, out_row, out_step_, std::min(rows_at_once, out_h_ - y), out_w_, step_, out_step_,
                products + static_cast<size_t>(tap) * step_ * out_step_);
    }
  }
}

namespace {

struct Store {  // sums as they come
  float* to;
  int step;
  Store open(int block, int, bool) const { return {to + block * kBlock, step}; }
  void put(int pixel, Vec y) const { store(to + static_cast<size_t>(pixel) * step, y); }
  void close() const {}
};

}  // namespace

void Conv::input_backward(const Sample& sample, float* grads, float* scratch) const {
  const float* out_grads = sample.grad(out_value_);
  if (spec_.kernel == 1) {
    for (int y = 0; y < h_; ++y) {
      const float* panel = turned_.data();
      for (int first = 0; first < step_; first += kPanel) {
        const int columns = std::min(kPanel, step_ - first);
        const size_t pixel = static_cast<size_t>(y) * w_;
        const Run run{out_grads + pixel * out_step_, out_step_, static_cast<size_t>(out_step_)};
        multiply(&run, 1, w_, panel, columns / kLanes, grads + pixel * step_ + first, step_);
        panel += static_cast<size_t>(out_step_) * columns;
      }
    }
    return;
  }
  const auto row = [&](int y, Channels, float* to) {  // all of them
    std::memset(to, 0, static_cast<size_t>(back_plan_.pitch) * out_step_ * sizeof(float));
    if (y < 0 || y >= h_ || y % spec_.stride != 0) return;
    const float* from = out_grads + static_cast<size_t>(y / spec_.stride) * out_w_ * out_step_;
    to += out_step_;
    for (int x = 0; x < out_w_; ++x, from += out_step_, to += spec_.stride * out_step_) {
      std::copy(from, from + out_step_, to);
    }
  };
  Store sink{grads, step_};
  for (int i = 0; i < back_plan_.strips(); ++i) {
    back_plan_.out == 4 ? winograd_strip<4>(back_plan_, h_, w_, i, i > 0, step_, turned_.data(), scratch, row, sink)
                        : winograd_strip<2>(back_plan_, h_, w_, i, i > 0, step_, turned_.data(), scratch, row, sink);
  }
}

void Conv::read_weight_grads(const float* weight_grads, float* weight, float* bias) const {
  for (int tap = 0; tap < taps_; ++tap) {
    for (int i = 0; i < step_; ++i, weight_grads += out_step_) {
      if (in_at_[i] < 0) continue;
      for (int o = 0; o < spec_.out_channels; ++o) {
        weight[(static_cast<size_t>(o) * in_channels_ + in_at_[i]) * taps_ + tap] = weight_grads[o];
      }
    }
  }
  std::copy_n(weight_grads, spec_.out_channels, bias);
}

void Conv::read_norm_grads(const float* weight_grads, float* weight, float* bias) const {
  const float* from = weight_grads + products_size() + out_step_;
  std::copy_n(from, in_channels_, weight);
  std::copy_n(from + in_channels_, in_channels_, bias);
}

}  // namespace cpu
