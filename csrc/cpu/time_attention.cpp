// Softmax attention of every pixel to the same one of past frames and of its own frame, in float32.
#include <algorithm>
#include <cmath>
#include <limits>

#include "program.hpp"

namespace cpu {
namespace {

class TimeAttention : public Op {
 public:
  TimeAttention(const std::vector<Value>& values, const LookSpec& spec, int number, int out)
      : spec_(spec), number_(number), out_(out), channels_(values[spec.input].channels / 3),
        dim_(channels_ / spec.heads), pixels_(values[spec.input].pixels()),
        distances_(static_cast<size_t>(spec.most_past + 1) * spec.heads) {}

  int weight_size() const override { return static_cast<int>(distances_.size()); }
  void set_weight(const float* weight, const float*) override {
    std::copy_n(weight, distances_.size(), distances_.begin());
  }

  // A few pixels at a time, one a lane: their channels become the rows of a tile.
  void run(const Sample& sample) const override {
    const int step = sample.values[spec_.input].padded(), out_step = sample.values[out_].padded();
    sample.share_range((pixels_ + kLanes - 1) / kLanes, [&](int begin, int end) {
      std::vector<float> tile(4 * channels_ * kLanes);
      float* mixed = tile.data() + 3 * channels_ * kLanes;
      for (int at = begin * kLanes; at < std::min(end * kLanes, pixels_); at += kLanes) {
        const int pixels = std::min(kLanes, pixels_ - at);
        const Stored* from = sample.data(spec_.input) + static_cast<size_t>(at) * step;
        for (int i = 0; i < pixels; ++i, from += step) {
          for (int c = 0; c < 3 * channels_; ++c) tile[c * kLanes + i] = widen(from[c]);
        }
        give_own(sample, at, pixels, tile.data() + channels_ * kLanes);
        for (int head = 0; head < spec_.heads; ++head) look(sample, head, at, pixels, tile.data(), mixed);
        Stored* to = sample.data(out_) + static_cast<size_t>(at) * out_step;
        for (int i = 0; i < pixels; ++i, to += out_step) {
          for (int c = 0; c < channels_; ++c) to[c] = narrow(mixed[c * kLanes + i]);
          std::fill(to + channels_, to + out_step, Stored{0});
        }
      }
    });
  }

 private:
  // Keys and values of a few pixels, to whom it may concern.
  void give_own(const Sample& sample, int at, int pixels, const float* tile) const {
    if (sample.call.own.empty()) return;
    float* to = sample.call.own[number_] + static_cast<size_t>(sample.index) * 2 * channels_ * pixels_ + at;
    for (int c = 0; c < 2 * channels_; ++c, to += pixels_) std::copy_n(tile + c * kLanes, pixels, to);
  }

  // tile: queries, keys, values, [3C, kLanes]; mixed: [C, kLanes]
  void look(const Sample& sample, int head, int at, int pixels, const float* tile, float* mixed) const {
    constexpr int kAtMost = 64;  // frames; more are looked at in several parts
    const int past = sample.call.past, first_channel = head * dim_;
    const float* queries = tile + first_channel * kLanes;
    const auto frame = [&](int t) {  // where its keys are; the values are C planes behind them
      return sample.call.memories[number_] +
             ((static_cast<size_t>(sample.index) * past + t) * 2 * channels_ + first_channel) * pixels_ + at;
    };
    const size_t values = static_cast<size_t>(channels_) * pixels_;
    const auto pixels_at = [&](const float* plane) {  // behind the last pixel nothing is read
      if (pixels == kLanes) return load(plane);
      float some[kLanes] = {};
      std::copy_n(plane, pixels, some);
      return load(some);
    };
    const float scale = kLog2E / std::sqrt(static_cast<float>(dim_));
    const auto weighed = [&](Vec dot, int distance) {
      return fma(dot, set1(scale), set1(distances_[distance * spec_.heads + head] * kLog2E));
    };

    // the frame itself, then those before it in parts: a larger score than all before takes their weight down
    Vec top = set1(0.0f), total = set1(1.0f);
    for (int d = 0; d < dim_; ++d) top = fma(load(queries + d * kLanes), load(queries + (channels_ + d) * kLanes), top);
    top = weighed(top, 0);
    float* out = mixed + first_channel * kLanes;
    std::copy_n(queries + 2 * channels_ * kLanes, dim_ * kLanes, out);
    for (int begin = 0; begin < past; begin += kAtMost) {
      const int count = std::min(kAtMost, past - begin);
      Vec weights[kAtMost], highest = top;
      for (int t = 0; t < count; ++t) {
        const float* keys = frame(begin + t);
        Vec dot = set1(0.0f);
        for (int d = 0; d < dim_; ++d) dot = fma(load(queries + d * kLanes), pixels_at(keys + d * pixels_), dot);
        weights[t] = weighed(dot, past - begin - t);
        highest = max(highest, weights[t]);
      }
      const Vec down = power(top - highest);
      top = highest;
      total = total * down;
      for (int t = 0; t < count; ++t) {
        weights[t] = power(weights[t] - top);
        total = total + weights[t];
      }
      for (int d = 0; d < dim_; ++d) {
        Vec sum = load(out + d * kLanes) * down;
        for (int t = 0; t < count; ++t) sum = fma(weights[t], pixels_at(frame(begin + t) + values + d * pixels_), sum);
        store(out + d * kLanes, sum);
      }
    }
    const Vec share = set1(1.0f) / total;
    for (int d = 0; d < dim_; ++d) store(out + d * kLanes, load(out + d * kLanes) * share);
  }

  static Vec power(Vec exponent) {  // 2 to this, which is at most 0
    Vec e[1] = {max(exponent, set1(-120.0f))};
    exp2_fast(e);
    return e[0];
  }

  const LookSpec spec_;
  const int number_, out_, channels_, dim_, pixels_;
  std::vector<float> distances_;  // [most_past + 1, heads]: added to scores
};

}  // namespace

std::unique_ptr<Op> make_time_attention(const std::vector<Value>& values, const LookSpec& spec, int number,
                                        int out_value) {
  return std::make_unique<TimeAttention>(values, spec, number, out_value);
}

}  // namespace cpu
