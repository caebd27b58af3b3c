"""Whether a path works is found out in a process of its own, whatever becomes of that one."""

from dataclasses import replace

import pytest
import torch
from faulty_paths import FailingPath, KilledPath, PoorPath
from small_world import SMALL_WORLD

from diamond_fast.config import ActorCriticLossConfig, WorldModelConfig
from diamond_fast.engine.path import Path
from diamond_fast.formulations.config import SamplerConfig
from diamond_fast.spec import Discrete
from diamond_fast.training import trial

CFG = replace(
    SMALL_WORLD,
    world_model=WorldModelConfig(SamplerConfig(num_steps=1), horizon=3, num_batches_to_preload=1),
    actor_critic_loss=ActorCriticLossConfig(backup_every=2),
)
CPU = torch.device("cpu")


@pytest.fixture
def tried(monkeypatch):
    monkeypatch.setattr(trial, "TRIED", ("cpu",))


def test_every_part_is_rehearsed():
    begun, random_state = [], torch.get_rng_state()
    trial.rehearse(CFG, Discrete(4), Path(CPU, torch.float32, "torch", False, "test"), begun.append)
    assert begun == ["device", "networks", "denoiser", "reward_end", "actor_critic"]
    torch.set_rng_state(random_state)
    begun.clear()
    alone = replace(CFG, world_model_only=True)
    trial.rehearse(alone, Discrete(4), Path(CPU, torch.float32, "readable", False, "test"), begun.append)
    assert begun == ["device", "networks", "denoiser"]


def test_a_kernel_that_fails_leaves_torchs_operations(tried, capsys):
    random_state = torch.get_rng_state()
    cfg = replace(CFG, world_model_only=True)  # there is no more to rehearse: the denoiser is what fails
    path = trial.path_that_works(cfg, Discrete(4), FailingPath(CPU, torch.float32, "fused", False, "test"))
    assert (path.engine, path.graphs, path.why) == ("torch", False, "the fused kernels fail")
    assert torch.equal(torch.get_rng_state(), random_state)
    assert capsys.readouterr().err.splitlines() == [
        "Trying fused kernels in a process of its own",
        "Left out: fused kernels (denoiser: ValueError: at 7:4: sizes do not match in a kernel). Going on with torch's "
        "own operations: norms and their neighbours take several passes each.",
        "Trying torch's operations, channels last in a process of its own",
    ]


def test_a_process_that_is_killed_leaves_the_readable_networks(tried, capsys):
    path = trial.path_that_works(CFG, Discrete(4), KilledPath(CPU, torch.float32, "torch", False, "test"))
    assert type(path) is Path
    assert (path.engine, path.dtype) == ("readable", torch.float32)
    assert "(denoiser: the process was ended by SIGKILL). Going on with the networks as" in capsys.readouterr().err


def test_a_process_that_hangs_is_given_up(tried, monkeypatch):
    monkeypatch.setattr(trial, "PATIENCE", 0.01)
    path = Path(CPU, torch.float32, "torch", False, "test")
    assert trial.why_not(CFG, Discrete(4), path) == ("start", "no answer within 0.01 s")


def test_where_there_is_no_memory_nothing_is_said_against_the_path(tried, capsys):
    """The readable networks would need more of it."""
    path = PoorPath(CPU, torch.float32, "fused", False, "test")
    assert trial.path_that_works(CFG, Discrete(4), path) is path
    assert capsys.readouterr().err.splitlines()[-1] == (
        "Not tried, and taken all the same: fused kernels (denoiser: MemoryError: CUDA out of memory. "
        "Tried to allocate 2.00 GiB)"
    )


def test_without_graphs_a_little_less_memory_will_do(tried, monkeypatch, capsys):
    monkeypatch.setattr(trial, "why_not", lambda *_: ("denoiser", "OutOfMemoryError: CUDA out of memory"))
    path = trial.path_that_works(CFG, Discrete(4), Path(CPU, torch.float32, "fused", True, "test"))
    assert (path.engine, path.graphs) == ("fused", False)
    said = [line.partition(":")[0] for line in capsys.readouterr().err.splitlines() if "out of memory" in line]
    assert said == ["Left out", "Not tried, and taken all the same"]


@pytest.mark.parametrize("part", ["start", "device"])
def test_a_device_that_cannot_be_opened_twice_says_nothing_against_the_path(tried, monkeypatch, capsys, part):
    monkeypatch.setattr(trial, "why_not", lambda *_: (part, "CUDA-capable device(s) is/are busy or unavailable"))
    path = Path(CPU, torch.float32, "fused", True, "test")
    assert trial.path_that_works(CFG, Discrete(4), path) is path
    assert f"taken all the same: fused kernels, CUDA graphs ({part}: CUDA-capable" in capsys.readouterr().err


def test_a_processor_needs_no_trial(monkeypatch):
    monkeypatch.setattr(trial, "why_not", lambda *_: pytest.fail("tried"))
    path = Path(CPU, torch.float32, "amx", False, "test")
    assert trial.path_that_works(CFG, Discrete(4), path) is path


def test_every_path_leads_to_the_readable_networks_and_no_further():
    """Each step is one of the command line's too: a run that starts anew for it comes to an end."""
    path, seen = Path(CPU, torch.bfloat16, "fused", True, "test", variant="convolutions"), []
    while path is not None:
        seen.append((path.engine, path.graphs, *path.flags()))
        path = path.slower()
    assert seen == [
        ("fused", True, "--engine", "fused", "--cuda-graphs"),
        ("fused", False, "--engine", "fused", "--no-cuda-graphs"),
        ("torch", False, "--engine", "torch", "--no-cuda-graphs"),
        ("readable", False, "--engine", "readable", "--no-cuda-graphs"),
    ]
