"""The session against a plain transcription of what it should show."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from diamond_fast.domains.environments import make_real_env
from diamond_fast.engine import choose
from diamond_fast.engine.fast_denoiser import FastDenoiser
from diamond_fast.frames import to_float, to_uint8
from diamond_fast.playing.recorder import Recorder
from diamond_fast.playing.session import Session
from diamond_fast.world_model import DiffusionSampler

SHOWN = ("frame", "trajectory", "action", "reward", "total", "value", "probabilities", "over", "step")


def shown(session):
    view = session.view()
    return {name: getattr(view, name) for name in SHOWN}


def assert_same(a, b):
    """Exact but for the policy's output: its last bit depends on how the frames lie in memory."""
    assert a.keys() == b.keys()
    for name, value in a.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, b[name], err_msg=name)
        elif name in ("value", "probabilities"):
            assert value == pytest.approx(b[name], rel=1e-5, abs=1e-6), name
        else:
            assert value == b[name], name


def start_generators(source, seed):
    words = np.random.SeedSequence(seed).generate_state(2)
    contexts = source.replay.segments(1, 4, seed=int(words[1]))
    return torch.Generator().manual_seed(int(words[0])), contexts, torch.Generator().manual_seed(seed)


@torch.no_grad()
def dream(source, seed, num_moments, horizon, denoising_steps, choose, context=None):
    """Everything the session shows, written down without it: choose(probabilities, generator) -> action."""
    agent = source.agent
    noise, contexts, actions = start_generators(source, seed)
    sampler = DiffusionSampler(agent.denoiser, replace(source.cfg.world_model.sampler, num_steps=denoising_steps))
    moments = []
    while len(moments) < num_moments:
        batch = context or contexts.next()
        context = None
        obs, act = list(batch.obs().unbind(1)), batch.act[0].tolist()
        *_, rew_end_memory = agent.rew_end_model.predict(
            torch.stack(obs[:-1], 1), batch.act[:, :-1], torch.stack(obs[1:], 1)
        )
        memory = (torch.zeros(1, 8), torch.zeros(1, 8))
        for frame in obs[:-1]:
            _, _, memory = agent.actor_critic.predict_act_value(frame, memory)
        moment = {"trajectory": np.empty((0, 24, 24, 3), np.uint8), "action": None, "reward": 0.0, "total": 0.0}
        moment |= {"over": "", "step": 0}
        while True:
            logits, value, memory = agent.actor_critic.predict_act_value(obs[-1], memory)
            probabilities = logits[0].softmax(0)
            moment["frame"] = to_uint8(obs[-1][0]).numpy()
            moment |= {"value": value.item(), "probabilities": tuple(probabilities.tolist())}
            moments.append(moment)
            if moment["over"]:
                break
            act[-1] = choose(probabilities, actions)
            next_obs, trajectory = sampler.sample(
                torch.stack(obs[-4:], 1),
                torch.tensor([act[-4:]]),
                lambda *shape, device: torch.randn(*shape, generator=noise),
            )
            next_obs = to_float(to_uint8(next_obs))  # kept as bytes
            logits_rew, logits_end, rew_end_memory = agent.rew_end_model.predict(
                obs[-1][:, None], torch.tensor([act[-1:]]), next_obs[:, None], rew_end_memory
            )
            reward = torch.multinomial(logits_rew[0, 0].softmax(0), 1, generator=noise).item() - 1
            end = torch.multinomial(logits_end[0, 0].softmax(0), 1, generator=noise).item()
            step = moment["step"] + 1
            moment = {
                "trajectory": np.stack([to_uint8(x[0]).numpy() for x in trajectory]),
                "action": act[-1],
                "reward": float(reward),
                "total": moment["total"] + reward,
                "over": "end" if end else "cut" if step >= horizon else "",
                "step": step,
            }
            obs.append(next_obs)
            act.append(-1)
    return moments[:num_moments]


def draw(probabilities, generator):
    return torch.multinomial(probabilities, 1, generator=generator).item()


@pytest.mark.parametrize("denoising_steps", [1, 2])
def test_the_agents_dream_is_the_plain_one(source, make_session, denoising_steps):
    session = make_session(controller="agent", denoising_steps=denoising_steps, horizon=3, seed=3)
    expected = dream(source, 3, 40, 3, denoising_steps, draw)
    assert {m["over"] for m in expected} == {"", "end", "cut"}
    assert len({m["action"] for m in expected}) > 2
    for moment in expected:
        assert_same(shown(session), moment)
        session.step()


def test_the_fast_path_dreams_much_the_same(source, make_session, tmp_path, monkeypatch):
    """bfloat16 rounds a frame's levels a little, and once; a wrong frame differs by far more."""
    plain, other = make_session(seed=3), make_session(seed=4)
    for session in (plain, other):
        session.step()
    path = choose.Path(source.device, choose.fast_dtype(source.device), "fused", False, "a test")
    monkeypatch.setattr(choose, "choose_path", lambda *_, **__: path)
    fast = Session(replace(source), Recorder(tmp_path / "fast", (24, 24, 3)), seed=3)  # a copy has no sampler yet
    fast.step()
    assert isinstance(fast.source.sampler(source.cfg.world_model.sampler), FastDenoiser)
    difference = np.abs(fast.view().frame.astype(int) - plain.view().frame).mean()
    assert difference < 0.1 * np.abs(other.view().frame.astype(int) - plain.view().frame).mean()
    assert fast.view().trajectory.shape == plain.view().trajectory.shape
    fast.close()


def test_a_players_dream_is_the_plain_one(source, make_session):
    session = make_session(horizon=7, seed=4)
    presses = iter([["left"], ["left", "right"], [], ["right"]] * 20)
    expected = iter([0, 2, 1, 2] * 20)
    for moment in dream(source, 4, 20, 7, 2, lambda *_: next(expected)):
        assert_same(shown(session), moment)
        if not moment["over"]:
            session.hands.hold([])
            session.hands.hold(next(presses))
        session.step()


def test_a_tap_between_two_steps_counts_once(make_session):
    session = make_session(world="real", seed=0)
    session.hands.hold(["left"])
    session.hands.hold([])
    session.step()
    session.step()
    assert session.view().action == 1
    session.restart()
    session.hands.hold(["left"])
    session.hands.hold([])
    session.step()
    assert session.view().action == 0


def test_the_seed_fixes_everything(make_session):
    a, b, c = (make_session(controller="agent", seed=seed) for seed in (5, 5, 6))
    moments = []
    for _ in range(12):
        moments.append(shown(a))
        assert_same(shown(b), moments[-1])
        for session in (a, b, c):
            session.step()
    assert not np.array_equal(a.view().frame, c.view().frame)
    a.restart()
    c.set_number("seed", 5)
    for moment in moments:
        for session in (a, c):
            assert_same(shown(session), moment)
            session.step()


def test_the_next_episode_starts_elsewhere(source, make_session):
    session = make_session(seed=5)
    _, contexts, _ = start_generators(source, 5)
    for number in range(1, 4):
        np.testing.assert_array_equal(session.view().frame, contexts.next().frames[0, -1].numpy())
        assert (session.view().episode, session.view().step) == (number, 0)
        session.step()
        session.next_episode()
    session.seek(3, 5)
    session.next_episode()
    assert session.view().position[:2] == (4, 0)


def test_the_next_real_game_is_another(make_session):
    session = make_session(world="real", seed=7)
    env = make_real_env(None, "diamond_fast/Catch-v0", 1, 24, done_on_life_loss=False)
    first, _ = env.reset(seed=7)
    second, _ = env.reset()
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(session.view().frame, first[0])
    session.step()
    session.next_episode()
    np.testing.assert_array_equal(session.view().frame, second[0])
    env.close()


def test_the_real_game_is_the_real_game(source, make_session):
    session = make_session(world="real", controller="agent", seed=7)
    env = make_real_env(None, "diamond_fast/Catch-v0", 1, 24, done_on_life_loss=False)
    obs, _ = env.reset(seed=7)
    actions = torch.Generator().manual_seed(7)
    memory, total = (torch.zeros(1, 8), torch.zeros(1, 8)), 0.0
    frame, over = obs, False
    for _ in range(120):
        logits, value, memory = source.agent.actor_critic.predict_act_value(to_float(torch.from_numpy(frame)), memory)
        view = session.view()
        np.testing.assert_array_equal(view.frame, frame[0])
        assert (view.value, view.total, bool(view.over)) == (value.item(), total, over)
        assert view.probabilities == tuple(logits[0].softmax(0).tolist())
        if over:
            memory, total, frame, over = (torch.zeros(1, 8), torch.zeros(1, 8)), 0.0, obs, False
        else:
            act = torch.multinomial(logits.softmax(1), 1, generator=actions)[:, 0]
            obs, rew, end, trunc, info = env.step(act.numpy())
            total, over, frame = total + rew[0], bool(end[0] | trunc[0]), info["final_obs"]
        session.step()
    env.close()


def test_a_replay_is_what_was_recorded(source, make_session):
    session = make_session(world="replay")
    recorded = source.replay.episode(0)
    length = len(recorded.act)
    for t in range(length):
        assert session.view().position == (0, t, length)
        np.testing.assert_array_equal(session.view().frame, recorded.obs[t])
        session.step()
        assert (session.view().action, session.view().reward) == (recorded.act[t], recorded.rew[t])
    np.testing.assert_array_equal(session.view().frame, recorded.final_obs)
    assert (session.view().over, session.view().total) == ("end", recorded.rew.sum())
    session.step()
    assert session.view().position[:2] == (1, 0)
    session.seek(2, 11)
    np.testing.assert_array_equal(session.view().frame, source.replay.episode(2).obs[11])


def test_a_replay_starts_over_behind_its_last_episode(source, make_session):
    last = source.replay.num_episodes - 1
    length = len(source.replay.episode(last).act)
    session = make_session()
    session.seek(last, length - 1)
    session.step()
    assert session.view().over
    session.step()
    assert session.view().position[:2] == (0, 0)


def test_the_policy_remembers_what_came_before_the_frame_it_is_shown(source, make_session):
    played, jumped = make_session(world="replay"), make_session(world="replay")
    for _ in range(15):
        played.step()
    jumped.seek(0, 15)
    assert_same({"value": jumped.view().value}, {"value": played.view().value})
    assert abs(jumped.view().value - make_session(world="replay").view().value) > 0.01


def test_dreaming_on_from_a_replay(source, make_session):
    session = make_session(controller="agent", horizon=6, seed=8)
    session.seek(1, 20)
    before = session.view().frame
    session.dream_from_here()
    np.testing.assert_array_equal(session.view().frame, before)
    for moment in dream(source, 8, 4, 6, 2, draw, context=source.replay.segment(1, 17, 21)):
        assert_same(shown(session), moment)
        session.step()


@pytest.mark.parametrize("num_steps", [0, 2, 9])
def test_dreaming_on_from_the_real_game(source, make_session, num_steps):
    session = make_session(world="real", horizon=6, seed=9)
    session.hands.hold(["left"])
    frames = [session.view().frame]
    for _ in range(num_steps):
        session.step()
        frames.append(session.view().frame)
    session.dream_from_here()
    session.step()
    after = session.view()

    padding = [torch.zeros(1, 3, 24, 24)] * 4
    obs = torch.stack([*padding, *(to_float(torch.from_numpy(f))[None] for f in frames)][-4:], dim=1)
    act = torch.zeros(1, 4, dtype=torch.int64)  # left if there were frames, and 0 stands for none
    noise, _, _ = start_generators(source, 9)
    cfg = source.cfg.world_model.sampler
    expected, _ = DiffusionSampler(source.agent.denoiser, cfg).sample(
        obs, act, lambda *shape, device: torch.randn(*shape, generator=noise)
    )
    np.testing.assert_array_equal(after.frame, to_uint8(expected[0]).numpy())
    assert (after.world, after.step, after.action) == ("model", 1, 0)


def test_settings_change_while_playing(make_session):
    session = make_session(denoising_steps=2, horizon=10_000)
    session.step()
    assert len(session.view().trajectory) == len(session.view().noise_levels) == 3
    session.set_number("denoising_steps", 4)
    session.restart()
    session.step()
    assert len(session.view().trajectory) == len(session.view().noise_levels) == 5
    session.set_number("horizon", 1)
    while not session.over:
        session.step()
    for _ in range(10):  # each a start and its one step, whether or not the model wants to end it
        session.step()
        session.step()
        assert session.over
        assert session.view().step == 1


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda s: s.switch_world("moon"), "world"),
        (lambda s: s.set_controller("cat"), "controller"),
        (lambda s: s.set_number("denoising_steps", 0), "denoising_steps: expected 1 to 50, got 0"),
        (lambda s: s.set_number("horizon", -1), "horizon"),
        (lambda s: s.set_number("seed", 2**31), "seed"),
        (lambda s: s.seek(10**9, 0), "episode: expected 0 to"),
        (lambda s: s.seek(0, -1), "step: expected 0 to"),
        (lambda s: s.hands.hold(["fire"]), "expected some of left, right, got 'fire'"),
        (lambda s: s.dream_from_here(), "dream from here"),
    ],
)
def test_wrong_wishes_change_nothing(make_session, wrong, words):
    session = make_session(seed=1)
    session.step()
    before = session.view()
    with pytest.raises(ValueError, match=words):
        wrong(session)
    for field in fields(before):
        np.testing.assert_array_equal(getattr(before, field.name), getattr(session.view(), field.name))


def test_a_real_game_that_does_not_start_leaves_all_as_it_was(make_session, source, monkeypatch):
    session = make_session(seed=1)
    before = session.view().frame

    def fail(self):
        raise TimeoutError("no answer")

    monkeypatch.setattr(type(source), "make_real_env", fail)
    with pytest.raises(TimeoutError):
        session.switch_world("real")
    assert session.view().world == "model"
    np.testing.assert_array_equal(session.view().frame, before)
    session.step()
