// What every instruction set's library holds beside its convolutions; included last by set_*.cpp, compiled once a set.
#include "attention.cpp"
#include "norm.cpp"
#include "plain_ops.cpp"
#include "program.cpp"
#include "time_attention.cpp"
#include "token_ops.cpp"

extern "C" __attribute__((visibility("default"))) cpu::AnyProgram* diamond_fast_make_program(int num_threads) {
  return new cpu::Program(num_threads);
}
