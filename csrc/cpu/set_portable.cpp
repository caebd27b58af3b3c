// The engine in float32 for any processor: slow, but right.
#include "float32/portable.hpp"

#include "float32/conv.cpp"
#include "float32/conv_backward.cpp"
#include "every_set.hpp"
