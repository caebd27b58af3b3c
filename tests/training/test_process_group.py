"""Two processes that train one agent, joined by gloo, against one process with the whole batch."""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from test_capture import NAMES, make_objective
from test_trainer import TINY, train

from diamond_fast.config import UpdateConfig
from diamond_fast.config_checks import checked
from diamond_fast.distillation import distillation_loss
from diamond_fast.engine.path import Path
from diamond_fast.frames import to_uint8
from diamond_fast.replay import Replay
from diamond_fast.runs import checkpoint
from diamond_fast.runs.folder import RunFolder
from diamond_fast.training.follower import follow
from diamond_fast.training.process_group import (
    ProcessGroup,
    ProcessLostError,
    check_shards,
    join_process_group,
    leave_process_group,
    local_device,
)
from diamond_fast.training.trainer import Trainer
from diamond_fast.training.update import Update

CPU = torch.device("cpu")
N = 4


def in_processes(size, work, *args):
    """Calls ``work(group, *args)`` in so many processes; returns nothing, raises what one of them raised."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.spawn(_join_and_work, (size, port, work, args), nprocs=size)


def _join_and_work(rank, size, port, work, args):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(size))
    torch.set_num_threads(1)
    work(join_process_group(CPU), *args)
    leave_process_group()


# --- an update ---


def given_batches(name, objective):
    """Whole batches, with the random numbers of their losses."""
    torch.manual_seed(7)
    batches = []
    for _ in range(4):
        act = torch.randint(3, (N, 6))
        obs = torch.rand(N, 6, 3, 8, 8) * 2 - 1
        every = torch.ones(N, 6, dtype=torch.bool)
        if name == "denoiser":
            noise = [torch.randn(shape) for _ in range(2) for shape in ((N,), (N, 3, 1, 1), (N, 3, 8, 8))]
            batches.append((obs, act, every, *noise))
        elif name == "student":
            batches.append((obs, act, every, *torch.randn(2, N, 3, 8, 8)))
        elif name == "reward_end":
            batches.append((to_uint8(obs), every, act, torch.randn(N, 6), torch.rand(N, 6) < 0.2, every))
        else:  # no burn-ins, which belong to steps rather than to rows
            flags, memory = torch.rand(2, N, 6) < 0.2, torch.randn(4, N, 6)
            memories = *memory[:2], *torch.randn(2, N, 6, 6)
            none = torch.empty(0, 0, 3, 8, 8), torch.empty(0, dtype=torch.int64), torch.zeros((), dtype=torch.int64)
            batches.append((obs, act, torch.randn(N, 6), *flags, torch.randn(N, 6), *memories, *none))
    return batches


def train_on_given(group, name, folder):
    model, objective = make_objective(name)
    batches = iter(given_batches(name, objective))

    def draw():
        batch = next(batches)
        return batch if group is None else tuple(x[group.shard(N)] if x.ndim and len(x) == N else x for x in batch)

    objective.begin_epoch, objective.draw = lambda: None, draw
    if name == "denoiser":

        def loss(obs, act, mask, *noise):
            noise = iter(noise)
            value = model.loss(obs, act, mask, objective.sigma_distribution, lambda *shape, device: next(noise))
            return value, {"loss": value.detach()}

        objective.loss = loss
    if name == "student":

        def distil(obs, act, mask, *noise):
            noise, arguments = iter(noise), (model, objective.teacher, objective.step, obs, act, mask)
            value = distillation_loss(*arguments, randn=lambda *shape, device: next(noise))
            return value.total, {"loss": value.total.detach()}

        objective.loss = distil
    cfg = UpdateConfig(lr=1e-2, lr_warmup_steps=1, max_grad_norm=0.5)
    update = Update(name, model, objective, cfg, nullcontext, group=group)
    figures = update.train(4, lambda: None)
    rank = "alone" if group is None else group.rank
    torch.save((model.state_dict(), figures), folder / f"{name}-{rank}.pt")


def train_all(group, folder):
    for name in NAMES:
        train_on_given(group, name, folder)
    if group is not None and group.rank == 0:  # by now the other one leaves
        with pytest.raises(ProcessLostError) as lost:
            group.average([torch.ones(3)])
        (folder / "lost").write_text(str(lost.value))
    elif group is not None:
        os._exit(0)


@pytest.fixture(scope="module")
def updated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("group")
    train_all(None, folder)
    in_processes(2, train_all, folder)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_equal_one_with_the_whole_batch(updated, name):
    (alone, figures), *both = (torch.load(updated / f"{name}-{who}.pt") for who in ("alone", 0, 1))
    for weights, seen in both:
        for key, value in weights.items():
            assert torch.equal(value, both[0][0][key])
            torch.testing.assert_close(value, alone[key], rtol=1e-4, atol=2e-5)
        assert seen["loss"] == pytest.approx(figures["loss"], rel=1e-4)
        assert seen["grad_norm"] == pytest.approx(figures["grad_norm"], rel=1e-3)
        if name == "reward_end":
            assert seen["confusion_reward"] == figures["confusion_reward"]
    moved = make_objective(name)[0].state_dict()
    assert any((moved[key] - alone[key]).abs().max() > 1e-3 for key in moved)


# --- a run ---


def train_run(group, path):
    cfg = checked(TINY)
    if group.rank == 0:
        folder = RunFolder.open(path) if path.exists() else RunFolder.create(path, cfg)
        trainer = Trainer(cfg, folder, CPU, group=group)
        trainer.run()
        trainer.close()
        agent = trainer.agent
    else:
        agent = follow(group, cfg, CPU)
    torch.save(agent.state_dict(), path.parent / f"{group.rank}.pt")


@pytest.mark.slow
def test_all_processes_of_a_run_end_with_the_leaders_weights(tmp_path):
    in_processes(2, train_run, tmp_path / "run")
    leader, follower = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(value, follower[key]) for key, value in leader.items())
    saved = checkpoint.load_latest(tmp_path / "run" / "checkpoints")
    assert saved.state["epoch"] == 4
    assert torch.equal(
        saved.tensors["denoiser"]["inner_model.conv_in.weight"], leader["denoiser.inner_model.conv_in.weight"]
    )


def test_the_leader_tries_the_path_that_all_take(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(ProcessGroup, "broadcast", lambda self, *message: told.append(message))
    works = Path(CPU, torch.float32, "readable", False, "the others fail")
    monkeypatch.setattr("diamond_fast.training.trainer.path_that_works", lambda cfg, action, path: works)
    cfg = checked(TINY)
    trainer = Trainer(cfg, RunFolder.create(tmp_path / "run", cfg), CPU, group=ProcessGroup(0, 1))
    trainer.close()
    assert trainer.path is works
    assert told[0][-1] == "readable"


@pytest.mark.slow
def test_two_processes_go_on_with_what_one_began(tmp_path):
    train(TINY, tmp_path / "run", stop_after=1)
    in_processes(2, train_run, tmp_path / "run")
    leader, follower = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(value, follower[key]) for key, value in leader.items())
    assert checkpoint.load_latest(tmp_path / "run" / "checkpoints").state["epoch"] == 4


def test_a_process_that_is_gone_is_noticed(updated):
    assert "another of the processes is gone" in (updated / "lost").read_text()


def test_what_cannot_be_shared_is_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"--denoiser-update\.batch-size 2: cannot be shared equally by 3 processes"):
        check_shards(TINY, 3)
    with pytest.raises(ValueError, match="--model-free: plays real games in one process"):
        check_shards(replace(TINY, model_free=True), 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert local_device("cpu") == "cpu"
    with pytest.raises(ValueError, match="--device cuda:0: torchrun gives each process a GPU of its own"):
        local_device("cuda:0")
    with pytest.raises(ValueError, match="--nproc-per-node 2: this machine has 0 GPUs"):
        local_device("cuda")


# --- what processes share ---


def test_parts_make_up_the_whole_batch():
    replay = Replay((8, 8, 3), capacity=100)
    rng = np.random.default_rng(0)
    for t in range(60):
        frames = rng.integers(256, size=(2, 1, 8, 8, 3), dtype=np.uint8)
        end = np.array([t % 20 == 19])
        replay.append(frames[0], np.array([t % 3]), np.zeros(1, np.float32), end, end & False, frames[1])
    replay.commit()
    whole, *parts = (replay.segments(6, 5, seed=3) for _ in range(3))
    for rank, part in enumerate(parts):
        part.part = ProcessGroup(rank, 2).shard(6)
    for _ in range(3):
        batch, shares = next(whole), [next(part).to("cpu") for part in parts]
        assert torch.equal(batch.obs(), torch.cat([share.obs() for share in shares]))
        assert torch.equal(batch.mask_padding, torch.cat([share.mask_padding for share in shares]))
        assert len(shares[0].act) == 3


def test_a_follower_catches_up_with_the_journal(tmp_path):
    rng = np.random.default_rng(0)
    leader = Replay.open(tmp_path / "journal", (8, 8, 3), num_envs=2, capacity=100)
    follower = Replay((8, 8, 3), num_envs=2, capacity=100)
    for t in range(28):
        frames = rng.integers(256, size=(2, 2, 8, 8, 3), dtype=np.uint8)
        end = rng.random(2) < 0.2
        leader.append(
            frames[0], rng.integers(3, size=2), rng.normal(size=2).astype(np.float32), end, ~end & False, frames[1]
        )
        if t % 7 == 6:
            follower.catch_up(tmp_path / "journal", leader.commit())
            assert follower.num_steps == leader.num_steps == 2 * (t + 1)
    assert follower.num_episodes == leader.num_episodes > 3
    a, b = (next(replay.segments(8, 6, seed=1)) for replay in (leader, follower))
    assert torch.equal(a.frames, b.frames)
    assert torch.equal(a.rew, b.rew)
    assert torch.equal(a.end, b.end)


def test_episodes_begin_anew_where_another_number_of_processes_goes_on():
    _, objective = make_objective("actor_critic")
    env = objective.env
    env.state_dict, env.load_state_dict = lambda: {}, lambda state: None
    objective.draw()
    saved = objective.state_dict()
    objective.load_state_dict(saved)
    assert objective.state is not None
    env.num_envs += 1
    objective.load_state_dict(saved)
    assert objective.state is None


# --- the command ---


ARGUMENTS = shlex.split("""--env-id diamond_fast/Catch-v0 --preset atari100k --frame-size 24 --num-final-epochs 1
--device cpu
--denoiser.inner-model.cond-channels 16 --denoiser.inner-model.depths 1 1 --denoiser.inner-model.channels 8 8
--denoiser.inner-model.attn-depths 0 0 --reward-end.lstm-dim 8 --reward-end.cond-channels 8 --reward-end.depths 1 1
--reward-end.channels 8 8 --reward-end.attn-depths 0 0 --actor-critic.lstm-dim 8 --actor-critic.channels 8 8
--actor-critic.down 1 1 --world-model.sampler.num-steps 1 --world-model.horizon 5
--world-model.num-batches-to-preload 2 --collection.num-steps-total 250 --collection.first-epoch-min 200
--collection.first-epoch-max 250 --collection.first-epoch-threshold-rew 1 --collection.steps-per-epoch 50
--evaluation.num-final-episodes 2 --denoiser-update.batch-size 4 --reward-end-update.batch-size 4
--actor-critic-update.batch-size 4 --denoiser-update.steps-per-epoch 2 --reward-end-update.steps-per-epoch 2
--actor-critic-update.steps-per-epoch 2 --reward-end-update.steps-first-epoch 2
--actor-critic-update.steps-first-epoch 2""")


def torchrun(*arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "diamond_fast.train"]
    return subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
def test_a_stopped_run_of_two_processes_goes_on(tmp_path):
    """Stopped by SIGTERM in the middle of an epoch's updates, saved, and finished by two other processes."""
    path = tmp_path / "run"
    first = torchrun(*ARGUMENTS, "--out", str(path), "--denoiser-update.steps-first-epoch", "400")
    journal, deadline = path / "checkpoints" / "epoch_000000.json", time.monotonic() + 120
    while not journal.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(5)
    first.send_signal(signal.SIGTERM)
    out = first.communicate(timeout=60)[0]
    assert (
        "Stopped. Go on from the last checkpoint with: torchrun --nproc-per-node 2 -m diamond_fast.train "
        f"--resume {path}" in out
    )
    done = checkpoint.load_latest(path / "checkpoints").state["updates"]["denoiser"]["done"]
    assert done > 0

    second = torchrun("--resume", str(path), "--device", "cpu")
    out = second.communicate(timeout=250)[0]
    assert second.returncode == 0, out
    assert "epoch 2/2" in out
    saved = checkpoint.load_latest(path / "checkpoints")
    assert saved.state["epoch"] == 2
    assert saved.state["updates"]["denoiser"]["num_updates"] == 402


@pytest.mark.slow
def test_bad_input_is_one_line_whatever_the_number_of_processes(tmp_path):
    process = torchrun(*ARGUMENTS, "--out", str(tmp_path / "run"), "--denoiser-update.batch-size", "3")
    out = process.communicate(timeout=120)[0]
    assert process.returncode != 0
    assert out.count("--denoiser-update.batch-size 3: cannot be shared equally by 2 processes") == 1
