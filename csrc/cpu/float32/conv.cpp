// Before: the input is normalised and activated while its rows are laid beside each other with a border of zeros.
// 3x3 with stride 1 goes by Winograd's tiles, a few rows of them at a time; stride 2 by a plain product. 1x1, which has
// no norm and no border, is a product with the input as it lies there.
// After: bias, residual, statistics for the next norm, all while the sums are in the first-level cache.
#include "conv.hpp"

#include <algorithm>
#include <cstring>

namespace cpu {

// What becomes of the sums of a convolution: a Column takes those of a block of channels, pixel by pixel.
class Writer {
 public:
  Writer(const Sample& sample, const ConvSpec& spec, const float* bias, int out_value, int output)
      : sample_(sample), biases_(bias), out_value_(out_value), pixels_(sample.values[out_value].pixels()),
        channels_(spec.out_channels), step_(sample.values[out_value].padded()) {
    if (spec.residual >= 0) residuals_ = sample.data(spec.residual);
    if (output < 0) {
      values_ = sample.data(out_value);
    } else {
      planes_ = sample.call.outputs[output] + static_cast<size_t>(sample.index) * channels_ * pixels_;
    }
  }

  // A local variable wherever it is used: its sums stay in registers.
  class Column {
   public:
    void put(int pixel, Vec y) {
      y = y + bias_;
      const size_t to = static_cast<size_t>(pixel) * step_;
      if (residuals_ != nullptr) y = y + load(residuals_ + to);
      if (planes_ != nullptr) return put_in_planes(pixel, y);
      store(values_ + to, y);
      if (first_) pivot_ = y, first_ = false;
      const Vec d = y - pivot_;
      sum_ = sum_ + d;
      squares_ = fma(d, d, squares_);
    }

    void close() const {
      store(stats_.pivot, pivot_);
      store(stats_.sum, sum_);
      store(stats_.squares, squares_);
    }

   private:
    friend class Writer;

    void put_in_planes(int pixel, Vec y) const {
      float row[kBlock];
      store(row, y);
      for (int c = 0; c < channels_; ++c) planes_[static_cast<size_t>(c) * pixels_ + pixel] = row[c];
    }

    const float* residuals_ = nullptr;
    float *values_ = nullptr, *planes_ = nullptr;
    int step_ = 0, pixels_ = 0, channels_ = 0;
    Stats stats_{};
    bool first_ = false;
    Vec bias_{}, pivot_{}, sum_{}, squares_{};
  };

  // part: of the statistics; first: it begins here, rather than going on from what the last close() left.
  Column open(int block, int part, bool first) const {
    const int at = block * kBlock;
    const Stats s = sample_.stats(out_value_, part);
    Column column;
    column.residuals_ = residuals_ == nullptr ? nullptr : residuals_ + at;
    column.values_ = values_ == nullptr ? nullptr : values_ + at;
    column.planes_ = planes_ == nullptr ? nullptr : planes_ + static_cast<size_t>(at) * pixels_;
    column.step_ = step_;
    column.pixels_ = pixels_;
    column.channels_ = std::min(kBlock, channels_ - at);
    column.stats_ = {s.pivot + at, s.sum + at, s.squares + at};
    column.first_ = first;
    column.bias_ = load(biases_ + at);
    column.pivot_ = first ? set1(0.0f) : load(column.stats_.pivot);
    column.sum_ = first ? set1(0.0f) : load(column.stats_.sum);
    column.squares_ = first ? set1(0.0f) : load(column.stats_.squares);
    return column;
  }

 private:
  const Sample& sample_;
  const float* biases_;
  const float* residuals_ = nullptr;
  float *values_ = nullptr, *planes_ = nullptr;
  const int out_value_, pixels_, channels_, step_;
};

namespace {

int tile_size(int h, int w) { return std::min(h, w) > 12 ? 4 : 2; }  // small maps would be mostly border

int padded_channels(const std::vector<Value>& values, const std::vector<int>& inputs) {
  int padded = 0;
  for (int input : inputs) padded += values[input].padded();
  return padded;
}

}  // namespace

Conv::Conv(const std::vector<Value>& values, const ConvSpec& spec, int out_value)
    : spec_(spec), out_value_(out_value), step_(padded_channels(values, spec.inputs)),
      out_step_(round_up(spec.out_channels, kBlock)), repeat_(spec.upsample ? 2 : 1), taps_(spec.kernel * spec.kernel),
      h_(values[spec.inputs[0]].h * repeat_), w_(values[spec.inputs[0]].w * repeat_),
      out_h_((h_ - 1) / spec.stride + 1), out_w_((w_ - 1) / spec.stride + 1),
      plan_(tile_size(h_, w_), h_, w_, step_, out_step_),
      back_plan_(tile_size(h_, w_), h_, w_, out_step_, step_) {
  for (int input : spec.inputs) {
    const Value& v = values[input];
    for (int c = 0; c < v.padded(); ++c) in_at_.push_back(c < v.channels ? in_channels_ + c : -1);
    in_channels_ += v.channels;
  }
  constexpr int kFloats = 96 * 1024 / sizeof(float);  // of the input: it stays in the second-level cache
  rows_ = whole() ? out_h_ : std::clamp(kFloats / (spec.stride * laid_pitch() * step_), 1, out_h_);
  raw_.assign(weight_size(), 0.0f);
  weight_.assign(by_tiles() ? plan_.weight_size(out_step_) : products_size(), 0.0f);
  bias_.assign(out_step_, 0.0f);
}

void Conv::set_weight(const float* weight, const float* bias) {
  std::copy_n(weight, raw_.size(), raw_.begin());
  std::copy_n(bias, spec_.out_channels, bias_.begin());
  turned_.clear();
  const auto element = [this](int o, int i, int tap) { return this->weight(o, i, tap); };
  if (by_tiles()) {
    plan_.out == 4 ? transform_weight<4>(step_, out_step_, weight_.data(), element)
                   : transform_weight<2>(step_, out_step_, weight_.data(), element);
    return;
  }
  float* to = weight_.data();  // [panel][tap][in][columns of the panel]
  for (int first = 0; first < out_step_; first += kPanel) {
    for (int tap = 0; tap < taps_; ++tap) {
      for (int i = 0; i < step_; ++i) {
        for (int o = first; o < std::min(first + kPanel, out_step_); ++o) *to++ = element(o, i, tap);
      }
    }
  }
}

size_t Conv::scratch_bytes() const {
  const size_t directly = laid_size(rows_read()) + static_cast<size_t>(out_w_) * kPanel;
  return sizeof(float) * (by_tiles() ? plan_.scratch_size() : spec_.kernel == 1 ? kPixels * kPanel : directly);
}

size_t Conv::common_bytes(int hands) const {
  return by_tiles() && !by_strips(hands) ? plan_.strips() * plan_.input_size() * sizeof(float) : 0;
}

std::vector<int> Conv::parts(const Value&) const {  // a strip each
  const int strips = by_tiles() ? plan_.strips() : this->strips(), rows = by_tiles() ? plan_.rows * plan_.out : rows_;
  std::vector<int> result;
  for (int i = 0; i < strips; ++i) result.push_back(std::min(rows, out_h_ - i * rows) * out_w_);
  return result;
}

void Conv::lay_row(const Sample& sample, const Normaliser* normaliser, int y, int pitch, Channels channels,
                   float* to) const {
  const int edge = border(), step = channels.count();
  if (y < 0 || y >= h_) {
    std::memset(to, 0, static_cast<size_t>(pitch) * step * sizeof(float));
    return;
  }
  std::memset(to, 0, edge * step * sizeof(float));
  std::memset(to + (edge + w_) * step, 0, (pitch - edge - w_) * step * sizeof(float));
  to += edge * step;
  int at = 0;
  for (int input : spec_.inputs) {
    const Value& v = sample.values[input];
    const int from_step = v.padded();
    const float* row = sample.data(input) + static_cast<size_t>(y / repeat_) * v.w * from_step;
    for (int c = 0; c < from_step; c += kBlock, at += kBlock) {
      if (at < channels.first || at >= channels.end) continue;
      const float* from = row + c;
      float* put = to + at - channels.first;
      const Vec gain = normaliser == nullptr ? set1(1.0f) : load(&normaliser->gain[at]);
      const Vec offset = normaliser == nullptr ? set1(0.0f) : load(&normaliser->offset[at]);
      int x = 0;
      const auto take = [&](auto at_once, auto&& prologue) {  // so many pixels, as long as there are as many
        constexpr int kN = decltype(at_once)::value;
        for (; x + kN <= v.w; x += kN) {
          Vec z[kN];
          for (Vec& y : z) y = load(from), from += from_step;
          prologue(z);
          for (const Vec& y : z) {
            for (int k = 0; k < repeat_; ++k, put += step) store(put, y);
          }
        }
      };
      const auto activate = [&](auto& z) {
        for (Vec& y : z) y = fma(y, gain, offset);
        if (spec_.norm.silu) silu(z);
      };
      if (normaliser != nullptr) {
        take(std::integral_constant<int, kAtOnce>(), activate);
        take(std::integral_constant<int, 1>(), activate);
      } else {
        take(std::integral_constant<int, 1>(), [](auto&) {});
      }
    }
  }
}

void Conv::lay(const Sample& sample, const Normaliser* normaliser, int y, int rows, float* to) const {
  for (int i = 0; i < rows; ++i, to += laid_pitch() * step_) {
    lay_row(sample, normaliser, y + i, laid_pitch(), {0, step_}, to);
  }
}

// The output rows of a strip, a panel of channels from first on.
void Conv::multiply_rows(int strip, int first, const float* laid, float* sums, Writer& writer) const {
  const int length = spec_.kernel * step_;  // the taps of a row lie one after the other
  const int columns = std::min(kPanel, out_step_ - first), top = strip * rows_;
  const float* panel = weight_.data() + static_cast<size_t>(taps_) * step_ * first;
  const size_t row = static_cast<size_t>(laid_pitch()) * step_, stride = static_cast<size_t>(spec_.stride) * step_;
  for (int y = top; y < std::min(top + rows_, out_h_); ++y, laid += spec_.stride * row) {
    Run runs[3];
    for (int k = 0; k < spec_.kernel; ++k) runs[k] = {laid + k * row, length, stride};
    multiply(runs, spec_.kernel, out_w_, panel, columns / kLanes, sums, columns);
    for (int c = 0; c < columns; c += kLanes) {
      auto column = writer.open((first + c) / kLanes, strip, y == top);
      for (int x = 0; x < out_w_; ++x) column.put(y * out_w_ + x, load(sums + x * columns + c));
      column.close();
    }
  }
}

void Conv::run(const Sample& sample) const {
  std::unique_ptr<Normaliser> normaliser;
  if (spec_.norm.groups > 0) normaliser = std::make_unique<Normaliser>(spec_.norm, sample, spec_.inputs);
  if (spec_.kernel == 1) {
    run_pixel_by_pixel(sample);
  } else if (!by_tiles()) {
    run_directly(sample, normaliser.get());
  } else {
    plan_.out == 4 ? run_by_tiles<4>(sample, normaliser.get()) : run_by_tiles<2>(sample, normaliser.get());
  }
}

void Conv::run_directly(const Sample& sample, const Normaliser* normaliser) const {
  const int panels = plenty(strips(), sample.hands()) ? 1 : (out_step_ + kPanel - 1) / kPanel;  // that are shared out
  sample.share(strips() * panels, [&](int i, uint8_t* scratch) {
    auto* laid = reinterpret_cast<float*>(scratch);
    float* sums = laid + laid_size(rows_read());
    Writer writer(sample, spec_, bias_.data(), out_value_, sample.has_grad == nullptr ? output_ : -1);
    const int strip = i % strips();
    lay(sample, normaliser, strip * rows_ * spec_.stride - border(), rows_read(), laid);
    for (int panel = i / strips(); panel * kPanel < out_step_; panel += panels) {
      multiply_rows(strip, panel * kPanel, laid, sums, writer);
    }
  });
}

// 1x1: pixels are the rows of a product as they lie there, those of two inputs beside each other.
void Conv::run_pixel_by_pixel(const Sample& sample) const {
  const int panels = plenty(strips(), sample.hands()) ? 1 : (out_step_ + kPanel - 1) / kPanel;  // that are shared out
  sample.share(strips() * panels, [&](int i, uint8_t* scratch) {
    auto* sums = reinterpret_cast<float*>(scratch);
    Writer writer(sample, spec_, bias_.data(), out_value_, sample.has_grad == nullptr ? output_ : -1);
    const int strip = i % strips(), top = strip * rows_ * out_w_, end = std::min(top + rows_ * out_w_, out_h_ * out_w_);
    for (int first = i / strips() * kPanel; first < out_step_; first += panels * kPanel) {
      const int columns = std::min(kPanel, out_step_ - first);
      const float* panel = weight_.data() + static_cast<size_t>(step_) * first;
      for (int begin = top; begin < end; begin += kPixels) {
        const int pixels = std::min(kPixels, end - begin);
        const float* next = whole() && begin == top ? panel + static_cast<size_t>(step_) * columns : nullptr;
        Run runs[2];
        for (size_t k = 0; k < spec_.inputs.size(); ++k) {
          const int input = spec_.inputs[k], step = sample.values[input].padded();
          runs[k] = {sample.data(input) + static_cast<size_t>(begin) * step, step, static_cast<size_t>(step)};
        }
        multiply(runs, static_cast<int>(spec_.inputs.size()), pixels, panel, columns / kLanes, sums, columns, next);
        for (int c = 0; c < columns; c += kLanes) {
          auto column = writer.open((first + c) / kLanes, strip, begin == top);
          for (int p = 0; p < pixels; ++p) column.put(begin + p, load(sums + p * columns + c));
          column.close();
        }
      }
    }
  });
}

template <int kOut>
void Conv::run_by_tiles(const Sample& sample, const Normaliser* normaliser) const {
  const auto row = [&](int y, Channels channels, float* to) {
    lay_row(sample, normaliser, y, plan_.pitch, channels, to);
  };
  const int output = sample.has_grad == nullptr ? output_ : -1, strips = plan_.strips();
  if (by_strips(sample.hands())) {
    const bool alone = sample.hands() == 1;
    sample.share(strips, [&](int strip, uint8_t* scratch) {
      Writer writer(sample, spec_, bias_.data(), out_value_, output);
      winograd_strip<kOut>(plan_, h_, w_, strip, alone && strip > 0, out_step_, weight_.data(),
                           reinterpret_cast<float*>(scratch), row, writer);
    });
    return;
  }
  constexpr int kTogether = std::max(kLanes, kCacheLine / static_cast<int>(sizeof(float)));  // channels, a line at least
  auto* inputs = reinterpret_cast<float*>(sample.common());
  const int pieces = (step_ + kTogether - 1) / kTogether;
  sample.share(strips * pieces, [&](int i, uint8_t* scratch) {
    const int first = i / strips * kTogether, strip = i % strips;
    transform_input<kOut>(plan_, strip, {first, std::min(first + kTogether, step_)}, false,
                          reinterpret_cast<float*>(scratch), inputs + strip * plan_.input_size(), row);
  });
  const int panels = (out_step_ + kPanel - 1) / kPanel;
  sample.share(strips * panels, [&](int i, uint8_t* scratch) {
    Writer writer(sample, spec_, bias_.data(), out_value_, output);
    const int strip = i % strips;  // a panel's weights are read for all of its strips in a row
    multiply_tiles<kOut>(plan_, h_, w_, strip, i / strips * kPanel, out_step_, inputs + strip * plan_.input_size(),
                         weight_.data(), reinterpret_cast<float*>(scratch), writer);
  });
}

std::unique_ptr<Op> make_conv(const std::vector<Value>& values, const ConvSpec& spec, int out_value) {
  return std::make_unique<Conv>(values, spec, out_value);
}

}  // namespace cpu
