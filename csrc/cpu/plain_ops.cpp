// Operations that only move numbers: in and out of a program, norms by themselves, pooling, resizing.
#include <algorithm>

#include "program.hpp"

namespace cpu {
namespace {

// Statistics of a value that no convolution has written.
void measure(const Sample& sample, int value) {
  const Value& v = sample.values[value];
  const Stats s = sample.stats(value, 0);
  sample.share(v.blocks(), [&](int block, uint8_t*) {
    const Stored* x = sample.data(value) + block * kBlock;
    const Block pivot = load_block(x);
    Block sum{}, squares{};
    for (int i = 0; i < v.pixels(); ++i, x += v.padded()) {
      const Block d = load_block(x) - pivot;
      sum = sum + d;
      squares = fma(d, d, squares);
    }
    store_floats(s.pivot + block * kBlock, pivot);
    store_floats(s.sum + block * kBlock, sum);
    store_floats(s.squares + block * kBlock, squares);
  });
}

// float32 planes of several pieces, scaled, to one value.
class Input : public Op {
 public:
  Input(int value, int first_plane, std::vector<int> channels, std::vector<float> scales)
      : value_(value), first_plane_(first_plane), channels_(std::move(channels)), scales_(std::move(scales)) {}

  void run(const Sample& sample) const override {
    const Value& v = sample.values[value_];
    std::vector<const float*> planes;
    std::vector<float> scales;
    for (size_t k = 0; k < channels_.size(); ++k) {
      const float* first = sample.call.inputs[first_plane_ + k] +
                           static_cast<size_t>(sample.index) * channels_[k] * v.pixels();
      for (int c = 0; c < channels_[k]; ++c) {
        planes.push_back(first + static_cast<size_t>(c) * v.pixels());
        scales.push_back(scales_[k]);
      }
    }
    sample.share_range((v.pixels() + kLanes - 1) / kLanes, [&](int begin, int end) {
      alignas(kCacheLine) float tile[kLanes][kBlock];
      for (int block = 0; block < v.blocks(); ++block) {
        const int channels = std::min(kBlock, v.channels - block * kBlock);
        std::fill(&tile[0][0], &tile[0][0] + kLanes * kBlock, 0.0f);
        for (int first = begin * kLanes; first < std::min(end * kLanes, v.pixels()); first += kLanes) {
          const int pixels = std::min(kLanes, v.pixels() - first);
          for (int c = 0; c < channels; ++c) {
            const float* plane = planes[block * kBlock + c] + first;
            const float scale = scales[block * kBlock + c];
            for (int i = 0; i < pixels; ++i) tile[i][c] = plane[i] * scale;
          }
          Stored* to = sample.data(value_) + static_cast<size_t>(first) * v.padded() + block * kBlock;
          for (int i = 0; i < pixels; ++i, to += v.padded()) {
            store_block(to, load_floats(tile[i]));
          }
        }
      }
    });
  }

  void backward(const Sample&, float*) const override {}

 private:
  const int value_, first_plane_;
  const std::vector<int> channels_;
  const std::vector<float> scales_;
};

class NormOp : public Op {
 public:
  NormOp(int input, int out, Norm norm) : input_(input), out_(out), norm_(std::move(norm)) {}

  Norm* norm() override { return &norm_; }

  void run(const Sample& sample) const override {
    const Value& v = sample.values[input_];
    const Normaliser n(norm_, sample, {input_});
    sample.share_range(v.pixels(), [&](int begin, int end) {
      for (int block = 0; block < v.blocks(); ++block) {
        const int c = block * kBlock;
        const Block g = load_floats(&n.gain[c]), o = load_floats(&n.offset[c]);
        const size_t first = static_cast<size_t>(begin) * v.padded() + c;
        const Stored* from = sample.data(input_) + first;
        Stored* to = sample.data(out_) + first;
        for (int i = begin; i < end; ++i, from += v.padded(), to += v.padded()) {
          store_block(to, fma(load_block(from), g, o));
        }
      }
    });
  }

  void backward(const Sample& sample, float* weight_grads) const override {
    norm_backward(norm_, sample, {input_}, sample.grad(out_), weight_grads);
  }

  size_t weight_grads_size() const override { return norm_.modulation < 0 ? 2 * norm_.weight.size() : 0; }

  void read_norm_grads(const float* weight_grads, float* weight, float* bias) const override {
    std::copy_n(weight_grads, norm_.weight.size(), weight);
    std::copy_n(weight_grads + norm_.weight.size(), norm_.weight.size(), bias);
  }

 private:
  const int input_, out_;
  Norm norm_;
};

// 2x2, stride 2; an odd last row or column is dropped.
class MaxPool : public Op {
 public:
  MaxPool(const std::vector<Value>& values, int input, int out)
      : input_(input), out_(out), bytes_(values[input].num_bytes()) {}

  void run(const Sample& sample) const override {
    const Value &x = sample.values[input_], &y = sample.values[out_];
    const int step = x.padded(), row = x.w * step;
    sample.share_range(y.h, [&](int begin, int end) {
      Stored* to = sample.data(out_) + static_cast<size_t>(begin) * y.w * step;
      for (int i = begin; i < end; ++i) {
        for (int j = 0; j < y.w; ++j) {
          for (int block = 0; block < x.blocks(); ++block, to += kBlock) {
            const Stored* from = sample.data(input_) + 2 * i * row + 2 * j * step + block * kBlock;
            Block m = load_block(from);
            for (const Stored* other : {from + step, from + row, from + row + step}) {
              m = max_or_nan(m, load_block(other));
            }
            store_block(to, m);
          }
        }
      }
    });
    measure(sample, out_);
  }

  // To the first of the largest, as torch does.
  void backward(const Sample& sample, float*) const override {
    const Value &x = sample.values[input_], &y = sample.values[out_];
    const int step = x.padded(), row = x.w * step;
    auto* spread = reinterpret_cast<Stored*>(sample.scratch());
    std::fill(spread, spread + static_cast<size_t>(x.pixels()) * step, Stored{0});
    const Stored* from = sample.grad(out_);
    for (int i = 0; i < y.h; ++i) {
      for (int j = 0; j < y.w; ++j) {
        for (int c = 0; c < step; ++c, ++from) {
          const int first = 2 * i * row + 2 * j * step + c;
          int largest = first;
          for (int other : {first + step, first + row, first + row + step}) {
            if (widen(sample.data(input_)[other]) > widen(sample.data(input_)[largest])) largest = other;
          }
          spread[largest] = *from;
        }
      }
    }
    add_grad(sample, input_, spread, x.blocks(), 0);
  }

  size_t backward_scratch_bytes() const override { return bytes_; }

 private:
  const int input_, out_;
  const size_t bytes_;
};

// A value to float32 planes.
class Output : public Op {
 public:
  Output(int value, int output) : value_(value), output_(output) {}

  void run(const Sample& sample) const override {
    const Value& v = sample.values[value_];
    if (sample.has_grad != nullptr) return;
    const size_t pixels = v.pixels();
    float* planes = sample.call.outputs[output_] + pixels * sample.index * v.channels;
    sample.share_range(v.pixels(), [&](int begin, int end) {
      const Stored* x = sample.data(value_) + static_cast<size_t>(begin) * v.padded();
      for (int i = begin; i < end; ++i, x += v.padded()) {
        for (int c = 0; c < v.channels; ++c) planes[c * pixels + i] = widen(x[c]);
      }
    });
  }

  void backward(const Sample&, float*) const override {}

 private:
  const int value_, output_;
};

class Resize : public Op {
 public:
  Resize(int input, int out) : input_(input), out_(out) {}

  void run(const Sample& sample) const override {
    const Value &x = sample.values[input_], &y = sample.values[out_];
    const int step = x.padded(), h = std::min(x.h, y.h), w = std::min(x.w, y.w);
    sample.share_range(y.h, [&](int begin, int end) {
      for (int i = begin; i < end; ++i) {
        Stored* to = sample.data(out_) + static_cast<size_t>(i) * y.w * step;
        std::fill(to, to + static_cast<size_t>(y.w) * step, Stored{0});
        if (i >= h) continue;
        const Stored* row = sample.data(input_) + static_cast<size_t>(i) * x.w * step;
        std::copy(row, row + static_cast<size_t>(w) * step, to);
      }
    });
    measure(sample, out_);
  }

  void backward(const Sample& sample, float*) const override {
    const Value &x = sample.values[input_], &y = sample.values[out_];
    if (x.input) return;
    const int step = x.padded(), h = std::min(x.h, y.h), w = std::min(x.w, y.w);
    const bool adds = sample.adds(input_);
    Stored* to = sample.grad(input_);
    if (!adds) std::fill(to, to + static_cast<size_t>(x.pixels()) * step, Stored{0});
    for (int i = 0; i < h; ++i) {
      const Stored* from = sample.grad(out_) + static_cast<size_t>(i) * y.w * step;
      Stored* row = to + static_cast<size_t>(i) * x.w * step;
      for (int k = 0; k < w * step; k += kBlock) store_block(row + k, load_block(from + k) + load_block(row + k));
    }
  }

 private:
  const int input_, out_;
};

}  // namespace

std::unique_ptr<Op> make_input(int out_value, int first_plane, std::vector<int> channels, std::vector<float> scales) {
  return std::make_unique<Input>(out_value, first_plane, std::move(channels), std::move(scales));
}

std::unique_ptr<Op> make_norm(int input, int out_value, Norm norm) {
  return std::make_unique<NormOp>(input, out_value, std::move(norm));
}

std::unique_ptr<Op> make_max_pool(const std::vector<Value>& values, int input, int out_value) {
  return std::make_unique<MaxPool>(values, input, out_value);
}

std::unique_ptr<Op> make_resize(int input, int out_value) { return std::make_unique<Resize>(input, out_value); }

std::unique_ptr<Op> make_output(int value, int output) { return std::make_unique<Output>(value, output); }

}  // namespace cpu
