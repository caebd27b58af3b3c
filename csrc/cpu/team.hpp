// A few threads that wait for work, so that a call costs a wake-up and not a start. All programs share them.
#pragma once

#include <unistd.h>

#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace cpu {

class Team {
 public:
  // The team of that size. It lives as long as the process; a forked child, which inherits no threads, gets its own.
  static Team& of_size(int size) {
    static std::mutex mutex;
    static std::map<std::pair<pid_t, int>, Team*> teams;
    std::lock_guard<std::mutex> lock(mutex);
    Team*& team = teams[{getpid(), size}];
    if (team == nullptr) team = new Team(size);
    return *team;
  }
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  // Calls work(0) here and work(1) ... work(members - 1) on the threads; returns when all have. work must not throw.
  // One caller at a time; others wait.
  void run(int members, const std::function<void(int)>& work) {
    std::lock_guard<std::mutex> alone(callers_);
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
  explicit Team(int size) {
    for (int i = 1; i < size; ++i) threads_.emplace_back([this, i] { serve(i); });
  }

  void serve(int index) {
    for (uint64_t seen = 0;;) {
      const std::function<void(int)>* work;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return round_ != seen; });
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
  std::mutex callers_, mutex_;
  std::condition_variable wake_, done_;
  const std::function<void(int)>* work_ = nullptr;
  int members_ = 0, running_ = 0;
  uint64_t round_ = 0;
};

}  // namespace cpu
