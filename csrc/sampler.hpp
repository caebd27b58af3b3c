// Which segments a batch holds: DIAMOND's rules.
#pragma once

#include <cstdint>
#include <vector>

#include "store.hpp"

namespace replay {

struct SamplerOptions {
  int64_t batch_size;
  int64_t seq_length;
  std::vector<double> weights;  // shares of the parts of the episodes in order of age; empty: proportional to length
  bool beyond_end;              // segments may reach past an episode's end
  uint64_t seed;
  uint32_t stream;  // consumers with streams of their own draw independently
  double event_share = 0;  // of a batch's rows, evenly spread over it, that hold an event
  double first_share = 0;  // of a batch's rows, likewise, whose last step is the first of its episode
};

constexpr uint32_t kMostTries = 4000;  // a miss is rarer than 2 % if one step of 1,000 is an event

// Steps start .. start + seq_length - 1 of an episode; those outside it are padding.
struct Cut {
  int64_t episode;
  int64_t start;
};

// Throws std::invalid_argument.
void check(const SamplerOptions& options);

// Draws batch number `batch`, a pure function of its arguments. An episode is drawn by the weights over as many parts
// of equal count (the remainder belongs to the last), equally within a part; in proportion to length while there are
// fewer episodes than weights, or no weights. Then a step t of it, t ~ U[0, length), and
//   stop = min(length, t + 1 + U[0, seq_length)), padding before the episode only; or with beyond_end
//   start = t - U[0, seq_length), padding on both sides.
// Rows that hold an event are drawn again, kMostTries times in all, until step t is rewarded or ends the episode: among
// such steps the same rules choose. If none was found, the last one stays.
// Rows of first_share are cut at stop = 1 instead, whatever was drawn: the other rows are those of a share of 0.
// Throws std::runtime_error if nothing is visible yet, or seq_length exceeds all visible steps together.
std::vector<Cut> draw(const View& view, Store& store, const SamplerOptions& options, uint64_t batch);

}  // namespace replay
