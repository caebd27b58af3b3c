"""The world model under Gymnasium's names: the batch, a single episode, and what is refused."""

import warnings
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env, data_equivalence
from small_world import SMALL_WORLD, make_agent, make_replay

from diamond_fast.envs.single import SingleWorldModelEnv
from diamond_fast.envs.world_model import WorldModelEnv
from diamond_fast.replay import Replay
from diamond_fast.replay.formats import write_npz
from diamond_fast.runs import checkpoint
from diamond_fast.runs.folder import RunFolder

ID = "diamond_fast.gymnasium_envs:diamond_fast/WorldModel-v0"  # as those say it who import nothing of this package
CFG = replace(SMALL_WORLD, env_id="diamond_fast/Catch-v0", engine="readable")


def make_run(path, cfg=CFG):
    folder, agent = RunFolder.create(path, cfg), make_agent()
    checkpoint.save(folder.checkpoints, 2, {name: part.state_dict() for name, part in agent.named_children()}, {})
    replay = Replay.open(folder.journal, (8, 8, 3), capacity=100)
    for i, source in enumerate([make_replay([9, 12])] * 2):
        replay.append_episode(source.episode(i))
    replay.commit()
    replay.close()
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("made") / "run")


def test_a_batch_is_the_agents_own_world(run):
    made = gymnasium.make_vec(ID, num_envs=3, run=run, device="cpu")
    assert isinstance(made.unwrapped, WorldModelEnv)
    folder = RunFolder.open(run)
    direct = WorldModelEnv(make_agent(), Replay.load(folder.journal), 3, CFG.world_model, engine="readable")
    actions = np.random.default_rng(0).integers(4, size=(8, 3))
    for env in (made, direct):
        env.reset(seed=5)
    for act in actions:
        ours, theirs = made.step(act), direct.step(act)
        np.testing.assert_array_equal(ours[0], theirs[0])
        np.testing.assert_array_equal(ours[1], theirs[1])
        np.testing.assert_array_equal(ours[3], theirs[3])


def test_one_episode_is_the_batch_of_one(run):
    single = gymnasium.make(ID, run=str(run), device="cpu", horizon=3)
    batch = gymnasium.make_vec(ID, num_envs=1, run=str(run), device="cpu", horizon=3)
    assert isinstance(single.unwrapped, SingleWorldModelEnv)
    obs, first = single.reset(seed=1)[0], batch.reset(seed=1)[0]
    lengths, length = [], 0
    for t in range(12):
        np.testing.assert_array_equal(obs, first[0])
        obs, reward, ended, cut, _ = single.step(t % 4)
        first, rewards, ends, cuts, info = batch.step(np.array([t % 4]))
        np.testing.assert_array_equal(obs, info["final_obs"][0])
        assert (reward, ended, cut) == (rewards[0], ends[0], cuts[0])
        length += 1
        if ended or cut:
            with pytest.raises(RuntimeError, match="the episode is over"):
                single.step(0)
            obs = single.reset()[0]  # the one that the batch has begun by itself
            lengths, length = [*lengths, length], 0
    assert max(lengths) == 3
    again = single.reset()[0], single.reset()[0]
    assert (again[0] != again[1]).any()


def test_one_episode_goes_on_from_a_state(run, tmp_path):
    """From the middle of an episode and from behind its end, in another environment, too."""
    env, other = (gymnasium.make(ID, run=str(run), device="cpu", horizon=3).unwrapped for _ in range(2))

    def rest(env):
        return [env.step(1)[:4]] if env._begun is None else [env.reset()[0], env.step(2)[:4]]

    env.reset(seed=1)
    ends = []
    for _ in range(9):
        state = env.get_state()
        ends.append(state["begun"] is not None)
        torch.save(state, tmp_path / "state.pt")
        expected = rest(env)
        for again, given in ((env, state), (other, torch.load(tmp_path / "state.pt"))):
            again.set_state(given)
            assert data_equivalence(rest(again), expected)
        env.set_state(state)
        rest(env)
    assert 0 < sum(ends) < 9
    with pytest.raises(ValueError, match="state: expected what get_state returned"):
        env.set_state(state["env"])


def test_gymnasiums_checker_finds_nothing(run):
    env = gymnasium.make(ID, run=run, device="cpu", render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
    obs, _ = env.reset(seed=0)
    np.testing.assert_array_equal(env.render(), obs)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({}, ValueError, "exactly one of them is needed"),
        ({"horizon": 0}, ValueError, "horizon: must be at least 1, got 0"),
        ({"denoising_steps": 0}, ValueError, "denoising_steps: must be at least 1, got 0"),
        ({"run": "nowhere"}, ValueError, "nowhere: no such folder"),
        ({"run": "here", "device": "gpu"}, ValueError, "--device: expected"),
        ({"run": "here", "data": "nowhere.npz"}, OSError, "nowhere.npz"),
        (
            {"run": "here", "data": "large.npz"},
            ValueError,
            "data: large.npz: its frames are 10x10x3",
        ),
        ({"run": "model-free"}, ValueError, "has no world model"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(run, tmp_path, monkeypatch, arguments, error, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").symlink_to(run)
    replay = Replay((10, 10, 3), capacity=4)
    no = np.zeros(1, bool)
    frame = np.full((1, 10, 10, 3), 9, np.uint8)
    replay.append(frame, np.zeros(1, int), np.zeros(1, np.float32), ~no, no, frame)
    replay.commit()
    write_npz(replay, tmp_path / "large.npz")
    if arguments.get("run") == "model-free":
        make_run(tmp_path / "model-free", replace(CFG, model_free=True))
    with pytest.raises(error, match=said) as refused:
        gymnasium.make_vec(ID, num_envs=2, **arguments)
    assert "\n" not in str(refused.value)
