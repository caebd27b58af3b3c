// The units in which activations are stored. Nothing here is an instruction that some processors lack.
#pragma once

#include <cstdint>

namespace cpu {

using bf16 = uint16_t;  // the upper half of a float32

constexpr int kLanes = 16;  // float32 numbers in a vector, and rows, and columns of a tile of float32
constexpr int kBlock = 32;  // bfloat16 numbers in a vector: channels are stored in blocks of as many

inline int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

}  // namespace cpu
