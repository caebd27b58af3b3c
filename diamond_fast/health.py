"""What of an installation works, what is fast, and what would make it better: one finding a line."""

import importlib
import importlib.metadata
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from diamond_fast.one_line import one_line

PROJECT = "diamond_fast"
NEEDED_TO_IMPORT = ("torch", "gymnasium", "ale_py", "diamond_fast._replay")
PATIENCE = 60.0  # seconds that the emulator may take for a step
MEMORY = Path("/proc/meminfo")
OPTIONAL_UNSEEN = ("dev",)  # extras of no interest to who uses the project


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: str
    """ok, missing, broken, short; of fast paths and options: on, off."""
    detail: str = ""
    remedy: str | None = None
    """What to do about it, in one line."""
    fatal: bool = False
    """Nothing works without it."""


# --- installed ------------------------------------------------------------------------------------------------------


def installed() -> Iterator[Finding]:
    """Every package the project asks for, against the version it asks for; then the optional ones."""
    try:
        requirements = [Requirement(line) for line in importlib.metadata.requires(PROJECT) or ()]
    except importlib.metadata.PackageNotFoundError:
        yield Finding(PROJECT, "missing", "not installed", "in its folder: pip install -e .", fatal=True)
        return
    for requirement in requirements:
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield _package(requirement)
    for extra in importlib.metadata.metadata(PROJECT).get_all("Provides-Extra") or ():
        if extra not in OPTIONAL_UNSEEN:
            yield _extra(extra, [r for r in requirements if r.marker and r.marker.evaluate({"extra": extra})])


def _package(requirement: Requirement) -> Finding:
    name, wanted = requirement.name, str(requirement.specifier)
    version, remedy = _version(name), f"pip install '{name}{wanted}'"
    if version is None:
        return Finding(name, "missing", f"needs {wanted or 'any version'}", remedy, fatal=True)
    if not requirement.specifier.contains(version, prereleases=True):
        return Finding(name, "broken", f"{version} is installed, needs {wanted}", remedy, fatal=True)
    return Finding(name, "ok", version)


def _extra(extra: str, requirements: list[Requirement]) -> Finding:
    """An optional group of packages; those that the project needs anyway do not count."""
    own = [r for r in requirements if r.marker and not r.marker.evaluate({"extra": ""})]
    absent = [r.name for r in own if _version(r.name) is None]
    if absent:
        return Finding(extra, "off", f"optional; without {', '.join(absent)}", f"pip install '{PROJECT}[{extra}]'")
    return Finding(extra, "on", ", ".join(f"{r.name} {_version(r.name)}" for r in own))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def imports() -> Iterator[Finding]:
    """Whether what is installed can be loaded: a version number alone does not say so."""
    for name in NEEDED_TO_IMPORT:
        try:
            importlib.import_module(name)
        except Exception as error:  # a broken installation can raise anything
            remedy = f"pip install --force-reinstall {name}"
            if name.startswith(PROJECT):
                remedy = "in the project's folder, with a C++17 compiler: pip install -e ."
            yield Finding(name, "broken", one_line(error), remedy, fatal=True)


def game() -> Finding:
    """Whether Atari can be played: one step of Boxing."""
    try:
        import numpy as np

        from diamond_fast.domains.environments import make_real_env

        env = make_real_env("Boxing", None, num_envs=1, frame_size=64, done_on_life_loss=False, timeout=PATIENCE)
        try:
            env.reset(seed=0)
            env.step(np.zeros(1, np.int64))
        finally:
            env.close()
    except Exception as error:
        return Finding("Atari", "broken", one_line(error), "pip install --force-reinstall ale-py", fatal=True)
    return Finding("Atari", "ok", "Boxing plays")


# --- fast -----------------------------------------------------------------------------------------------------------


def fast_paths() -> Iterator[Finding]:
    """What runs fast here, and of the rest why not. Needs torch and the compiled replay buffer."""
    import torch

    yield Finding("compiled replay", "on", "training batches")
    yield _cpu_engine()
    why_not = _why_no_cuda(torch)
    for name, use in (
        ("CUDA graphs", "an update, or a call of FastDenoiser, is one launch"),
        ("Triton kernels", "fused norms and sampling steps"),
    ):
        if why_not:
            yield Finding(name, "off", why_not)
        elif name == "Triton kernels" and _version("triton") is None:
            yield Finding(name, "off", "Triton is not installed", "pip install triton")
        else:
            yield Finding(name, "on", use)


def engines(device: Any, config: Any) -> Iterator[Finding]:
    """Each engine a FastDenoiser may run on: how fast it is, how far from the readable networks, and which is taken.

    Args:
        device: a ``torch.device``.
        config: ``RunConfig`` with the networks' sizes.
    """
    from dataclasses import replace

    from diamond_fast.engine.choose import MEASURE, candidates, compared, may_measure
    from diamond_fast.engine.contest import Work, best
    from diamond_fast.spec import Discrete
    from diamond_fast.world_model import Denoiser

    if not may_measure(device):
        yield Finding("engines", "off", f"not measured: {MEASURE} is 0")
        return
    n = 32 if device.type == "cuda" else 2
    try:
        denoiser = Denoiser(config.denoiser, config.spec(Discrete(1))).to(device)
        work = replace(Work.of(denoiser, config.world_model.sampler, n), alone=True)
        rows, when = compared(work, candidates(device, config.precision, work=work))
    except Exception as error:  # a compiler, a driver or a kernel can fail in any way
        yield Finding("engines", "broken", f"not measured: {one_line(error)}", "please report this line")
        return
    taken = best(rows)
    for row in rows:
        words = [f"{1 / row.seconds:.1f} frames/s" if row.seconds else "", row.why_not or ""]
        words.append("" if row.error is None or row.why_not else f"within {row.error:.0e} of readable")
        words.append(row.cost(rows) if row.why_not else f"{row.gain(rows)}, {when}" if row is taken else "")
        state = "off" if row.why_not else "taken" if row is taken else "slower"
        yield Finding(row.name, state, "; ".join(filter(None, words)))


def fast_denoiser(device: Any, config: Any, seconds: float = 1.0) -> Finding:
    """Whether FastDenoiser runs, and how much faster it is than the plain sampler, with random weights.

    Args:
        device: a ``torch.device``.
        config: ``RunConfig`` with the networks' sizes.
        seconds: to spend on either.
    """

    from diamond_fast.engine.fast_denoiser import FastDenoiser
    from diamond_fast.evaluation.sampling_rate import frames_per_second
    from diamond_fast.spec import Discrete
    from diamond_fast.speed import batch_of_zeros
    from diamond_fast.world_model import Denoiser, DiffusionSampler

    n = 32 if device.type == "cuda" else 2
    try:
        denoiser = Denoiser(config.denoiser, config.spec(Discrete(1))).to(device)
        obs, act, _ = batch_of_zeros(denoiser.spec, n, denoiser.spec.context, device)
        plain = frames_per_second(DiffusionSampler(denoiser, config.world_model.sampler), obs, act, seconds)
    except Exception as error:  # a driver that is too old, a device that is lost
        return Finding("plain sampler", "broken", one_line(error), "train with --device cpu, or update the driver")
    try:
        sampler = FastDenoiser(denoiser, config.world_model.sampler)
        fast = frames_per_second(sampler, obs, act, seconds)
    except Exception as error:  # a compiler, a driver or a kernel can fail in any way
        remedy = "the plain sampler works all the same; please report this line"
        return Finding("FastDenoiser", "broken", one_line(error), remedy)
    times = f"{fast / plain:.1f} times the plain sampler's {plain:.1f}"
    return Finding("FastDenoiser", "on", f"{sampler.path}: {fast:.1f} frames/s in batches of {n}, {times}")


def _cpu_engine() -> Finding:
    name = "CPU engine"
    try:
        import torch

        from diamond_fast.engine.cpu_program import instruction_set, why_unavailable
    except ImportError:
        return Finding(name, "off", "not built")
    why_not = why_unavailable()
    if why_not is None:
        return Finding(name, "on", "networks in bfloat16 on AMX tiles")
    if (compiled_for := instruction_set(torch.float32)) is not None:
        return Finding(name, "on", f"networks in float32, compiled for {compiled_for.upper()}")
    rebuild = "in the project's folder, with a C++17 compiler: pip install -e ."
    return Finding(name, "off", why_not, rebuild if "not built" in why_not else None)


def _why_no_cuda(torch: Any) -> str | None:
    if torch.cuda.is_available():
        return None
    return "torch sees no GPU" if torch.version.cuda else f"torch {torch.__version__} is built without CUDA"


# --- GPU ------------------------------------------------------------------------------------------------------------


def gpus() -> Iterator[Finding]:
    """NVIDIA's GPUs as its driver reports them, and whether torch can use them. Needs torch."""
    import torch

    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception as error:  # NVMLError, or the library itself is missing
        yield Finding("GPU", "off", f"none that NVIDIA's driver knows ({one_line(error)})")
        return
    try:
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        count = pynvml.nvmlDeviceGetCount()
        for index in range(count):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
            too_old = "" if major >= 8 else "; networks run in float32, since bfloat16 is not fast on it"
            yield Finding(
                f"GPU {index}",
                "ok",
                f"{_text(pynvml.nvmlDeviceGetName(handle))}, compute capability {major}.{minor}, driver {driver}, "
                f"{size(memory.free)} of {size(memory.total)} free{too_old}",
            )
    except pynvml.NVMLError as error:
        yield Finding("GPU", "broken", one_line(error), "restart the machine, or reinstall NVIDIA's driver")
        return
    finally:
        pynvml.nvmlShutdown()
    why_not = _why_no_cuda(torch)
    if count and why_not:
        remedy = f"update NVIDIA's driver {driver}: torch {torch.__version__} needs a newer one, or sees no device"
        if torch.version.cuda is None:
            remedy = "install torch with CUDA: https://pytorch.org/get-started/locally"
        yield Finding("torch on the GPU", "off", why_not, remedy)


def memory(device: Any, network_bytes: int, frame_bytes: int) -> Iterator[Finding]:
    """Whether a run fits: its networks on the device, its frames in main memory.

    Args:
        device: a ``torch.device``.
    """
    import torch

    main = 1024 * int(re.findall(r"MemAvailable:\s+(\d+) kB", MEMORY.read_text())[0])
    if device.type == "cuda":
        try:
            free = torch.cuda.mem_get_info(device)[0]
        except Exception as error:
            yield Finding(f"memory of {device}", "broken", one_line(error))
        else:
            yield _room(f"memory of {device}", network_bytes, free)
        yield _room("main memory", frame_bytes, main)
    else:
        yield _room("main memory", network_bytes + frame_bytes, main)


def _room(name: str, needed: int, free: int) -> Finding:
    detail = f"needs about {size(needed)}, {size(free)} free"
    if needed <= free:
        return Finding(name, "ok", detail)
    return Finding(name, "short", detail, "halve the --*-update.batch-size and double the --*-update.grad-acc-steps")


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def size(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"


def platform_line() -> str:
    version = _version(PROJECT) or "(not installed)"
    return f"{PROJECT} {version}, Python {platform.python_version()}, {platform.platform()}"
