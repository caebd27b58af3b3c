// A few threads that share pieces of work, each taking the next when it is free. All programs share them.
//
// No thread has a share of its own to wait for: if the system takes a core away, the others do what is left. Waiting is
// short: after a moment a thread sleeps, which lets the system put one that has work on its core.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
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
    if (team == nullptr) team.reset(new Team(size));
    while (static_cast<int>(team->threads_.size()) < size - 1) team->add_thread();
    return *team;
  }
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return size_; }

  // Calls work(i, member) for every i below count, one at a time a member; members are numbers below size(), the caller
  // is 0. Which member takes which piece is open. Returns when all are done, or throws then what one of them threw.
  // One caller at a time; others wait.
  template <typename Work>
  void share(int count, Work&& work) {
    std::lock_guard<std::mutex> alone(callers_);
    if (count < 1) return;
    call_ = [](void* w, int i, int member) { (*static_cast<std::remove_reference_t<Work>*>(w))(i, member); };
    work_ = const_cast<void*>(static_cast<const void*>(std::addressof(work)));
    count_ = count;
    unfinished_ = count;
    left_ = count;  // from here on pieces can be taken
    wake(std::min(count - 1, sleepers_.load()));
    take_pieces(0);
    if (!soon([this] { return unfinished_ == 0; })) {
      std::unique_lock<std::mutex> lock(mutex_);
      caller_sleeps_ = true;
      done_.wait(lock, [this] { return unfinished_ == 0; });
      caller_sleeps_ = false;
    }
    if (failed_.exchange(false)) std::rethrow_exception(std::exchange(error_, nullptr));
  }

 private:
  struct All {  // never destroyed: threads wait in them until the process ends
    const pid_t owner = getpid();
    std::mutex mutex;
    std::map<int, std::unique_ptr<Team>> teams;
  };

  explicit Team(int size) : size_(size) {}

  void add_thread() {
    const int member = static_cast<int>(threads_.size()) + 1;
    threads_.reserve(member);
    threads_.emplace_back([this, member] { serve(member); });
  }

  // Whether something happens within the time that sleeping and waking would take.
  template <typename Happened>
  static bool soon(Happened&& happened) {
    constexpr auto kPatience = std::chrono::microseconds(50);
    const auto start = std::chrono::steady_clock::now();
    do {
      for (int i = 0; i < 64; ++i) {
        if (happened()) return true;
#if defined(__x86_64__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        asm volatile("yield");
#endif
      }
    } while (std::chrono::steady_clock::now() - start < kPatience);
    return false;
  }

  void wake(int members) {
    if (members < 1) return;
    std::lock_guard<std::mutex> lock(mutex_);  // whoever is about to sleep does, or has seen that there is work
    for (; members > 0; --members) wake_.notify_one();
  }

  // A piece can only be taken while its round lasts, and a round lasts until its pieces are done.
  void take_pieces(int member) {
    for (int left = left_; left > 0;) {
      if (!left_.compare_exchange_weak(left, left - 1)) continue;
      try {
        call_(work_, count_ - left, member);
      } catch (...) {
        std::lock_guard<std::mutex> lock(mutex_);
        if (!failed_.exchange(true)) error_ = std::current_exception();
      }
      left = left_;
      if (--unfinished_ == 0 && caller_sleeps_) {
        std::lock_guard<std::mutex> lock(mutex_);
        done_.notify_one();
      }
    }
  }

  void serve(int member) {
    for (;;) {
      if (!soon([this] { return left_ > 0; })) {
        std::unique_lock<std::mutex> lock(mutex_);
        ++sleepers_;
        wake_.wait(lock, [this] { return left_ > 0; });
        --sleepers_;
      }
      take_pieces(member);
    }
  }

  const int size_;
  std::vector<std::thread> threads_;
  std::mutex callers_, mutex_;
  std::condition_variable wake_, done_;
  // of this round; written while no piece is left to take or to finish
  void (*call_)(void*, int, int) = nullptr;
  void* work_ = nullptr;
  int count_ = 0;
  std::exception_ptr error_;  // the first
  std::atomic<bool> failed_{false};
  // Sequentially consistent: who goes to sleep announces it before the last look at what the other side changes first.
  std::atomic<int> left_{0}, unfinished_{0}, sleepers_{0};
  std::atomic<bool> caller_sleeps_{false};
};

}  // namespace cpu
