// The buffer without Python: what is stored, cut and drawn, one writer next to readers, batches filled ahead.
// Small and plain, so that it runs under the sanitizers.

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <stdexcept>
#include <thread>
#include <vector>

#include "batch.hpp"
#include "expect.hpp"
#include "philox.hpp"
#include "pool.hpp"
#include "prefetch.hpp"
#include "sampler.hpp"
#include "store.hpp"

using namespace replay;

template <typename Error, typename Function>
void expect_throws(Function function) {
  bool thrown = false;
  try {
    function();
  } catch (const Error&) {
    thrown = true;
  }
  EXPECT(thrown);
}

constexpr int64_t kFrameBytes = 48;

// One vector step whose frames, actions and rewards all tell the step's number.
void append_step(Store& store, int64_t number, const std::vector<char>& ends) {
  const int64_t n = store.num_envs();
  std::vector<uint8_t> obs(n * kFrameBytes, static_cast<uint8_t>(number)), final_obs(n * kFrameBytes, 255);
  std::vector<int64_t> act(n, number);
  std::vector<float> rew(n, static_cast<float>(number));
  const std::unique_ptr<bool[]> end(new bool[n]), trunc(new bool[n]);
  for (int64_t i = 0; i < n; ++i) {
    end[i] = ends[i];
    trunc[i] = false;
  }
  const auto* act_bytes = reinterpret_cast<const uint8_t*>(act.data());
  store.append(obs.data(), act_bytes, rew.data(), end.get(), trunc.get(), final_obs.data());
}

// A batch is whole: numbers count up within a row, and everything outside the masks is zero.
void check_batch(const BatchLayout& layout, const std::vector<uint8_t>& block) {
  const auto* act = reinterpret_cast<const int64_t*>(block.data() + layout.act);
  const auto* rew = reinterpret_cast<const float*>(block.data() + layout.rew);
  for (int64_t row = 0; row < layout.batch_size; ++row) {
    for (int64_t i = row * layout.seq_length; i < (row + 1) * layout.seq_length; ++i) {
      const uint8_t* frame = block.data() + layout.frames + i * kFrameBytes;
      const bool step = block[layout.mask_padding + i], pixels = block[layout.pixel_mask + i];
      EXPECT(pixels || !step);
      const auto expected = step ? static_cast<uint8_t>(act[i]) : static_cast<uint8_t>(pixels ? 255 : 0);
      EXPECT(std::all_of(frame, frame + kFrameBytes, [&](uint8_t byte) { return byte == expected; }));
      EXPECT(rew[i] == static_cast<float>(act[i]));
      EXPECT(step || act[i] == 0);
      const bool follows = i > row * layout.seq_length && step && block[layout.mask_padding + i - 1];
      EXPECT(!follows || act[i] == act[i - 1] + 1);
    }
  }
}

void test_philox() {
  EXPECT((philox4x32({0, 0, 0, 0}, {0, 0}) == PhiloxCounter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  RowRandom random(1, 2, 3, 4);
  for (int i = 0; i < 100000; ++i) {
    const int64_t x = random.below(7);
    EXPECT(x >= 0 && x < 7);
    const double u = random.uniform();
    EXPECT(u >= 0 && u < 1);
  }
}

void test_store() {
  Store store(kFrameBytes, 2, 10);
  append_step(store, 1, {0, 1});
  append_step(store, 2, {0, 0});
  EXPECT(store.view()->num_episodes() == 1 && store.view()->num_steps() == 1);
  store.publish_running();
  const auto view = store.view();
  EXPECT(view->num_episodes() == 3 && view->num_steps() == 4);
  EXPECT(view->episodes[0].has_final && !view->episodes[1].has_final);
  append_step(store, 3, {1, 1});
  EXPECT(view->num_steps() == 4);  // a view never changes
  EXPECT(store.view()->num_steps() == 6 && store.view()->num_episodes() == 3);
  append_step(store, 4, {1, 1});
  append_step(store, 5, {1, 1});
  expect_throws<std::runtime_error>([&] { append_step(store, 6, {1, 1}); });
  expect_throws<std::out_of_range>([&] { store.check_slots(8, 13); });
  expect_throws<std::invalid_argument>([] { Store(0, 1, 1); });
}

void test_every_cut() {
  Store store(kFrameBytes, 1, 20);
  for (int64_t t = 1; t <= 7; ++t) append_step(store, t, {t == 7});
  for (int64_t t = 1; t <= 5; ++t) append_step(store, t, {0});
  store.publish_running();
  for (int64_t length = 1; length < 12; ++length) {
    const BatchLayout layout(2, length, kFrameBytes);
    for (int64_t start = -15; start < 20; ++start) {
      std::vector<uint8_t> block(layout.num_bytes, 77);
      fill(store, *store.view(), {{0, start}, {1, start}}, layout, block.data());
      check_batch(layout, block);
    }
  }
}

void test_adopt_checks_its_flags() {
  Store store(kFrameBytes, 1, 10);
  *store.flags(0) = kFirst;
  *store.flags(1) = kEnd;
  *store.flags(2) = kFinal;
  expect_throws<std::invalid_argument>([&] { store.adopt(2, {2}); });   // no final observation
  expect_throws<std::invalid_argument>([&] { store.adopt(3, {3}); });   // one step less
  expect_throws<std::invalid_argument>([&] { store.adopt(2, {30}); });  // more than there is
  expect_throws<std::invalid_argument>([&] { store.adopt(2, {-1}); });
  expect_throws<std::invalid_argument>([&] { store.adopt(2, {}); });
  EXPECT(store.view()->num_steps() == 0);
  store.adopt(2, {3});
  EXPECT(store.view()->num_steps() == 2 && store.env_used(0) == 3);
  *store.flags(3) = 0;  // neither goes on nor begins
  expect_throws<std::invalid_argument>([&] { store.adopt(1, {1}); });
  *store.flags(3) = 128;
  expect_throws<std::invalid_argument>([&] { store.adopt(1, {1}); });
  *store.flags(3) = kFirst;
  *store.rew(3) = std::numeric_limits<float>::quiet_NaN();
  expect_throws<std::invalid_argument>([&] { store.adopt(1, {1}); });
}

void test_actions_of_an_odd_size() {
  constexpr int64_t kActBytes = 51;
  Store store(kFrameBytes, 1, 10, kActBytes);
  const std::vector<uint8_t> frame(kFrameBytes);
  const float rew = 0;
  const bool no = false;
  for (uint8_t t = 1; t <= 3; ++t) {
    const bool end = t == 3;
    store.append(frame.data(), std::vector<uint8_t>(kActBytes, t).data(), &rew, &end, &no, frame.data());
  }
  const BatchLayout layout(1, 6, kFrameBytes, kActBytes);
  std::vector<uint8_t> block(layout.num_bytes, 77);
  fill(store, *store.view(), {{0, -1}}, layout, block.data());
  for (int64_t i = 0; i < 6; ++i) {
    const uint8_t* act = &block[layout.act + i * kActBytes];
    EXPECT(std::all_of(act, act + kActBytes, [i](uint8_t byte) { return byte == (i < 4 ? i : 0); }));
  }
  const BatchLayout of_numbers(1, 6, kFrameBytes);
  expect_throws<std::invalid_argument>([&] { fill(store, *store.view(), {{0, 0}}, of_numbers, block.data()); });
}

void test_pool() {
  const auto pool = std::make_shared<BlockPool>(100);
  void* first = pool->take();
  void* second = pool->take();
  EXPECT(first != second);
  pool->give_back(first);
  EXPECT(pool->take() == first);
  for (int i = 0; i < 100; ++i) pool->give_back(std::aligned_alloc(4096, 4096));
  pool->give_back(first);
  pool->give_back(second);
}

void test_sizes_that_would_overflow() {
  const auto nothing_fits = [](int64_t batch_size, int64_t seq_length, int64_t frame_bytes) {
    expect_throws<std::invalid_argument>([=] { BatchLayout(batch_size, seq_length, frame_bytes); });
  };
  constexpr int64_t kHuge = int64_t{1} << 61, kMost = INT64_MAX, kLeast = INT64_MIN;
  for (const int64_t size : {int64_t{0}, int64_t{-1}, kHuge, kMost, kLeast}) {
    nothing_fits(size, 1, 1);
    nothing_fits(1, size, 1);
    nothing_fits(size, size, size);
  }
  nothing_fits(1, 1, -1);
  nothing_fits(1, 1, 0);
  nothing_fits(1, 1, kHuge);
  nothing_fits(int64_t{1} << 21, int64_t{1} << 21, 1);
  nothing_fits(int64_t{1} << 32, int64_t{1} << 32, 1);
  EXPECT(BatchLayout(1 << 10, 1 << 10, 1 << 20).num_bytes > int64_t{1} << 40);

  Store store(kFrameBytes, 1, 20);
  for (int64_t t = 1; t <= 7; ++t) append_step(store, t, {t == 7});
  const BatchLayout layout(1, 4, kFrameBytes);
  std::vector<uint8_t> block(layout.num_bytes, 77);
  for (const int64_t start : {kLeast, kLeast + 1, -kHuge, kHuge, kMost - 3, kMost}) {
    fill(store, *store.view(), {{0, start}}, layout, block.data());
    check_batch(layout, block);
    EXPECT(std::all_of(&block[layout.pixel_mask], &block[layout.pixel_mask] + 4, [](uint8_t x) { return x == 0; }));
  }
  expect_throws<std::invalid_argument>([] { Store(1, (int64_t{1} << 16) + 1, 1); });
  expect_throws<std::invalid_argument>([] { Store(kMost, kMost, kMost); });
  expect_throws<std::invalid_argument>([] { BlockPool(0); });
  expect_throws<std::invalid_argument>([] { BlockPool(SIZE_MAX); });
}

void test_layouts_and_cuts_that_do_not_fit() {
  const auto store = std::make_shared<Store>(kFrameBytes, 1, 20);
  for (int64_t t = 1; t <= 7; ++t) append_step(*store, t, {t == 7});
  const auto filled = [&](const std::vector<Cut>& cuts, const BatchLayout& layout) {
    std::vector<uint8_t> block(layout.num_bytes);
    fill(*store, *store->view(), cuts, layout, block.data());
  };
  expect_throws<std::invalid_argument>([&] { filled({{0, 0}, {0, 0}}, {1, 4, kFrameBytes}); });
  expect_throws<std::invalid_argument>([&] { filled({{0, 0}}, {2, 4, kFrameBytes}); });
  expect_throws<std::invalid_argument>([&] { filled({{0, 0}}, {1, 4, kFrameBytes - 1}); });
  expect_throws<std::invalid_argument>([&] { filled({{0, 0}}, {1, 4, kFrameBytes + 1}); });
  expect_throws<std::out_of_range>([&] { filled({{1, 0}}, {1, 4, kFrameBytes}); });
  expect_throws<std::out_of_range>([&] { filled({{-1, 0}}, {1, 4, kFrameBytes}); });
  filled({{0, 0}}, {1, 4, kFrameBytes});
  expect_throws<std::invalid_argument>([&] { filled({{0, 0}}, {1, 4, 0}); });

  const BatchLayout layout(2, 4, kFrameBytes);
  std::vector<uint8_t> block(layout.num_bytes);
  Prefetcher prefetcher(store, {3, 4, {}, false, 0, 0}, layout, 1);
  prefetcher.ask(0, block.data());
  expect_throws<std::invalid_argument>([&] { prefetcher.take(); });
}

// Every batch goes to one of them; who finds none left is told.
void test_two_threads_take_from_one_prefetcher() {
  const auto store = std::make_shared<Store>(kFrameBytes, 1, 20);
  for (int64_t t = 1; t <= 7; ++t) append_step(*store, t, {t == 7});
  const BatchLayout layout(2, 4, kFrameBytes);
  for (int round = 0; round < 200; ++round) {
    std::vector<std::vector<uint8_t>> blocks(9, std::vector<uint8_t>(layout.num_bytes));
    Prefetcher prefetcher(store, {2, 4, {}, false, 0, 0}, layout, 2);
    std::atomic<int> taken{0}, told{0};
    for (uint64_t batch = 0; batch < blocks.size(); ++batch) prefetcher.ask(batch, blocks[batch].data());
    const auto consume = [&] {
      for (int i = 0; i < 5; ++i) {
        try {
          prefetcher.take();
          ++taken;
        } catch (const std::runtime_error&) {
          ++told;
        }
      }
    };
    std::thread other(consume);
    consume();
    other.join();
    EXPECT(taken == 9 && told == 1);
    for (const auto& block : blocks) check_batch(layout, block);
  }
}

// Whatever another thread was at when the process forked, the child goes on with what there was.
void test_a_fork_while_another_thread_appends() {
  Store store(kFrameBytes, 1, 1000000);
  BlockPool pool(100);
  append_step(store, 1, {1});
  std::atomic<bool> done{false};
  std::thread writer([&] {
    for (int64_t t = 0; !done && t < 900000; ++t) {
      append_step(store, 1, {t % 3 == 0});
      store.publish_running();
      pool.give_back(pool.take());
    }
  });
  for (int i = 0; i < 200; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(100);
      const auto view = store.view();
      pool.give_back(pool.take());
      _exit(view->num_episodes() >= 1 && view->num_steps() >= view->num_episodes() ? 0 : 1);
    }
    int status = 0;
    EXPECT(waitpid(child, &status, 0) == child && status == 0);
  }
  done = true;
  writer.join();
}

// A writer that never pauses, readers that draw by themselves, and a prefetcher.
void test_one_writer_many_readers() {
  const auto store = std::make_shared<Store>(kFrameBytes, 3, 3 * 20000);
  const SamplerOptions options{4, 6, {0.1, 0.1, 0.1, 0.7}, true, 1, 0};
  const BatchLayout layout(4, 6, kFrameBytes);
  append_step(*store, 1, {0, 0, 0});
  append_step(*store, 2, {0, 0, 0});
  store->publish_running();
  std::atomic<bool> done{false};
  std::thread writer([&] {
    for (int64_t t = 3; t < 20000; ++t) {
      append_step(*store, t, {t % 17 == 0, t % 23 == 0, 0});
      if (t % 50 == 0) store->publish_running();
    }
    done = true;
  });
  std::vector<std::thread> readers;
  for (uint32_t stream = 1; stream < 3; ++stream) {
    readers.emplace_back([&, stream] {
      SamplerOptions mine = options;
      mine.stream = stream;
      std::vector<uint8_t> block(layout.num_bytes);
      for (uint64_t batch = 0; !done || batch < 100; ++batch) {
        const auto view = store->view();
        fill(*store, *view, draw(*view, *store, mine, batch), layout, block.data());
        check_batch(layout, block);
      }
    });
  }
  std::vector<std::vector<uint8_t>> blocks(4, std::vector<uint8_t>(layout.num_bytes));
  Prefetcher prefetcher(store, options, layout, 3);
  for (uint64_t batch = 0; batch < blocks.size(); ++batch) prefetcher.ask(batch, blocks[batch].data());
  for (uint64_t batch = 0; !done || batch < 100; ++batch) {
    prefetcher.take();
    auto& block = blocks[batch % blocks.size()];
    check_batch(layout, block);
    prefetcher.ask(batch + blocks.size(), block.data());
  }
  writer.join();
  for (std::thread& reader : readers) reader.join();
}

void test_prefetcher_gives_what_draw_gives() {
  const auto store = std::make_shared<Store>(kFrameBytes, 2, 1000);
  const SamplerOptions options{8, 5, {}, false, 7, 3};
  const BatchLayout layout(8, 5, kFrameBytes);
  std::vector<std::vector<uint8_t>> blocks(5, std::vector<uint8_t>(layout.num_bytes));
  std::vector<uint8_t> expected(layout.num_bytes);
  Prefetcher prefetcher(store, options, layout, 4);
  expect_throws<std::runtime_error>([&] { prefetcher.take(); });
  for (int64_t t = 1; t <= 10; ++t) append_step(*store, t, {0, t == 5});
  store->publish_running();
  for (uint64_t batch = 0; batch < 5; ++batch) prefetcher.ask(batch, blocks[batch].data());
  for (uint64_t batch = 0; batch < 200; ++batch) {
    if (batch % 10 == 9) {
      append_step(*store, static_cast<int64_t>(11 + batch / 10), {0, 0});
      store->publish_running();
    }
    prefetcher.take();
    const auto view = store->view();
    fill(*store, *view, draw(*view, *store, options, batch), layout, expected.data());
    EXPECT(blocks[batch % 5] == expected);
    prefetcher.ask(batch + 5, blocks[batch % 5].data());
  }
}

void test_prefetcher_reports_errors() {
  const auto store = std::make_shared<Store>(kFrameBytes, 1, 10);
  const BatchLayout layout(2, 2, kFrameBytes);
  std::vector<uint8_t> block(layout.num_bytes);
  Prefetcher prefetcher(store, {2, 2, {}, false, 0, 0}, layout, 2);
  prefetcher.ask(0, block.data());
  expect_throws<std::runtime_error>([&] { prefetcher.take(); });
}

int main() {
  test_philox();
  test_store();
  test_every_cut();
  test_adopt_checks_its_flags();
  test_actions_of_an_odd_size();
  test_pool();
  test_sizes_that_would_overflow();
  test_layouts_and_cuts_that_do_not_fit();
  test_two_threads_take_from_one_prefetcher();
  test_a_fork_while_another_thread_appends();
  test_prefetcher_gives_what_draw_gives();
  test_prefetcher_reports_errors();
  test_one_writer_many_readers();
  std::puts("all passed");
}
