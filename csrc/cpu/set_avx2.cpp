// The engine in float32 with AVX2 and FMA.
#include "float32/avx2.hpp"

#include "float32/conv.cpp"
#include "float32/conv_backward.cpp"
#include "every_set.hpp"
