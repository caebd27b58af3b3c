// Softmax attention over the pixels of one sample, a head at a time, in float32.
#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "program.hpp"

namespace cpu {
namespace {

constexpr int kQueries = 4;  // pixels that look at all others together, so that these are read once for four
constexpr int kSums = 8;     // channels that are summed up over pixels together, in registers

class Attention : public Op {
 public:
  Attention(const std::vector<Value>& values, int qkv, int heads, int out)
      : qkv_(qkv), out_(out), heads_(heads), dim_(values[qkv].channels / 3 / heads), pixels_(values[qkv].pixels()),
        padded_(round_up(pixels_, kLanes)), bytes_(values[qkv].num_bytes()) {}

  // Keys and values of a head, and the weights of a few queries.
  size_t scratch_bytes() const override { return static_cast<size_t>(2 * rows() + kQueries) * padded_ * sizeof(float); }

  void run(const Sample& sample) const override {
    const Value& v = sample.values[qkv_];
    const int channels = v.channels / 3, step = v.padded(), out_step = sample.values[out_].padded();
    const Stored* x = sample.data(qkv_);
    Stored* out = sample.data(out_);
    std::fill(out, out + static_cast<size_t>(pixels_) * out_step, Stored{0});
    const float scale = kLog2E / std::sqrt(static_cast<float>(dim_));
    sample.share(heads_, [&](int head, uint8_t* scratch) {
      auto* keys = reinterpret_cast<float*>(scratch);
      float *vals = keys + rows() * padded_, *p = vals + rows() * padded_;
      std::vector<float> q(rows() * kQueries), mixed(rows() * kQueries);
      float totals[kQueries];
      gather(x + channels + head * dim_, step, keys);
      gather(x + 2 * channels + head * dim_, step, vals);
      for (int i = 0; i < pixels_; i += kQueries) {
        take(x + head * dim_, step, i, scale, q.data());
        weigh(q.data(), keys, p, totals);
        mix(p, vals, mixed.data());
        for (int r = 0; r < std::min(kQueries, pixels_ - i); ++r) {
          Stored* to = out + static_cast<size_t>(i + r) * out_step + head * dim_;
          for (int d = 0; d < dim_; ++d) to[d] = narrow(mixed[d * kQueries + r] / totals[r]);
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
    const int size = rows() * padded_;
    float *vals = keys + size, *key_grads = vals + size, *value_grads = key_grads + size;
    float *p = value_grads + size, *ds = p + kQueries * padded_;
    auto* grads = reinterpret_cast<Stored*>(ds + kQueries * padded_);  // [pixels, 3 C]
    std::fill(grads, grads + static_cast<size_t>(pixels_) * step, Stored{0});
    std::vector<float> q(rows() * kQueries), o_grads(rows() * kQueries), mixed(rows() * kQueries);
    float totals[kQueries];
    const float scale = 1.0f / std::sqrt(static_cast<float>(dim_));
    for (int head = 0; head < heads_; ++head) {
      gather(x + channels + head * dim_, step, keys);
      gather(x + 2 * channels + head * dim_, step, vals);
      std::fill(key_grads, key_grads + 2 * size, 0.0f);
      for (int i = 0; i < pixels_; i += kQueries) {  // queries and gradients behind the last pixel are 0
        take(x + head * dim_, step, i, scale * kLog2E, q.data());
        take(out_grads + head * dim_, out_step, i, 1.0f, o_grads.data());
        weigh(q.data(), keys, p, totals);
        product(o_grads.data(), vals, [&](int r, int j, Vec dp) { store(ds + r * padded_ + j, dp); });
        for (int r = 0; r < kQueries; ++r) {
          const Vec share = set1(1.0f / totals[r]);
          float *weights = p + r * padded_, *slopes = ds + r * padded_;
          Vec dot = set1(0.0f);  // of dO and O, which is the mean of dP weighted by P
          for (int j = 0; j < padded_; j += kLanes) {
            const Vec weight = load(weights + j) * share;
            store(weights + j, weight);
            dot = fma(weight, load(slopes + j), dot);
          }
          const Vec mean = set1(reduce_add(dot));
          for (int j = 0; j < padded_; j += kLanes) {
            store(slopes + j, load(weights + j) * (load(slopes + j) - mean));
          }
        }
        mix(ds, keys, mixed.data());
        for (int r = 0; r < std::min(kQueries, pixels_ - i); ++r) {
          Stored* to = grads + static_cast<size_t>(i + r) * step + head * dim_;
          for (int d = 0; d < dim_; ++d) to[d] = narrow(mixed[d * kQueries + r] * scale);
        }
        spread(o_grads.data(), p, value_grads);
        spread(q.data(), ds, key_grads);  // with the factor that turns 2 into e, which is taken back below
      }
      for (int d = 0; d < dim_; ++d) {
        for (int i = 0; i < pixels_; ++i) {
          Stored* pixel = grads + static_cast<size_t>(i) * step + head * dim_ + d;
          pixel[channels] = narrow(key_grads[d * padded_ + i] / kLog2E);
          pixel[2 * channels] = narrow(value_grads[d * padded_ + i]);
        }
      }
    }
    add_grad(sample, qkv_, grads, v.blocks(), 0);
  }

  size_t backward_scratch_bytes() const override {
    return static_cast<size_t>(4 * rows() + 2 * kQueries) * padded_ * sizeof(float) + bytes_;
  }

 private:
  int rows() const { return round_up(dim_, kSums); }  // channels of a head; those that fill up are 0

  // The head's channels at x of all pixels: [rows, pixels], 0 behind the last pixel.
  void gather(const Stored* x, int step, float* to) const {
    std::fill(to, to + static_cast<size_t>(rows()) * padded_, 0.0f);
    for (int i = 0; i < pixels_; ++i, x += step) {
      for (int d = 0; d < dim_; ++d) to[d * padded_ + i] = widen(x[d]);
    }
  }

  // Those of a few pixels from the first on, scaled: [rows, kQueries], 0 behind the last pixel.
  void take(const Stored* x, int step, int first, float scale, float* to) const {
    for (int r = 0; r < kQueries; ++r) {
      const Stored* from = x + static_cast<size_t>(first + r) * step;
      for (int d = 0; d < dim_; ++d) to[d * kQueries + r] = first + r < pixels_ ? widen(from[d]) * scale : 0.0f;
    }
  }

  // each(r, j, sums over channels d of q[d][r] x[d][j to j + kLanes]) for all queries r and pixels j
  template <typename Each>
  void product(const float* q, const float* x, Each&& each) const {
    for (int j = 0; j < padded_; j += kLanes) {
      Vec sum[kQueries];
#pragma GCC unroll 4
      for (int r = 0; r < kQueries; ++r) sum[r] = set1(0.0f);
      for (int d = 0; d < dim_; ++d) {
        const Vec column = load(x + d * padded_ + j);
#pragma GCC unroll 4
        for (int r = 0; r < kQueries; ++r) sum[r] = fma(set1(q[d * kQueries + r]), column, sum[r]);
      }
#pragma GCC unroll 4
      for (int r = 0; r < kQueries; ++r) each(r, j, sum[r]);
    }
  }

  // p[r][j] = 2^(q_r . k_j - max), 0 behind the last pixel; totals: their sums
  void weigh(const float* q, const float* keys, float* p, float totals[kQueries]) const {
    const Vec lowest = set1(-std::numeric_limits<float>::infinity());
    Vec highest[kQueries];
    std::fill(highest, highest + kQueries, lowest);
    product(q, keys, [&](int r, int j, Vec s) {
      if (j + kLanes > pixels_) s = first(pixels_ - j, s, lowest);
      store(p + r * padded_ + j, s);
      highest[r] = max(highest[r], s);
    });
    for (int r = 0; r < kQueries; ++r) {
      const Vec top = set1(reduce_max(highest[r]));
      Vec total = set1(0.0f);
      int j = r * padded_;
      const auto take = [&](auto at_once) {  // so many vectors, as long as there are as many
        constexpr int kN = decltype(at_once)::value;
        for (; j + kN * kLanes <= (r + 1) * padded_; j += kN * kLanes) {
          Vec e[kN];
          for (int k = 0; k < kN; ++k) e[k] = max(load(p + j + k * kLanes) - top, set1(-200.0f));
          exp2_fast(e);
          for (int k = 0; k < kN; ++k) {
            store(p + j + k * kLanes, e[k]);
            total = total + e[k];
          }
        }
      };
      take(std::integral_constant<int, kAtOnce>());
      take(std::integral_constant<int, 1>());
      totals[r] = reduce_add(total);
    }
  }

  // to[d][r] = sum over pixels j of p[r][j] x[d][j]
  void mix(const float* p, const float* x, float* to) const {
    for (int first = 0; first < rows(); first += kSums) {
      for (int r = 0; r < kQueries; ++r) {
        Vec sum[kSums];
#pragma GCC unroll 8
        for (int d = 0; d < kSums; ++d) sum[d] = set1(0.0f);
        for (int j = 0; j < padded_; j += kLanes) {
          const Vec weight = load(p + r * padded_ + j);
#pragma GCC unroll 8
          for (int d = 0; d < kSums; ++d) sum[d] = fma(weight, load(x + (first + d) * padded_ + j), sum[d]);
        }
        for (int d = 0; d < kSums; ++d) to[(first + d) * kQueries + r] = reduce_add(sum[d]);
      }
    }
  }

  // to[d][j] += sum over queries r of x[d][r] p[r][j]
  void spread(const float* x, const float* p, float* to) const {
    for (int j = 0; j < padded_; j += kLanes) {
      Vec weight[kQueries];
#pragma GCC unroll 4
      for (int r = 0; r < kQueries; ++r) weight[r] = load(p + r * padded_ + j);
      for (int d = 0; d < dim_; ++d) {
        Vec sum = load(to + d * padded_ + j);
#pragma GCC unroll 4
        for (int r = 0; r < kQueries; ++r) sum = fma(set1(x[d * kQueries + r]), weight[r], sum);
        store(to + d * padded_ + j, sum);
      }
    }
  }

  const int qkv_, out_, heads_, dim_, pixels_, padded_;
  const size_t bytes_;
};

}  // namespace

std::unique_ptr<Op> make_attention(const std::vector<Value>& values, int qkv, int heads, int out_value) {
  return std::make_unique<Attention>(values, qkv, heads, out_value);
}

}  // namespace cpu
