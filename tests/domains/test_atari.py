"""Atari games against frames, rewards and lives of the published preprocessing."""

import hashlib
import subprocess
import sys

import golden_vectors as golden
import numpy as np
import pytest

from diamond_fast.domains.atari.env import AtariSlot
from diamond_fast.domains.atari.games import ATARI_100K
from diamond_fast.domains.environments import make_real_env
from diamond_fast.envs.real import RealEnv
from diamond_fast.spec import Frame


def digest(frame):
    return hashlib.sha256(np.ascontiguousarray(frame)).hexdigest()[:16]


@pytest.mark.parametrize(
    ("game", "done_on_life_loss"),
    [("Boxing", True), ("Breakout", True), ("Breakout", False), ("RoadRunner", False)],  # Boxing has no lives to lose
)
def test_equals_the_published_preprocessing_byte_for_byte(game, done_on_life_loss):
    truth = golden.load(f"atari_{game}")
    env = RealEnv(lambda: AtariSlot(game, 64, max_noops=0), 1, done_on_life_loss)
    assert env.action.n == truth["num_actions"]
    obs, info = env.reset(seed=11)
    assert digest(obs[0]) == truth["frame_sha256_16"][0]
    assert info["lives"] == truth["lives"][0]
    stored = dict(zip(truth["frame_index"], truth["frames_u8"], strict=True))
    for t, action in enumerate(truth["actions"]):
        obs, rewards, terminations, truncations, info = env.step(np.array([action]))
        ended = truth["terminated"][t] or (done_on_life_loss and truth["life_loss"][t])
        assert digest(info["final_obs"][0]) == truth["frame_sha256_16"][t + 1]
        if t + 1 in stored:
            np.testing.assert_array_equal(info["final_obs"][0], stored[t + 1])
        assert rewards[0] == truth["rewards"][t]
        assert terminations[0] == info["_final_obs"][0] == ended
        assert not truncations[0]
        assert info["game_over"][0] == truth["terminated"][t]
        if not truth["terminated"][t]:  # the same game goes on, also after a lost life
            assert info["lives"][0] == truth["lives"][t + 1]
            np.testing.assert_array_equal(obs, info["final_obs"])
        else:
            assert digest(obs[0]) == truth["frame_sha256_16"][0]
            assert info["lives"][0] == truth["lives"][0]
    if game != "Boxing":
        assert truth["terminated"][-1]
        assert truth["life_loss"].sum() > 2
    env.close()


def play(env, actions):
    return [env.step(a) for a in actions]


def assert_equal(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        for x, y in zip(a[:4], b[:4], strict=True):
            np.testing.assert_array_equal(x, y)
        assert a[4].keys() == b[4].keys()
        for key in a[4]:
            np.testing.assert_array_equal(a[4][key], b[4][key])


@pytest.mark.parametrize(("num_envs", "seed_lasts"), [(1, 8000), (3, 200)])
def test_goes_on_bit_for_bit_after_loading_a_state(num_envs, seed_lasts, monkeypatch):
    """Breakout loses a life every 25 steps and a game every 130: the states lie within, before and after both."""
    monkeypatch.setattr(AtariSlot, "seed_lasts", seed_lasts)
    rng = np.random.default_rng(5)
    env = make_real_env("Breakout", None, num_envs, 64, done_on_life_loss=True)
    actions = rng.integers(0, env.action.n, (420, num_envs))
    env.reset(seed=3)
    states, steps = [], []
    for a in actions:
        states.append(env.state_dict())
        steps.append(env.step(a))
    env.close()
    over = [t for t, step in enumerate(steps) if step[4]["game_over"].any()]
    lost = [t for t, step in enumerate(steps) if (step[2] & ~step[4]["game_over"]).any()]
    assert len(over) > 1
    assert len(lost) > 4
    if seed_lasts == 200:  # seeds have changed
        assert states[-1]["seed_numbers"].min() > 0
        assert states[-1]["lengths"].max() < 400
    else:
        assert set(states[-1]["lengths"]) == {419}
    other = make_real_env("Breakout", None, num_envs, 64, done_on_life_loss=True)
    for t in (0, lost[0], lost[0] + 1, over[0], over[0] + 1, over[1] - 7)[:: num_envs // 2 + 1]:
        obs = other.load_state_dict(states[t])
        if t > 0:
            np.testing.assert_array_equal(obs, steps[t - 1][0])
        stop = min(t + 60, len(actions))
        assert_equal(play(other, actions[t:stop]), steps[t:stop])
    other.close()


@pytest.mark.parametrize("game", ["Assault", "Frostbite"])
def test_states_hold_in_games_that_depend_on_those_before(game):
    """Without a seed, the first frames of their games depend on how the last one was played."""
    rng = np.random.default_rng(6)
    env = make_real_env(game, None, 1, 64, done_on_life_loss=False)
    env.reset(seed=2)
    over = 0
    while not over:
        over = env.step(rng.integers(0, env.action.n, 1))[4]["game_over"].sum()
    play(env, rng.integers(0, env.action.n, (20, 1)))
    state, actions = env.state_dict(), rng.integers(0, env.action.n, (50, 1))
    steps = play(env, actions)
    env.close()
    env = make_real_env(game, None, 1, 64, done_on_life_loss=False)
    env.load_state_dict(state)
    assert_equal(play(env, actions), steps)
    env.close()


def test_no_ops_differ_from_game_to_game_and_follow_the_seed():
    """Freeway's cars drive from the first frame on, so the frame tells the number of no-ops."""
    env = make_real_env("Freeway", None, 4, 64, done_on_life_loss=False)
    first, _ = env.reset(seed=1)
    again, _ = env.reset(seed=1)
    next_games, _ = env.reset()
    other, _ = env.reset(seed=2)
    each, _ = env.reset(seed=[1, 2, 1, 2])
    env.close()
    np.testing.assert_array_equal(first, again)
    assert len({digest(frame) for frame in (*first, *next_games)}) > 4
    np.testing.assert_array_equal(each[::2], first[::2])
    np.testing.assert_array_equal(each[1::2], other[1::2])


def test_an_out_of_range_action_never_reaches_the_emulator():
    env = make_real_env("Breakout", None, 2, 64, done_on_life_loss=True)
    env.reset(seed=0)
    for bad in ([0, 4], [-1, 0]):
        with pytest.raises(ValueError, match=r"^actions: expected 0 to 3, got "):
            env.step(np.array(bad))
    env.step(np.array([3, 0]))  # nothing was lost
    env.close()


def test_a_hung_emulator_is_given_up_and_does_not_hold_the_program():
    """An action out of range, sent past the checks, hangs the emulator: the library never answers."""
    code = """
import numpy as np
from diamond_fast.envs.failure import EnvironmentFailedError
from diamond_fast.domains.environments import make_real_env
from diamond_fast.envs import real
env = make_real_env("Pong", None, 2, 64, True)
env.reset(seed=0)
env._worker.timeout = 1.0  # only now: starting an emulator takes as long as the machine is busy
real.checked_actions = lambda action, actions, num_envs: actions
try:
    env.step(np.array([0, 99]))
except EnvironmentFailedError as error:
    print(error)
env.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (
        "Pong: the environment did not answer within 1 s; a larger --env-timeout waits longer"
    )


def test_games_are_cut_short_after_half_an_hour(monkeypatch):
    monkeypatch.setattr("diamond_fast.domains.atari.env.MAX_FRAMES_PER_GAME", 200)
    env = RealEnv(lambda: AtariSlot("Boxing", 64, max_noops=0), 1, done_on_life_loss=True)
    first, _ = env.reset(seed=0)
    steps = play(env, np.zeros((50, 1), int))
    assert [bool(step[3][0]) for step in steps] == [False] * 49 + [True]
    assert not any(step[2][0] for step in steps)
    assert steps[-1][4]["game_over"][0]
    np.testing.assert_array_equal(steps[-1][0], first)
    env.close()


@pytest.mark.parametrize("frame_size", [1, 17, 96, (30, 56)])
def test_frames_have_the_size_asked_for(frame_size):
    env = make_real_env("Pong", None, 1, frame_size, done_on_life_loss=False)
    obs, _ = env.reset(seed=0)
    assert obs.shape == (1, *Frame.of_size(frame_size).shape)
    assert env.observation_space.contains(obs)
    env.close()


@pytest.mark.slow
@pytest.mark.parametrize("game", ATARI_100K)
def test_every_game_equals_the_spelled_out_preprocessing(game, monkeypatch):
    """Frames, rewards, lives and ends, over 1500 steps."""
    pytest.importorskip("cv2")
    from published_atari import PublishedAtari

    monkeypatch.setattr(AtariSlot, "seed_lasts", 10**9)
    truth = PublishedAtari(game, max_noops=0)
    env = RealEnv(lambda: AtariSlot(game, 64, max_noops=0), 1, done_on_life_loss=True)
    obs, _ = env.reset(seed=0)
    frame, info = truth.reset(seed=0)
    np.testing.assert_array_equal(obs[0], frame)
    for action in np.random.default_rng(9).integers(0, env.action.n, 1500):
        frame, reward, terminated, truncated, info = truth.step(action)
        obs, rewards, terminations, truncations, our_info = env.step(np.array([action]))
        np.testing.assert_array_equal(our_info["final_obs"][0], frame)
        assert rewards[0] == reward
        assert terminations[0] == (terminated or info["life_loss"])
        assert truncations[0] == truncated
        assert our_info["game_over"][0] == (terminated or truncated)
        if terminated or truncated:
            frame, info = truth.reset()
        np.testing.assert_array_equal(obs[0], frame)
        assert our_info["lives"][0] == info["lives"]
    env.close()
