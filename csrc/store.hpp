// The stored experience: one slab of frames, one writer, any number of readers.
//
// Every environment owns a stretch of slots, so an episode is contiguous even when several environments interleave
// and a segment of it is one memcpy. A slot holds a frame, the action taken at it and what followed. An ended episode
// owns one more slot for its final observation. Slots are written once: what a View shows never changes, so readers
// copy without a lock. Frames and actions are bytes whose meaning is the caller's. A recording's frames may stay in
// files, in two sizes: such a store is filled with adopt() once, and only read from then on.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "fork_safe.hpp"
#include "frames.hpp"

namespace replay {

// What is known of a slot, in bits. These values are stored on disk.
enum SlotFlag : uint8_t {
  kEnd = 1,    // the step ended the episode
  kTrunc = 2,  // the step cut the episode off (a time limit)
  kFinal = 4,  // no step: the final observation of the episode in the slots before
  kFirst = 8,  // the first step of an episode
};

// More environments than a commit's head could list.
constexpr int64_t kMaxEnvs = int64_t{1} << 16;

struct Episode {
  int64_t first_slot;
  int64_t length;  // steps
  bool has_final;  // slot first_slot + length holds the final observation

  int64_t num_frames() const { return length + (has_final ? 1 : 0); }
};

// What readers see: immutable.
struct View {
  uint64_t version = 0;
  std::vector<Episode> episodes;
  std::vector<int64_t> steps_before;  // steps_before[i]: steps in episodes 0 .. i-1; one entry more than episodes
  std::array<int64_t, 3> reward_counts{};  // of reward signs -1, 0, +1
  std::array<int64_t, 2> end_counts{};     // of steps that did not end an episode, and that did

  int64_t num_episodes() const { return static_cast<int64_t>(episodes.size()); }
  int64_t num_steps() const { return steps_before.back(); }
};

class Store {
 public:
  // capacity: steps in all, rounded up to whole vector steps. Throws std::invalid_argument, and std::bad_alloc if
  // there is no address space for as many.
  Store(int64_t frame_bytes, int64_t num_envs, int64_t capacity, int64_t act_bytes = sizeof(int64_t));
  // Frames in files: of one environment, as many as its slots.
  // full: the same frames in another size; may be null. Throws std::invalid_argument unless both have as many slots.
  Store(std::shared_ptr<const FrameFile> frames, std::shared_ptr<const FrameFile> full, int64_t act_bytes);

  // --- the writer's side: one thread at a time ---

  // Takes one step of every environment; final_obs is read only if an episode ended. An ended episode becomes visible
  // at once, a running one with publish_running(). Throws std::runtime_error when full, or if frames lie in a file,
  // std::invalid_argument if a reward is not finite; then nothing is taken.
  void append(const uint8_t* obs, const uint8_t* act, const float* rew, const bool* end, const bool* trunc,
              const uint8_t* final_obs);
  void publish_running();
  // Every running episode stays as it is, without an end, and the next step starts a new one.
  void close_running();
  // Takes num_steps vector steps whose slots were written from outside, as append() would have taken them.
  // env_slots: slots per environment. Throws std::invalid_argument, having changed nothing, if the flags do not fit
  // or a reward is not finite.
  void adopt(int64_t num_steps, const std::vector<int64_t>& env_slots);

  // Throws std::invalid_argument unless the flags of an environment's next num_slots slots are those of so many steps.
  void check_flags(int64_t env, int64_t num_steps, int64_t num_slots) const;

  int64_t env_start(int64_t env) const { return env * slots_per_env_; }
  int64_t env_used(int64_t env) const { return envs_.at(env).used; }
  int64_t num_vector_steps() const { return vector_steps_; }
  // Throws std::out_of_range unless slots [first, first + count) lie in one environment.
  void check_slots(int64_t first, int64_t count) const;

  // --- any thread ---

  std::shared_ptr<const View> view();
  uint64_t version() const { return version_.load(std::memory_order_acquire); }
  int64_t frame_bytes() const { return frame_bytes_; }
  int64_t act_bytes() const { return act_bytes_; }
  int64_t num_envs() const { return static_cast<int64_t>(envs_.size()); }
  int64_t num_slots() const { return num_envs() * slots_per_env_; }  // room for, in all environments

  const FrameFile* file() const { return file_.get(); }  // that has the frames; null if they are in memory
  const FrameFile* full() const { return full_.get(); }  // that has them in another size, too; null if none
  uint8_t* frame(int64_t slot) { return frames_.at(slot * frame_bytes_); }  // in memory, if they are there
  uint8_t* act(int64_t slot) { return act_.at(slot * act_bytes_); }
  float* rew(int64_t slot) { return rew_.at(slot); }
  uint8_t* flags(int64_t slot) { return flags_.at(slot); }
  const uint8_t* flags(int64_t slot) const { return flags_.at(slot); }

 private:
  struct Env {
    int64_t used = 0;  // slots
    bool running = false;
    int64_t episode = -1;  // index of the running episode once visible
    int64_t first_slot = 0;
    int64_t length = 0;
  };

  void take_step(Env& env, int64_t slot);
  void publish(Env& env, bool has_final);

  Store(int64_t frame_bytes, int64_t num_envs, int64_t max_vector_steps, int64_t slots_per_env, int64_t act_bytes,
        std::shared_ptr<const FrameFile> file, std::shared_ptr<const FrameFile> full);

  const int64_t frame_bytes_, act_bytes_;
  const int64_t max_vector_steps_;
  const int64_t slots_per_env_;  // twice the steps: every episode might have one step and a final observation
  const std::shared_ptr<const FrameFile> file_, full_;
  Reserved<uint8_t> frames_;
  Reserved<uint8_t> act_;
  Reserved<float> rew_;
  Reserved<uint8_t> flags_;
  std::vector<Env> envs_;
  int64_t vector_steps_ = 0;

  ForkSafeMutex mutex_;  // guards what is below
  std::vector<Episode> episodes_;
  std::array<int64_t, 3> reward_counts_{};
  std::array<int64_t, 2> end_counts_{};
  std::shared_ptr<const View> view_;  // of version_, or older until the next view()
  std::atomic<uint64_t> version_{0};
};

}  // namespace replay
