// What a forked child can go on using, whatever other threads were doing at the fork.
#pragma once

#include <pthread.h>

#include <mutex>
#include <new>
#include <set>

// A mutex that no fork finds locked: whoever forks takes every one there is first, and lets them go in both processes.
// A thread that holds one must not wait for another.
class ForkSafeMutex {
 public:
  ForkSafeMutex() {
    std::lock_guard<std::mutex> lock(registry().mutex);
    registry().all.insert(this);
  }
  ~ForkSafeMutex() {
    std::lock_guard<std::mutex> lock(registry().mutex);
    registry().all.erase(this);
  }
  ForkSafeMutex(const ForkSafeMutex&) = delete;
  ForkSafeMutex& operator=(const ForkSafeMutex&) = delete;

  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  struct Registry {
    Registry() {
      if (pthread_atfork(&take_all, &let_all_go, &let_all_go) != 0) throw std::bad_alloc();
    }
    std::mutex mutex;
    std::set<ForkSafeMutex*> all;
  };

  static Registry& registry() {
    static Registry* const registry = new Registry;  // never destroyed: a fork may come at the very end
    return *registry;
  }
  static void take_all() {
    registry().mutex.lock();
    for (ForkSafeMutex* each : registry().all) each->lock();
  }
  static void let_all_go() {
    for (ForkSafeMutex* each : registry().all) each->unlock();
    registry().mutex.unlock();
  }

  std::mutex mutex_;
};
