"""Findings about installations that are put together here: what is missing, broken, slow or short is named."""

import importlib.metadata
import re
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from small_world import SMALL_WORLD

from diamond_fast import health
from diamond_fast.engine import choose, cpu_program
from diamond_fast.engine.contest import Row
from diamond_fast.engine.fast_denoiser import FastDenoiser
from diamond_fast.evaluation import sampling_rate
from diamond_fast.world_model import DiffusionSampler


def by_name(findings):
    return {finding.name: finding for finding in findings}


# --- installed ------------------------------------------------------------------------------------------------------


@pytest.fixture
def packages(monkeypatch):
    """What is installed, by name; the project asks for what is listed here."""
    versions = {"diamond_fast": "0.1.0", "numpy": "2.1", "torch": "2.9.1", "wandb": "0.20"}
    requires = [
        "numpy>=2.0",
        "torch<2.14,>=2.11",
        "zstandard>=0.23",
        'never; platform_system == "Nowhere"',
        'wandb; extra == "wandb"',
        'torchmetrics[image]>=1.6; extra == "perceptual"',
        'numpy; extra == "perceptual"',
        'pytest; extra == "dev"',
    ]

    def version(name):
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    extras = SimpleNamespace(get_all=lambda key: ["wandb", "perceptual", "dev"])
    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: requires if version(name) else None)
    monkeypatch.setattr(importlib.metadata, "metadata", lambda name: extras)
    return versions


def test_versions_are_held_against_what_the_project_asks_for(packages):
    found = by_name(health.installed())
    assert list(found) == ["numpy", "torch", "zstandard", "wandb", "perceptual"]
    assert (found["numpy"].state, found["numpy"].detail) == ("ok", "2.1")
    assert (found["torch"].state, found["torch"].fatal) == ("broken", True)
    assert found["torch"].detail == "2.9.1 is installed, needs <2.14,>=2.11"
    assert found["torch"].remedy == "pip install 'torch<2.14,>=2.11'"
    assert (found["zstandard"].state, found["zstandard"].fatal) == ("missing", True)
    assert (found["wandb"].state, found["wandb"].detail) == ("on", "wandb 0.20")
    perceptual = found["perceptual"]
    assert (perceptual.state, perceptual.fatal) == ("off", False)
    assert perceptual.detail == "optional; without torchmetrics"
    assert perceptual.remedy == "pip install 'diamond_fast[perceptual]'"


def test_a_project_that_is_not_installed(packages):
    del packages["diamond_fast"]
    [finding] = health.installed()
    assert (finding.state, finding.fatal) == ("missing", True)
    assert "(not installed)" in health.platform_line()


def test_this_installation_is_whole():
    assert [f for f in health.installed() if f.fatal] == []
    assert list(health.imports()) == []
    assert health.game().state == "ok"


def test_what_does_not_import_is_broken(monkeypatch):
    monkeypatch.setitem(sys.modules, "diamond_fast._replay", None)
    monkeypatch.setattr(health, "NEEDED_TO_IMPORT", ("json", "diamond_fast._replay", "no_such_package"))
    compiled, absent = health.imports()
    assert (compiled.name, compiled.state, compiled.fatal) == ("diamond_fast._replay", "broken", True)
    assert compiled.remedy == "in the project's folder, with a C++17 compiler: pip install -e ."
    assert (absent.detail, absent.remedy) == (
        "No module named 'no_such_package'",
        "pip install --force-reinstall no_such_package",
    )


def test_a_game_that_does_not_start(monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("the emulator\nis gone")

    monkeypatch.setattr("diamond_fast.domains.environments.make_real_env", broken)
    assert (health.game().state, health.game().detail, health.game().fatal) == ("broken", "the emulator is gone", True)


# --- fast paths -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "state", "remedy"),
    [
        (None, "on", None),
        ("the processor lacks amx_tile", "off", None),
        ("the compiled part diamond_fast._cpu is not built", "off", "pip install -e ."),
    ],
)
def test_the_cpu_engine(monkeypatch, reason, state, remedy):
    monkeypatch.setattr(cpu_program, "why_unavailable", lambda: reason)
    monkeypatch.setattr(cpu_program, "instruction_set", lambda dtype: None)
    found = by_name(health.fast_paths())["CPU engine"]
    assert found.state == state
    assert reason is None or found.detail == reason
    assert (remedy in found.remedy) if remedy else (found.remedy is None)


def test_a_cpu_engine_in_float32(monkeypatch):
    monkeypatch.setattr(cpu_program, "why_unavailable", lambda: "no AMX")
    monkeypatch.setattr(cpu_program, "instruction_set", lambda dtype: "avx2")
    found = by_name(health.fast_paths())["CPU engine"]
    assert (found.state, found.detail) == ("on", "networks in float32, compiled for AVX2")


def test_a_cpu_engine_that_is_not_there_at_all(monkeypatch):
    monkeypatch.setitem(sys.modules, "diamond_fast.engine.cpu_program", None)
    found = by_name(health.fast_paths())["CPU engine"]
    assert (found.state, found.detail) == ("off", "not built")


def test_what_needs_cuda_says_why_it_is_off(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for cuda, why in ((None, f"torch {torch.__version__} is built without CUDA"), ("13.0", "torch sees no GPU")):
        monkeypatch.setattr(torch.version, "cuda", cuda)
        found = by_name(health.fast_paths())
        for name in ("CUDA graphs", "Triton kernels"):
            assert (found[name].state, found[name].detail) == ("off", why)
    assert found["compiled replay"].state == "on"


def test_with_cuda_graphs_are_on_and_kernels_where_triton_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for version, state, remedy in (("3.9.0", "on", None), (None, "off", "pip install triton")):
        monkeypatch.setattr(health, "_version", lambda name, version=version: version)
        found = by_name(health.fast_paths())
        assert found["CUDA graphs"].state == "on"
        assert (found["Triton kernels"].state, found["Triton kernels"].remedy) == (state, remedy)


def test_engines_are_shown_with_what_was_measured(monkeypatch):
    rows = [
        Row("fused", None, None, "it fails: out of memory"),
        Row("torch", 2e-6, 0.005),
        Row("torch float32", 0.3, 0.004, "it differs"),
        Row("readable", 0.0, 0.01),
    ]
    monkeypatch.setattr(choose, "may_measure", lambda device: True)
    monkeypatch.setattr(choose, "compared", lambda work, paths: (rows, "measured before"))
    findings = list(health.engines(torch.device("cpu"), SMALL_WORLD))
    assert [(f.name, f.state, f.detail) for f in findings] == [
        ("fused", "off", "it fails: out of memory; what it would have gained over torch is not known"),
        ("torch", "taken", "200.0 frames/s; within 2e-06 of readable; 2.00 times as fast as readable, measured before"),
        ("torch float32", "off", "250.0 frames/s; it differs; torch takes 1.25 times as long"),
        ("readable", "slower", "100.0 frames/s; within 0e+00 of readable"),
    ]


def test_engines_that_cannot_be_measured_are_no_disaster(monkeypatch):
    def fail(work, paths):
        raise RuntimeError("no kernel image\nis available")

    monkeypatch.setattr(choose, "may_measure", lambda device: True)
    monkeypatch.setattr(choose, "compared", fail)
    (finding,) = health.engines(torch.device("cpu"), SMALL_WORLD)
    assert (finding.state, finding.detail) == ("broken", "not measured: no kernel image is available")
    assert not finding.fatal


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_fast_denoiser_is_timed_beside_the_plain_sampler(monkeypatch, device):
    rates = {FastDenoiser: 30.0, DiffusionSampler: 12.0}
    shapes = []

    def frames_per_second(sampler, obs, act, seconds):
        shapes.append((tuple(obs.shape), tuple(act.shape), obs.device.type))
        return rates[type(sampler)]

    monkeypatch.setattr(sampling_rate, "frames_per_second", frames_per_second)
    monkeypatch.setattr(FastDenoiser, "path", "amx bfloat16")
    finding = health.fast_denoiser(torch.device(device), SMALL_WORLD)
    assert (finding.state, finding.remedy) == ("on", None)
    assert finding.detail == "amx bfloat16: 30.0 frames/s in batches of 2, 2.5 times the plain sampler's 12.0"
    assert shapes == [((2, 4, 3, 8, 8), (2, 4), device)] * 2


def test_a_fast_denoiser_that_fails_is_no_disaster(monkeypatch):
    def fail(*args):
        raise RuntimeError("no kernel image\nis available")

    monkeypatch.setattr(FastDenoiser, "sample", fail)
    finding = health.fast_denoiser(torch.device("cpu"), SMALL_WORLD, seconds=0.0)
    assert (finding.state, finding.detail, finding.fatal) == ("broken", "no kernel image is available", False)


def test_a_real_fast_denoiser_runs_here():
    finding = health.fast_denoiser(torch.device("cpu"), SMALL_WORLD, seconds=0.0)
    assert re.fullmatch(
        r"[\w ]+ \w+: [\d.]+ frames/s in batches of 2, [\d.]+ times the plain sampler's [\d.]+", finding.detail
    )


# --- GPUs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def nvml(monkeypatch):
    """A driver that knows two GPUs, the second an old one."""
    module = ModuleType("pynvml")
    module.NVMLError = type("NVMLError", (Exception,), {})
    gpus = [("NVIDIA H100", 80, 3, (9, 0)), (b"Tesla V100", 16, 16, (7, 0))]
    module.shut = 0

    def shutdown():
        module.shut += 1

    module.nvmlInit = lambda: None
    module.nvmlShutdown = shutdown
    module.nvmlSystemGetDriverVersion = lambda: "580.1"
    module.nvmlDeviceGetCount = lambda: len(gpus)
    module.nvmlDeviceGetHandleByIndex = gpus.__getitem__
    module.nvmlDeviceGetName = lambda gpu: gpu[0]
    module.nvmlDeviceGetMemoryInfo = lambda gpu: SimpleNamespace(total=gpu[1] << 30, free=gpu[2] << 30)
    module.nvmlDeviceGetCudaComputeCapability = lambda gpu: gpu[3]
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return module


def test_gpus_as_the_driver_reports_them(nvml, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    first, second = health.gpus()
    assert first.detail == "NVIDIA H100, compute capability 9.0, driver 580.1, 3.0 GiB of 80.0 GiB free"
    assert first.remedy is None
    assert second.detail.startswith("Tesla V100, compute capability 7.0")
    assert second.detail.endswith("free; networks run in float32, since bfloat16 is not fast on it")
    assert second.remedy is None
    assert nvml.shut == 1


@pytest.mark.parametrize(
    ("cuda", "remedy"), [(None, "install torch with CUDA: "), ("13.0", "update NVIDIA's driver 580")]
)
def test_a_gpu_that_torch_cannot_use(nvml, monkeypatch, cuda, remedy):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    found = by_name(health.gpus())
    assert found["torch on the GPU"].remedy.startswith(remedy)
    assert not found["torch on the GPU"].fatal


def test_no_driver_and_a_driver_that_fails(nvml):
    def fail(*_):
        raise nvml.NVMLError("Driver Not Loaded")

    nvml.nvmlDeviceGetCount = fail
    [finding] = health.gpus()
    assert (finding.state, finding.detail) == ("broken", "Driver Not Loaded")
    assert nvml.shut == 1
    nvml.nvmlInit = fail
    [finding] = health.gpus()
    assert (finding.state, finding.remedy) == ("off", None)
    assert finding.detail == "none that NVIDIA's driver knows (Driver Not Loaded)"


def test_room_on_the_device_and_in_main_memory(monkeypatch, tmp_path):
    gib = 2**30
    (tmp_path / "meminfo").write_text("MemFree:  1 kB\nMemAvailable:    8388608 kB\n")
    monkeypatch.setattr(health, "MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5 * gib, 80 * gib))
    device, main = health.memory(torch.device("cuda:0"), 6 * gib, gib)
    assert (device.name, device.state, device.detail) == (
        "memory of cuda:0",
        "short",
        "needs about 6.0 GiB, 5.0 GiB free",
    )
    assert "batch-size" in device.remedy
    assert (main.state, main.detail) == ("ok", "needs about 1.0 GiB, 8.0 GiB free")
    [main] = health.memory(torch.device("cpu"), 6 * gib, 3 * gib)
    assert (main.state, main.detail) == ("short", "needs about 9.0 GiB, 8.0 GiB free")
