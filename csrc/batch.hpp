// A batch as one block of memory, so that it travels to a device in one copy.
#pragma once

#include <cstdint>
#include <vector>

#include "sampler.hpp"
#include "store.hpp"

namespace replay {

// Where each array [B, L, ...] of a batch stands in its block; every one starts on a cache line.
struct BatchLayout {
  // full_bytes: of the same frames in their other size; 0: those are left out.
  // Throws std::invalid_argument if a size is not positive or all together exceed 64 TiB.
  BatchLayout(int64_t batch_size, int64_t seq_length, int64_t frame_bytes, int64_t act_bytes = sizeof(int64_t),
              int64_t full_bytes = 0);

  int64_t batch_size, seq_length, frame_bytes, act_bytes, full_bytes;
  int64_t frames, act, rew, end, trunc, mask_padding, pixel_mask, episode, start, full;  // byte offsets
  int64_t num_bytes;
};

// Fills a block with the segments. Outside an episode everything is 0 and both masks are false;
// pixel_mask is true at the final observation too, mask_padding at steps only.
// Throws std::invalid_argument if the layout is for another number of cuts, or frames or actions of another size,
// and std::out_of_range if a cut's episode is not in the view; then nothing is written. Throws FileError if frames lie
// in a file that cannot be read.
void fill(Store& store, const View& view, const std::vector<Cut>& cuts, const BatchLayout& layout, uint8_t* block);

}  // namespace replay
