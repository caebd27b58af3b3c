// Softmax attention over the pixels of one sample, a head at a time, in float32: few pixels, so little to gain.
#include <algorithm>
#include <cmath>
#include <limits>

#include "program.hpp"
#include "simd.hpp"

namespace cpu {
namespace {

bf16 narrow_one(float x) {
  return static_cast<bf16>(_mm_extract_epi16(reinterpret_cast<__m128i>(_mm_cvtneps_pbh(_mm_set1_ps(x))), 0));
}

class Attention : public Op {
 public:
  Attention(const std::vector<Value>& values, int qkv, int heads, int out)
      : qkv_(qkv), out_(out), heads_(heads), dim_(values[qkv].channels / 3 / heads), pixels_(values[qkv].pixels()),
        padded_(round_up(pixels_, kLanes)), bytes_(values[qkv].num_bytes()) {}

  size_t scratch_bytes() const override { return static_cast<size_t>(2 * dim_ + 1) * padded_ * sizeof(float); }

  void run(const Sample& sample) const override {
    const Value& v = sample.values[qkv_];
    const int channels = v.channels / 3, out_step = sample.values[out_].padded();
    const bf16* x = sample.data(qkv_);
    bf16* out = sample.data(out_);
    std::fill(out, out + static_cast<size_t>(pixels_) * out_step, bf16{0});
    auto* keys = reinterpret_cast<float*>(sample.scratch());  // [dim, pixels], and values likewise
    float *vals = keys + dim_ * padded_, *p = vals + dim_ * padded_;
    std::vector<float> q(dim_);
    const float scale = kLog2E / std::sqrt(static_cast<float>(dim_));
    for (int head = 0; head < heads_; ++head) {
      gather(x, v.padded(), channels + head * dim_, keys);
      gather(x, v.padded(), 2 * channels + head * dim_, vals);
      for (int i = 0; i < pixels_; ++i) {
        for (int d = 0; d < dim_; ++d) q[d] = widen(x[static_cast<size_t>(i) * v.padded() + head * dim_ + d]) * scale;
        const float total = weigh(q.data(), keys, p);
        for (int d = 0; d < dim_; ++d) {
          __m512 sum = _mm512_setzero_ps();
          for (int j = 0; j < padded_; j += kLanes) {
            sum = _mm512_fmadd_ps(_mm512_loadu_ps(p + j), _mm512_loadu_ps(vals + d * padded_ + j), sum);
          }
          out[static_cast<size_t>(i) * out_step + head * dim_ + d] = narrow_one(_mm512_reduce_add_ps(sum) / total);
        }
      }
    }
  }

  // With P the weights, O the output: dV = P^T dO, dS = P * (dO V^T - rows' sums of dO * O), dQ = dS K, dK = dS^T Q,
  // the last two scaled as the product of Q and K is.
  void backward(const Sample& sample, float*) const override {
    const Value& v = sample.values[qkv_];
    const int channels = v.channels / 3, step = v.padded(), out_step = sample.values[out_].padded();
    const bf16* x = sample.data(qkv_);
    const bf16* out_grads = sample.grad(out_);
    auto* keys = reinterpret_cast<float*>(sample.scratch());
    const int size = dim_ * padded_;
    float *vals = keys + size, *key_grads = vals + size, *value_grads = key_grads + size;
    float *p = value_grads + size, *ds = p + padded_;
    auto* grads = reinterpret_cast<bf16*>(ds + padded_);  // [pixels, 3 C]
    std::fill(grads, grads + static_cast<size_t>(pixels_) * step, bf16{0});
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
        const __m512 share = _mm512_set1_ps(1.0f / weigh(scaled.data(), keys, p));
        __m512 dot = _mm512_setzero_ps();  // of dO and O, which is the mean of dP weighted by P
        for (int j = 0; j < padded_; j += kLanes) {
          const __m512 weight = _mm512_mul_ps(_mm512_loadu_ps(p + j), share);
          __m512 dp = _mm512_setzero_ps();
          for (int d = 0; d < dim_; ++d) {
            const __m512 g = _mm512_set1_ps(o_grad[d]);
            float* dv = value_grads + d * padded_ + j;
            dp = _mm512_fmadd_ps(g, _mm512_loadu_ps(vals + d * padded_ + j), dp);
            _mm512_storeu_ps(dv, _mm512_fmadd_ps(g, weight, _mm512_loadu_ps(dv)));
          }
          _mm512_storeu_ps(p + j, weight);
          _mm512_storeu_ps(ds + j, dp);
          dot = _mm512_fmadd_ps(weight, dp, dot);
        }
        const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(dot));
        for (int j = 0; j < padded_; j += kLanes) {
          const __m512 g = _mm512_mul_ps(_mm512_loadu_ps(p + j), _mm512_sub_ps(_mm512_loadu_ps(ds + j), mean));
          _mm512_storeu_ps(ds + j, g);
          for (int d = 0; d < dim_; ++d) {
            float* dk = key_grads + d * padded_ + j;
            _mm512_storeu_ps(dk, _mm512_fmadd_ps(_mm512_set1_ps(q[d]), g, _mm512_loadu_ps(dk)));
          }
        }
        for (int d = 0; d < dim_; ++d) {
          __m512 sum = _mm512_setzero_ps();
          for (int j = 0; j < padded_; j += kLanes) {
            sum = _mm512_fmadd_ps(_mm512_loadu_ps(ds + j), _mm512_loadu_ps(keys + d * padded_ + j), sum);
          }
          grads[static_cast<size_t>(i) * step + head * dim_ + d] = narrow_one(_mm512_reduce_add_ps(sum) * scale);
        }
      }
      for (int d = 0; d < dim_; ++d) {
        for (int i = 0; i < pixels_; ++i) {
          bf16* pixel = grads + static_cast<size_t>(i) * step + head * dim_ + d;
          pixel[channels] = narrow_one(key_grads[d * padded_ + i]);
          pixel[2 * channels] = narrow_one(value_grads[d * padded_ + i]);
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
  void gather(const bf16* x, int step, int first, float* to) const {
    for (int d = 0; d < dim_; ++d) {
      for (int i = 0; i < padded_; ++i) {
        to[d * padded_ + i] = i < pixels_ ? widen(x[static_cast<size_t>(i) * step + first + d]) : 0.0f;
      }
    }
  }

  // p[j] = 2^(q . k_j - max), 0 behind the last pixel; returns their sum.
  float weigh(const float* q, const float* keys, float* p) const {
    __m512 highest = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    for (int j = 0; j < padded_; j += kLanes) {
      __m512 s = _mm512_setzero_ps();
      for (int d = 0; d < dim_; ++d) s = _mm512_fmadd_ps(_mm512_set1_ps(q[d]), _mm512_loadu_ps(keys + d * padded_ + j), s);
      if (j + kLanes > pixels_) {
        s = _mm512_mask_mov_ps(_mm512_set1_ps(-std::numeric_limits<float>::infinity()),
                               static_cast<__mmask16>((1u << (pixels_ - j)) - 1), s);
      }
      _mm512_storeu_ps(p + j, s);
      highest = _mm512_max_ps(highest, s);
    }
    const __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(highest));
    __m512 total = _mm512_setzero_ps();
    for (int j = 0; j < padded_; j += kLanes) {
      const __m512 e = exp2_fast(_mm512_max_ps(_mm512_sub_ps(_mm512_loadu_ps(p + j), top), _mm512_set1_ps(-200.0f)));
      _mm512_storeu_ps(p + j, e);
      total = _mm512_add_ps(total, e);
    }
    return _mm512_reduce_add_ps(total);
  }

  const int qkv_, out_, heads_, dim_, pixels_, padded_;
  const size_t bytes_;
};

}  // namespace

std::unique_ptr<Op> make_attention(const std::vector<Value>& values, int qkv, int heads, int out_value) {
  return std::make_unique<Attention>(values, qkv, heads, out_value);
}

}  // namespace cpu
