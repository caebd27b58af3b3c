#include "program.hpp"

#include <algorithm>
#include <mutex>
#include <stdexcept>
#include <string>

namespace cpu {

namespace {

constexpr size_t kPage = 4096;

// The engine counts in int: what it multiplies stays well below 2^31.
void check_size(const char* name, int64_t a, int64_t b, int64_t c) {
  constexpr int64_t kMost = int64_t{1} << 28;
  if (a > kMost || b > kMost / a || c > kMost / (a * b)) throw std::invalid_argument(std::string(name) + ": too large");
}

}  // namespace

Memory allocate_pages(size_t bytes) { return Memory(std::aligned_alloc(kPage, bytes)); }

std::vector<Memory> Blocks::take(int num_samples, size_t bytes, size_t most_bytes) {
  std::vector<Memory> taken;
  std::lock_guard<ForkSafeMutex> alone(mutex_);
  while (static_cast<int>(taken.size()) < num_samples) {
    if (spare_.empty()) {
      Memory memory = made_ + bytes > most_bytes ? nullptr : allocate_pages(bytes);
      if (memory == nullptr) break;
      made_ += bytes;
      spare_.push_back(std::move(memory));
    }
    taken.push_back(std::move(spare_.back()));
    spare_.pop_back();
  }
  return taken;
}

void Blocks::give_back(std::vector<Memory> blocks) {
  std::lock_guard<ForkSafeMutex> alone(mutex_);
  for (Memory& memory : blocks) spare_.push_back(std::move(memory));
}

int Program::add(std::unique_ptr<Op> op, const std::vector<int>& reads, const Value& writes) {
  if (!forward_.memory.empty() || !weight_grads_.empty()) {
    throw std::logic_error("program: has run already and takes no more operations");
  }
  for (int v : reads) values_.at(v).last_op = num_ops();
  if (writes.channels > 0) {
    values_.push_back(writes);
    values_.back().first_op = values_.back().last_op = num_ops();
    values_.back().parts = op->parts(writes);
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
  return add(make_input(static_cast<int>(values_.size()), first, piece_channels, scales), {}, value);
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

Value Program::unmeasured(int like) const {
  Value value = values_.at(like);
  value.measured = value.input = false;
  return value;
}

int Program::norm(int input, const Norm& norm) {
  if (norm.groups < 1) throw std::invalid_argument("groups: expected at least 1");
  const Value out = unmeasured(input);
  return add(make_norm(input, static_cast<int>(values_.size()), completed(norm, {input})), {input}, out);
}

int Program::attention(int qkv, int heads) {
  Value out = unmeasured(qkv);
  if (heads < 1 || out.channels % (3 * heads)) throw std::invalid_argument("heads: must divide a third of the channels");
  out.channels /= 3;
  return add(make_attention(values_, {qkv, heads}, -1, static_cast<int>(values_.size())), {qkv}, out);
}

int Program::look(const LookSpec& spec) {
  Value out = unmeasured(spec.input);
  if (spec.heads < 1 || out.channels % ((spec.own ? 3 : 1) * spec.heads)) {
    throw std::invalid_argument("heads: must divide the queries' channels");
  }
  if (spec.most_past < 1) throw std::invalid_argument("most_past: expected at least 1");
  if (spec.same_place && !spec.own) throw std::invalid_argument("same_place: pixels look at their own frame, too");
  if (spec.own) out.channels /= 3;
  check_size("most_past", spec.most_past + 1, 2 * out.channels, out.pixels());
  const int number = num_looks(), at = static_cast<int>(values_.size());
  memory_sizes_.push_back(2 * out.channels * out.pixels());
  most_past_ = std::max(most_past_, spec.most_past);
  last_look_ = num_ops();
  auto op = (spec.same_place ? make_time_attention : make_attention)(values_, spec, number, at);
  return add(std::move(op), {spec.input}, out);
}

int Program::layer_norm(int input, float eps, int scale, int shift) {
  const Value out = unmeasured(input);
  for (int place : {scale, shift}) {
    check_size("scale, shift", int64_t{place} + out.channels, 1, 1);
    modulation_size_ = std::max(modulation_size_, place + out.channels);
  }
  return add(make_layer_norm(input, static_cast<int>(values_.size()), eps, scale, shift), {input}, out);
}

int Program::gelu(int input) {
  return add(make_gelu(input, static_cast<int>(values_.size())), {input}, unmeasured(input));
}

int Program::gated_sum(int input, int other, int gate) {
  const Value out = unmeasured(input), &added = values_.at(other);
  if (added.h != out.h || added.w != out.w || added.channels != out.channels) {
    throw std::invalid_argument("other: is not shaped like the input");
  }
  check_size("gate", int64_t{gate} + out.channels, 1, 1);
  modulation_size_ = std::max(modulation_size_, gate + out.channels);
  return add(make_gated_sum(input, other, static_cast<int>(values_.size()), gate), {input, other}, out);
}

int Program::max_pool(int input) {
  Value out = values_.at(input);
  out.h /= 2, out.w /= 2;
  out.measured = true;
  out.input = false;
  if (out.h < 1 || out.w < 1) throw std::invalid_argument("input: too small to be halved");
  return add(make_max_pool(values_, input, static_cast<int>(values_.size())), {input}, out);
}

int Program::resize(int input, int h, int w) {
  if (h < 1 || w < 1) throw std::invalid_argument("h, w: expected at least 1");
  Value out = values_.at(input);
  check_size("h, w", out.padded(), h, w);
  out.h = h, out.w = w;
  out.measured = true;
  out.input = false;
  return add(make_resize(input, static_cast<int>(values_.size())), {input}, out);
}

void Program::output(int value) {
  const int number = num_outputs();
  outputs_.push_back(values_.at(value));
  output_values_.push_back(value);
  const bool last = !ops_.empty() && values_[value].first_op == num_ops() - 1;
  if (last && ops_.back()->redirect(number)) return;
  add(make_output(value, number), {value}, {});
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
    layout.size += value.stats_bytes();
  }
  const auto whole_pages = [](size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; };
  layout.activations = layout.size = whole_pages(layout.size);
  for (size_t i = 0; for_backward && i < values_.size(); ++i) {
    layout.grads.push_back(layout.size);
    layout.size += values_[i].num_bytes();
  }
  size_t common = 0, scratch = 0;
  for (const auto& op : ops_) {
    common = std::max(common, op->common_bytes(for_backward ? 1 : num_threads_));
    scratch = std::max({scratch, op->scratch_bytes(), for_backward ? op->backward_scratch_bytes() : 0});
  }
  layout.common = whole_pages(layout.size);
  layout.scratch = layout.common + whole_pages(common);
  layout.size = layout.scratch + whole_pages(scratch);
  return layout;
}

std::vector<uint8_t*> Program::allocate(bool for_backward) {
  Arenas& arenas = for_backward ? backward_ : forward_;
  if (arenas.memory.empty()) arenas.layout = plan(for_backward);
  std::vector<uint8_t*> result;
  for (int i = 0; i < num_threads_; ++i) {
    if (static_cast<int>(arenas.memory.size()) == i) {
      Memory memory = allocate_pages(arenas.layout.size);
      if (memory == nullptr) throw std::bad_alloc();
      arenas.memory.push_back(std::move(memory));
    }
    result.push_back(static_cast<uint8_t*>(arenas.memory[i].get()));
  }
  return result;
}

void Program::allocate_weight_grads(int groups) {
  if (weight_grads_.empty()) {
    weight_grads_at_.clear();
    weight_grads_size_ = 0;
    for (const auto& op : ops_) {
      weight_grads_at_.push_back(weight_grads_size_);
      weight_grads_size_ += op->weight_grads_size();
    }
  }
  while (static_cast<int>(weight_grads_.size()) < groups) weight_grads_.emplace_back(weight_grads_size_);
}

// Samples one a thread as long as they occupy all; the few that are left over are shared.
void Program::run(int num_samples, const Call& call, int count) {
  if (num_samples == 0) return;
  const auto run_all = [&](const Sample& sample) {
    for (int i = 0; i < count; ++i) ops_[i]->run(sample);
  };
  std::lock_guard<ForkSafeMutex> alone(running_);
  const std::vector<uint8_t*> arenas = allocate(false);
  Team& team = Team::of_size(num_threads_);
  const int left_over = num_samples % num_threads_;
  const int separate = 2 * left_over > num_threads_ ? num_samples : num_samples - left_over;
  team.share(separate, [&](int index, int member) {
    Tiles tiles;
    run_all({values_, forward_.layout, call, arenas[member], arenas[member], index});
  });
  for (int index = separate; index < num_samples; ++index) {
    run_all({values_, forward_.layout, call, arenas[0], arenas[0], index, nullptr, &team, arenas.data()});
  }
}

std::unique_ptr<Kept> Program::run_and_keep(int num_samples, const Call& call, size_t most_bytes) {
  size_t bytes = 0;
  {
    std::lock_guard<ForkSafeMutex> alone(running_);
    allocate(true);
    bytes = backward_.layout.activations;
  }
  auto kept = std::make_unique<Activations>(this, num_samples, blocks_, blocks_->take(num_samples, bytes, most_bytes));
  std::lock_guard<ForkSafeMutex> alone(running_);
  const std::vector<uint8_t*> arenas = allocate(false), arenas_for_backward = allocate(true);
  Team::of_size(num_threads_).share(num_samples, [&](int index, int member) {
    Tiles tiles;
    uint8_t* activations = kept->of(index);
    uint8_t* arena = activations == nullptr ? arenas[member] : arenas_for_backward[member];
    const Layout& layout = activations == nullptr ? forward_.layout : backward_.layout;
    const Sample sample{values_, layout, call, arena, activations == nullptr ? arena : activations, index};
    for (const auto& op : ops_) op->run(sample);
  });
  return kept;
}

// Samples are summed up in groups whose number depends on that of threads, and a thread takes a group when it is free:
// sums have the same bits every time, and twice as many groups as threads leave something to take from a slow one.
void Program::backward(int num_samples, const Call& call, const Kept* kept) {
  if (kept != nullptr && (kept->owner != this || kept->num_samples != num_samples)) {
    throw std::invalid_argument("kept: is of another program, or of another number of samples");
  }
  const auto* kept_here = static_cast<const Activations*>(kept);
  std::lock_guard<ForkSafeMutex> alone(running_);
  const int groups = std::max(1, std::min(num_threads_ > 1 ? 2 * num_threads_ : 1, num_samples));
  const std::vector<uint8_t*> arenas = allocate(true);
  allocate_weight_grads(groups);
  for (const auto& op : ops_) op->prepare_backward();
  Team& team = Team::of_size(num_threads_);
  team.share(groups, [&](int group, int member) {
    Tiles tiles;
    std::vector<float>& grads = weight_grads_[group];
    std::fill(grads.begin(), grads.end(), 0.0f);
    std::vector<char> has_grad(values_.size());
    for (int index = group; index < num_samples; index += groups) {
      std::fill(has_grad.begin(), has_grad.end(), 0);
      uint8_t* activations = kept_here == nullptr ? nullptr : kept_here->of(index);
      const bool again = activations == nullptr;
      const Sample sample{values_, backward_.layout, call, arenas[member], again ? arenas[member] : activations, index,
                          &has_grad};
      for (const auto& op : ops_) {
        if (again) op->run(sample);
      }
      for (int i = 0; i < num_outputs(); ++i) take_output_grad(sample, i);
      for (int i = num_ops() - 1; i >= 0; --i) {
        const int written = written_[i];
        if (written < 0 || has_grad[written]) ops_[i]->backward(sample, grads.data() + weight_grads_at_[i]);
      }
    }
  });
  constexpr size_t kAtOnce = 1 << 14;
  team.share(static_cast<int>((weight_grads_size_ + kAtOnce - 1) / kAtOnce), [&](int i, int) {
    const size_t begin = i * kAtOnce, end = std::min(begin + kAtOnce, weight_grads_size_);
    for (int group = 1; group < groups; ++group) {
      for (size_t k = begin; k < end; ++k) weight_grads_[0][k] += weight_grads_[group][k];
    }
  });
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
