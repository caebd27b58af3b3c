// The CPU engine's threads, which need no instruction that some processors lack.

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "expect.hpp"
#include "cpu/team.hpp"

using cpu::Team;

// Over many rounds, so that members come late, sleep between them and find rounds over already.
void test_every_piece_is_done_once_and_by_one_member_at_a_time() {
  for (int size = 1; size <= 4; ++size) {
    Team& team = Team::of_size(size);
    EXPECT(team.size() == size);
    std::vector<std::atomic<int>> busy(size);
    for (int round = 0; round < 2000; ++round) {
      const int count = round % 7;
      std::vector<int> done(count);
      team.share(count, [&](int i, int member) {
        EXPECT(member >= 0 && member < size && ++busy[member] == 1);
        ++done[i];
        --busy[member];
      });
      for (int n : done) EXPECT(n == 1);
      if (round % 500 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  }
}

// A member whose core is taken away holds up nothing but its own piece.
void test_the_others_do_what_one_leaves() {
  std::atomic<int> others{0};
  std::atomic<bool> held{false};
  Team::of_size(3).share(30, [&](int, int) {
    if (!held.exchange(true)) {
      while (others < 29) std::this_thread::yield();
    } else {
      ++others;
    }
  });
  EXPECT(others == 29);
}

// Whoever throws, here or on a thread, share() throws it once all pieces are done, and the team works on.
void test_exceptions_reach_the_caller() {
  for (int thrower = 0; thrower < 3; ++thrower) {
    std::atomic<int> others{0};
    std::string said;
    try {
      Team::of_size(3).share(3, [&](int i, int) {
        if (i == thrower) throw std::runtime_error("piece " + std::to_string(i));
        ++others;
      });
    } catch (const std::runtime_error& error) {
      said = error.what();
    }
    EXPECT(said == "piece " + std::to_string(thrower) && others == 2);
    Team::of_size(3).share(3, [&](int, int) { ++others; });
    EXPECT(others == 5);
  }
}

void test_two_callers_take_turns() {
  std::atomic<int> done{0};
  const auto call = [&] {
    for (int i = 0; i < 300; ++i) Team::of_size(2).share(2, [&](int, int) { ++done; });
  };
  std::thread other(call);
  call();
  other.join();
  EXPECT(done == 1200);
}

void test_a_fork_while_another_thread_asks_for_a_team() {
  std::atomic<bool> done{false};
  std::thread other([&] {
    while (!done) Team::of_size(1).share(1, [](int, int) {});
  });
  for (int i = 0; i < 200; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(100);
      std::atomic<int> members{0};
      Team::of_size(1).share(1, [&](int, int) { ++members; });
      _exit(members == 1 ? 0 : 1);
    }
    int status = 0;
    EXPECT(waitpid(child, &status, 0) == child && status == 0);
  }
  done = true;
  other.join();
}

int main() {
  test_every_piece_is_done_once_and_by_one_member_at_a_time();
  test_the_others_do_what_one_leaves();
  test_exceptions_reach_the_caller();
  test_two_callers_take_turns();
  test_a_fork_while_another_thread_asks_for_a_team();
  std::puts("all passed");
}
