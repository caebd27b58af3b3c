#include "program.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <mutex>
#include <stdexcept>
#include <string>

namespace cpu {

namespace {

// Statistics of a value that no convolution has written.
void measure(const Sample& sample, int value) {
  const Value& v = sample.values[value];
  const Stats s = sample.stats(value);
  for (int block = 0; block < v.blocks(); ++block) {
    const Stored* x = sample.data(value) + block * kBlock;
    const Block pivot = load_block(x);
    Block sum{}, squares{};
    for (int i = 0; i < v.pixels(); ++i, x += v.padded()) {
      const Block d = load_block(x) - pivot;
      sum = sum + d;
      squares = fma(d, d, squares);
    }
    store_floats(s.pivot + block * kBlock, pivot);
    store_floats(s.sum + block * kBlock, sum);
    store_floats(s.squares + block * kBlock, squares);
  }
}

// float32 planes of several pieces, scaled, to one value.
class Input : public Op {
 public:
  Input(int value, int first_plane, std::vector<int> channels, std::vector<float> scales)
      : value_(value), first_plane_(first_plane), channels_(std::move(channels)), scales_(std::move(scales)) {}

  void run(const Sample& sample) const override {
    const Value& v = sample.values[value_];
    std::vector<const float*> planes;
    std::vector<float> scales;
    for (size_t k = 0; k < channels_.size(); ++k) {
      const float* first = sample.call.inputs[first_plane_ + k] +
                           static_cast<size_t>(sample.index) * channels_[k] * v.pixels();
      for (int c = 0; c < channels_[k]; ++c) {
        planes.push_back(first + static_cast<size_t>(c) * v.pixels());
        scales.push_back(scales_[k]);
      }
    }
    alignas(kCacheLine) float tile[kLanes][kBlock];
    for (int block = 0; block < v.blocks(); ++block) {
      const int channels = std::min(kBlock, v.channels - block * kBlock);
      std::fill(&tile[0][0], &tile[0][0] + kLanes * kBlock, 0.0f);
      for (int first = 0; first < v.pixels(); first += kLanes) {
        const int pixels = std::min(kLanes, v.pixels() - first);
        for (int c = 0; c < channels; ++c) {
          const float* plane = planes[block * kBlock + c] + first;
          const float scale = scales[block * kBlock + c];
          for (int i = 0; i < pixels; ++i) tile[i][c] = plane[i] * scale;
        }
        Stored* to = sample.data(value_) + static_cast<size_t>(first) * v.padded() + block * kBlock;
        for (int i = 0; i < pixels; ++i, to += v.padded()) {
          store_block(to, load_floats(tile[i]));
        }
      }
    }
  }

  void backward(const Sample&, float*) const override {}

 private:
  const int value_, first_plane_;
  const std::vector<int> channels_;
  const std::vector<float> scales_;
};

class NormOp : public Op {
 public:
  NormOp(int input, int out, Norm norm) : input_(input), out_(out), norm_(std::move(norm)) {}

  Norm* norm() override { return &norm_; }

  void run(const Sample& sample) const override {
    const Value& v = sample.values[input_];
    const Normaliser n(norm_, sample, {input_});
    for (int block = 0; block < v.blocks(); ++block) {
      const int c = block * kBlock;
      const Block g = load_floats(&n.gain[c]), o = load_floats(&n.offset[c]);
      const Stored* from = sample.data(input_) + c;
      Stored* to = sample.data(out_) + c;
      for (int i = 0; i < v.pixels(); ++i, from += v.padded(), to += v.padded()) {
        store_block(to, fma(load_block(from), g, o));
      }
    }
  }

  void backward(const Sample& sample, float* weight_grads) const override {
    norm_backward(norm_, sample, {input_}, sample.grad(out_), weight_grads);
  }

  size_t weight_grads_size() const override { return norm_.modulation < 0 ? 2 * norm_.weight.size() : 0; }

  void read_norm_grads(const float* weight_grads, float* weight, float* bias) const override {
    std::copy_n(weight_grads, norm_.weight.size(), weight);
    std::copy_n(weight_grads + norm_.weight.size(), norm_.weight.size(), bias);
  }

 private:
  const int input_, out_;
  Norm norm_;
};

// 2x2, stride 2; an odd last row or column is dropped.
class MaxPool : public Op {
 public:
  MaxPool(int input, int out, size_t input_bytes) : input_(input), out_(out), bytes_(input_bytes) {}

  void run(const Sample& sample) const override {
    const Value &x = sample.values[input_], &y = sample.values[out_];
    const int step = x.padded(), row = x.w * step;
    Stored* to = sample.data(out_);
    for (int i = 0; i < y.h; ++i) {
      for (int j = 0; j < y.w; ++j) {
        for (int block = 0; block < x.blocks(); ++block, to += kBlock) {
          const Stored* from = sample.data(input_) + 2 * i * row + 2 * j * step + block * kBlock;
          Block m = load_block(from);
          for (const Stored* other : {from + step, from + row, from + row + step}) m = max(m, load_block(other));
          store_block(to, m);
        }
      }
    }
    measure(sample, out_);
  }

  // To the first of the largest, as torch does.
  void backward(const Sample& sample, float*) const override {
    const Value &x = sample.values[input_], &y = sample.values[out_];
    const int step = x.padded(), row = x.w * step;
    auto* spread = reinterpret_cast<Stored*>(sample.scratch());
    std::fill(spread, spread + static_cast<size_t>(x.pixels()) * step, Stored{0});
    const Stored* from = sample.grad(out_);
    for (int i = 0; i < y.h; ++i) {
      for (int j = 0; j < y.w; ++j) {
        for (int c = 0; c < step; ++c, ++from) {
          const int first = 2 * i * row + 2 * j * step + c;
          int largest = first;
          for (int other : {first + step, first + row, first + row + step}) {
            if (widen(sample.data(input_)[other]) > widen(sample.data(input_)[largest])) largest = other;
          }
          spread[largest] = *from;
        }
      }
    }
    add_grad(sample, input_, spread, x.blocks(), 0);
  }

  size_t backward_scratch_bytes() const override { return bytes_; }

 private:
  const int input_, out_;
  const size_t bytes_;
};

// A value to float32 planes.
class Output : public Op {
 public:
  Output(int value, int output) : value_(value), output_(output) {}

  void run(const Sample& sample) const override {
    const Value& v = sample.values[value_];
    if (sample.has_grad != nullptr) return;
    const size_t pixels = v.pixels();
    float* planes = sample.call.outputs[output_] + pixels * sample.index * v.channels;
    const Stored* x = sample.data(value_);
    for (size_t i = 0; i < pixels; ++i, x += v.padded()) {
      for (int c = 0; c < v.channels; ++c) planes[c * pixels + i] = widen(x[c]);
    }
  }

  void backward(const Sample&, float*) const override {}

 private:
  const int value_, output_;
};

class Resize : public Op {
 public:
  Resize(int input, int out) : input_(input), out_(out) {}

  void run(const Sample& sample) const override {
    const Value &x = sample.values[input_], &y = sample.values[out_];
    const int step = x.padded(), h = std::min(x.h, y.h), w = std::min(x.w, y.w);
    Stored* to = sample.data(out_);
    std::fill(to, to + static_cast<size_t>(y.pixels()) * step, Stored{0});
    for (int i = 0; i < h; ++i) {
      const Stored* row = sample.data(input_) + static_cast<size_t>(i) * x.w * step;
      std::copy(row, row + static_cast<size_t>(w) * step, to + static_cast<size_t>(i) * y.w * step);
    }
    measure(sample, out_);
  }

  void backward(const Sample& sample, float*) const override {
    const Value &x = sample.values[input_], &y = sample.values[out_];
    if (x.input) return;
    const int step = x.padded(), h = std::min(x.h, y.h), w = std::min(x.w, y.w);
    const bool adds = sample.adds(input_);
    Stored* to = sample.grad(input_);
    if (!adds) std::fill(to, to + static_cast<size_t>(x.pixels()) * step, Stored{0});
    for (int i = 0; i < h; ++i) {
      const Stored* from = sample.grad(out_) + static_cast<size_t>(i) * y.w * step;
      Stored* row = to + static_cast<size_t>(i) * x.w * step;
      for (int k = 0; k < w * step; k += kBlock) store_block(row + k, load_block(from + k) + load_block(row + k));
    }
  }

 private:
  const int input_, out_;
};

// The engine counts in int: what it multiplies stays well below 2^31.
void check_size(const char* name, int64_t a, int64_t b, int64_t c) {
  constexpr int64_t kMost = int64_t{1} << 28;
  if (a > kMost || b > kMost / a || c > kMost / (a * b)) throw std::invalid_argument(std::string(name) + ": too large");
}

}  // namespace

int Program::add(std::unique_ptr<Op> op, const std::vector<int>& reads, const Value& writes) {
  if (!forward_.memory.empty() || !weight_grads_.empty()) {
    throw std::logic_error("program: has run already and takes no more operations");
  }
  for (int v : reads) values_.at(v).last_op = num_ops();
  if (writes.channels > 0) {
    values_.push_back(writes);
    values_.back().first_op = values_.back().last_op = num_ops();
  }
  ops_.push_back(std::move(op));
  written_.push_back(writes.channels > 0 ? static_cast<int>(values_.size()) - 1 : -1);
  return static_cast<int>(values_.size()) - 1;
}

Norm Program::completed(Norm norm, const std::vector<int>& inputs) {
  if (norm.groups == 0) return norm;
  int channels = 0;
  for (int input : inputs) {
    channels += values_.at(input).channels;
    if (!values_[input].measured) throw std::invalid_argument("norm: of a value without statistics");
  }
  if (norm.groups < 0 || channels % norm.groups) throw std::invalid_argument("groups: must divide the channels");
  if (norm.modulation >= 0) check_size("modulation", int64_t{norm.modulation} + 2 * channels, 1, 1);
  if (norm.modulation >= 0) modulation_size_ = std::max(modulation_size_, norm.modulation + 2 * channels);
  norm.weight.assign(channels, 1.0f);
  norm.bias.assign(channels, 0.0f);
  return norm;
}

int Program::input(const std::vector<int>& piece_channels, const std::vector<float>& scales, int h, int w) {
  Value value;
  value.h = h, value.w = w;
  bool sound = piece_channels.size() == scales.size() && !piece_channels.empty() && h >= 1 && w >= 1;
  for (int c : piece_channels) sound = sound && c >= 1;
  if (!sound) throw std::invalid_argument("input: needs a scale a piece, and at least one channel and pixel");
  for (int c : piece_channels) {
    check_size("input", static_cast<int64_t>(value.channels) + c + kBlock, h, w);
    value.channels += c;
  }
  value.input = true;
  const int first = num_inputs();
  for (int c : piece_channels) input_planes_.push_back(c * h * w);
  return add(std::make_unique<Input>(static_cast<int>(values_.size()), first, piece_channels, scales), {}, value);
}

int Program::conv(ConvSpec spec) {
  if (spec.inputs.empty() || spec.inputs.size() > 2) throw std::invalid_argument("inputs: expected one or two values");
  const bool plain = spec.kernel == 1 && spec.stride == 1 && !spec.upsample && spec.norm.groups == 0;
  if (!plain && spec.kernel != 3) throw std::invalid_argument("kernel: expected 3, or 1 without norm, stride, upsampling");
  if (spec.stride != 1 && spec.stride != 2) throw std::invalid_argument("stride: expected 1 or 2");
  if (spec.out_channels < 1) throw std::invalid_argument("out_channels: expected at least 1");
  std::vector<int> reads = spec.inputs;
  const Value x = values_.at(spec.inputs[0]);
  for (int input : spec.inputs) {
    const Value& v = values_.at(input);
    if (v.h != x.h || v.w != x.w) throw std::invalid_argument("inputs: differ in height or width");
  }
  int64_t in_channels = 0;
  for (int input : spec.inputs) in_channels += values_[input].padded();
  const int64_t taps = static_cast<int64_t>(spec.kernel) * spec.kernel;
  check_size("out_channels", static_cast<int64_t>(spec.out_channels) + kBlock, in_channels, taps);
  spec.norm = completed(spec.norm, spec.inputs);
  Value out;
  const int up = spec.upsample ? 2 : 1;
  out.h = (x.h * up - 1) / spec.stride + 1, out.w = (x.w * up - 1) / spec.stride + 1;
  out.channels = spec.out_channels;
  out.measured = true;
  check_size("out_channels", out.padded(), out.h + 2, out.w + 2);
  if (spec.residual >= 0) {
    const Value& r = values_.at(spec.residual);
    if (r.h != out.h || r.w != out.w || r.channels != out.channels) {
      throw std::invalid_argument("residual: is not shaped like the output");
    }
    reads.push_back(spec.residual);
  }
  return add(make_conv(values_, spec, static_cast<int>(values_.size())), reads, out);
}

int Program::norm(int input, const Norm& norm) {
  Value out = values_.at(input);
  out.measured = out.input = false;
  if (norm.groups < 1) throw std::invalid_argument("groups: expected at least 1");
  auto op = std::make_unique<NormOp>(input, static_cast<int>(values_.size()), completed(norm, {input}));
  return add(std::move(op), {input}, out);
}

int Program::attention(int qkv, int heads) {
  Value out = values_.at(qkv);
  if (heads < 1 || out.channels % (3 * heads)) throw std::invalid_argument("heads: must divide a third of the channels");
  out.channels /= 3;
  out.measured = out.input = false;
  return add(make_attention(values_, qkv, heads, static_cast<int>(values_.size())), {qkv}, out);
}

int Program::max_pool(int input) {
  Value out = values_.at(input);
  out.h /= 2, out.w /= 2;
  out.measured = true;
  out.input = false;
  if (out.h < 1 || out.w < 1) throw std::invalid_argument("input: too small to be halved");
  return add(std::make_unique<MaxPool>(input, static_cast<int>(values_.size()), values_[input].num_bytes()), {input}, out);
}

int Program::resize(int input, int h, int w) {
  if (h < 1 || w < 1) throw std::invalid_argument("h, w: expected at least 1");
  Value out = values_.at(input);
  check_size("h, w", out.padded(), h, w);
  out.h = h, out.w = w;
  out.measured = true;
  out.input = false;
  return add(std::make_unique<Resize>(input, static_cast<int>(values_.size())), {input}, out);
}

void Program::output(int value) {
  const int number = num_outputs();
  outputs_.push_back(values_.at(value));
  output_values_.push_back(value);
  const bool last = !ops_.empty() && values_[value].first_op == num_ops() - 1;
  if (last && ops_.back()->redirect(number)) return;
  add(std::make_unique<Output>(value, number), {value}, {});
}

// Forwards, first fit over what is free while a value lives; for the way back everything has a place of its own.
Layout Program::plan(bool for_backward) const {
  struct Placed {
    size_t at, end;
    int last_op;
  };
  Layout layout;
  std::vector<Placed> live;
  for (const Value& value : values_) {
    const auto over = [&](const Placed& p) { return !for_backward && p.last_op < value.first_op; };
    live.erase(std::remove_if(live.begin(), live.end(), over), live.end());
    std::sort(live.begin(), live.end(), [](const Placed& a, const Placed& b) { return a.at < b.at; });
    const size_t bytes = (value.num_bytes() + kCacheLine - 1) / kCacheLine * kCacheLine;
    size_t at = 0;
    for (const Placed& p : live) {
      if (at + bytes <= p.at) break;
      at = std::max(at, p.end);
    }
    live.push_back({at, at + bytes, value.last_op});
    layout.data.push_back(at);
    layout.size = std::max(layout.size, at + bytes);
  }
  for (const Value& value : values_) {
    layout.stats.push_back(layout.size);
    layout.size += static_cast<size_t>(3) * value.padded() * sizeof(float);
    if (for_backward) {
      layout.grads.push_back(layout.size);
      layout.size += value.num_bytes();
    }
  }
  constexpr size_t kPage = 4096;
  layout.scratch = (layout.size + kPage - 1) / kPage * kPage;
  size_t scratch = 0;
  for (const auto& op : ops_) {
    scratch = std::max({scratch, op->scratch_bytes(), for_backward ? op->backward_scratch_bytes() : 0});
  }
  layout.size = (layout.scratch + scratch + kPage - 1) / kPage * kPage;
  return layout;
}

void Program::allocate(bool for_backward, int members) {
  Arenas& arenas = for_backward ? backward_ : forward_;
  if (arenas.memory.empty()) arenas.layout = plan(for_backward);
  if (for_backward && weight_grads_.empty()) {
    weight_grads_at_.clear();
    weight_grads_size_ = 0;
    for (const auto& op : ops_) {
      weight_grads_at_.push_back(weight_grads_size_);
      weight_grads_size_ += op->weight_grads_size();
    }
  }
  while (for_backward && static_cast<int>(weight_grads_.size()) < members) {
    weight_grads_.emplace_back(weight_grads_size_);
  }
  while (static_cast<int>(arenas.memory.size()) < members) {
    arenas.memory.emplace_back(std::aligned_alloc(4096, arenas.layout.size));
    if (arenas.memory.back() == nullptr) {
      arenas.memory.pop_back();
      throw std::bad_alloc();
    }
  }
}

void Program::run(int num_samples, const Call& call) {
  if (num_samples == 0) return;
  std::lock_guard<ForkSafeMutex> alone(running_);
  const int members = std::min(num_threads_, num_samples);
  allocate(false, members);
  std::atomic<int> next{0};
  Team::of_size(num_threads_).run(members, [&](int member) {
    Tiles tiles;
    auto* arena = static_cast<uint8_t*>(forward_.memory[member].get());
    for (int index; (index = next.fetch_add(1)) < num_samples;) {
      const Sample sample{values_, forward_.layout, call, arena, index};
      for (const auto& op : ops_) op->run(sample);
    }
  });
}

// Which thread takes which sample is fixed, so that sums have the same bits every time.
void Program::backward(int num_samples, const Call& call) {
  std::lock_guard<ForkSafeMutex> alone(running_);
  const int members = std::max(1, std::min(num_threads_, num_samples));
  allocate(true, members);
  for (const auto& op : ops_) op->prepare_backward();
  Team::of_size(num_threads_).run(members, [&](int member) {
    Tiles tiles;
    auto* arena = static_cast<uint8_t*>(backward_.memory[member].get());
    std::vector<float>& grads = weight_grads_[member];
    std::fill(grads.begin(), grads.end(), 0.0f);
    std::vector<char> has_grad(values_.size());
    for (int index = member; index < num_samples; index += members) {
      std::fill(has_grad.begin(), has_grad.end(), 0);
      const Sample sample{values_, backward_.layout, call, arena, index, &has_grad};
      for (const auto& op : ops_) op->run(sample);
      for (int i = 0; i < num_outputs(); ++i) take_output_grad(sample, i);
      for (int i = num_ops() - 1; i >= 0; --i) {
        const int written = written_[i];
        if (written < 0 || has_grad[written]) ops_[i]->backward(sample, grads.data() + weight_grads_at_[i]);
      }
    }
  });
  for (int i = 1; i < members; ++i) {
    for (size_t k = 0; k < weight_grads_[0].size(); ++k) weight_grads_[0][k] += weight_grads_[i][k];
  }
}

void Program::take_output_grad(const Sample& sample, int output) const {
  const int value = output_values_[output];
  const Value& v = values_[value];
  const size_t pixels = v.pixels();
  const float* planes = sample.call.output_grads[output] + pixels * sample.index * v.channels;
  alignas(kCacheLine) float row[kBlock];
  const bool adds = sample.adds(value);
  Stored* to = sample.grad(value);
  for (size_t i = 0; i < pixels; ++i) {
    for (int block = 0; block < v.blocks(); ++block, to += kBlock) {
      for (int c = 0; c < kBlock; ++c) {
        const int channel = block * kBlock + c;
        row[c] = (channel < v.channels ? planes[channel * pixels + i] : 0.0f) + (adds ? widen(to[c]) : 0.0f);
      }
      store_block(to, load_floats(row));
    }
  }
}

void Program::read_grads(int op, float* weight, float* bias, float* norm_weight, float* norm_bias) const {
  if (weight_grads_.empty()) throw std::logic_error("program: has not run backward yet");
  const float* grads = weight_grads_[0].data() + weight_grads_at_.at(op);
  if (weight != nullptr) ops_[op]->read_weight_grads(grads, weight, bias);
  if (norm_weight != nullptr) ops_[op]->read_norm_grads(grads, norm_weight, norm_bias);
}

}  // namespace cpu
