"""The world model that comes with the package: what is in its folder, and every program that takes it."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_world import SMALL_WORLD

from diamond_fast import evaluate, play, train
from diamond_fast.engine.choose import choose_path
from diamond_fast.engine.world import next_frame_sampler
from diamond_fast.evaluate import EvaluateArgs
from diamond_fast.playing.source import load_source
from diamond_fast.presets import PRESETS
from diamond_fast.replay import load_recording
from diamond_fast.runs.agents import load_agent
from diamond_fast.runs.demo import FOLDER, load_demo, write_demo
from diamond_fast.world_model import Agent

ALONE = replace(SMALL_WORLD, game="Breakout", world_model_only=True, static_dataset="/mine/a", held_out="/mine/b")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "game").write_bytes(b"a game")
    torch.manual_seed(0)
    agent = Agent(ALONE, num_actions=4)
    write_demo(tmp_path / "demo", agent, ALONE, tmp_path / "game", {"hours": 2.5})
    return tmp_path / "demo", agent


# --- the format -------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read(folder):
    path, agent = folder
    loaded, config = load_demo(path)
    assert config == replace(ALONE, static_dataset=None, held_out=None)  # nobody else has these
    before = agent.state_dict()
    for name, value in loaded.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[name].bfloat16().float())
    assert sorted(p.name for p in path.iterdir()) == [
        "config.json",
        "config.json.sha256",
        "game.journal",
        "made.json",
        "weights.safetensors",
    ]
    assert (path / "game.journal").read_bytes() == b"a game"
    assert json.loads((path / "made.json").read_text()) == {"hours": 2.5}


def test_a_policy_may_come_along(tmp_path):
    """Rewards and ends do not: the world model stays one alone."""
    (tmp_path / "game").write_bytes(b"a game")
    agent, other = Agent(ALONE, num_actions=4), Agent(SMALL_WORLD, 4)
    agent.actor_critic = other.actor_critic
    write_demo(tmp_path / "demo", agent, ALONE, tmp_path / "game", {})
    loaded, config = load_demo(tmp_path / "demo")
    assert config.world_model_only
    assert loaded.rew_end_model is None
    before = other.actor_critic.state_dict()
    for name, value in loaded.actor_critic.state_dict().items():
        assert torch.equal(value, before[name].bfloat16().float())


@pytest.mark.parametrize("damage", [b"", b"no weights", b"half"])
def test_damaged_weights_are_one_line(folder, damage):
    path = folder[0] / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:1000] if damage == b"half" else damage)
    with pytest.raises(ValueError, match=r"weights\.safetensors: does not hold the weights of .*config\.json$"):
        load_demo(folder[0])


def test_damaged_settings_are_one_line(folder):
    path = folder[0] / "config.json"
    path.write_text(path.read_text().replace("Breakout", "Pong"))
    with pytest.raises(ValueError, match="differs from its checksum"):
        load_demo(folder[0])


def test_only_a_world_model_alone_is_written(tmp_path):
    with pytest.raises(ValueError, match="--world-model-only"):
        write_demo(tmp_path / "demo", Agent(SMALL_WORLD, 4), SMALL_WORLD, tmp_path, {})
    assert not (tmp_path / "demo").exists()


# --- the one in the package -------------------------------------------------------------------------------------------


def test_it_is_small_and_says_where_it_is_from():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 12e6
    made = json.loads((FOLDER / "made.json").read_text())
    assert made["licence"] == "MIT"
    for stage in made["stages"]:
        assert stage["updates"] > 0
        assert stage["hours"] > 0
        assert len(stage["curves"]["denoiser/loss"]) == len(stage["curves"]["seconds"])
    text = b"".join((FOLDER / name).read_bytes() for name in ("config.json", "made.json"))
    assert b"/home" not in text
    assert b"/tmp" not in text


def test_it_needs_neither_its_run_nor_the_game(monkeypatch):
    """Its actions have numbers instead of names then."""
    monkeypatch.setattr("diamond_fast.domains.atari.rom_id", lambda game: 1 / 0)
    source = load_source(load_agent(pretrained="demo"), torch.device("cpu"))
    assert source.action_names == tuple(map(str, range(18)))
    assert source.replay.num_steps > 1000
    assert source.frame_shape == (48, 48, 3)
    assert source.policy is not None
    assert not source.has_rewards


def demo_and_moments(first, count):
    """The demo, and moments of its game from the step ``first`` on: frames [count,5,C,H,W] and the actions between."""
    trained = load_agent(pretrained="demo")
    episode = load_recording(trained.recording).episode(0)
    starts = np.linspace(first, len(episode.act) - 5, count).astype(int)
    frames = torch.from_numpy(np.stack([episode.obs[t : t + 5] for t in starts])).permute(0, 1, 4, 2, 3) / 127.5 - 1
    return trained, frames, torch.from_numpy(np.stack([episode.act[t : t + 4] for t in starts]))


@torch.no_grad()
def test_it_knows_boxing():
    """From a context of the game, the next frame it guesses is nearer to the real one than the last frame is."""
    trained, frames, act = demo_and_moments(first=0, count=24)
    sigma = trained.config.world_model.sampler.sigma_max
    noise = torch.randn(24, 3, 48, 48, generator=torch.Generator().manual_seed(0)) * sigma
    guessed = trained.agent.denoiser.denoise(noise, torch.full((24,), sigma), frames[:, :4].flatten(1, 2), act)
    error, of_the_last = ((frames[:, 4] - guess).square().mean().item() for guess in (guessed, frames[:, 3]))
    assert error < 0.7 * of_the_last


@torch.no_grad()
def test_the_white_boxer_goes_where_he_is_sent():
    """Over 8 steps. In the recordings he moves by about 4 pixels up, right and down then, and by 6 to the left."""
    trained, frames, act = demo_and_moments(first=100, count=4)
    context, before = frames[:, :4], act[:, :3]
    fast = choose_path(torch.device("cpu"), "fp32")
    sampler = next_frame_sampler(trained.agent.denoiser, trained.config.world_model.sampler, fast)

    def white(frames):
        """Row and column of the middle of what is bright in the ring: [2], a mean over frames."""
        bright = (frames[:, :, 9:40, 11:38].amin(1) > 0.1).float()
        rows, columns = torch.meshgrid(torch.arange(31.0), torch.arange(27.0), indexing="ij")
        area = bright.sum((1, 2)).clamp(min=1)
        return torch.stack([((bright * place).sum((1, 2)) / area).mean() for place in (rows, columns)])

    reached = {}
    for name, held in {"up": 2, "right": 3, "left": 4, "down": 5}.items():
        torch.manual_seed(0)
        frames, act = context, before
        for _ in range(8):
            act = torch.cat([act[:, -3:], torch.full((4, 1), held)], dim=1)
            frames = torch.cat([frames[:, 1:], sampler.sample(frames, act)[0][:, None]], dim=1)
        reached[name] = white(frames[:, -1])
    assert (reached["down"] - reached["up"])[0] > 3
    assert (reached["right"] - reached["left"])[1] > 3


# --- the programs that take it ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("args", "opened"), [([], 1), (["--pretrained", "demo"], 0)])
def test_play_opens_it_if_nothing_else_is_given(args, opened, monkeypatch, capsys, tmp_path):
    pages, served = [], []

    async def serve(page, listening):
        served.append(page)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(play, "open_page", lambda url: pages.append(url) or True)
    monkeypatch.setattr("diamond_fast.playing.server.serve", serve)
    play.main([*args, "--engine", "readable"])
    assert len(served) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[1].startswith("Boxing on ")
    links = [line for line in said if line.startswith("Play at ")]  # on a slow machine a line on that comes before
    assert len(links) == 1
    assert [f"Play at {url}" for url in pages] == links * opened


def test_training_goes_on_from_it():
    args = train.read_command_line(["--init-from", "demo"])
    assert args.config == PRESETS["demo"]
    agent = train._agent_to_start_from("demo", args.config)
    weights = load_demo()[0].state_dict()
    assert agent.actor_critic is None
    assert all(torch.equal(value, weights[name]) for name, value in agent.state_dict().items())
    with pytest.raises(ValueError, match="--init-from demo: needs the networks of --preset demo; --denoiser differs"):
        train._agent_to_start_from("demo", replace(PRESETS["quick"], game="Boxing"))
    whole = train.read_command_line(["--init-from", "demo", "--no-world-model-only"])
    agent = train._agent_to_start_from("demo", whole.config)
    assert all(torch.equal(value, agent.state_dict()[name]) for name, value in weights.items())  # its policy's, too
    wide = train.read_command_line(["--init-from", "demo", "--no-world-model-only", "--actor-critic.lstm-dim", "64"])
    agent = train._agent_to_start_from("demo", wide.config)
    assert agent.actor_critic.lstm_dim == 64  # another policy begins anew
    wider = train.read_command_line(["--init-from", "demo", "--denoiser.inner-model.channels", *["32"] * 4])
    with pytest.raises(ValueError, match="--denoiser differs"):
        train._agent_to_start_from("demo", wider.config)


def test_evaluate_measures_it_on_the_game_that_comes_with_it(tmp_path):
    task, out = evaluate.set_up(EvaluateArgs(pretrained="demo", engine="readable", out=tmp_path / "out"))
    assert (task.num_episodes, task.env) == (0, None)
    recording = load_recording(FOLDER / "game.journal")
    assert task.held_out.num_steps == recording.num_steps
    os.rmdir(out)


def test_evaluate_lets_its_policy_play_if_games_are_asked_for(tmp_path):
    task, _ = evaluate.set_up(EvaluateArgs(pretrained="demo", episodes=1, engine="readable", out=tmp_path / "out"))
    try:
        assert (task.num_episodes, task.env.num_envs) == (1, 1)
        assert task.held_out is not None
    finally:
        task.env.close()


@torch.no_grad()
def test_its_policy_walks_up_to_the_black_boxer(monkeypatch):
    """In the dream, over 40 frames: there it is nearer than in the recording, where chance acts half of the time."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "examples")
    import long_dreams

    trained = load_agent(pretrained="demo")
    replay = load_recording(trained.recording)
    torch.manual_seed(0)
    path = choose_path(torch.device("cpu"), "fp32")
    played = long_dreams.play(trained.agent, trained.config, replay, path, places=3, frames=40)

    def apart(frames):
        middles = [long_dreams.middle(who(frames)) for who in (long_dreams.white, long_dreams.black)]
        return np.nanmedian(np.linalg.norm(middles[0] - middles[1], axis=-1))

    assert apart(played[:, 20:]) < 0.8 * apart(replay.episode(0).obs)


def test_a_recording_of_ones_own_comes_first(tmp_path):
    other = tmp_path / "other.npz"
    with pytest.raises(ValueError, match=r"--held-out: there is nothing at .*other"):
        evaluate.set_up(EvaluateArgs(pretrained="demo", held_out=other, out=tmp_path / "out"))
