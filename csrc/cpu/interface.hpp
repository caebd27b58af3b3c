// What Python sees of a program, whatever instruction set it is compiled for.
//
// Every instruction set is a shared library of its own (set_*.cpp), so that no inline function compiled for one can
// take the place of another's. The module that Python imports loads one that the processor has, and reaches it through
// this class alone. Nothing here is an instruction that some processors lack.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

namespace cpu {

// Group normalisation with a gain and an offset a channel, and SiLU if asked, of one value or of two concatenated.
struct Norm {
  int groups = 0;  // 0: none
  float eps = 0;
  bool silu = false;
  int modulation = -1;               // where scale and shift begin in the sample's row; -1: gain and offset are learned
  std::vector<float> weight, bias;   // [C] each, if learned; 1 and 0 until they are set
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

// Attention of a frame's pixels to those of past frames, whose keys and values [2C, H, W] the caller hands over.
struct LookSpec {
  int input = 0;            // queries [H, W, C]; if pixels look at their own frame too, its keys and values behind them
  int heads = 1;
  int most_past = 0;        // frames
  bool own = true;          // whether they do
  bool same_place = false;  // at the same pixel of each frame alone; always at their own frame's, too
};

// What one run hands over. Planes are [channels, H, W] of float32 for every sample, samples one after the other.
struct Call {
  std::vector<const float*> inputs;
  std::vector<float*> outputs;
  const float* modulation = nullptr;  // a row a sample
  size_t modulation_stride = 0;
  int past = 0;                        // frames that are looked at
  std::vector<const float*> memories;  // of every look: keys and values of these frames, oldest first
  std::vector<float*> own;             // of every look: where those of the frame itself go, if they are wanted
  // for a backward pass only
  std::vector<const float*> output_grads;
  float* modulation_grads = nullptr;
};

struct Shape {
  int channels, h, w;
};

class AnyProgram;

// What a forward pass leaves for the backward pass of the same samples. It may outlive the program.
class Kept {
 public:
  Kept(const AnyProgram* owner, int num_samples) : owner(owner), num_samples(num_samples) {}
  virtual ~Kept() = default;

  const AnyProgram* const owner;
  const int num_samples;
};

class AnyProgram {
 public:
  virtual ~AnyProgram() = default;

  // Operations, in order; each gives the number of the value it writes.
  virtual int input(const std::vector<int>& piece_channels, const std::vector<float>& scales, int h, int w) = 0;
  virtual int conv(ConvSpec spec) = 0;
  virtual int norm(int input, const Norm& norm) = 0;
  virtual int attention(int qkv, int heads) = 0;
  // Its weights: if same_place, [most_past + 1, heads] numbers added to scores, for each distance in frames; else what
  // is added to keys, [most_past, C] for each past frame.
  virtual int look(const LookSpec& spec) = 0;
  // Normalises every pixel over its channels, then * (1 + scale) + shift: at these places of the sample's row.
  virtual int layer_norm(int input, float eps, int scale, int shift) = 0;
  virtual int gelu(int input) = 0;                           // by its tanh
  virtual int gated_sum(int input, int other, int gate) = 0;  // input + gate * other, a gate a channel in the row
  virtual int max_pool(int input) = 0;
  virtual int resize(int input, int h, int w) = 0;  // cuts off, or adds zeros, at the right and the bottom
  virtual void output(int value) = 0;               // hands a value to the caller; nothing may read it afterwards

  virtual Shape shape(int value) const = 0;
  virtual int num_inputs() const = 0;
  virtual int input_size(int i) const = 0;  // numbers a sample
  virtual int num_outputs() const = 0;
  virtual Shape shape_of_output(int i) const = 0;
  virtual int modulation_size() const = 0;
  virtual int num_looks() const = 0;
  virtual int memory_size(int look) const = 0;  // numbers a frame of a sample
  virtual int most_past() const = 0;

  // Of operation op: how many numbers its weight and bias hold, and new ones for them; its norm, or nullptr.
  virtual int num_ops() const = 0;
  virtual int weight_size(int op) const = 0;
  virtual int bias_size(int op) const = 0;
  virtual void set_weight(int op, const float* weight, const float* bias) = 0;
  virtual Norm* norm_of(int op) = 0;

  virtual void run(int num_samples, const Call& call) = 0;
  // As far as the last look only: writes own and no output.
  virtual void remember(int num_samples, const Call& call) = 0;
  // As run, with activations kept, of as many samples as fit into so many bytes, those kept from other calls included.
  virtual std::unique_ptr<Kept> run_and_keep(int num_samples, const Call& call, size_t most_bytes) = 0;
  // Gradients of modulation and weights, from those of the outputs. Of samples whose activations are not kept it first
  // runs forward again; weights must be those of the forward pass.
  virtual void backward(int num_samples, const Call& call, const Kept* kept) = 0;
  virtual void read_grads(int op, float* weight, float* bias, float* norm_weight, float* norm_bias) const = 0;
};

// What every library offers, under the name kMakeProgram.
using MakeProgram = AnyProgram* (*)(int num_threads);
constexpr char kMakeProgram[] = "diamond_fast_make_program";

}  // namespace cpu
