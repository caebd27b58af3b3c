// A network as a list of operations, run one sample at a time so that a sample's activations stay in a core's cache.
// Samples that are too few for all threads are worked on by all of them, operation by operation, in pieces.
//
// What is summed in which order depends on the operation alone, so that the bits do not depend on the threads.
//
// A value is one activation of one sample: [H, W, C] of what the instruction set stores, channels last, in blocks of
// kBlock channels; channels that only fill a block are 0. Every thread owns an arena with room for all values of one
// sample; values whose last reader has run give their room to later ones.
//
// Included after an instruction set's simd.hpp, which defines
//   Stored, kBlock       an activation as it is stored, and how many make a block
//   Block                a block in float32: load_block, store_block, load_floats, store_floats, + - *, fma, max, ...
//   Vec, kLanes          a vector of float32: load, store, set1, fma, max, exp2_fast, reduce_add, reduce_max, first
//   Tiles                what a thread holds while it works
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <vector>

#include "../fork_safe.hpp"
#include "interface.hpp"
#include "team.hpp"

namespace cpu {

constexpr int kCacheLine = 64;

inline int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

struct Value {
  int h = 0, w = 0, channels = 0;
  bool measured = false;          // whether its writer leaves statistics
  bool input = false;             // whether it is the caller's, and has no gradient
  int first_op = 0, last_op = 0;  // writer and last reader
  std::vector<int> parts;         // how many pixels each part of its statistics covers

  int blocks() const { return (channels + kBlock - 1) / kBlock; }
  int padded() const { return blocks() * kBlock; }
  int pixels() const { return h * w; }
  Shape shape() const { return {channels, h, w}; }
  size_t stats_bytes() const { return parts.size() * 3 * padded() * sizeof(float); }
  size_t num_bytes() const {  // with room for a tile that reads past the last pixel
    return static_cast<size_t>(round_up(pixels(), 2 * kLanes)) * padded() * sizeof(Stored);
  }
};

// Per channel, of a part of the pixels: a pivot, and sum and sum of squares of the differences to it. A pivot near the
// values keeps the variance exact where the mean is far from 0.
struct Stats {
  float *pivot, *sum, *squares;
};

// Where everything lies in an arena. Activations, data and stats, are the first in it and may lie elsewhere by themselves.
struct Layout {
  std::vector<size_t> data, stats, grads;  // of every value; grads of the backward pass only
  size_t activations = 0, common = 0, scratch = 0, size = 0;
};

// A thread's arena, while it works on one sample, alone or with its team.
struct Sample {
  const std::vector<Value>& values;
  const Layout& layout;
  const Call& call;
  uint8_t* arena;
  uint8_t* activations;  // the arena, unless they are kept
  int index;
  std::vector<char>* has_grad = nullptr;  // of every value: whether its gradient holds something already
  Team* team = nullptr;                   // that shares the work
  uint8_t* const* arenas = nullptr;       // of the team's members, for their scratch memory

  int hands() const { return team == nullptr ? 1 : team->size(); }
  // Calls work(i, scratch memory of whoever does it) for every i below count, in order if alone.
  template <typename Work>
  void share(int count, Work&& work) const {
    if (team == nullptr) {
      for (int i = 0; i < count; ++i) work(i, scratch());
      return;
    }
    team->share(count, [&](int i, int member) {
      Tiles tiles;
      work(i, arenas[member] + layout.scratch);
    });
  }
  // The same for count things in a row that are done in no time: work(first, last) of a few at once.
  template <typename Work>
  void share_range(int count, Work&& work) const {
    const int pieces = std::min(count, hands() == 1 ? 1 : 4 * hands());
    const auto at = [&](int i) { return static_cast<int>(int64_t{count} * i / pieces); };
    share(pieces, [&](int i, uint8_t*) { work(at(i), at(i + 1)); });
  }

  uint8_t* scratch() const { return arena + layout.scratch; }  // of one thread
  uint8_t* common() const { return arena + layout.common; }    // of all who work on the sample
  Stored* data(int value) const { return reinterpret_cast<Stored*>(activations + layout.data[value]); }
  Stats stats(int value, int part) const {
    const int n = values[value].padded();
    auto* first = reinterpret_cast<float*>(activations + layout.stats[value]) + static_cast<size_t>(part) * 3 * n;
    return {first, first + n, first + 2 * n};
  }
  const float* modulation() const { return call.modulation + index * call.modulation_stride; }
  float* modulation_grads() const { return call.modulation_grads + index * call.modulation_stride; }
  Stored* grad(int value) const { return reinterpret_cast<Stored*>(arena + layout.grads[value]); }
  // Whether a gradient has to be added to what others have written; from now on it has.
  bool adds(int value) const {
    const bool before = (*has_grad)[value];
    (*has_grad)[value] = 1;
    return before;
  }
};

class Op {
 public:
  virtual ~Op() = default;
  virtual void run(const Sample& sample) const = 0;
  virtual size_t scratch_bytes() const { return 0; }                  // of everyone who works on a sample
  virtual size_t common_bytes(int /*hands*/) const { return 0; }      // of all together
  virtual std::vector<int> parts(const Value& written) const { return {written.pixels()}; }  // of its statistics
  // Called before a backward pass, by one thread.
  virtual void prepare_backward() {}
  // Adds to the gradients of what it read, given that of what it wrote, and to those of its weights.
  virtual void backward(const Sample&, float*) const { throw std::logic_error("program: an operation has no way back"); }
  virtual size_t backward_scratch_bytes() const { return 0; }
  virtual size_t weight_grads_size() const { return 0; }  // numbers at weight_grads
  // Sums of all threads' weight_grads, in the weights' own order.
  virtual void read_weight_grads(const float* /*weight_grads*/, float* /*weight*/, float* /*bias*/) const {}
  virtual void read_norm_grads(const float* /*weight_grads*/, float* /*weight*/, float* /*bias*/) const {}
  virtual Norm* norm() { return nullptr; }
  virtual int weight_size() const { return 0; }  // how many numbers its weight and bias hold
  virtual int bias_size() const { return 0; }
  virtual void set_weight(const float* /*weight*/, const float* /*bias*/) {}
  // Makes the op write its result to an output's planes, in float32, and no value; false if it can't.
  virtual bool redirect(int /*output*/) { return false; }
};

struct Free {
  void operator()(void* p) const { std::free(p); }
};
using Memory = std::unique_ptr<void, Free>;
Memory allocate_pages(size_t bytes);  // null if there are none

// Memory for the activations of samples, which goes from one forward pass to the next.
class Blocks {
 public:
  // One each for the first samples, until all there are hold more than most_bytes.
  std::vector<Memory> take(int num_samples, size_t bytes, size_t most_bytes);
  void give_back(std::vector<Memory> blocks);

 private:
  ForkSafeMutex mutex_;
  std::vector<Memory> spare_;
  size_t made_ = 0;  // bytes in all
};

struct Activations final : Kept {
  Activations(const AnyProgram* owner, int num_samples, std::shared_ptr<Blocks> from, std::vector<Memory> blocks)
      : Kept(owner, num_samples), blocks(std::move(blocks)), from(std::move(from)) {}
  ~Activations() override { from->give_back(std::move(blocks)); }

  // Null if the sample's are not kept.
  uint8_t* of(int sample) const {
    return sample < static_cast<int>(blocks.size()) ? static_cast<uint8_t*>(blocks[sample].get()) : nullptr;
  }

  std::vector<Memory> blocks;
  const std::shared_ptr<Blocks> from;
};

class Program final : public AnyProgram {
 public:
  explicit Program(int num_threads) : num_threads_(num_threads) {}

  int input(const std::vector<int>& piece_channels, const std::vector<float>& scales, int h, int w) override;
  int conv(ConvSpec spec) override;
  int norm(int input, const Norm& norm) override;
  int attention(int qkv, int heads) override;
  int look(const LookSpec& spec) override;
  int layer_norm(int input, float eps, int scale, int shift) override;
  int gelu(int input) override;
  int gated_sum(int input, int other, int gate) override;
  int max_pool(int input) override;
  int resize(int input, int h, int w) override;
  void output(int value) override;

  Shape shape(int value) const override { return values_.at(value).shape(); }
  int num_inputs() const override { return static_cast<int>(input_planes_.size()); }
  int input_size(int i) const override { return input_planes_[i]; }
  int num_outputs() const override { return static_cast<int>(outputs_.size()); }
  Shape shape_of_output(int i) const override { return outputs_[i].shape(); }
  int modulation_size() const override { return modulation_size_; }
  int num_looks() const override { return static_cast<int>(memory_sizes_.size()); }
  int memory_size(int look) const override { return memory_sizes_[look]; }
  int most_past() const override { return most_past_; }

  int num_ops() const override { return static_cast<int>(ops_.size()); }
  int weight_size(int op) const override { return ops_.at(op)->weight_size(); }
  int bias_size(int op) const override { return ops_.at(op)->bias_size(); }
  void set_weight(int op, const float* weight, const float* bias) override { ops_.at(op)->set_weight(weight, bias); }
  Norm* norm_of(int op) override { return ops_.at(op)->norm(); }

  void run(int num_samples, const Call& call) override { run(num_samples, call, num_ops()); }
  void remember(int num_samples, const Call& call) override { run(num_samples, call, last_look_ + 1); }
  std::unique_ptr<Kept> run_and_keep(int num_samples, const Call& call, size_t most_bytes) override;
  void backward(int num_samples, const Call& call, const Kept* kept) override;
  void read_grads(int op, float* weight, float* bias, float* norm_weight, float* norm_bias) const override;

 private:
  void run(int num_samples, const Call& call, int count);  // so many operations
  int add(std::unique_ptr<Op> op, const std::vector<int>& reads, const Value& writes);
  Value unmeasured(int like) const;
  Norm completed(Norm norm, const std::vector<int>& inputs);
  Layout plan(bool for_backward) const;
  void take_output_grad(const Sample& sample, int output) const;
  std::vector<uint8_t*> allocate(bool for_backward);  // arenas, one a thread
  void allocate_weight_grads(int groups);

  const int num_threads_;
  ForkSafeMutex running_;  // arenas are for one call at a time
  const std::shared_ptr<Blocks> blocks_ = std::make_shared<Blocks>();
  std::vector<Value> values_;
  std::vector<Value> outputs_;
  std::vector<int> output_values_;
  std::vector<int> written_;  // the value every op writes, or -1
  std::vector<std::unique_ptr<Op>> ops_;
  std::vector<int> input_planes_;  // numbers a sample of every input piece
  int modulation_size_ = 0;
  std::vector<int> memory_sizes_;  // of every look
  int most_past_ = 0, last_look_ = -1;
  struct Arenas {
    Layout layout;
    std::vector<Memory> memory;  // of every thread; the system gives what is touched
  };
  Arenas forward_, backward_;
  std::vector<std::vector<float>> weight_grads_;  // of every group of samples; the first one's become the sums
  std::vector<size_t> weight_grads_at_;           // of every op
  size_t weight_grads_size_ = 0;
};

// What normalises a channel, for all channels of all inputs, each padded to whole blocks; 0 if there is no channel.
struct Normaliser {
  std::vector<float> gain, offset;  // normalised and scaled = x * gain + offset
  std::vector<float> mean, rstd;    // of the channel's group
  Normaliser(const Norm& norm, const Sample& sample, const std::vector<int>& inputs);
};

// Back through a norm, and SiLU if it has it.
// grads: of its result, [pixels, blocks of all inputs]; overwritten. weight_grads: [2, C], if the norm is learned.
void norm_backward(const Norm& norm, const Sample& sample, const std::vector<int>& inputs, Stored* grads,
                   float* weight_grads);
// Adds what lies in rows of row_blocks blocks, from block first_block on, to a value's gradient.
void add_grad(const Sample& sample, int value, const Stored* grads, int row_blocks, int first_block);

// What a convolution hands on to its inputs: back through the upsampling (repeat 2) to h x w pixels, and the norm.
// grads: of what it multiplied, [pixels, blocks of all inputs]; overwritten.
void give_to_inputs(const ConvSpec& spec, const Sample& sample, int repeat, Stored* grads, float* norm_grads);

std::unique_ptr<Op> make_input(int out_value, int first_plane, std::vector<int> channels, std::vector<float> scales);
std::unique_ptr<Op> make_norm(int input, int out_value, Norm norm);
std::unique_ptr<Op> make_max_pool(const std::vector<Value>& values, int input, int out_value);
std::unique_ptr<Op> make_resize(int input, int out_value);
std::unique_ptr<Op> make_output(int value, int output);  // a value to float32 planes
std::unique_ptr<Op> make_conv(const std::vector<Value>& values, const ConvSpec& spec, int out_value);
// number: of the look, whose memory it reads; -1: it has none.
std::unique_ptr<Op> make_attention(const std::vector<Value>& values, const LookSpec& spec, int number, int out_value);
std::unique_ptr<Op> make_time_attention(const std::vector<Value>& values, const LookSpec& spec, int number,
                                        int out_value);
std::unique_ptr<Op> make_layer_norm(int input, int out_value, float eps, int scale, int shift);
std::unique_ptr<Op> make_gelu(int input, int out_value);
std::unique_ptr<Op> make_gated_sum(int input, int other, int out_value, int gate);

}  // namespace cpu
