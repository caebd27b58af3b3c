// The CPU engine's threads, which need no instruction that some processors lack.

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "expect.hpp"
#include "cpu/team.hpp"

using cpu::Team;

void test_every_member_works_once() {
  for (int size = 1; size <= 4; ++size) {
    for (int members = 1; members <= size; ++members) {
      std::vector<int> done(size);
      Team::of_size(size).run(members, [&](int member) { ++done[member]; });
      for (int i = 0; i < size; ++i) EXPECT(done[i] == (i < members));
    }
  }
}

// Whoever throws, here or on a thread, run() throws it once all have returned, and the team works on.
void test_exceptions_reach_the_caller() {
  for (int thrower = 0; thrower < 3; ++thrower) {
    std::atomic<int> others{0};
    std::string said;
    try {
      Team::of_size(3).run(3, [&](int member) {
        if (member == thrower) throw std::runtime_error("member " + std::to_string(member));
        ++others;
      });
    } catch (const std::runtime_error& error) {
      said = error.what();
    }
    EXPECT(said == "member " + std::to_string(thrower) && others == 2);
    Team::of_size(3).run(3, [&](int) { ++others; });
    EXPECT(others == 5);
  }
}

void test_two_callers_take_turns() {
  std::atomic<int> done{0};
  const auto call = [&] {
    for (int i = 0; i < 300; ++i) Team::of_size(2).run(2, [&](int) { ++done; });
  };
  std::thread other(call);
  call();
  other.join();
  EXPECT(done == 1200);
}

void test_a_fork_while_another_thread_asks_for_a_team() {
  std::atomic<bool> done{false};
  std::thread other([&] {
    while (!done) Team::of_size(1).run(1, [](int) {});
  });
  for (int i = 0; i < 200; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(100);
      std::atomic<int> members{0};
      Team::of_size(1).run(1, [&](int) { ++members; });
      _exit(members == 1 ? 0 : 1);
    }
    int status = 0;
    EXPECT(waitpid(child, &status, 0) == child && status == 0);
  }
  done = true;
  other.join();
}

int main() {
  test_every_member_works_once();
  test_exceptions_reach_the_caller();
  test_two_callers_take_turns();
  test_a_fork_while_another_thread_asks_for_a_team();
  std::puts("all passed");
}
