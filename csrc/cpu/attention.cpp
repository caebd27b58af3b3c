// Softmax attention over the pixels of one sample, and of past frames of it, a head at a time, in float32.
#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "program.hpp"

namespace cpu {
namespace {

constexpr int kQueries = 4;  // pixels that look at all others together, so that these are read once for four
constexpr int kSums = 4;     // channels that are summed up over pixels together for two queries, in registers
constexpr int kStep = 2 * kLanes;  // pixels that are looked at together

class Attention : public Op {
 public:
  Attention(const std::vector<Value>& values, const LookSpec& spec, int number, int out)
      : spec_(spec), number_(number), out_(out), channels_(values[spec.input].channels / (spec.own ? 3 : 1)),
        dim_(channels_ / spec.heads), pixels_(values[spec.input].pixels()), padded_(round_up(pixels_, kStep)),
        bytes_(values[spec.input].num_bytes()), ages_(static_cast<size_t>(spec.most_past) * channels_) {}

  // Keys and values of a head, and the weights of a few queries.
  size_t scratch_bytes() const override {
    const size_t most = round_up(num_keys(spec_.most_past), kStep);
    return (2 * rows() + kQueries) * most * sizeof(float);
  }

  int weight_size() const override { return static_cast<int>(ages_.size()); }
  void set_weight(const float* weight, const float*) override { std::copy_n(weight, ages_.size(), ages_.begin()); }

  void run(const Sample& sample) const override {
    const int step = sample.values[spec_.input].padded(), out_step = sample.values[out_].padded();
    const Stored* x = sample.data(spec_.input);
    Stored* out = sample.data(out_);
    std::fill(out, out + static_cast<size_t>(pixels_) * out_step, Stored{0});
    const float scale = kLog2E / std::sqrt(static_cast<float>(dim_));
    const int past = number_ < 0 ? 0 : sample.call.past, count = num_keys(past), padded = round_up(count, kStep);
    sample.share(spec_.heads, [&](int head, uint8_t* scratch) {
      auto* keys = reinterpret_cast<float*>(scratch);
      float *vals = keys + rows() * padded, *p = vals + rows() * padded;
      std::vector<float> q(rows() * kQueries), mixed(rows() * kQueries);
      float totals[kQueries];
      std::fill(keys, p, 0.0f);
      take_past(sample, past, head, padded, keys, vals);
      if (spec_.own) {
        gather(x + channels_ + head * dim_, step, padded, keys + past * pixels_);
        gather(x + 2 * channels_ + head * dim_, step, padded, vals + past * pixels_);
        give_own(sample, head, padded, keys + past * pixels_, vals + past * pixels_);
      }
      for (int i = 0; i < pixels_; i += kQueries) {
        take(x + head * dim_, step, i, scale, q.data());
        weigh(q.data(), keys, count, p, totals);
        mix(p, vals, padded, mixed.data());
        for (int r = 0; r < std::min(kQueries, pixels_ - i); ++r) {
          Stored* to = out + static_cast<size_t>(i + r) * out_step + head * dim_;
          for (int d = 0; d < dim_; ++d) to[d] = narrow(mixed[d * kQueries + r] / totals[r]);
        }
      }
    });
  }

  // With P the weights, O the output: dV = P^T dO, dS = P * (dO V^T - rows' sums of dO * O), dQ = dS K, dK = dS^T Q,
  // the last two scaled as the product of Q and K is.
  void backward(const Sample& sample, float* weight_grads) const override {
    if (number_ >= 0) return Op::backward(sample, weight_grads);
    const Value& v = sample.values[spec_.input];
    const int channels = channels_, step = v.padded(), out_step = sample.values[out_].padded();
    const Stored* x = sample.data(spec_.input);
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
    std::fill(keys, key_grads, 0.0f);
    for (int head = 0; head < spec_.heads; ++head) {
      gather(x + channels + head * dim_, step, padded_, keys);
      gather(x + 2 * channels + head * dim_, step, padded_, vals);
      std::fill(key_grads, key_grads + 2 * size, 0.0f);
      for (int i = 0; i < pixels_; i += kQueries) {  // queries and gradients behind the last pixel are 0
        take(x + head * dim_, step, i, scale * kLog2E, q.data());
        take(out_grads + head * dim_, out_step, i, 1.0f, o_grads.data());
        weigh(q.data(), keys, pixels_, p, totals);
        product(o_grads.data(), vals, padded_, [&](int r, int j, Vec dp) { store(ds + r * padded_ + j, dp); });
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
        mix(ds, keys, padded_, mixed.data());
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
    add_grad(sample, spec_.input, grads, v.blocks(), 0);
  }

  size_t backward_scratch_bytes() const override {
    return static_cast<size_t>(4 * rows() + 2 * kQueries) * padded_ * sizeof(float) + bytes_;
  }

 private:
  int rows() const { return round_up(dim_, kSums); }  // channels of a head; those that fill up are 0

  int num_keys(int past) const { return (past + spec_.own) * pixels_; }

  // The head's channels at x of all pixels, in the first of [rows, padded].
  void gather(const Stored* x, int step, int padded, float* to) const {
    for (int i = 0; i < pixels_; ++i, x += step) {
      for (int d = 0; d < dim_; ++d) to[d * padded + i] = widen(x[d]);
    }
  }

  // Keys, with what tells a frame's age, and values of past frames, one frame beside the other.
  void take_past(const Sample& sample, int past, int head, int padded, float* keys, float* vals) const {
    for (int t = 0; t < past; ++t) {
      const size_t frame = static_cast<size_t>(sample.index) * past + t, planes = static_cast<size_t>(channels_) * pixels_;
      const float* from = sample.call.memories[number_] + 2 * frame * planes + static_cast<size_t>(head) * dim_ * pixels_;
      for (int d = 0; d < dim_; ++d, from += pixels_, keys += padded, vals += padded) {
        const float age = ages_[t * channels_ + head * dim_ + d];
        std::transform(from, from + pixels_, keys + t * pixels_, [age](float key) { return key + age; });
        std::copy_n(from + planes, pixels_, vals + t * pixels_);
      }
      keys -= dim_ * padded, vals -= dim_ * padded;
    }
  }

  // The frame's own ones, to whom it may concern.
  void give_own(const Sample& sample, int head, int padded, const float* keys, const float* vals) const {
    if (number_ < 0 || sample.call.own.empty()) return;
    float* to = sample.call.own[number_] + (static_cast<size_t>(sample.index) * 2 * channels_ + head * dim_) * pixels_;
    for (int d = 0; d < dim_; ++d, to += pixels_) {
      std::copy_n(keys + d * padded, pixels_, to);
      std::copy_n(vals + d * padded, pixels_, to + static_cast<size_t>(channels_) * pixels_);
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
  void product(const float* q, const float* x, int padded, Each&& each) const {
    for (int j = 0; j < padded; j += kStep) {
      Vec sum[kQueries][2];
#pragma GCC unroll 4
      for (int r = 0; r < kQueries; ++r) sum[r][0] = sum[r][1] = set1(0.0f);
      for (int d = 0; d < dim_; ++d) {
        const Vec left = load(x + d * padded + j), right = load(x + d * padded + j + kLanes);
#pragma GCC unroll 4
        for (int r = 0; r < kQueries; ++r) {
          const Vec query = set1(q[d * kQueries + r]);
          sum[r][0] = fma(query, left, sum[r][0]);
          sum[r][1] = fma(query, right, sum[r][1]);
        }
      }
#pragma GCC unroll 4
      for (int r = 0; r < kQueries; ++r) {
        each(r, j, sum[r][0]);
        each(r, j + kLanes, sum[r][1]);
      }
    }
  }

  // p[r][j] = 2^(q_r . k_j - max), 0 behind the last pixel; totals: their sums
  void weigh(const float* q, const float* keys, int count, float* p, float totals[kQueries]) const {
    const int padded = round_up(count, kStep);
    const Vec lowest = set1(-std::numeric_limits<float>::infinity());
    Vec highest[kQueries];
    std::fill(highest, highest + kQueries, lowest);
    product(q, keys, padded, [&](int r, int j, Vec s) {
      if (j + kLanes > count) s = first(std::max(0, count - j), s, lowest);
      store(p + r * padded + j, s);
      highest[r] = max(highest[r], s);
    });
    for (int r = 0; r < kQueries; ++r) {
      const Vec top = set1(reduce_max(highest[r]));
      Vec total = set1(0.0f);
      int j = r * padded;
      const auto take = [&](auto at_once) {  // so many vectors, as long as there are as many
        constexpr int kN = decltype(at_once)::value;
        for (; j + kN * kLanes <= (r + 1) * padded; j += kN * kLanes) {
          Vec e[kN];
          for (int k = 0; k < kN; ++k) e[k] = max(set1(-200.0f), load(p + j + k * kLanes) - top);
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
  void mix(const float* p, const float* x, int padded, float* to) const {
    for (int first = 0; first < rows(); first += kSums) {
      for (int r = 0; r < kQueries; r += 2) {
        Vec sum[kSums][2];
#pragma GCC unroll 4
        for (int d = 0; d < kSums; ++d) sum[d][0] = sum[d][1] = set1(0.0f);
        for (int j = 0; j < padded; j += kLanes) {
          const Vec one = load(p + r * padded + j), other = load(p + (r + 1) * padded + j);
#pragma GCC unroll 4
          for (int d = 0; d < kSums; ++d) {
            const Vec value = load(x + (first + d) * padded + j);
            sum[d][0] = fma(one, value, sum[d][0]);
            sum[d][1] = fma(other, value, sum[d][1]);
          }
        }
        for (int d = 0; d < kSums; ++d) {
          for (int k = 0; k < 2; ++k) to[(first + d) * kQueries + r + k] = reduce_add(sum[d][k]);
        }
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

  const LookSpec spec_;
  const int number_, out_, channels_, dim_, pixels_, padded_;
  const size_t bytes_;
  std::vector<float> ages_;  // [most_past, C]: added to the keys of past frames, which are ordered by age
};

}  // namespace

std::unique_ptr<Op> make_attention(const std::vector<Value>& values, const LookSpec& spec, int number, int out_value) {
  return std::make_unique<Attention>(values, spec, number, out_value);
}

}  // namespace cpu
