// The engine in bfloat16 on AMX tiles and AVX-512.
#include "amx/simd.hpp"

#include "amx/conv.cpp"
#include "amx/conv_backward.cpp"
#include "every_set.hpp"
