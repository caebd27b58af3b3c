"""Runs with a student: resumed bit for bit, what the policy imagines with, what is refused, what it costs."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from crashes.tiny_run import TINY
from interrupted_runs import go_on

from diamond_fast import FastDenoiser, export_official, load_official
from diamond_fast.agent_flags import AgentFlags
from diamond_fast.config import SamplerConfig, UpdateConfig, of_kind
from diamond_fast.config_checks import checked
from diamond_fast.engine.world import imagination, with_student
from diamond_fast.estimate import estimate
from diamond_fast.playing.source import load_source
from diamond_fast.playing.worlds import Dream
from diamond_fast.runs import checkpoint
from diamond_fast.runs.agents import load_agent
from diamond_fast.runs.metrics import read_metrics
from diamond_fast.runs.nested import flatten
from diamond_fast.training.process_group import check_shards
from diamond_fast.world_model import Agent, DiffusionSampler

UPDATE = UpdateConfig(steps_first_epoch=3, steps_per_epoch=2, batch_size=2, lr_warmup_steps=0)
WITH = replace(
    TINY,
    num_final_epochs=1,
    student_update=UPDATE,
    world_model=replace(TINY.world_model, sampler=SamplerConfig(num_steps=2), student=True),
    collection=replace(TINY.collection, num_steps_total=80),
    evaluation=replace(TINY.evaluation, every=2),
)


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch):
    monkeypatch.setattr("diamond_fast.training.evaluator.save_learning_curves", lambda path, lines: path)
    monkeypatch.setattr("diamond_fast.training.evaluator.save_gif", lambda path, segments: path)


def everything(path):
    saved = checkpoint.load_latest(path / "checkpoints")
    tensors, tree = flatten({"tensors": saved.tensors, "state": saved.state})
    sums = {name: hashlib.sha256(t.numpy().tobytes()).hexdigest() for name, t in tensors.items()}
    return sums | {"tree": json.dumps(tree, sort_keys=True)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "whole"
    return path, *go_on(WITH, path)


def test_a_run_distils_behind_the_denoiser_and_says_how_far_it_is(whole):
    path, _, trainer = whole
    assert list(trainer.updates) == ["denoiser", "student", "reward_end", "actor_critic"]
    assert trainer.updates["student"].num_updates == 3 + 2
    lines = read_metrics(path / "metrics.jsonl")
    for line in lines[1:3]:
        assert line["student/loss"] > 0
        assert line["student/distance"] > 0
        assert line["student/frames_per_second"] > 0


@pytest.mark.parametrize("stop_after", [0, 1])
def test_resuming_is_exact(whole, tmp_path, stop_after):
    assert go_on(WITH, tmp_path / "run", stop_after)[0] is None
    result, _ = go_on(WITH, tmp_path / "run")
    assert result.returns.tolist() == whole[1].returns.tolist()
    assert everything(tmp_path / "run") == everything(whole[0])


def test_a_student_begins_as_the_denoiser_is_after_its_first_updates(tmp_path):
    cfg = checked(replace(WITH, student_update=replace(UPDATE, lr=1e-30, weight_decay=0.0)))
    _, trainer = go_on(cfg, tmp_path / "run", stop_after=1)
    denoiser, student = trainer.agent.denoiser, trainer.agent.student
    fresh = Agent(cfg, trainer.agent.spec.action).student
    assert not torch.equal(fresh.inner_model.conv_in.weight, denoiser.inner_model.conv_in.weight)
    for name, own in student.state_dict().items():
        torch.testing.assert_close(own, denoiser.state_dict()[name], rtol=0, atol=1e-7)
    _, trainer = go_on(cfg, tmp_path / "run")  # the denoiser learns on, the student keeps what it has
    apart = trainer.agent.student.inner_model.conv_in.weight - trainer.agent.denoiser.inner_model.conv_in.weight
    assert apart.abs().max() > 1e-6


def test_the_policy_imagines_with_the_student_in_one_step(whole):
    _, _, trainer = whole
    agent, cfg = trainer.agent, trainer.cfg.world_model
    env = trainer.updates["actor_critic"].objective.env
    if env.state is None:
        env.reset()
    env.step(torch.zeros(2, dtype=torch.int64))
    assert len(env.trajectory) == 2
    contexts = trainer.replay.segments(2, agent.spec.context, seed=0)
    torch.manual_seed(0)
    readable = replace(trainer.path, engine="readable")
    one = imagination(agent, cfg, readable, contexts, 2, generator=torch.Generator().manual_seed(3))
    one.reset()
    obs, acts = one.state.obs, one.state.act.clone()
    acts[:, -1] = 1
    drawn = one.step(torch.ones(2, dtype=torch.int64)).final_obs
    noise = torch.Generator().manual_seed(3)
    expected, _ = DiffusionSampler(agent.student, SamplerConfig(num_steps=1)).sample(
        obs, acts, lambda *shape, device: torch.randn(*shape, generator=noise)
    )
    torch.testing.assert_close(drawn, expected, rtol=0, atol=1e-6)


def test_a_checkpoint_holds_the_student_and_older_ones_need_none(whole):
    trained = load_agent(whole[0])
    trained_student = whole[2].agent.student.state_dict()
    assert all(torch.equal(p, trained_student[name]) for name, p in trained.agent.student.state_dict().items())
    alone, cfg = with_student(trained.agent, trained.config.world_model)
    assert alone.denoiser is trained.agent.student
    assert alone.student is None
    assert [name for name, _ in alone.named_children()] == ["denoiser", "rew_end_model", "actor_critic"]
    assert (cfg.student, cfg.sampler.num_steps) == (False, 1)
    assert trained.agent.student is not None  # untouched
    with pytest.raises(ValueError, match="student: the agent has none"):
        with_student(alone, cfg)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampler": SamplerConfig(num_steps=1)}, "needs at least 2 --world-model.sampler.num-steps"),
        ({"sampler": SamplerConfig(s_churn=1.0)}, "draw more of it .--world-model.sampler.s-churn.; leave one out"),
    ],
)
def test_a_sampler_from_which_nothing_can_be_learned_is_refused(changes, message):
    with pytest.raises(ValueError, match=rf"^--world-model.student: .*{message}"):
        checked(replace(WITH, world_model=replace(WITH.world_model, **changes)))


def test_what_has_no_student_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"^--world-model.student: .*\(--formulation ddpm\); leave one out"):
        checked(of_kind(WITH, "ddpm", "unet"))
    checked(of_kind(WITH, "flow", "unet"))
    with pytest.raises(ValueError, match=r"^--world-model.student: has no use with --model-free"):
        checked(replace(WITH, model_free=True))
    (tmp_path / "recording").touch()
    two_sizes = replace(
        WITH, env_id=None, world_model_only=True, upsampling=2, static_dataset=str(tmp_path / "recording")
    )
    with pytest.raises(ValueError, match=r"^--world-model.student: is for frames of one size"):
        checked(two_sizes)
    with pytest.raises(ValueError, match=r"^--student-update.batch-size 2: cannot be shared equally by 3"):
        check_shards(replace(WITH, **{f"{m}_update": replace(UPDATE, batch_size=3) for m in OTHERS}), 3)


OTHERS = ("denoiser", "reward_end", "actor_critic")


def test_the_cost_of_a_student():
    """A teacher's evaluations and a denoiser's update for the student; the policy imagines with one evaluation."""
    cfg = replace(WITH, student_update=replace(UPDATE, batch_size=4, grad_acc_steps=2))
    without = replace(cfg, world_model=replace(cfg.world_model, student=False))
    costs, plain = estimate(cfg, 3).costs, estimate(without, 3).costs
    assert list(costs) == ["denoiser", "student", "reward_end", "actor_critic"]
    assert list(plain) == ["denoiser", "reward_end", "actor_critic"]
    assert costs["student"].parameters == costs["denoiser"].parameters
    assert costs["student"].training_flops == 4 * costs["denoiser"].training_flops  # batches of 4, twice, not of 2
    evaluation = (plain["actor_critic"].forward_flops - costs["actor_critic"].forward_flops) / (2 * 4)
    assert costs["student"].forward_flops == pytest.approx(2 * 2 * 4 * 2 * evaluation)  # frames, steps, samples
    assert costs["student"].updates == 3 + 2 * 1


def test_evaluation_shows_both(whole):
    path, _, trainer = whole
    pictures = {p.name for p in (path / "pictures").iterdir()}
    assert {"epoch_000002.png", "student_000002.png"} <= pictures
    line = read_metrics(path / "metrics.jsonl")[2]
    assert 0 < line["student/held_out_distance"] < 255
    assert trainer.folder.newest_pictures()[0].name == "epoch_000002.png"


def test_a_run_as_a_fast_denoiser_or_its_student(whole, tmp_path):
    agent = load_agent(whole[0]).agent
    obs, act = torch.rand(2, 4, 3, 12, 12) * 2 - 1, torch.zeros(2, 4, dtype=torch.int64)
    noise = torch.randn(2, 3, 12, 12)
    for student, denoiser, steps in ((False, agent.denoiser, 2), (True, agent.student, 1)):
        fast = FastDenoiser.from_run(whole[0], student=student, dtype=torch.float32, engine="torch")
        drawn, trajectory = fast.sample(obs, act, lambda *a, **k: noise)
        expected, _ = DiffusionSampler(denoiser, SamplerConfig(num_steps=steps)).sample(obs, act, lambda *a, **k: noise)
        assert len(trajectory) == steps + 1
        assert (drawn - expected).abs().max() <= 2.01 / 255  # a grey level, where the last bit decides
    go_on(
        replace(TINY, num_final_epochs=0, collection=replace(TINY.collection, num_steps_total=60)), tmp_path / "without"
    )
    with pytest.raises(ValueError, match=r"^student: .* has none; --world-model.student trains one"):
        FastDenoiser.from_run(tmp_path / "without", student=True)
    with pytest.raises(ValueError, match=r"^--student: .* has none; --world-model.student trains one"):
        AgentFlags(run=tmp_path / "without", student=True).load()


def test_what_is_played_with_is_the_denoiser_unless_the_student_is_asked_for(whole):
    student = load_agent(whole[0]).agent.student.state_dict()
    for flags, steps in ((AgentFlags(run=whole[0]), 2), (AgentFlags(run=whole[0], student=True), 1)):
        trained = flags.load()
        same = torch.equal(trained.agent.denoiser.inner_model.conv_in.weight, student["inner_model.conv_in.weight"])
        assert same == flags.student
        assert not trained.config.world_model.student
        dream = Dream(load_source(trained, torch.device("cpu")), trained.config.world_model, seed=0)
        dream.begin()
        assert len(dream.step(np.array(1)).trajectory) == steps + 1
    with pytest.raises(ValueError, match=r"^--denoising-steps: must be 1 with --student, got 3"):
        flags.check_steps(1, 3)


def test_published_files_hold_no_student(whole, tmp_path):
    """Written without; read for a run with one, which is then as new. FastDenoiser takes the denoiser of the two."""
    _, _, trainer = whole
    agent = trainer.agent
    export_official(agent, tmp_path / "agent.pt")
    held = torch.load(tmp_path / "agent.pt", weights_only=True)
    assert not any(name.startswith("student") for name in held)
    read = load_official(tmp_path / "agent.pt", trainer.cfg)
    assert torch.equal(read.denoiser.inner_model.conv_in.weight, agent.denoiser.inner_model.conv_in.weight)
    assert read.student is not None
    obs, act = torch.rand(1, 4, 3, 12, 12) * 2 - 1, torch.zeros(1, 4, dtype=torch.int64)
    noise = torch.randn(1, 3, 12, 12)
    drawn = []
    for given in (agent.denoiser, agent, agent.state_dict()):
        fast = FastDenoiser(given, SamplerConfig(num_steps=1), dtype=torch.float32, engine="torch")
        drawn.append(fast.sample(obs, act, lambda *a, **k: noise)[0])
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])
