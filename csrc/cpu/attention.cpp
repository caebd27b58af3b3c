// Softmax attention over the pixels of one sample, a head at a time, in float32: few pixels, so little to gain.
#include <algorithm>
#include <cmath>
#include <limits>

#include "program.hpp"

namespace cpu {
namespace {

bf16 narrow_one(float x) {
  return static_cast<bf16>(_mm_extract_epi16(reinterpret_cast<__m128i>(_mm_cvtneps_pbh(_mm_set1_ps(x))), 0));
}

class Attention : public Op {
 public:
  Attention(const std::vector<Value>& values, int qkv, int heads, int out)
      : qkv_(qkv), out_(out), heads_(heads), dim_(values[qkv].channels / 3 / heads), pixels_(values[qkv].pixels()),
        padded_(round_up(pixels_, kLanes)) {}

  size_t scratch_bytes() const override { return static_cast<size_t>(2 * dim_ + 1) * padded_ * sizeof(float); }

  void run(const Sample& sample) const override {
    const Value& v = sample.values[qkv_];
    const int channels = v.channels / 3, out_step = sample.values[out_].padded();
    const bf16* x = sample.data(qkv_);
    bf16* out = sample.data(out_);
    std::fill(out, out + static_cast<size_t>(pixels_) * out_step, bf16{0});
    auto* keys = reinterpret_cast<float*>(sample.scratch);  // [dim, pixels], and values likewise
    float *vals = keys + dim_ * padded_, *p = vals + dim_ * padded_;
    std::vector<float> q(dim_);
    const float scale = kLog2E / std::sqrt(static_cast<float>(dim_));
    for (int head = 0; head < heads_; ++head) {
      for (int d = 0; d < dim_; ++d) {
        const int c = head * dim_ + d;
        for (int i = 0; i < padded_; ++i) {
          const bf16* pixel = x + static_cast<size_t>(i) * v.padded();
          keys[d * padded_ + i] = i < pixels_ ? widen(pixel[channels + c]) : 0.0f;
          vals[d * padded_ + i] = i < pixels_ ? widen(pixel[2 * channels + c]) : 0.0f;
        }
      }
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

 private:
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
};

}  // namespace

std::unique_ptr<Op> make_attention(const std::vector<Value>& values, int qkv, int heads, int out_value) {
  return std::make_unique<Attention>(values, qkv, heads, out_value);
}

}  // namespace cpu
