// The engine in float32 with NEON, which every 64-bit ARM processor has.
#include "float32/neon.hpp"

#include "float32/conv.cpp"
#include "float32/conv_backward.cpp"
#include "every_set.hpp"
