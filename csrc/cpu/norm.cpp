// Group normalisation from the statistics that convolutions leave behind, and the way back through it.
#include <algorithm>
#include <cmath>

#include "program.hpp"
#include "simd.hpp"

namespace cpu {

Normaliser::Normaliser(const Norm& norm, const Sample& sample, const std::vector<int>& inputs) {
  int channels = 0, padded = 0;
  for (int input : inputs) channels += sample.values[input].channels, padded += sample.values[input].padded();
  for (auto* array : {&gain, &offset, &mean, &rstd}) array->assign(padded, 0.0f);
  std::vector<int> at;  // of every channel among the padded ones
  std::vector<float> center(channels), squares(channels);
  const float count = static_cast<float>(sample.values[inputs[0]].pixels());
  int first = 0;
  for (int input : inputs) {
    const Stats s = sample.stats(input);
    for (int i = 0; i < sample.values[input].channels; ++i) {
      const size_t c = at.size();
      center[c] = s.pivot[i] + s.sum[i] / count;
      squares[c] = std::max(0.0f, s.squares[i] - s.sum[i] * (s.sum[i] / count));
      at.push_back(first + i);
    }
    first += sample.values[input].padded();
  }
  const int size = channels / norm.groups;
  for (int g = 0; g < norm.groups; ++g) {
    float group_mean = 0, total = 0;
    for (int c = g * size; c < (g + 1) * size; ++c) group_mean += center[c] / size;
    for (int c = g * size; c < (g + 1) * size; ++c) {
      total += squares[c] + count * (center[c] - group_mean) * (center[c] - group_mean);
    }
    const float group_rstd = 1.0f / std::sqrt(total / (count * size) + norm.eps);
    for (int c = g * size; c < (g + 1) * size; ++c) {
      const float* row = norm.modulation < 0 ? nullptr : sample.modulation() + norm.modulation;
      const float scale = row == nullptr ? norm.weight[c] : 1.0f + row[c];
      const float shift = row == nullptr ? norm.bias[c] : row[channels + c];
      gain[at[c]] = scale * group_rstd;
      offset[at[c]] = shift - group_mean * gain[at[c]];
      mean[at[c]] = group_mean;
      rstd[at[c]] = group_rstd;
    }
  }
}

namespace {

struct Channels {  // a block of a per-channel array
  Pair values;
  explicit Channels(const float* from) : values{_mm512_loadu_ps(from), _mm512_loadu_ps(from + kLanes)} {}
  operator Pair() const { return values; }
};

__m512 sigmoid(__m512 z) {
  const __m512 e = exp2_fast(_mm512_mul_ps(z, _mm512_set1_ps(-kLog2E)));
  return _mm512_rcp14_ps(_mm512_add_ps(e, _mm512_set1_ps(1.0f)));
}

// d silu / d z = s (1 + z (1 - s))
__m512 silu_slope(__m512 z) {
  const __m512 s = sigmoid(z), one = _mm512_set1_ps(1.0f);
  return _mm512_mul_ps(s, _mm512_fmadd_ps(z, _mm512_sub_ps(one, s), one));
}

}  // namespace

void norm_backward(const Norm& norm, const Sample& sample, const std::vector<int>& inputs, bf16* grads,
                   float* weight_grads) {
  const Normaliser n(norm, sample, inputs);
  const int padded = static_cast<int>(n.gain.size()), pixels = sample.values[inputs[0]].pixels();
  std::vector<float> sum(padded), sum_x_hat(padded);  // over pixels: of dz, and of dz * x_hat

  int first = 0;
  for (int input : inputs) {
    const Value& v = sample.values[input];
    for (int block = 0; block < v.blocks(); ++block) {
      const int c = first + block * kBlock;
      const Pair gain = Channels(&n.gain[c]), offset = Channels(&n.offset[c]), mean = Channels(&n.mean[c]),
                 rstd = Channels(&n.rstd[c]);
      Pair s{}, sx{};
      const bf16* x_at = sample.data(input) + block * kBlock;
      bf16* dz_at = grads + c;
      for (int i = 0; i < pixels; ++i, x_at += v.padded(), dz_at += padded) {
        const Pair x = load_block(x_at);
        Pair dz = load_block(dz_at);
        if (norm.silu) {
          dz.lo = _mm512_mul_ps(dz.lo, silu_slope(_mm512_fmadd_ps(x.lo, gain.lo, offset.lo)));
          dz.hi = _mm512_mul_ps(dz.hi, silu_slope(_mm512_fmadd_ps(x.hi, gain.hi, offset.hi)));
          store_block(dz_at, dz);
        }
        s = {_mm512_add_ps(s.lo, dz.lo), _mm512_add_ps(s.hi, dz.hi)};
        sx.lo = _mm512_fmadd_ps(dz.lo, _mm512_mul_ps(_mm512_sub_ps(x.lo, mean.lo), rstd.lo), sx.lo);
        sx.hi = _mm512_fmadd_ps(dz.hi, _mm512_mul_ps(_mm512_sub_ps(x.hi, mean.hi), rstd.hi), sx.hi);
      }
      _mm512_storeu_ps(&sum[c], s.lo);
      _mm512_storeu_ps(&sum[c + kLanes], s.hi);
      _mm512_storeu_ps(&sum_x_hat[c], sx.lo);
      _mm512_storeu_ps(&sum_x_hat[c + kLanes], sx.hi);
    }
    first += v.padded();
  }

  std::vector<int> at;  // of every channel among the padded ones
  first = 0;
  for (int input : inputs) {
    for (int i = 0; i < sample.values[input].channels; ++i) at.push_back(first + i);
    first += sample.values[input].padded();
  }
  const int channels = static_cast<int>(at.size()), size = channels / norm.groups;
  float* row = norm.modulation < 0 ? nullptr : sample.modulation_grads() + norm.modulation;
  std::vector<float> c1(padded), c2(padded);  // means over the group of gain * dz * x_hat, and of gain * dz
  for (int g = 0; g < norm.groups; ++g) {
    float with_x_hat = 0, without = 0;
    for (int c = g * size; c < (g + 1) * size; ++c) {
      const int p = at[c];
      if (row != nullptr) {
        row[c] = sum_x_hat[p];
        row[channels + c] = sum[p];
      } else {
        weight_grads[c] += sum_x_hat[p];
        weight_grads[channels + c] += sum[p];
      }
      with_x_hat += n.gain[p] * sum_x_hat[p];
      without += n.gain[p] * sum[p];
    }
    for (int c = g * size; c < (g + 1) * size; ++c) {
      c1[at[c]] = with_x_hat / (static_cast<float>(size) * pixels);
      c2[at[c]] = without / (static_cast<float>(size) * pixels);
    }
  }

  // dx = gain * dz - c2 - x_hat * c1; gain, and with it c1 and c2, holds the factor rstd already
  first = 0;
  for (int input : inputs) {
    const Value& v = sample.values[input];
    for (int block = 0; block < v.blocks(); ++block) {
      const int c = first + block * kBlock;
      const Pair gain = Channels(&n.gain[c]), mean = Channels(&n.mean[c]), rstd = Channels(&n.rstd[c]),
                 b1 = Channels(&c1[c]), b2 = Channels(&c2[c]);
      const bf16* x_at = sample.data(input) + block * kBlock;
      bf16* dz_at = grads + c;
      for (int i = 0; i < pixels; ++i, x_at += v.padded(), dz_at += padded) {
        const Pair x = load_block(x_at), dz = load_block(dz_at);
        auto dx = [](__m512 x, __m512 dz, __m512 gain, __m512 mean, __m512 rstd, __m512 b1, __m512 b2) {
          const __m512 x_hat = _mm512_mul_ps(_mm512_sub_ps(x, mean), rstd);
          return _mm512_fnmadd_ps(x_hat, b1, _mm512_fmsub_ps(gain, dz, b2));
        };
        store_block(dz_at, {dx(x.lo, dz.lo, gain.lo, mean.lo, rstd.lo, b1.lo, b2.lo),
                            dx(x.hi, dz.hi, gain.hi, mean.hi, rstd.hi, b1.hi, b2.hi)});
      }
    }
    if (!v.input) add_grad(sample, input, grads, padded / kBlock, first / kBlock);
    first += v.padded();
  }
}

void add_grad(const Sample& sample, int value, const bf16* grads, int row_blocks, int first_block) {
  const Value& v = sample.values[value];
  const bool adds = sample.adds(value);
  bf16* to = sample.grad(value);
  for (int i = 0; i < v.pixels(); ++i) {
    const bf16* from = grads + (static_cast<size_t>(i) * row_blocks + first_block) * kBlock;
    for (int block = 0; block < v.blocks(); ++block, from += kBlock, to += kBlock) {
      Pair g = load_block(from);
      if (adds) {
        const Pair before = load_block(to);
        g = {_mm512_add_ps(g.lo, before.lo), _mm512_add_ps(g.hi, before.hi)};
      }
      store_block(to, g);
    }
  }
}

}  // namespace cpu
