// A check that stays in optimised programs and says where it failed.
#pragma once

#include <cstdio>
#include <cstdlib>

#define EXPECT(condition)                                                          \
  do {                                                                             \
    if (!(condition)) {                                                            \
      std::fprintf(stderr, "%s:%d: not %s\n", __FILE__, __LINE__, #condition);     \
      std::exit(1);                                                                \
    }                                                                              \
  } while (false)
