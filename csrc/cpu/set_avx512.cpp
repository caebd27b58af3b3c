// The engine in float32 with AVX-512.
#include "float32/avx512.hpp"

#include "float32/conv.cpp"
#include "float32/conv_backward.cpp"
#include "every_set.hpp"
