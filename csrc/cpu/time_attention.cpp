// Softmax attention of every pixel to the same one of past frames and of its own frame, in float32.
#include <algorithm>
#include <cmath>

#include "program.hpp"

namespace cpu {
namespace {

constexpr int kVectors = 4;               // of pixels that are worked on together, one a lane
constexpr int kTile = kVectors * kLanes;  // whole cache lines of planes, which lie far apart
constexpr int kFrames = 16;               // are looked at together; more in several parts

struct Vectors {
  Vec of[kVectors];
};

template <typename Each>
inline Vectors each_of(Each&& each) {
  Vectors y;
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) y.of[v] = each(v);
  return y;
}

// 2 to the power of x, which is at most 0
inline Vectors power(const Vectors& x) {
  Vectors y;
  for (int v = 0; v < kVectors; v += kAtOnce) {
    Vec e[kAtOnce];
    for (int k = 0; k < kAtOnce; ++k) e[k] = max(set1(-120.0f), x.of[v + k]);
    exp2_fast(e);
    for (int k = 0; k < kAtOnce; ++k) y.of[v + k] = e[k];
  }
  return y;
}

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

  // A few pixels at a time: their channels become the rows of a tile.
  void run(const Sample& sample) const override {
    const int step = sample.values[spec_.input].padded(), out_step = sample.values[out_].padded();
    sample.share_range((pixels_ + kTile - 1) / kTile, [&](int begin, int end) {
      std::vector<float> tile(4 * channels_ * kTile);
      float* mixed = tile.data() + 3 * channels_ * kTile;
      for (int at = begin * kTile; at < std::min(end * kTile, pixels_); at += kTile) {
        const int pixels = std::min(kTile, pixels_ - at);
        const Stored* from = sample.data(spec_.input) + static_cast<size_t>(at) * step;
        for (int i = 0; i < pixels; ++i, from += step) {
          for (int c = 0; c < 3 * channels_; ++c) tile[c * kTile + i] = widen(from[c]);
        }
        give_own(sample, at, pixels, tile.data() + channels_ * kTile);
        for (int head = 0; head < spec_.heads; ++head) look(sample, head, at, pixels, tile.data(), mixed);
        Stored* to = sample.data(out_) + static_cast<size_t>(at) * out_step;
        for (int i = 0; i < pixels; ++i, to += out_step) {
          for (int c = 0; c < channels_; ++c) to[c] = narrow(mixed[c * kTile + i]);
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
    for (int c = 0; c < 2 * channels_; ++c, to += pixels_) std::copy_n(tile + c * kTile, pixels, to);
  }

  // tile: queries, keys, values, [3C, kTile]; mixed: [C, kTile]
  void look(const Sample& sample, int head, int at, int pixels, const float* tile, float* mixed) const {
    const int past = sample.call.past, first_channel = head * dim_;
    const float* queries = tile + first_channel * kTile;
    float* out = mixed + first_channel * kTile;
    const size_t values = static_cast<size_t>(channels_) * pixels_;
    const auto frame = [&](int t) {  // where its keys are; the values are C planes behind them
      const size_t index = static_cast<size_t>(sample.index) * past + t;
      return sample.call.memories[number_] + (index * 2 * channels_ + first_channel) * pixels_ + at;
    };
    const auto some_of = [&](const float* plane, int v) {  // behind the last pixel nothing is read
      const int left = pixels - v * kLanes;
      if (left >= kLanes) return load(plane + v * kLanes);
      float some[kLanes] = {};
      std::copy_n(plane + v * kLanes, std::max(0, left), some);
      return load(some);
    };
    const Vec scale = set1(kLog2E / std::sqrt(static_cast<float>(dim_)));
    const auto scores = [&](int distance, auto&& keys) {
      Vectors dot = each_of([](int) { return set1(0.0f); });
      for (int d = 0; d < dim_; ++d) {
        dot = each_of([&](int v) { return fma(load(queries + d * kTile + v * kLanes), keys(d, v), dot.of[v]); });
      }
      const Vec bias = set1(distances_[distance * spec_.heads + head] * kLog2E);
      return each_of([&](int v) { return fma(dot.of[v], scale, bias); });
    };

    // the frame itself, then those before it in parts: a larger score than all before takes their weight down
    Vectors top = scores(0, [&](int d, int v) { return load(queries + (channels_ + d) * kTile + v * kLanes); });
    Vectors total = each_of([](int) { return set1(1.0f); });
    std::copy_n(queries + 2 * channels_ * kTile, dim_ * kTile, out);
    for (int begin = 0; begin < past; begin += kFrames) {
      const int count = std::min(kFrames, past - begin);
      Vectors weights[kFrames], highest = top;
      for (int t = 0; t < count; ++t) {
        const float* keys = frame(begin + t);
        weights[t] = scores(past - begin - t, [&](int d, int v) { return some_of(keys + d * pixels_, v); });
        highest = each_of([&](int v) { return max(highest.of[v], weights[t].of[v]); });
      }
      const Vectors down = power(each_of([&](int v) { return top.of[v] - highest.of[v]; }));
      top = highest;
      total = each_of([&](int v) { return total.of[v] * down.of[v]; });
      for (int t = 0; t < count; ++t) {
        weights[t] = power(each_of([&](int v) { return weights[t].of[v] - top.of[v]; }));
        total = each_of([&](int v) { return total.of[v] + weights[t].of[v]; });
      }
      for (int d = 0; d < dim_; ++d) {
        Vectors sum = each_of([&](int v) { return load(out + d * kTile + v * kLanes) * down.of[v]; });
        for (int t = 0; t < count; ++t) {
          const float* plane = frame(begin + t) + values + d * pixels_;
          sum = each_of([&](int v) { return fma(weights[t].of[v], some_of(plane, v), sum.of[v]); });
        }
        for (int v = 0; v < kVectors; ++v) store(out + d * kTile + v * kLanes, sum.of[v]);
      }
    }
    const Vectors share = each_of([&](int v) { return set1(1.0f) / total.of[v]; });
    for (int d = 0; d < dim_; ++d) {
      for (int v = 0; v < kVectors; ++v) {
        float* y = out + d * kTile + v * kLanes;
        store(y, load(y) * share.of[v]);
      }
    }
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
