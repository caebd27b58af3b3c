#include "prefetch.hpp"

#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

namespace replay {

struct Prefetcher::Shared {
  enum class State { kAsked, kFilling, kFilled };

  struct Job {
    uint64_t batch;
    uint8_t* block;
    State state = State::kAsked;
    uint64_t version = 0;  // of the view it was filled from
    std::exception_ptr error;
  };

  Shared(std::shared_ptr<Store> store, SamplerOptions options, BatchLayout layout)
      : store(std::move(store)), options(std::move(options)), layout(layout) {}

  ~Shared() {
    {
      std::lock_guard<std::mutex> lock(mutex);
      stopping = true;
    }
    asked.notify_all();
    for (std::thread& thread : threads) thread.join();
  }

  void work() {
    std::unique_lock<std::mutex> lock(mutex);
    while (true) {
      auto job = jobs.end();
      asked.wait(lock, [&] {
        job = std::find_if(jobs.begin(), jobs.end(), [](const Job& j) { return j.state == State::kAsked; });
        return stopping || job != jobs.end();
      });
      if (stopping) return;
      Job& mine = *job;  // stays where it is: a deque moves nothing, and take() forgets filled jobs only
      mine.state = State::kFilling;
      lock.unlock();
      std::exception_ptr error;
      uint64_t version = store->version();
      try {
        const auto view = store->view();
        version = view->version;
        fill(*store, *view, draw(*view, *store, options, mine.batch), layout, mine.block);
      } catch (...) {
        error = std::current_exception();
      }
      lock.lock();
      mine.state = State::kFilled;
      mine.version = version;
      mine.error = std::move(error);
      filled.notify_all();
    }
  }

  const std::shared_ptr<Store> store;
  const SamplerOptions options;
  const BatchLayout layout;

  std::mutex mutex;  // guards what is below
  std::condition_variable asked, filled;
  std::deque<Job> jobs;  // in the order they were asked for
  bool stopping = false;
  std::vector<std::thread> threads;
};

Prefetcher::Prefetcher(std::shared_ptr<Store> store, SamplerOptions options, BatchLayout layout, int64_t num_threads)
    : owner_(getpid()), shared_(std::make_unique<Shared>(std::move(store), std::move(options), layout)) {
  if (num_threads < 1) throw std::invalid_argument("num_threads: expected at least 1");
  for (int64_t i = 0; i < num_threads; ++i) shared_->threads.emplace_back([this_ = shared_.get()] { this_->work(); });
}

Prefetcher::~Prefetcher() {
  if (forked()) static_cast<void>(shared_.release());
}

bool Prefetcher::forked() const { return getpid() != owner_; }

void Prefetcher::ask(uint64_t batch, uint8_t* block) {
  if (forked()) throw std::runtime_error("segments: their threads are in the parent process; make new ones here");
  {
    std::lock_guard<std::mutex> lock(shared_->mutex);
    shared_->jobs.push_back({batch, block, Shared::State::kAsked, 0, nullptr});
  }
  shared_->asked.notify_one();
}

void Prefetcher::take() {
  if (forked()) throw std::runtime_error("segments: their threads are in the parent process; make new ones here");
  std::unique_lock<std::mutex> lock(shared_->mutex);
  auto& jobs = shared_->jobs;
  const uint64_t version = shared_->store->version();  // as of the call: a busy writer cannot hold it up for ever
  while (true) {
    // asked in every turn: while this thread waited, another may have taken the batch
    if (jobs.empty()) throw std::runtime_error("segments: no batch was asked for");
    bool stale = false;
    for (Shared::Job& job : jobs) {
      if (job.state == Shared::State::kFilled && job.version < version) {
        job.state = Shared::State::kAsked;
        stale = true;
      }
    }
    if (stale) shared_->asked.notify_all();
    Shared::Job& first = jobs.front();
    if (first.state == Shared::State::kFilled) {
      if (first.error) std::rethrow_exception(first.error);
      jobs.pop_front();
      return;
    }
    shared_->filled.wait(lock);
  }
}

}  // namespace replay
