// Faults on purpose: a sanitizer that does not report them would report nothing.
//   overflow: a batch is filled into a block one byte too small
//   race:     two threads append, although only one may

#include <cstring>
#include <thread>
#include <vector>

#include "batch.hpp"
#include "store.hpp"

using namespace replay;

void append_steps(Store& store, int count) {
  const std::vector<uint8_t> frame(16, 1);
  const uint8_t act[sizeof(int64_t)] = {};
  const float rew = 0;
  const bool no = false;
  for (int i = 0; i < count; ++i) store.append(frame.data(), act, &rew, &no, &no, frame.data());
}

int main(int, char** arguments) {
  Store store(16, 1, 10000);
  if (std::strcmp(arguments[1], "overflow") == 0) {
    append_steps(store, 3);
    store.publish_running();
    const BatchLayout layout(2, 4, 16);
    std::vector<uint8_t> block(layout.start + 2 * sizeof(int64_t) - 1);
    fill(store, *store.view(), {{0, 0}, {0, 1}}, layout, block.data());
  } else {
    std::thread other([&] { append_steps(store, 1000); });
    append_steps(store, 1000);
    other.join();
  }
}
