// Softmax attention over the pixels of one sample, a head at a time, in float32: few pixels, so little to gain.
#include <algorithm>
#include <cmath>
#include <limits>

#include "program.hpp"

namespace cpu {
namespace {

class Attention : public Op {
 public:
  Attention(const std::vector<Value>& values, int qkv, int heads, int out)
      : qkv_(qkv), out_(out), heads_(heads), dim_(values[qkv].channels / 3 / heads), pixels_(values[qkv].pixels()),
        padded_(round_up(pixels_, kLanes)), bytes_(values[qkv].num_bytes()) {}

  size_t scratch_bytes() const override { return static_cast<size_t>(2 * dim_ + 1) * padded_ * sizeof(float); }

  void run(const Sample& sample) const override {
    const Value& v = sample.values[qkv_];
    const int channels = v.channels / 3, out_step = sample.values[out_].padded();
    const Stored* x = sample.data(qkv_);
    Stored* out = sample.data(out_);
    std::fill(out, out + static_cast<size_t>(pixels_) * out_step, Stored{0});
    const float scale = kLog2E / std::sqrt(static_cast<float>(dim_));
    sample.share(heads_, [&](int head, uint8_t* scratch) {
      auto* keys = reinterpret_cast<float*>(scratch);  // [dim, pixels], and values likewise
      float *vals = keys + dim_ * padded_, *p = vals + dim_ * padded_;
      std::vector<float> q(dim_);
      gather(x, v.padded(), channels + head * dim_, keys);
      gather(x, v.padded(), 2 * channels + head * dim_, vals);
      for (int i = 0; i < pixels_; ++i) {
        for (int d = 0; d < dim_; ++d) q[d] = widen(x[static_cast<size_t>(i) * v.padded() + head * dim_ + d]) * scale;
        const float total = weigh(q.data(), keys, p);
        for (int d = 0; d < dim_; ++d) {
          Vec sum = set1(0.0f);
          for (int j = 0; j < padded_; j += kLanes) {
            sum = fma(load(p + j), load(vals + d * padded_ + j), sum);
          }
          out[static_cast<size_t>(i) * out_step + head * dim_ + d] = narrow(reduce_add(sum) / total);
        }
      }
    });
  }

  // With P the weights, O the output: dV = P^T dO, dS = P * (dO V^T - rows' sums of dO * O), dQ = dS K, dK = dS^T Q,
  // the last two scaled as the product of Q and K is.
  void backward(const Sample& sample, float*) const override {
    const Value& v = sample.values[qkv_];
    const int channels = v.channels / 3, step = v.padded(), out_step = sample.values[out_].padded();
    const Stored* x = sample.data(qkv_);
    const Stored* out_grads = sample.grad(out_);
    auto* keys = reinterpret_cast<float*>(sample.scratch());
    const int size = dim_ * padded_;
    float *vals = keys + size, *key_grads = vals + size, *value_grads = key_grads + size;
    float *p = value_grads + size, *ds = p + padded_;
    auto* grads = reinterpret_cast<Stored*>(ds + padded_);  // [pixels, 3 C]
    std::fill(grads, grads + static_cast<size_t>(pixels_) * step, Stored{0});
    std::vector<float> q(dim_), scaled(dim_), o_grad(dim_);
    const float scale = 1.0f / std::sqrt(static_cast<float>(dim_));
    for (int head = 0; head < heads_; ++head) {
      gather(x, step, channels + head * dim_, keys);
      gather(x, step, 2 * channels + head * dim_, vals);
      std::fill(key_grads, key_grads + 2 * size, 0.0f);
      for (int i = 0; i < pixels_; ++i) {
        for (int d = 0; d < dim_; ++d) {
          q[d] = widen(x[static_cast<size_t>(i) * step + head * dim_ + d]) * scale;
          scaled[d] = q[d] * kLog2E;
          o_grad[d] = widen(out_grads[static_cast<size_t>(i) * out_step + head * dim_ + d]);
        }
        const Vec share = set1(1.0f / weigh(scaled.data(), keys, p));
        Vec dot = set1(0.0f);  // of dO and O, which is the mean of dP weighted by P
        for (int j = 0; j < padded_; j += kLanes) {
          const Vec weight = load(p + j) * share;
          Vec dp = set1(0.0f);
          for (int d = 0; d < dim_; ++d) {
            const Vec g = set1(o_grad[d]);
            float* dv = value_grads + d * padded_ + j;
            dp = fma(g, load(vals + d * padded_ + j), dp);
            store(dv, fma(g, weight, load(dv)));
          }
          store(p + j, weight);
          store(ds + j, dp);
          dot = fma(weight, dp, dot);
        }
        const Vec mean = set1(reduce_add(dot));
        for (int j = 0; j < padded_; j += kLanes) {
          const Vec g = load(p + j) * (load(ds + j) - mean);
          store(ds + j, g);
          for (int d = 0; d < dim_; ++d) {
            float* dk = key_grads + d * padded_ + j;
            store(dk, fma(set1(q[d]), g, load(dk)));
          }
        }
        for (int d = 0; d < dim_; ++d) {
          Vec sum = set1(0.0f);
          for (int j = 0; j < padded_; j += kLanes) {
            sum = fma(load(ds + j), load(keys + d * padded_ + j), sum);
          }
          grads[static_cast<size_t>(i) * step + head * dim_ + d] = narrow(reduce_add(sum) * scale);
        }
      }
      for (int d = 0; d < dim_; ++d) {
        for (int i = 0; i < pixels_; ++i) {
          Stored* pixel = grads + static_cast<size_t>(i) * step + head * dim_ + d;
          pixel[channels] = narrow(key_grads[d * padded_ + i]);
          pixel[2 * channels] = narrow(value_grads[d * padded_ + i]);
        }
      }
    }
    add_grad(sample, qkv_, grads, v.blocks(), 0);
  }

  size_t backward_scratch_bytes() const override {
    return static_cast<size_t>(4 * dim_ + 2) * padded_ * sizeof(float) + bytes_;
  }

 private:
  // Channels first to first + dim of all pixels: [dim, pixels], 0 behind the last pixel.
  void gather(const Stored* x, int step, int first, float* to) const {
    for (int d = 0; d < dim_; ++d) {
      for (int i = 0; i < padded_; ++i) {
        to[d * padded_ + i] = i < pixels_ ? widen(x[static_cast<size_t>(i) * step + first + d]) : 0.0f;
      }
    }
  }

  // p[j] = 2^(q . k_j - max), 0 behind the last pixel; returns their sum.
  float weigh(const float* q, const float* keys, float* p) const {
    Vec highest = set1(-std::numeric_limits<float>::infinity());
    for (int j = 0; j < padded_; j += kLanes) {
      Vec s = set1(0.0f);
      for (int d = 0; d < dim_; ++d) s = fma(set1(q[d]), load(keys + d * padded_ + j), s);
      if (j + kLanes > pixels_) s = first(pixels_ - j, s, set1(-std::numeric_limits<float>::infinity()));
      store(p + j, s);
      highest = max(highest, s);
    }
    const Vec top = set1(reduce_max(highest));
    Vec total = set1(0.0f);
    for (int j = 0; j < padded_; j += kLanes) {
      const Vec e = exp2_fast(max(load(p + j) - top, set1(-200.0f)));
      store(p + j, e);
      total = total + e;
    }
    return reduce_add(total);
  }

  const int qkv_, out_, heads_, dim_, pixels_, padded_;
  const size_t bytes_;
};

}  // namespace

std::unique_ptr<Op> make_attention(const std::vector<Value>& values, int qkv, int heads, int out_value) {
  return std::make_unique<Attention>(values, qkv, heads, out_value);
}

}  // namespace cpu
