// What a transformer's blocks are made of beside products and attention: a token is a pixel. Forward only.
#include <algorithm>
#include <cmath>

#include "program.hpp"

namespace cpu {
namespace {

// Channels of a sample's row from ``first`` on, plus ``more``, with zeros up to whole blocks.
std::vector<float> padded_row(const Sample& sample, int first, int value, float more) {
  const Value& v = sample.values[value];
  std::vector<float> row(v.padded());
  for (int c = 0; c < v.channels; ++c) row[c] = sample.modulation()[first + c] + more;
  return row;
}

class LayerNorm : public Op {
 public:
  LayerNorm(int input, int out, float eps, int scale, int shift)
      : input_(input), out_(out), scale_(scale), shift_(shift), eps_(eps) {}

  void run(const Sample& sample) const override {
    const Value& v = sample.values[input_];
    const int step = v.padded(), channels = v.channels;
    const std::vector<float> gain = padded_row(sample, scale_, input_, 1.0f),
                             offset = padded_row(sample, shift_, input_, 0.0f);
    sample.share_range(v.pixels(), [&](int begin, int end) {
      std::vector<float> row(step);
      for (int i = begin; i < end; ++i) {
        const Stored* from = sample.data(input_) + static_cast<size_t>(i) * step;
        Stored* to = sample.data(out_) + static_cast<size_t>(i) * step;
        for (int c = 0; c < step; c += kBlock) store_floats(&row[c], load_block(from + c));
        Vec sum = set1(0.0f), squares = set1(0.0f);
        for (int c = 0; c < step; c += kLanes) sum = sum + load(&row[c]);  // what fills up is 0
        const float mean = reduce_add(sum) / channels;
        for (int c = 0; c < channels; c += kLanes) {
          const Vec d = load(&row[c]) - set1(mean), counted = first(std::min(kLanes, channels - c), d, set1(0.0f));
          squares = fma(counted, counted, squares);
        }
        const float rstd = 1.0f / std::sqrt(reduce_add(squares) / channels + eps_);
        for (int c = 0; c < step; c += kLanes) {
          const Vec normal = (load(&row[c]) - set1(mean)) * set1(rstd);
          store(&row[c], fma(normal, load(&gain[c]), load(&offset[c])));
        }
        for (int c = 0; c < step; c += kBlock) store_block(to + c, load_floats(&row[c]));
      }
    });
  }

 private:
  const int input_, out_, scale_, shift_;
  const float eps_;
};

// x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)), which is x (1 + tanh(half of that)) / 2
class Gelu : public Op {
 public:
  Gelu(int input, int out) : input_(input), out_(out) {}

  void run(const Sample& sample) const override {
    constexpr float kSlope = -2.0f * 0.7978845608f * kLog2E;
    const int step = sample.values[input_].padded();
    sample.share_range(sample.values[input_].pixels(), [&](int begin, int end) {
      const Stored* from = sample.data(input_);
      Stored* to = sample.data(out_);
      float block[kBlock];
      for (size_t at = static_cast<size_t>(begin) * step; at < static_cast<size_t>(end) * step; at += kBlock) {
        store_floats(block, load_block(from + at));
        for (int k = 0; k < kBlock; k += kLanes) {
          const Vec x = load(block + k);
          Vec e[1] = {x * set1(kSlope) * fma(x * x, set1(0.044715f), set1(1.0f))};
          e[0] = max(set1(-120.0f), e[0]);
          exp2_fast(e);
          store(block + k, x / (set1(1.0f) + e[0]));
        }
        store_block(to + at, load_floats(block));
      }
    });
  }

 private:
  const int input_, out_;
};

class GatedSum : public Op {
 public:
  GatedSum(int input, int other, int out, int gate) : input_(input), other_(other), out_(out), gate_(gate) {}

  void run(const Sample& sample) const override {
    const int step = sample.values[input_].padded();
    const std::vector<float> gates = padded_row(sample, gate_, input_, 0.0f);
    sample.share_range(sample.values[input_].pixels(), [&](int begin, int end) {
      for (int i = begin; i < end; ++i) {
        const size_t at = static_cast<size_t>(i) * step;
        for (int c = 0; c < step; c += kBlock) {
          const Block other = load_block(sample.data(other_) + at + c), x = load_block(sample.data(input_) + at + c);
          store_block(sample.data(out_) + at + c, fma(other, load_floats(&gates[c]), x));
        }
      }
    });
  }

 private:
  const int input_, other_, out_, gate_;
};

}  // namespace

std::unique_ptr<Op> make_layer_norm(int input, int out_value, float eps, int scale, int shift) {
  return std::make_unique<LayerNorm>(input, out_value, eps, scale, shift);
}

std::unique_ptr<Op> make_gelu(int input, int out_value) { return std::make_unique<Gelu>(input, out_value); }

std::unique_ptr<Op> make_gated_sum(int input, int other, int out_value, int gate) {
  return std::make_unique<GatedSum>(input, other, out_value, gate);
}

}  // namespace cpu
