// A few threads that wait for work, so that a call costs a wake-up and not a start. All programs share them.
#pragma once

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace cpu {

class Team {
 public:
  // The team of that size. It lives as long as the process; a forked child, which inherits no threads, gets its own.
  // Throws std::system_error if a thread could not be started; the next call tries again.
  static Team& of_size(int size) {
    static std::atomic<All*> all{nullptr};
    All* ours = all.load();
    while (ours == nullptr || ours->owner != getpid()) {  // at a fork another thread may have held the parent's mutex
      auto made = std::make_unique<All>();
      if (all.compare_exchange_strong(ours, made.get())) ours = made.release();
    }
    std::lock_guard<std::mutex> lock(ours->mutex);
    std::unique_ptr<Team>& team = ours->teams[size];
    if (team == nullptr) team.reset(new Team);
    while (static_cast<int>(team->threads_.size()) < size - 1) team->add_thread();
    return *team;
  }
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  // Calls work(0) here and work(1) ... work(members - 1) on the threads; returns when all have, or throws then what one
  // of them threw. One caller at a time; others wait.
  void run(int members, const std::function<void(int)>& work) {
    std::lock_guard<std::mutex> alone(callers_);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      work_ = &work;
      members_ = members;
      running_ = members;
      ++round_;
    }
    if (members > 1) wake_.notify_all();
    take_part(work, 0);
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return running_ == 0; });
    if (error_ != nullptr) std::rethrow_exception(std::exchange(error_, nullptr));
  }

 private:
  struct All {  // never destroyed: threads wait in them until the process ends
    const pid_t owner = getpid();
    std::mutex mutex;
    std::map<int, std::unique_ptr<Team>> teams;
  };

  Team() = default;

  void add_thread() {  // before the first round
    const int index = static_cast<int>(threads_.size()) + 1;
    threads_.reserve(index);
    threads_.emplace_back([this, index] { serve(index); });
  }

  void take_part(const std::function<void(int)>& work, int index) {
    std::exception_ptr error;
    try {
      work(index);
    } catch (...) {
      error = std::current_exception();
    }
    std::lock_guard<std::mutex> lock(mutex_);
    if (error_ == nullptr) error_ = std::move(error);
    if (--running_ == 0) done_.notify_one();
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
      take_part(*work, index);
    }
  }

  std::vector<std::thread> threads_;
  std::mutex callers_, mutex_;
  std::condition_variable wake_, done_;
  const std::function<void(int)>* work_ = nullptr;
  int members_ = 0, running_ = 0;
  uint64_t round_ = 0;
  std::exception_ptr error_;  // the first of this round
};

}  // namespace cpu
