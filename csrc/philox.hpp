// Counter-based random numbers: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
//
// A number is a pure function of (seed, stream, batch, row), so that batches can be drawn in any order, by any
// number of threads, and the whole random state of a consumer is the index of its next batch.
#pragma once

#include <array>
#include <cstdint>

namespace replay {

using PhiloxCounter = std::array<uint32_t, 4>;
using PhiloxKey = std::array<uint32_t, 2>;

inline PhiloxCounter philox4x32(PhiloxCounter counter, PhiloxKey key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t left = uint64_t{0xD2511F53} * counter[0];
    const uint64_t right = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(right >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(right),
               static_cast<uint32_t>(left >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(left)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

// The numbers of one row of one batch.
class RowRandom {
 public:
  RowRandom(uint64_t seed, uint32_t stream, uint64_t batch, uint32_t row)
      : key_{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)},
        // Blocks of a row are told apart by the top bits of the batch index: it never reaches 2^56.
        counter_{row, stream, static_cast<uint32_t>(batch), static_cast<uint32_t>(batch >> 32)} {}

  uint64_t next() {
    if (used_ == 2) {
      block_ = philox4x32(counter_, key_);
      counter_[3] += uint32_t{1} << 24;
      used_ = 0;
    }
    const uint64_t number = block_[2 * used_] | uint64_t{block_[2 * used_ + 1]} << 32;
    ++used_;
    return number;
  }

  // Uniform in [0, bound). The bias, below bound / 2^64, is far beyond what any test could see.
  int64_t below(int64_t bound) {
    return static_cast<int64_t>(static_cast<unsigned __int128>(next()) * static_cast<uint64_t>(bound) >> 64);
  }

  // Uniform in [0, 1).
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }

 private:
  PhiloxKey key_;
  PhiloxCounter counter_;
  PhiloxCounter block_{};
  int used_ = 2;
};

}  // namespace replay
