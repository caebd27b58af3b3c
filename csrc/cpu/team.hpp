// A few threads that wait for work, so that a call costs a wake-up and not a start.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace cpu {

class Team {
 public:
  explicit Team(int size) {
    for (int i = 1; i < size; ++i) threads_.emplace_back([this, i] { serve(i); });
  }
  ~Team() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (auto& thread : threads_) thread.join();
  }
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return static_cast<int>(threads_.size()) + 1; }

  // Calls work(0) here and work(1) ... work(members - 1) on the threads; returns when all have. work must not throw.
  void run(int members, const std::function<void(int)>& work) {
    if (members > 1) {
      std::lock_guard<std::mutex> lock(mutex_);
      work_ = &work;
      members_ = members;
      running_ = members - 1;
      ++round_;
    }
    if (members > 1) wake_.notify_all();
    work(0);
    if (members > 1) {
      std::unique_lock<std::mutex> lock(mutex_);
      done_.wait(lock, [this] { return running_ == 0; });
    }
  }

 private:
  void serve(int index) {
    for (uint64_t seen = 0;;) {
      const std::function<void(int)>* work;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return stop_ || round_ != seen; });
        if (stop_) return;
        seen = round_;
        if (index >= members_) continue;
        work = work_;
      }
      (*work)(index);
      std::lock_guard<std::mutex> lock(mutex_);
      if (--running_ == 0) done_.notify_one();
    }
  }

  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  const std::function<void(int)>* work_ = nullptr;
  int members_ = 0, running_ = 0;
  uint64_t round_ = 0;
  bool stop_ = false;
};

}  // namespace cpu
