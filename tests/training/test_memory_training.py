"""Runs whose world model has a memory: the whole loop, resumed bit for bit, with recordings, on every path."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from interrupted_runs import go_on as train
from small_world import SMALL_WORLD, make_replay
from training.test_trainer import TINY, everything

from diamond_fast.config import of_kind
from diamond_fast.config_checks import checked
from diamond_fast.engine.choose import choose_path
from diamond_fast.envs.world_model import WorldModelEnv
from diamond_fast.estimate import estimate
from diamond_fast.evaluation.held_out import denoiser_loss, reward_end_quality
from diamond_fast.evaluation.open_loop import imagine_held_out
from diamond_fast.networks.recurrent.config import MemoryConfig
from diamond_fast.runs.metrics import read_metrics
from diamond_fast.training.make_updates import make_updates
from diamond_fast.world_model import Agent

MEMORY = MemoryConfig(channels=(4,), down=(1,), action_width=3, width=6, layers=1, state=2, window=3)
REMEMBERING = replace(TINY, memory="mamba", memory_model=MEMORY)
SMALL = replace(SMALL_WORLD, memory="gru", memory_model=MEMORY)


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch):
    monkeypatch.setattr("diamond_fast.training.evaluator.save_learning_curves", lambda path, lines: path)
    monkeypatch.setattr("diamond_fast.training.evaluator.save_gif", lambda path, segments: path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "whole"
    result, trainer = train(REMEMBERING, path)
    return path, result, trainer


def test_a_run_has_one_update_for_its_world_model(whole):
    path, result, trainer = whole
    assert list(trainer.updates) == ["denoiser", "actor_critic"]
    assert trainer.agent.rew_end_model is None
    assert len(result.returns) == 3
    line = read_metrics(path / "metrics.jsonl")[2]
    for name in ("loss", "loss_total", "loss_reward", "loss_end", "held_out_loss"):
        assert line[f"denoiser/{name}"] > 0
    assert sum(map(sum, line["denoiser/confusion_reward"])) > 0
    assert line["reward_end/held_out_reward/recall/0"] >= 0
    learned = trainer.agent.memory.harmony.tolist()
    assert 0 not in learned


@pytest.mark.parametrize("stop_after", [0, 2])
def test_resuming_is_exact(whole, tmp_path, stop_after):
    path, result, _ = whole
    assert train(REMEMBERING, tmp_path / "run", stop_after)[0] is None
    continued, _ = train(REMEMBERING, tmp_path / "run")
    assert everything(tmp_path / "run") == everything(path)
    assert continued.returns.tolist() == result.returns.tolist()


def test_the_predicted_part_begins_anywhere_in_a_sequence():
    """One place for the whole batch, after it in the order of draws; all are about equally frequent."""
    cfg = replace(SMALL, num_autoregressive_steps=1)
    agent, replay = Agent(cfg, 4), make_replay([40, 20])
    path = choose_path(torch.device("cpu"), "fp32", "readable")
    objective = make_updates(cfg, agent, replay, path, 0)["denoiser"].objective
    torch.manual_seed(0)
    starts = [objective.draw()[-1] for _ in range(300)]
    torch.manual_seed(0)
    length = cfg.reward_end_seq_length - cfg.denoiser_seq_length + 1
    assert [int(x) for x in starts] == [int(torch.randint(length, (1,))) for _ in range(300)]
    assert torch.bincount(torch.cat(starts)).tolist() == pytest.approx([300 / length] * length, rel=0.25)


def make_agent(cfg):
    """Blocks begin as if they were not there, and pass on nothing of what they are told: here they do not."""
    torch.manual_seed(0)
    agent = Agent(cfg, 4)
    for weight in agent.denoiser.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.3)
    return agent


@pytest.mark.parametrize("formulation", ["edm", "ddpm", "flow"])
@pytest.mark.parametrize("alone", [False, True])
def test_every_formulation_learns_with_rewards_and_without(formulation, alone):
    """Every weight that a loss reaches moves; a world model alone has no heads."""
    cfg = replace(of_kind(SMALL, formulation, "unet"), world_model_only=alone)
    agent = make_agent(cfg)
    assert (agent.memory.head is None) == (agent.actor_critic is None) == alone
    path = choose_path(torch.device("cpu"), "fp32", "readable")
    update = make_updates(cfg, agent, make_replay([30, 25, 20]), path, segments_seed=0)["denoiser"]
    before = {name: p.clone() for name, p in agent.named_parameters()}
    update.train(3, lambda: None)
    same = {name for name, p in agent.named_parameters() if torch.equal(p, before[name])}
    assert not {name for name in same if not name.startswith("actor_critic")}


@pytest.mark.parametrize("engine", ["program", "fused"])
def test_updates_on_fast_paths_are_the_readable_ones(engine):
    """Losses of all, and gradients of the memory, from the same weights and draws."""
    losses = []
    for name in ("readable", engine):
        agent = make_agent(SMALL)
        path = replace(choose_path(torch.device("cpu"), "fp32"), engine=name, dtype=torch.float32)
        update = make_updates(SMALL, agent, make_replay([30, 25, 20]), path, segments_seed=0)["denoiser"]
        torch.manual_seed(1)
        loss, figures = update.objective.loss(*update.objective.draw())
        loss.backward()
        losses.append([loss, figures["loss"], figures["loss_reward"], figures["loss_end"]])
        losses[-1] += [p.grad for p in agent.memory.parameters()]
    for readable, fast in zip(*losses, strict=True):
        torch.testing.assert_close(fast, readable, rtol=1e-3, atol=1e-4)


def test_figures_of_held_out_episodes():
    """Each step is classified once, and what is imagined depends on the memory."""
    agent, replay, cfg = make_agent(SMALL), make_replay([30, 25, 20]), SMALL
    assert reward_end_quality(agent.reward_end, replay, cfg).steps == 75
    assert denoiser_loss(agent, replay, cfg, 0) == denoiser_loss(agent, replay, cfg, 0) > 0
    path = choose_path(torch.device("cpu"), "fp32", "readable")
    before = imagine_held_out(agent, replay, cfg, path, 0)
    assert np.array_equal(before.imagined, imagine_held_out(agent, replay, cfg, path, 0).imagined)
    with torch.no_grad():
        agent.memory.linear.bias.add_(5.0)
    assert not np.array_equal(before.imagined, imagine_held_out(agent, replay, cfg, path, 0).imagined)


def test_the_public_environment_remembers():
    agent, replay = Agent(SMALL, 4), make_replay([30, 25, 20])
    env = WorldModelEnv(agent, replay, 3, SMALL.world_model, engine="readable")
    env.reset(seed=0)
    state = env._env.state.hx.clone()
    for _ in range(7):  # past the horizon, where all begin anew
        obs, rew, _, _, _ = env.step(np.zeros(3, np.int64))
    assert obs.shape == (3, 8, 8, 3)
    assert set(rew.tolist()) <= {-1, 0, 1}
    assert not torch.equal(state, env._env.state.hx)


def test_what_a_run_would_cost():
    with_memory, without = estimate(SMALL, 4), estimate(SMALL_WORLD, 4)
    assert set(with_memory.costs) == set(without.costs) - {"reward_end"}
    agent = Agent(SMALL, 4)
    both = sum(p.numel() for model in (agent.denoiser, agent.memory) for p in model.parameters())
    assert with_memory.costs["denoiser"].parameters == both


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "dit"}, "--memory: gru needs --network unet, got dit"),
        (
            {"world_model": replace(SMALL.world_model, student=True)},
            "--memory: gru cannot be told to a --world-model.student",
        ),
        ({"model_free": True}, "--memory: gru has no use with --model-free"),
        ({"memory_model": replace(MEMORY, down=(1, 1))}, "--memory-model.down: must have as many entries"),
        (
            {"memory": "attention", "memory_model": replace(MEMORY, width=129)},
            "--memory-model.width: 129 does not split into 2 heads",
        ),
        ({"reward_end_event_share": 0.5}, "--reward-end-event-share: is for the reward/end model, which --memory gru"),
        ({"num_autoregressive_steps": 9}, "--memory: gru is trained on 9 frames .*, the denoiser on 14 of them"),
    ],
)
def test_settings_that_do_not_fit(changes, message):
    cfg = of_kind(replace(SMALL, env_id=TINY.env_id), "edm", changes.get("network", "unet"))
    with pytest.raises(ValueError, match=message):
        checked(replace(cfg, **changes))


@pytest.mark.parametrize("kind", ["mamba", "gru"])
def test_only_attention_has_heads(kind):
    checked(replace(SMALL, env_id=TINY.env_id, memory=kind, memory_model=replace(MEMORY, width=129)))
