#include "sampler.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "philox.hpp"

namespace replay {

namespace {

void check_share(const std::string& name, double share) {
  if (!(share >= 0 && share <= 1)) {
    throw std::invalid_argument(name + ": expected a number from 0 to 1, got " + std::to_string(share));
  }
}

// Whether a row is one of the share, which is spread evenly over all rows.
bool is_of(double share, int64_t row) { return std::floor((row + 1) * share) > std::floor(row * share); }

}  // namespace

void check(const SamplerOptions& options) {
  if (options.batch_size < 1) throw std::invalid_argument("batch_size: expected at least 1");
  if (options.seq_length < 1) throw std::invalid_argument("seq_length: expected at least 1");
  check_share("event_share", options.event_share);
  check_share("first_share", options.first_share);
  double sum = 0;
  for (const double weight : options.weights) {
    if (!(weight >= 0)) throw std::invalid_argument("sample_weights: expected none below 0");
    sum += weight;
  }
  if (!options.weights.empty() && !(std::abs(sum - 1) < 1e-6)) {
    throw std::invalid_argument("sample_weights: expected a sum of 1, got " + std::to_string(sum));
  }
}

namespace {

int64_t draw_part(const std::vector<double>& weights, RowRandom& random) {
  const double u = random.uniform();
  double sum = 0;
  int64_t part = 0;
  for (int64_t i = 0; i < static_cast<int64_t>(weights.size()); ++i) {
    if (weights[i] == 0) continue;
    part = i;  // rounding can leave the sum below u: the last part with a weight takes the rest
    sum += weights[i];
    if (u < sum) break;
  }
  return part;
}

int64_t draw_episode(const View& view, const std::vector<double>& weights, RowRandom& random) {
  const int64_t num_parts = static_cast<int64_t>(weights.size());
  if (num_parts == 0 || view.num_episodes() < num_parts) {
    const int64_t step = random.below(view.num_steps());
    const auto after = std::upper_bound(view.steps_before.begin(), view.steps_before.end(), step);
    return after - view.steps_before.begin() - 1;
  }
  const int64_t part = draw_part(weights, random);
  const int64_t size = view.num_episodes() / num_parts;
  const bool last = part == num_parts - 1;
  return part * size + random.below(last ? view.num_episodes() - part * size : size);
}

struct Drawn {
  Cut cut;
  int64_t step;
};

Drawn draw_row(const View& view, const SamplerOptions& options, uint64_t batch, int64_t row, uint32_t tried) {
  // Rows end below 2^20: above them, each try has random numbers of its own.
  RowRandom random(options.seed, options.stream, batch, static_cast<uint32_t>(row) + (tried << 20));
  const int64_t episode = draw_episode(view, options.weights, random);
  const int64_t length = view.episodes[episode].length;
  const int64_t step = random.below(length);
  const int64_t offset = random.below(options.seq_length);
  const int64_t start = options.beyond_end ? step - offset : std::min(length, step + 1 + offset) - options.seq_length;
  return {{episode, start}, step};
}

bool is_event(Store& store, const View& view, const Drawn& drawn) {
  const int64_t slot = view.episodes[drawn.cut.episode].first_slot + drawn.step;
  return *store.rew(slot) != 0 || (*store.flags(slot) & kEnd) != 0;
}

}  // namespace

std::vector<Cut> draw(const View& view, Store& store, const SamplerOptions& options, uint64_t batch) {
  if (view.num_steps() == 0) throw std::runtime_error("replay: nothing stored yet, or not committed");
  if (options.seq_length > view.num_steps()) {
    throw std::runtime_error("seq_length: " + std::to_string(options.seq_length) + " is longer than all " +
                             std::to_string(view.num_steps()) + " visible steps together; collect more first");
  }
  const bool events = view.reward_counts[0] + view.reward_counts[2] + view.end_counts[1] > 0;
  std::vector<Cut> cuts(options.batch_size);
  for (int64_t row = 0; row < options.batch_size; ++row) {
    const bool wanted = events && is_of(options.event_share, row);
    uint32_t tries = 1;
    Drawn drawn = draw_row(view, options, batch, row, 0);
    while (wanted && tries < kMostTries && !is_event(store, view, drawn)) {
      drawn = draw_row(view, options, batch, row, tries++);
    }
    if (is_of(options.first_share, row)) drawn.cut.start = 1 - options.seq_length;
    cuts[row] = drawn.cut;
  }
  return cuts;
}

}  // namespace replay
