"""The vectorised environment over scripted games: nothing but arithmetic, so every number is known."""

import subprocess
import sys
import threading

import numpy as np
import pytest

from diamond_fast.domains.environments import make_real_env
from diamond_fast.envs.failure import EnvironmentFailedError
from diamond_fast.envs.real import RealEnv
from diamond_fast.envs.slot import SlotStep
from diamond_fast.spec import Discrete, Frame


class ScriptedSlot:
    """Plays one list of (reward, lives, end) after the other. A frame shows game, step and the last action."""

    action = Discrete(3)
    frame = Frame(2, 1, 3)
    seed_lasts = 0

    def __init__(self, *games, lives=0):
        self.games, self.first_lives = games, lives
        self.game, self.t, self.seeds = -1, 0, []

    def picture(self, action=0):
        return np.full(self.frame.shape, (self.game, self.t, action), np.uint8)

    def reset(self, seed):
        self.game, self.t = self.game + 1, 0
        self.seeds.append(seed)
        return self.picture(), self.first_lives

    def send(self, action):
        self.sent = action

    def recv(self):
        reward, lives, end = self.games[self.game % len(self.games)][self.t]
        self.t += 1
        return SlotStep(self.picture(self.sent), reward, end == "end", end == "trunc", lives, None)

    def close(self):
        self.closed = True


def make(*slots, done_on_life_loss=True, timeout=5.0):
    remaining = list(slots)
    return RealEnv(lambda: remaining.pop(0), len(slots), done_on_life_loss, timeout)


def test_an_ended_episode_is_followed_by_the_next_in_the_same_step():
    short = [(1.0, 0, ""), (-2.0, 0, "end")]
    long = [(0.5, 0, ""), (0.0, 0, ""), (3.0, 0, "trunc")]
    env = make(ScriptedSlot(short), ScriptedSlot(long))
    obs, info = env.reset(seed=0)
    np.testing.assert_array_equal(obs[:, 0, 0], [[0, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(info["lives"], [0, 0])
    #        actions   final frames            rewards      end             trunc           next frames
    script = [
        ([1, 2], [(0, 1, 1), (0, 1, 2)], [1.0, 0.5], [False, False], [False, False], [(0, 1, 1), (0, 1, 2)]),
        ([2, 0], [(0, 2, 2), (0, 2, 0)], [-2.0, 0.0], [True, False], [False, False], [(1, 0, 0), (0, 2, 0)]),
        ([0, 1], [(1, 1, 0), (0, 3, 1)], [1.0, 3.0], [False, False], [False, True], [(1, 1, 0), (1, 0, 0)]),
    ]
    for act, final, rew, end, trunc, nxt in script:
        obs, rewards, terminations, truncations, info = env.step(np.array(act))
        np.testing.assert_array_equal(obs[:, 0, 0], nxt)
        np.testing.assert_array_equal(info["final_obs"][:, 1, 0], final)
        np.testing.assert_array_equal(rewards, rew)
        np.testing.assert_array_equal(terminations, end)
        np.testing.assert_array_equal(truncations, trunc)
        np.testing.assert_array_equal(info["game_over"], np.logical_or(end, trunc))
        np.testing.assert_array_equal(info["_final_obs"], np.logical_or(end, trunc))
        assert (obs.dtype, info["final_obs"].dtype, rewards.dtype) == (np.uint8, np.uint8, np.float32)
        assert terminations.dtype == truncations.dtype == info["game_over"].dtype == bool
    env.close()


@pytest.mark.parametrize("done_on_life_loss", [True, False])
def test_only_a_new_low_of_the_lives_within_a_game_is_a_loss(done_on_life_loss):
    lives = [3, 2, 2, 3, 2, 1, 1, 0]  # 3 again is a gift; back to 2 is no loss
    loss = [False, True, False, False, False, True, False, False]  # at the end the game is over, whatever the lives
    game = [(0.0, n, "end" if t == 7 else "") for t, n in enumerate(lives)]
    env = make(ScriptedSlot(game, lives=3), done_on_life_loss=done_on_life_loss)
    env.reset(seed=0)
    for _ in range(2):
        steps = [env.step(np.zeros(1, int)) for _ in range(8)]
        assert [bool(step[4]["game_over"][0]) for step in steps] == [False] * 7 + [True]
        assert [bool(step[2][0]) for step in steps] == [done_on_life_loss and lost for lost in loss[:7]] + [True]
        assert [int(step[4]["lives"][0]) for step in steps] == [*lives[:7], 3]
        for step in steps[:7]:
            np.testing.assert_array_equal(step[0], step[4]["final_obs"])
    env.close()


def test_inactive_environments_stand_still():
    slots = [ScriptedSlot([(1.0, 0, "")] * 3 + [(1.0, 0, "end")]) for _ in range(3)]
    env = make(*slots)
    env.reset(seed=0)
    env.step(np.ones(3, int))
    env.active[:] = [True, False, True]
    for _ in range(5):
        obs, rewards, terminations, _, info = env.step(np.ones(3, int))
        np.testing.assert_array_equal(rewards, [1, 0, 1])
        np.testing.assert_array_equal(obs[1, 0, 0], [0, 1, 1])
        np.testing.assert_array_equal(info["final_obs"][1, 0, 0], [0, 1, 1])
        assert not terminations[1]
    assert [slot.t for slot in slots] == [2, 1, 2]
    env.active[:] = True
    env.step(np.ones(3, int))
    assert [slot.t for slot in slots] == [3, 2, 3]
    env.close()


def test_seeds_last_as_long_as_the_slot_says():
    class OnItsOwn(ScriptedSlot):
        seed_lasts = 5

        def recv(self):
            step = super().recv()
            if not step.terminated:
                return step
            self.game, self.t = self.game + 1, 0
            return step._replace(first_frame=self.picture())

    slot = OnItsOwn([(0.0, 0, ""), (0.0, 0, "end")])
    env = make(slot)
    env.reset(seed=0)
    for _ in range(7):  # three games: the third ends after 6 steps, the first end at 5 or later
        env.step(np.zeros(1, int))
    assert len(slot.seeds) == 2
    assert env.state_dict()["lengths"] == [1]
    env.close()


def test_a_state_repeats_the_actions_of_every_environment():
    game = [(1.0, 0, "")] * 9 + [(1.0, 0, "end")]
    short = [(1.0, 0, "")] * 3 + [(1.0, 0, "end")]
    env = make(ScriptedSlot(game), ScriptedSlot(short))
    env.reset(seed=4)
    for t in range(6):
        obs, *_ = env.step(np.array([t % 3, 2]))
    state = env.state_dict()
    np.testing.assert_array_equal(state["lengths"], [6, 2])
    np.testing.assert_array_equal(state["actions"], [0, 1, 2, 0, 1, 2, 2, 2])
    slots = ScriptedSlot(game), ScriptedSlot(short)
    slots[1].game = 0  # a frame shows the number of the game
    other = make(*slots)
    np.testing.assert_array_equal(other.load_state_dict(state), obs)
    with pytest.raises(RuntimeError, match=r"^state: environments \[0, 1\] did not come back to the same frame"):
        other.load_state_dict(state)
    with pytest.raises(ValueError, match=r"^state: actions: expected 0 to 2, got .*; it belongs to another game"):
        other.load_state_dict(state | {"actions": state["actions"] + 1})
    with pytest.raises(ValueError, match=r"^state: expected base_seeds of 1 environments"):
        make(ScriptedSlot(game)).load_state_dict(state)
    env.close()
    other.close()


@pytest.mark.parametrize(
    ("actions", "error", "message"),
    [
        ([0, 3], ValueError, r"^actions: expected 0 to 2, got 0 to 3"),
        ([-1, 0], ValueError, r"^actions: expected 0 to 2, got -1 to 0"),
        ([0], ValueError, r"^actions: expected shape \(2,\), got \(1,\)"),
        ([[0], [1]], ValueError, r"^actions: expected shape \(2,\), got \(2, 1\)"),
        ([0.0, 1.0], TypeError, r"^actions: expected integers, got float64"),
        ([True, False], TypeError, r"^actions: expected integers, got bool"),
    ],
)
def test_actions_are_checked(actions, error, message):
    env = make(ScriptedSlot([(0.0, 0, "")] * 9), ScriptedSlot([(0.0, 0, "")] * 9))
    with pytest.raises(RuntimeError, match=r"^reset\(\) must be called first"):
        env.step(np.zeros(2, int))
    env.reset(seed=0)
    with pytest.raises(error, match=message):
        env.step(np.array(actions))
    assert env.step(np.zeros(2, int))[0][0, 0, 0, 1] == 1  # nothing was played
    env.close()


@pytest.mark.parametrize("seed", [-1, [1, 2, 3], [1, -2]])
def test_seeds_are_checked(seed):
    env = make(ScriptedSlot([]), ScriptedSlot([]))
    with pytest.raises(ValueError, match=r"^seed: expected an integer of at least 0 or 2 of them"):
        env.reset(seed=seed)
    env.close()


def test_send_and_recv_are_the_halves_of_a_step():
    env = make(ScriptedSlot([(1.0, 0, "")] * 9))
    env.reset(seed=0)
    with pytest.raises(RuntimeError, match="nothing to do"):
        env.recv()
    env.send(np.array([2]))
    with pytest.raises(RuntimeError, match="take that result first"):
        env.send(np.array([2]))
    with pytest.raises(RuntimeError, match="take that result first"):
        env.state_dict()
    assert env.recv()[0][0, 0, 0].tolist() == [0, 1, 2]
    env.close()


def test_errors_of_a_game_reach_the_caller():
    env = make(ScriptedSlot([(0.0, 0, "")]))
    env.reset(seed=0)
    env.step(np.zeros(1, int))
    with pytest.raises(IndexError):
        env.step(np.zeros(1, int))
    env.close()


def test_a_game_that_hangs_is_given_up():
    released = threading.Event()

    class Hanging(ScriptedSlot):
        def recv(self):
            released.wait()
            return super().recv()

    slot = Hanging([(0.0, 0, "")])
    env = make(slot)
    env.reset(seed=0)
    env._worker.timeout = 0.1
    with pytest.raises(EnvironmentFailedError, match=r"did not answer within 0\.1 s; a larger --env-timeout"):
        env.step(np.zeros(1, int))
    with pytest.raises(RuntimeError, match="stopped answering earlier"):
        env.step(np.zeros(1, int))
    env.close()
    assert not hasattr(slot, "closed")
    released.set()


def test_closing_closes_every_game_once_also_in_the_middle_of_a_step():
    slots = [ScriptedSlot([(0.0, 0, "")]) for _ in range(2)]
    env = make(*slots)
    env.reset(seed=0)
    env.send(np.zeros(2, int))
    env.close()
    env.close()
    assert all(slot.closed for slot in slots)
    with pytest.raises(RuntimeError):
        env.reset(seed=0)


def test_a_program_that_closes_nothing_ends_at_once():
    """Also if the environment is collected, and closed, only while the interpreter shuts down."""
    code = """
from diamond_fast.envs.failure import EnvironmentFailedError
from diamond_fast.domains.environments import make_real_env
from diamond_fast.envs.real import RealEnv
RealEnv.__del__ = RealEnv.close
env = make_real_env(None, "diamond_fast/Catch-v0", 2, 24, True)
env.reset(seed=0)
env.itself = env
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_the_factory_checks_its_arguments():
    with pytest.raises(ValueError, match=r"^game, env_id: expected exactly one of the two, got None and None"):
        make_real_env(None, None, 1, 64, False)
    with pytest.raises(ValueError, match=r"^game, env_id: expected exactly one"):
        make_real_env("Pong", "diamond_fast/Catch-v0", 1, 64, False)
    with pytest.raises(ValueError, match=r"^num_envs: expected at least 1, got 0"):
        make_real_env("Pong", None, 0, 64, False)
    with pytest.raises(ValueError, match=r"^frame_size: expected at least 1, got -8"):
        make_real_env("Pong", None, 1, -8, False)
    with pytest.raises(ValueError, match=r'^unknown game "Pongg"; did you mean Pong\?'):
        make_real_env("Pongg", None, 1, 64, False)
    with pytest.raises(ValueError, match=r"^timeout: "):
        make_real_env("Pong", None, 1, 64, False, timeout=0)
