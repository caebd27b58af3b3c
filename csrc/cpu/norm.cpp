// Group normalisation from the statistics that convolutions leave behind, and the way back through it.
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "program.hpp"

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
    const std::vector<int>& parts = sample.values[input].parts;
    for (int i = 0; i < sample.values[input].channels; ++i) {
      const size_t c = at.size();
      const float pivot = sample.stats(input, 0).pivot[i];
      for (size_t k = 0; k < parts.size(); ++k) {
        const Stats s = sample.stats(input, static_cast<int>(k));
        center[c] += s.sum[i] + parts[k] * (s.pivot[i] - pivot);
      }
      center[c] = pivot + center[c] / count;
      for (size_t k = 0; k < parts.size(); ++k) {
        const Stats s = sample.stats(input, static_cast<int>(k));
        const float mean = s.sum[i] / parts[k], away = s.pivot[i] + mean - center[c];
        squares[c] += std::max(0.0f, s.squares[i] - s.sum[i] * mean) + parts[k] * away * away;
      }
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

void norm_backward(const Norm& norm, const Sample& sample, const std::vector<int>& inputs, Stored* grads,
                   float* weight_grads) {
  const Normaliser n(norm, sample, inputs);
  const int padded = static_cast<int>(n.gain.size()), pixels = sample.values[inputs[0]].pixels();
  std::vector<float> sum(padded), sum_x_hat(padded);  // over pixels: of dz, and of dz * x_hat

  int first = 0;
  for (int input : inputs) {
    const Value& v = sample.values[input];
    for (int block = 0; block < v.blocks(); ++block) {
      const int c = first + block * kBlock;
      const Block gain = load_floats(&n.gain[c]), offset = load_floats(&n.offset[c]), mean = load_floats(&n.mean[c]),
                  rstd = load_floats(&n.rstd[c]);
      Block s{}, sx{};
      const Stored* x_at = sample.data(input) + block * kBlock;
      Stored* dz_at = grads + c;
      int i = 0;
      const auto take = [&](auto at_once) {  // so many pixels, as long as there are as many
        constexpr int kN = decltype(at_once)::value;
        for (; i + kN <= pixels; i += kN) {
          Block x[kN], slope[kN];
          for (int k = 0; k < kN; ++k) x[k] = load_block(x_at + k * v.padded()), slope[k] = fma(x[k], gain, offset);
          if (norm.silu) silu_slope(slope);
          for (int k = 0; k < kN; ++k, x_at += v.padded(), dz_at += padded) {
            Block dz = load_block(dz_at);
            if (norm.silu) {
              dz = dz * slope[k];
              store_block(dz_at, dz);
            }
            s = s + dz;
            sx = fma(dz, (x[k] - mean) * rstd, sx);
          }
        }
      };
      take(std::integral_constant<int, kAtOnce>());
      take(std::integral_constant<int, 1>());
      store_floats(&sum[c], s);
      store_floats(&sum_x_hat[c], sx);
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
    const int step = v.padded();
    const bool adds = !v.input && sample.adds(input);
    for (int block = 0; block < v.blocks() && !v.input; ++block) {
      const int c = first + block * kBlock;
      const Block gain = load_floats(&n.gain[c]), mean = load_floats(&n.mean[c]), rstd = load_floats(&n.rstd[c]),
                  b1 = load_floats(&c1[c]), b2 = load_floats(&c2[c]);
      const Stored* x_at = sample.data(input) + block * kBlock;
      const Stored* dz_at = grads + c;
      Stored* to = sample.grad(input) + block * kBlock;
      for (int i = 0; i < pixels; ++i, x_at += step, dz_at += padded, to += step) {
        const Block x_hat = (load_block(x_at) - mean) * rstd;
        const Block dx = fnma(x_hat, b1, fms(gain, load_block(dz_at), b2));
        store_block(to, adds ? dx + load_block(to) : dx);
      }
    }
    first += step;
  }
}

void add_grad(const Sample& sample, int value, const Stored* grads, int row_blocks, int first_block) {
  const Value& v = sample.values[value];
  const bool adds = sample.adds(value);
  Stored* to = sample.grad(value);
  for (int i = 0; i < v.pixels(); ++i) {
    const Stored* from = grads + (static_cast<size_t>(i) * row_blocks + first_block) * kBlock;
    for (int block = 0; block < v.blocks(); ++block, from += kBlock, to += kBlock) {
      const Block g = load_block(from);
      store_block(to, adds ? g + load_block(to) : g);
    }
  }
}

void give_to_inputs(const ConvSpec& spec, const Sample& sample, int repeat, Stored* grads, float* norm_grads) {
  const Value& x = sample.values[spec.inputs[0]];
  int blocks = 0;
  for (int input : spec.inputs) blocks += sample.values[input].blocks();
  if (repeat == 2) {  // a pixel's gradient is that of its four copies
    const int step = blocks * kBlock, w = 2 * x.w;
    for (int y = 0; y < x.h; ++y) {
      for (int i = 0; i < x.w; ++i) {
        const Stored* from = grads + (static_cast<size_t>(2 * y) * w + 2 * i) * step;
        Stored* to = grads + (static_cast<size_t>(y) * x.w + i) * step;
        for (int block = 0; block < blocks; ++block, from += kBlock, to += kBlock) {
          Block sum = load_block(from);
          for (const Stored* other : {from + step, from + w * step, from + (w + 1) * step}) {
            sum = sum + load_block(other);
          }
          store_block(to, sum);
        }
      }
    }
  }
  if (spec.norm.groups > 0) {
    norm_backward(spec.norm, sample, spec.inputs, grads, norm_grads);
    return;
  }
  int block = 0;
  for (int input : spec.inputs) {
    if (!sample.values[input].input) add_grad(sample, input, grads, blocks, block);
    block += sample.values[input].blocks();
  }
}

}  // namespace cpu
