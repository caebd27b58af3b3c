#include "store.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>

namespace replay {

namespace {

void check_at_least_one(int64_t value, const char* name) {
  if (value < 1) throw std::invalid_argument(std::string(name) + ": expected at least 1, got " + std::to_string(value));
}

int64_t vector_steps(int64_t frame_bytes, int64_t num_envs, int64_t capacity, int64_t act_bytes) {
  check_at_least_one(frame_bytes, "frame_shape");
  check_at_least_one(num_envs, "num_envs");
  check_at_least_one(capacity, "capacity");
  check_at_least_one(act_bytes, "action");
  if (num_envs > kMaxEnvs) throw std::invalid_argument("num_envs: expected at most " + std::to_string(kMaxEnvs));
  const auto bytes = 2 * (static_cast<unsigned __int128>(capacity) + num_envs) * std::max(frame_bytes, act_bytes);
  if (bytes >> 46) throw std::invalid_argument("capacity: " + std::to_string(capacity) + " steps exceed 64 TiB");
  return (capacity + num_envs - 1) / num_envs;
}

}  // namespace

Store::Store(int64_t frame_bytes, int64_t num_envs, int64_t max_vector_steps, int64_t slots_per_env, int64_t act_bytes,
             std::shared_ptr<const FrameFile> file, std::shared_ptr<const FrameFile> full)
    : frame_bytes_(frame_bytes),
      act_bytes_(act_bytes),
      max_vector_steps_(max_vector_steps),
      slots_per_env_(slots_per_env),
      file_(std::move(file)),
      full_(std::move(full)),
      frames_(file_ ? 1 : num_envs * slots_per_env_ * frame_bytes),
      act_(num_envs * slots_per_env_ * act_bytes),
      rew_(num_envs * slots_per_env_),
      flags_(num_envs * slots_per_env_),
      envs_(num_envs) {
  frames_.use_huge_pages();  // fewer TLB misses when segments are gathered
  auto empty = std::make_shared<View>();
  empty->steps_before = {0};
  view_ = std::move(empty);
}

Store::Store(int64_t frame_bytes, int64_t num_envs, int64_t capacity, int64_t act_bytes)
    : Store(frame_bytes, num_envs, vector_steps(frame_bytes, num_envs, capacity, act_bytes),
            2 * vector_steps(frame_bytes, num_envs, capacity, act_bytes), act_bytes, nullptr, nullptr) {}

Store::Store(std::shared_ptr<const FrameFile> frames, std::shared_ptr<const FrameFile> full, int64_t act_bytes)
    : Store(frames->frame_bytes(), 1, vector_steps(frames->frame_bytes(), 1, frames->num_slots(), act_bytes),
            frames->num_slots(), act_bytes, frames, full) {
  if (full_ && full_->num_slots() != file_->num_slots()) {
    throw std::invalid_argument("full: holds " + std::to_string(full_->num_slots()) + " frames, not " +
                                std::to_string(file_->num_slots()));
  }
}

void Store::append(const uint8_t* obs, const uint8_t* act, const float* rew, const bool* end, const bool* trunc,
                   const uint8_t* final_obs) {
  if (file_) throw std::runtime_error("replay: its frames lie in a file, which is only read");
  if (vector_steps_ == max_vector_steps_) {
    throw std::runtime_error("replay full: it holds " + std::to_string(max_vector_steps_ * num_envs()) +
                            " steps; make it with a larger capacity");
  }
  for (int64_t i = 0; i < num_envs(); ++i) {
    if (!std::isfinite(rew[i])) throw std::invalid_argument("rew: expected finite rewards");
  }
  for (int64_t i = 0; i < num_envs(); ++i) {
    Env& env = envs_[i];
    const int64_t slot = env_start(i) + env.used;
    std::memcpy(frame(slot), obs + i * frame_bytes_, frame_bytes_);
    std::memcpy(this->act(slot), act + i * act_bytes_, act_bytes_);
    *this->rew(slot) = rew[i];
    *flags(slot) = (end[i] ? kEnd : 0) | (trunc[i] ? kTrunc : 0) | (env.running ? 0 : kFirst);
    if (end[i] || trunc[i]) {
      std::memcpy(frame(slot + 1), final_obs + i * frame_bytes_, frame_bytes_);
      *flags(slot + 1) = kFinal;
    }
    take_step(env, slot);
  }
  ++vector_steps_;
}

void Store::take_step(Env& env, int64_t slot) {
  if (*flags(slot) & kFirst) env = {env.used, true, -1, slot, 0};
  ++env.length;
  ++env.used;
  if (*flags(slot) & (kEnd | kTrunc)) {
    ++env.used;
    publish(env, true);
    env.running = false;
  }
}

void Store::publish(Env& env, bool has_final) {
  std::lock_guard<ForkSafeMutex> lock(mutex_);
  if (env.episode < 0) {
    env.episode = static_cast<int64_t>(episodes_.size());
    episodes_.push_back({env.first_slot, 0, false});
  }
  Episode& episode = episodes_[env.episode];
  if (episode.length == env.length) return;
  for (int64_t slot = env.first_slot + episode.length; slot < env.first_slot + env.length; ++slot) {
    const float reward = *rew(slot);
    ++reward_counts_[(reward > 0) - (reward < 0) + 1];
    ++end_counts_[*flags(slot) & kEnd ? 1 : 0];
  }
  episode.length = env.length;
  episode.has_final = has_final;
  version_.fetch_add(1, std::memory_order_release);
}

void Store::publish_running() {
  for (Env& env : envs_) {
    if (env.running) publish(env, false);
  }
}

void Store::close_running() {
  publish_running();
  for (Env& env : envs_) env.running = false;
}

void Store::check_flags(int64_t env_index, int64_t num_steps, int64_t num_slots) const {
  const Env& env = envs_.at(env_index);
  const auto fail = [&] {
    throw std::invalid_argument("slots of environment " + std::to_string(env_index) + ": not " +
                                std::to_string(num_steps) + " steps in " + std::to_string(num_slots) + " slots");
  };
  if (num_slots < num_steps || num_slots > slots_per_env_ - env.used) fail();
  bool running = env.running, expect_final = false;
  int64_t steps = 0;
  for (int64_t slot = env_start(env_index) + env.used, stop = slot + num_slots; slot < stop; ++slot) {
    const uint8_t bits = *flags(slot);
    if (bits & ~(kEnd | kTrunc | kFinal | kFirst)) fail();
    if (expect_final != (bits == kFinal) || (!expect_final && (bits & kFinal))) fail();
    if (!expect_final) {
      if (!running && !(bits & kFirst)) fail();
      ++steps;
      running = !(bits & (kEnd | kTrunc));
    }
    expect_final = !expect_final && !running;
  }
  if (steps != num_steps || expect_final) fail();
}

void Store::adopt(int64_t num_steps, const std::vector<int64_t>& env_slots) {
  if (num_steps < 0 || num_steps > max_vector_steps_ - vector_steps_) {
    throw std::invalid_argument("capacity: no room for " + std::to_string(num_steps) + " more vector steps");
  }
  if (static_cast<int64_t>(env_slots.size()) != num_envs())
    throw std::invalid_argument("env_slots: one per environment");
  for (int64_t i = 0; i < num_envs(); ++i) {
    check_flags(i, num_steps, env_slots[i]);
    const float* rewards = rew(env_start(i) + envs_[i].used);
    if (!std::all_of(rewards, rewards + env_slots[i], [](float reward) { return std::isfinite(reward); })) {
      throw std::invalid_argument("rew: expected finite rewards");
    }
  }
  for (int64_t step = 0; step < num_steps; ++step) {
    for (int64_t i = 0; i < num_envs(); ++i) {  // what close_running() made visible before this step
      Env& env = envs_[i];
      if (env.running && *flags(env_start(i) + env.used) & kFirst) publish(env, false);
    }
    for (int64_t i = 0; i < num_envs(); ++i) take_step(envs_[i], env_start(i) + envs_[i].used);
  }
  vector_steps_ += num_steps;
}

void Store::check_slots(int64_t first, int64_t count) const {
  const bool in_store = first >= 0 && count >= 0 && first < num_slots();
  if (!in_store || count > slots_per_env_ - first % slots_per_env_) {
    throw std::out_of_range("slots: " + std::to_string(first) + " and those after it, " + std::to_string(count) +
                            " in all, do not lie in one environment");
  }
}

std::shared_ptr<const View> Store::view() {
  std::lock_guard<ForkSafeMutex> lock(mutex_);
  const uint64_t version = version_.load(std::memory_order_relaxed);
  if (view_->version != version) {
    auto view = std::make_shared<View>();
    view->version = version;
    view->episodes = episodes_;
    view->steps_before.reserve(episodes_.size() + 1);
    view->steps_before.push_back(0);
    for (const Episode& episode : episodes_) view->steps_before.push_back(view->steps_before.back() + episode.length);
    view->reward_counts = reward_counts_;
    view->end_counts = end_counts_;
    view_ = std::move(view);
  }
  return view_;
}

}  // namespace replay
