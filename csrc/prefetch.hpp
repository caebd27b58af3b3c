// Batches filled ahead of their consumer.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>

#include "batch.hpp"
#include "sampler.hpp"
#include "store.hpp"

namespace replay {

// Threads that fill blocks in the order they were asked for. A batch is what draw() makes of the view at the time it
// is taken, so the number of threads shows in nothing but time: what was filled before the view changed is filled
// again. Batches are for one consumer; a second thread that takes some gets each of them once, or an error.
class Prefetcher {
 public:
  Prefetcher(std::shared_ptr<Store> store, SamplerOptions options, BatchLayout layout, int64_t num_threads);
  ~Prefetcher();  // waits for the blocks being filled
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;

  // Asks for a batch in this memory, which must stay until take() hands it out or the prefetcher is gone.
  void ask(uint64_t batch, uint8_t* block);

  // Waits until the batch asked for first is filled and forgets it. Throws what filling it threw, and
  // std::runtime_error if nothing was asked for or in a forked process.
  void take();

 private:
  struct Shared;
  // Threads do not survive a fork, nor can what they share be destroyed there: a child leaks it.
  bool forked() const;
  const pid_t owner_;
  std::unique_ptr<Shared> shared_;
};

}  // namespace replay
