"""Turning fully round: moments found in a recording, and errors of models that remember everything or nothing."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_world import SMALL_WORLD as CFG
from small_world import make_agent

from diamond_fast.engine.choose import choose_path
from diamond_fast.evaluation import open_loop
from diamond_fast.evaluation.open_loop import imagine_from
from diamond_fast.evaluation.turning_back import turning_errors, turns_in
from diamond_fast.frames import to_float, to_uint8
from diamond_fast.replay import Replay, fitting
from diamond_fast.replay.buffer import Episode
from diamond_fast.spec import Box

EXAMPLES = Path(__file__).parents[2] / "examples"
STEPS, CONTEXT = 8, 4
TURN, IDLE = 2, 0
READABLE = choose_path(torch.device("cpu"), choice="readable")


def view(place, angle):
    """A frame of one grey level, another one for each of two places and eight directions."""
    return np.full((8, 8, 3), 100 * place + 10 * (angle % STEPS), np.uint8)


def recorded(*acts):
    """A replay with an episode of these actions at each of the places 0, 1, ..."""
    replay = Replay((8, 8, 3), capacity=200)
    for place, act in enumerate(acts):
        angles = np.cumsum([0, *(np.array(act) == TURN)])
        frames = np.stack([view(place, angle) for angle in angles])
        ends = np.arange(len(act)) == len(act) - 1
        rew = np.zeros(len(act), np.float32)
        replay.append_episode(Episode(frames[:-1], np.array(act), rew, ends, ends & False, frames[-1]))
    replay.commit()
    return replay


def test_turns_are_found():
    idle, turn = [IDLE], [TURN]
    replay = recorded(idle * 5 + turn * 8 + idle, turn * 20 + idle, idle * 9 + turn * 7 + idle * 4, idle * 3 + turn * 8)
    # The second one turns twice from its fourth frame on; the third not far enough; what the last sees is not there.
    assert turns_in(replay, np.int64(TURN), STEPS, CONTEXT) == [(0, 2), (1, 0), (1, 8)]
    assert turns_in(replay, np.int64(1), STEPS, CONTEXT) == []


def test_numbers_may_be_rounded():
    replay = Replay((2, 2, 3), capacity=20, action=Box(2))
    act = np.tile(np.array([[0.5, 0.0]], np.float32), (6, 1))
    act[1:5, 0] += np.array([1e-4, -1e-4, 0, 0.1])
    ends = np.arange(6) == 5
    frames = np.zeros((7, 2, 2, 3), np.uint8)
    replay.append_episode(Episode(frames[:-1], act, np.zeros(6, np.float32), ends, ends & False, frames[-1]))
    assert turns_in(replay, np.array([0.5, 0.0]), 4, 1) == [(0, 0)]
    assert turns_in(replay, np.array([0.5, 0.0]), 5, 1) == []


class Remembers:
    """Draws the view that is really next, which it knows from the last frame."""

    def sample(self, obs, act, randn, **told):
        greys = [int(frame.max()) for frame in to_uint8(obs[:, -1])]
        frames = [view(g // 100, g % 100 // 10 + (a == TURN)) for g, a in zip(greys, act[:, -1], strict=True)]
        return to_float(torch.from_numpy(np.stack(frames))), []


class Forgets:
    """Draws the place it knows best, whatever was there."""

    def sample(self, obs, act, randn, **told):
        return to_float(torch.from_numpy(np.stack([view(0, 0)] * len(obs)))), []


def test_who_remembers_is_back_and_who_forgets_is_not(monkeypatch):
    replay = recorded([IDLE] * 5 + [TURN] * 8 + [IDLE] * 2, [TURN] * 3 + [IDLE] * 3 + [TURN] * 8 + [IDLE])
    starts = turns_in(replay, np.int64(TURN), STEPS, CONTEXT)
    assert starts == [(0, 2), (1, 3)]
    cfg = replace(CFG, world_model=replace(CFG.world_model, horizon=STEPS))
    imagined = {}
    for model in (Remembers(), Forgets()):
        monkeypatch.setattr(open_loop, "next_frame_sampler", lambda *_, model=model: model)
        seen = imagine_from(make_agent(), replay, cfg, READABLE, 0, starts)
        imagined[type(model).__name__] = seen.imagined
    errors = turning_errors(seen.last_seen, seen.real, imagined)

    # Grey levels of the first frames: 0 and 130; after 2, 4 and 6 steps 20, 40, 60 and 150, 170, 110.
    half_width = 12.7062 / 2  # of two values, times how far they are apart
    nothing = dict.fromkeys(("a quarter", "half", "three quarters", "full"), (0.0, 0.0))
    assert errors["Remembers"] == errors["the real turn"] == nothing
    expected = {"a quarter": (20, 150), "half": (40, 170), "three quarters": (60, 110), "full": (0, 130)}
    for part, (a, b) in expected.items():
        assert errors["Forgets"][part] == pytest.approx(((a + b) / 2, half_width * (b - a)), rel=1e-4)
    stays = errors["the last real frame again"]
    assert stays["full"] == (0, 0)
    assert [stays[part][0] for part in ("a quarter", "half", "three quarters")] == [20, 40, 40]  # 60 and 20 at last
    elsewhere = errors["another moment's first frame"]
    assert elsewhere["full"] == (130, 0)
    assert elsewhere["a quarter"][0] == ((130 - 20) + 150) / 2


class Watches:
    """Notes the grey levels that a denoiser and a memory are shown, and the actions beside them."""

    coding = None

    def __init__(self):
        self.drawn_from, self.burnt_in, self.steps = [], [], []

    def sample(self, obs, act, randn, memory):
        self.drawn_from.append((self._greys(obs), act[0].tolist(), int(memory)))
        return torch.full_like(obs[:, 0], -1), []

    def __call__(self, obs, act, real):
        assert real.all()
        self.burnt_in.append((self._greys(obs), act[0].tolist()))
        return torch.zeros(1, obs.size(1), 1), torch.zeros(1, 1)

    def step(self, obs, act, state):
        self.steps.append((self._greys(obs[:, None])[0], int(act)))
        return state + 1, state + 1

    def classify(self, e):
        return e, e  # of no use here, but what remembers has it

    @property
    def device(self):
        return torch.device("cpu")

    @staticmethod
    def _greys(obs):
        return to_uint8(obs[0]).amax(dim=(1, 2, 3)).tolist()


def test_a_memory_sees_what_was_watched_and_the_denoiser_its_last_frames(monkeypatch):
    replay = recorded([IDLE] * 3 + [TURN] * 7 + [IDLE] * 2)
    watches, agent = Watches(), make_agent()
    monkeypatch.setattr(open_loop, "next_frame_sampler", lambda *_: watches)
    agent = SimpleNamespace(denoiser=agent.denoiser, upsampler=None, memory=watches)
    cfg = replace(CFG, world_model=replace(CFG.world_model, horizon=2))
    seen = imagine_from(agent, replay, cfg, READABLE, 0, [(0, 1)], watched=3)

    # Seven real frames, 1 to 7: grey levels rise by 10 with each turn, from the fourth frame (step 3) on.
    greys, acts = [0, 0, 0, 10, 20, 30, 40], [IDLE, IDLE, TURN, TURN, TURN, TURN, TURN]
    assert watches.burnt_in == [(greys[:-1], acts[:-1])]
    assert watches.steps == [(40, TURN), (0, TURN)]  # the last real frame, and the black one drawn behind it
    assert watches.drawn_from == [([10, 20, 30, 40], acts[3:], 1), ([20, 30, 40, 0], [*acts[4:], TURN], 2)]
    assert int(seen.last_seen.max()) == 40
    assert [int(frame.max()) for frame in seen.real[0]] == [50, 60]


def test_the_command(tmp_path, monkeypatch, capsys):
    """Two runs at the same moments: figures on a file, a picture for each of the first turns."""
    monkeypatch.syspath_prepend(EXAMPLES)
    import turning_back

    replay = recorded([IDLE] * 5 + [TURN] * 8 + [IDLE] * 2)
    trained = SimpleNamespace(config=CFG, agent=make_agent(), source="an agent")
    monkeypatch.setattr(turning_back.Args, "load", lambda self: trained)
    monkeypatch.setattr(fitting, "check_fits", lambda *_: None)
    monkeypatch.setattr("diamond_fast.domains.domain_of", lambda cfg: SimpleNamespace(load_recording=lambda _: replay))
    given = ["--beside", "runs/b", "--steps", "6", "--watched", "2", "--turn", "2", "--engine", "readable"]
    given += ["--out", str(tmp_path)]
    found = turning_back.main(["--run", "runs/a", *given])
    assert json.loads((tmp_path / "turning.json").read_text())["turns"] == found["turns"] == 1
    assert list(found["errors"]) == ["a", "b", *list(found["errors"])[2:]]
    assert found["errors"]["a"]["full"][0] == found["errors"]["b"]["full"][0] > 1  # untrained, and the same noise
    assert (tmp_path / "turn_0.png").stat().st_size > 500
    assert "the last real frame again: " in capsys.readouterr().out

    for wrong, said in (
        (["--steps", "7"], "--turn is never held for 9 steps"),
        (["--turn", "[1]"], "--turn: expected"),
    ):
        with pytest.raises(SystemExit) as stopped:
            turning_back.main(["--run", "runs/a", *given, *wrong])
        assert stopped.value.code == 2
        assert said in capsys.readouterr().err
