"""What a run shows while it trains: when, where, at what cost, and that the run does not notice."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from small_world import SMALL_WORLD, make_agent, make_replay

from diamond_fast.engine.choose import choose_path
from diamond_fast.runs.folder import RunFolder
from diamond_fast.runs.pictures import save_frame_grid
from diamond_fast.training import preview as preview_module
from diamond_fast.training.preview import EVERY, FIRST_AFTER, Preview
from diamond_fast.world_model import DiffusionSampler


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def said():
    return []


@pytest.fixture
def preview(tmp_path, clock):
    path = choose_path(torch.device("cpu"), "fp32", "readable")
    folder = RunFolder.create(tmp_path / "run", SMALL_WORLD)
    return Preview(SMALL_WORLD, folder, make_agent(), path, make_replay([30, 4]), seed=1, clock=clock)


def pictures(preview):
    return sorted(p.name for p in preview._folder.pictures.iterdir())


def test_a_page_at_once_and_a_strip_when_something_was_learned(preview, clock, said):
    preview.begin(said.append)
    assert pictures(preview) == ["index.html", "version.js"]
    clock.now += 1000  # of collecting
    preview.refresh_if_due(said.append)  # the first update
    clock.now += FIRST_AFTER - 0.1
    preview.refresh_if_due(said.append)
    assert pictures(preview) == ["index.html", "version.js"]
    assert said == []
    clock.now += 0.2
    preview.refresh_if_due(said.append)
    assert pictures(preview) == ["index.html", "strip.png", "version.js"]
    folder = preview._folder.pictures
    assert said == [
        f"Imagined so far: {folder}/strip.png, drawn anew from now on; with curves and phases: {folder}/index.html"
    ]
    assert 'src="strip.png?' in (folder / "index.html").read_text()
    clock.now += EVERY + 1
    (folder / "strip.png").unlink()
    preview.refresh_if_due(said.append)
    assert (folder / "strip.png").exists()
    assert len(said) == 1  # where it is was said
    preview.end(said.append)
    assert "The run has ended" in (folder / "index.html").read_text()


def test_the_strip_has_real_frames_and_what_the_model_makes_of_them(preview, clock, said, tmp_path):
    """Against the readable sampler, frame by frame, from the place in the middle of the longest episode."""
    preview._refresh(said.append)
    episode, start = preview._replay.episode(0), (30 - 9) // 2
    sampler = DiffusionSampler(preview._agent.denoiser, SMALL_WORLD.world_model.sampler)
    generator = torch.Generator().manual_seed(1)
    frames = [torch.from_numpy(f).permute(2, 0, 1)[None] / 127.5 - 1 for f in episode.obs[start : start + 4].copy()]
    act, imagined = torch.from_numpy(episode.act[start : start + 9].copy())[None], []
    for t in range(5):
        frame, _ = sampler.sample(
            torch.stack(frames[-4:], dim=1),
            act[:, t : t + 4],
            lambda *shape, device: torch.randn(*shape, device=device, generator=generator),
        )
        frames.append(frame)
        imagined.append(((frame[0].permute(1, 2, 0) + 1) * 127.5).round().byte().numpy())
    segment = episode.obs[start + 4 : start + 9], np.stack(imagined)
    expected = save_frame_grid(tmp_path / "expected.png", [segment], (1, 2, 4))
    strip = Image.open(preview._folder.pictures / "strip.png")
    assert np.array_equal(np.array(strip), np.array(Image.open(expected)))


def test_it_takes_a_hundredth_of_the_time(preview, clock, said, monkeypatch):
    """A drawing of 2 seconds is followed by the next 200 seconds later at the earliest."""
    imagine, drawn = preview_module.imagine_held_out, []

    def slow(*args, **kwargs):
        drawn.append(clock.now)
        clock.now += 2.0
        return imagine(*args, **kwargs)

    monkeypatch.setattr(preview_module, "imagine_held_out", slow)
    for _ in range(3000):
        preview.refresh_if_due(said.append)
        clock.now += 1.0
    assert len(drawn) > 10
    assert all(later - earlier >= 202 for earlier, later in pairwise(drawn))


def test_random_numbers_and_weights_stay_as_they_are(preview, said):
    torch.manual_seed(7)
    expected, state = torch.randn(3), preview._agent.state_dict()
    before = {name: value.clone() for name, value in state.items()}
    torch.manual_seed(7)
    preview._refresh(said.append)
    assert torch.equal(torch.randn(3), expected)
    assert all(torch.equal(before[name], value) for name, value in preview._agent.state_dict().items())


def test_an_error_is_one_line_and_the_last_of_it(preview, clock, said, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("no memory\nat all")

    monkeypatch.setattr(preview_module, "imagine_held_out", fail)
    for _ in range(3):
        preview.refresh_if_due(said.append)
        clock.now += 1000
    preview.end(said.append)
    assert len(said) == 1
    assert said[0].startswith("No pictures any more while training: RuntimeError: no memory")
    assert "\n" not in said[0]


def test_without_an_episode_that_is_long_enough_there_is_the_page_alone(preview, said):
    preview._replay = make_replay([6])
    preview._refresh(said.append)
    assert pictures(preview) == ["index.html", "version.js"]
    assert said == []


def test_without_pillow_there_is_the_page_alone(preview, said, monkeypatch):
    monkeypatch.setattr(preview_module, "find_spec", lambda name: None)
    preview._refresh(said.append)
    assert pictures(preview) == ["index.html", "version.js"]
    assert said == []
