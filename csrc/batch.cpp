#include "batch.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

namespace replay {

namespace {

// The size of everything, in which no step can have overflowed.
bool fits(int64_t batch_size, int64_t seq_length, int64_t frame_bytes, int64_t act_bytes, int64_t full_bytes) {
  constexpr int64_t kMost = int64_t{1} << 46, kBytesAStep = 32;  // rounded up: all arrays but frames and actions
  if (batch_size < 1 || seq_length < 1 || frame_bytes < 1 || act_bytes < 1 || act_bytes > kMost) return false;
  if (full_bytes < 0 || full_bytes > kMost) return false;
  if (batch_size > kMost / kBytesAStep || seq_length > kMost / kBytesAStep / batch_size) return false;
  return frame_bytes <= kMost / (batch_size * seq_length) - kBytesAStep - act_bytes - full_bytes;
}

}  // namespace

BatchLayout::BatchLayout(int64_t batch_size, int64_t seq_length, int64_t frame_bytes, int64_t act_bytes,
                         int64_t full_bytes)
    : batch_size(batch_size),
      seq_length(seq_length),
      frame_bytes(frame_bytes),
      act_bytes(act_bytes),
      full_bytes(full_bytes),
      num_bytes(0) {
  if (!fits(batch_size, seq_length, frame_bytes, act_bytes, full_bytes)) {
    throw std::invalid_argument("batch_size, seq_length: " + std::to_string(batch_size) + " segments of " +
                                std::to_string(seq_length) + " steps are not positive sizes within 64 TiB");
  }
  const auto place = [this](int64_t bytes) {
    const int64_t offset = num_bytes;
    num_bytes += (bytes + 63) / 64 * 64;
    return offset;
  };
  const int64_t steps = batch_size * seq_length;
  frames = place(steps * frame_bytes);
  act = place(steps * act_bytes);
  rew = place(steps * static_cast<int64_t>(sizeof(float)));
  end = place(steps);
  trunc = place(steps);
  mask_padding = place(steps);
  pixel_mask = place(steps);
  episode = place(batch_size * static_cast<int64_t>(sizeof(int64_t)));
  start = place(batch_size * static_cast<int64_t>(sizeof(int64_t)));
  full = place(steps * full_bytes);
}

namespace {

// A memcpy a cache line at a time, through vector registers, that asks for memory some way ahead: at the end of `from`
// for the beginning of `next`. For copies this long the C library's own takes string instructions, and every segment
// begins where no prefetcher expects it: measured, this is 12 % faster on segments of 19 frames and 2 % on 6.
void copy(uint8_t* to, const uint8_t* from, int64_t num_bytes, const uint8_t* next) {
  constexpr int64_t kLine = 64, kAhead = 1024;
  int64_t i = 0;
  for (; i + kAhead + kLine <= num_bytes; i += kLine) {
    __builtin_prefetch(from + i + kAhead);
    std::memcpy(to + i, from + i, kLine);
  }
  for (; i + kLine <= num_bytes; i += kLine, next += kLine) {
    __builtin_prefetch(next);
    std::memcpy(to + i, from + i, kLine);
  }
  std::memcpy(to + i, from + i, num_bytes - i);
}

// What a segment covers of its episode: `before` steps of padding, then frames from `slot` on, of which the last may be
// a final observation, then padding.
struct Span {
  int64_t slot, before, num_frames, num_steps;
};

Span span_of(const View& view, const Cut& cut, int64_t length) {
  const Episode& episode = view.episodes[cut.episode];
  const int64_t start = std::clamp<int64_t>(cut.start, -length, episode.num_frames());  // beyond, all is padding
  const int64_t from = std::max<int64_t>(start, 0), to = std::clamp(start + length, from, episode.num_frames());
  return {episode.first_slot + from, std::max<int64_t>(-start, 0), to - from,
          std::clamp<int64_t>(episode.length - from, 0, to - from)};
}

void check_cuts(const Store& store, const View& view, const std::vector<Cut>& cuts, const BatchLayout& layout) {
  if (static_cast<int64_t>(cuts.size()) != layout.batch_size) {
    throw std::invalid_argument("layout: made for " + std::to_string(layout.batch_size) + " segments, not " +
                                std::to_string(cuts.size()));
  }
  if (layout.frame_bytes != store.frame_bytes()) {
    throw std::invalid_argument("layout: made for frames of " + std::to_string(layout.frame_bytes) + " bytes, not " +
                                std::to_string(store.frame_bytes()));
  }
  if (layout.act_bytes != store.act_bytes()) {
    throw std::invalid_argument("layout: made for actions of " + std::to_string(layout.act_bytes) + " bytes, not " +
                                std::to_string(store.act_bytes()));
  }
  if (layout.full_bytes != 0 && (!store.full() || layout.full_bytes != store.full()->frame_bytes())) {
    throw std::invalid_argument("layout: made for full frames of " + std::to_string(layout.full_bytes) + " bytes, not " +
                                std::to_string(store.full() ? store.full()->frame_bytes() : 0));
  }
  for (const Cut& cut : cuts) {
    if (cut.episode < 0 || cut.episode >= view.num_episodes()) {
      throw std::out_of_range("episode: " + std::to_string(cut.episode) + " is not one of the " +
                              std::to_string(view.num_episodes()) + " stored");
    }
  }
}

// The files that a batch's frames come from, and where they go.
struct FromFile {
  const FrameFile* file;
  uint8_t* to;
};

std::vector<FromFile> files_for(const Store& store, const BatchLayout& layout, uint8_t* block) {
  std::vector<FromFile> files;
  if (store.file()) files.push_back({store.file(), block + layout.frames});
  if (layout.full_bytes) files.push_back({store.full(), block + layout.full});
  return files;
}

}  // namespace

void fill(Store& store, const View& view, const std::vector<Cut>& cuts, const BatchLayout& layout, uint8_t* block) {
  check_cuts(store, view, cuts, layout);
  const int64_t length = layout.seq_length, frame_bytes = layout.frame_bytes;
  auto* episodes = reinterpret_cast<int64_t*>(block + layout.episode);
  auto* starts = reinterpret_cast<int64_t*>(block + layout.start);
  for (const int64_t flags : {layout.end, layout.trunc, layout.mask_padding, layout.pixel_mask}) {
    std::memset(block + flags, 0, layout.batch_size * length);
  }
  const std::vector<FromFile> files = files_for(store, layout, block);
  for (const auto& [file, to] : files) {
    for (const Cut& cut : cuts) {  // all segments of the batch are on their way before the first is waited for
      const Span span = span_of(view, cut, length);
      file->will_read(span.slot, span.num_frames);
    }
  }
  Span next = span_of(view, cuts[0], length);
  for (int64_t row = 0; row < layout.batch_size; ++row) {
    const Span span = next;
    if (row + 1 < layout.batch_size) next = span_of(view, cuts[row + 1], length);

    const int64_t base = row * length, first = base + span.before, after = first + span.num_frames;
    if (!store.file()) {
      uint8_t* frames = block + layout.frames;
      std::memset(frames + base * frame_bytes, 0, span.before * frame_bytes);
      copy(frames + first * frame_bytes, store.frame(span.slot), span.num_frames * frame_bytes, store.frame(next.slot));
      std::memset(frames + after * frame_bytes, 0, (base + length - after) * frame_bytes);
    }
    for (const auto& [file, to] : files) {
      const int64_t bytes = file->frame_bytes();
      std::memset(to + base * bytes, 0, span.before * bytes);
      file->read(span.slot, span.num_frames, to + first * bytes);
      std::memset(to + after * bytes, 0, (base + length - after) * bytes);
    }

    const auto copy_row = [&](int64_t array, const void* stored, int64_t bytes) {  // zeros, what is stored, zeros
      uint8_t* to = block + array;
      std::memset(to + base * bytes, 0, span.before * bytes);
      std::memcpy(to + first * bytes, stored, span.num_frames * bytes);
      std::memset(to + after * bytes, 0, (base + length - after) * bytes);
    };
    copy_row(layout.act, store.act(span.slot), layout.act_bytes);
    copy_row(layout.rew, store.rew(span.slot), sizeof(float));
    for (int64_t i = 0; i < span.num_steps; ++i) {
      const uint8_t flags = *store.flags(span.slot + i);
      block[layout.end + first + i] = (flags & kEnd) != 0;
      block[layout.trunc + first + i] = (flags & kTrunc) != 0;
    }
    std::memset(block + layout.mask_padding + first, 1, span.num_steps);
    std::memset(block + layout.pixel_mask + first, 1, span.num_frames);
    episodes[row] = cuts[row].episode;
    starts[row] = cuts[row].start;
  }
}

}  // namespace replay
