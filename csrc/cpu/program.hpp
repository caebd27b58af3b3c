// A network as a list of operations, run one sample at a time so that a sample's activations stay in a core's cache.
//
// A value is one activation of one sample: [H, W, C] in bfloat16, channels last, in blocks of 32 channels; channels
// that only fill a block are 0. Every thread owns an arena with room for all values of one sample; values whose last
// reader has run give their room to later ones.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "simd.hpp"
#include "team.hpp"

namespace cpu {

constexpr int kCacheLine = 64;

struct Value {
  int h = 0, w = 0, channels = 0;
  bool measured = false;          // whether its writer leaves statistics
  int first_op = 0, last_op = 0;  // writer and last reader
  size_t at = 0, stats_at = 0;    // places in the arena

  int blocks() const { return (channels + kBlock - 1) / kBlock; }
  int padded() const { return blocks() * kBlock; }
  int pixels() const { return h * w; }
  size_t num_bytes() const {  // with room for a tile that reads past the last pixel
    return static_cast<size_t>(round_up(pixels(), 2 * kLanes)) * padded() * sizeof(bf16);
  }
};

// Per channel: a pivot, and sum and sum of squares of the differences to it. A pivot near the values keeps the
// variance exact where the mean is far from 0.
struct Stats {
  float *pivot, *sum, *squares;
};

// What one run hands over. Planes are [channels, H, W] of float32 for every sample, samples one after the other.
struct Call {
  std::vector<const float*> inputs;
  std::vector<float*> outputs;
  const float* modulation = nullptr;  // a row a sample
  size_t modulation_stride = 0;
};

// A thread's arena, while it works on one sample.
struct Sample {
  const std::vector<Value>& values;
  const Call& call;
  uint8_t* arena;
  uint8_t* scratch;
  int index;

  bf16* data(int value) const { return reinterpret_cast<bf16*>(arena + values[value].at); }
  Stats stats(int value) const {
    auto* first = reinterpret_cast<float*>(arena + values[value].stats_at);
    const int n = values[value].padded();
    return {first, first + n, first + 2 * n};
  }
  const float* modulation() const { return call.modulation + index * call.modulation_stride; }
};

// Group normalisation with a gain and an offset a channel, and SiLU where asked, of one value or of two concatenated.
struct Norm {
  int groups = 0;  // 0: none
  float eps = 0;
  bool silu = false;
  int modulation = -1;               // where scale and shift begin in the sample's row; -1: gain and offset are learned
  std::vector<float> weight, bias;   // [C] each, where learned; 1 and 0 until they are set
};

class Op {
 public:
  virtual ~Op() = default;
  virtual void run(const Sample& sample) const = 0;
  virtual size_t scratch_bytes() const { return 0; }
  virtual Norm* norm() { return nullptr; }
  virtual int weight_size() const { return 0; }  // how many numbers its weight and bias hold
  virtual int bias_size() const { return 0; }
  virtual void set_weight(const float* /*weight*/, const float* /*bias*/) {}
  // Makes the op write its result to an output's planes, in float32, and no value; false if it can't.
  virtual bool redirect(int /*output*/) { return false; }
};

struct ConvSpec {
  std::vector<int> inputs;  // one value, or two that are concatenated
  int out_channels = 0;
  int kernel = 3;           // 3 (padding 1) or 1
  int stride = 1;           // 1 or 2
  bool upsample = false;    // doubles the input's size first, nearest neighbour
  Norm norm;                // of the input
  int residual = -1;        // a value added to the output
};

class Program {
 public:
  explicit Program(int num_threads) : team_(num_threads) {}

  int input(const std::vector<int>& piece_channels, const std::vector<float>& scales, int h, int w);
  int conv(ConvSpec spec);
  int norm(int input, const Norm& norm);
  int attention(int qkv, int heads);
  int max_pool(int input);
  int resize(int input, int h, int w);  // cuts off, or adds zeros, at the right and the bottom

  void output(int value);  // hands a value to the caller; nothing may read it afterwards

  int num_ops() const { return static_cast<int>(ops_.size()); }
  Op& op(int i) { return *ops_.at(i); }

  void run(int num_samples, const Call& call);

  int num_outputs() const { return static_cast<int>(outputs_.size()); }
  const Value& shape_of_output(int i) const { return outputs_[i]; }
  int num_inputs() const { return static_cast<int>(input_planes_.size()); }
  int input_size(int i) const { return input_planes_[i]; }
  int modulation_size() const { return modulation_size_; }
  const Value& value(int i) const { return values_.at(i); }
  size_t arena_bytes() const { return arena_bytes_; }

 private:
  int add(std::unique_ptr<Op> op, const std::vector<int>& reads, const Value& writes);
  Norm completed(Norm norm, const std::vector<int>& inputs);
  void allocate();

  Team team_;
  std::vector<Value> values_;
  std::vector<Value> outputs_;
  std::vector<std::unique_ptr<Op>> ops_;
  std::vector<int> input_planes_;  // numbers a sample of every input piece
  int modulation_size_ = 0;
  size_t values_bytes_ = 0, arena_bytes_ = 0;
  bool allocated_ = false;
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  std::vector<std::unique_ptr<void, Free>> arenas_;
};

// Gain and offset a channel (of all inputs, each padded to whole blocks) that normalise with these statistics.
void gain_and_offset(const Norm& norm, const Sample& sample, const std::vector<int>& inputs, float* gain, float* offset);

std::unique_ptr<Op> make_conv(const std::vector<Value>& values, const ConvSpec& spec, int out_value);
std::unique_ptr<Op> make_attention(const std::vector<Value>& values, int qkv, int heads, int out_value);

}  // namespace cpu
