"""Which path networks take on a device: decided here and nowhere else, by measuring where there is a choice."""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace

import torch

from diamond_fast.config import EngineChoice, Precision
from diamond_fast.engine import cpu_program, decisions
from diamond_fast.engine.contest import Row, Work, best, contest
from diamond_fast.engine.contest_in_child import contest_in_child
from diamond_fast.engine.fused_torch import Techniques
from diamond_fast.engine.path import PROGRAMS, WITHOUT_TRITON, Engine, Path, fast_dtype, has_fast_products, runs_on_amx
from diamond_fast.kernels._triton import INSTALLED as TRITON_INSTALLED
from diamond_fast.one_line import one_line

__all__ = [
    "MEASURE",
    "Path",
    "candidates",
    "choose_path",
    "compared",
    "fast_dtype",
    "may_measure",
    "measure",
    "runs_on_amx",
]

MEASURE = "DIAMOND_FAST_MEASURE"
"""Environment variable: with 0 nothing is measured, and the path that is expected to be fastest is taken."""


def choose_path(
    device: torch.device,
    precision: Precision | torch.dtype = "bf16",
    choice: EngineChoice = "auto",
    graphs: bool = True,
    work: Work | None = None,
    as_before: str | None = None,
) -> Path:
    """The fastest path that a device has for a precision, or the one that is asked for.

    If several come into question, they are measured on the work at hand; the decision is kept for the next time.

    Args:
        precision: a run's, or the very dtype that networks are to compute in.
        choice: an engine; "auto": whichever is fastest.
        graphs: whether CUDA graphs may be used.
        work: what is to be computed; None: nothing is measured, the path expected to be fastest is taken.
        as_before: the ``name`` of the path that a run began with; it is taken if it comes into question.

    Raises:
        ValueError: the device does not have the engine that is asked for.
    """
    path = _chosen(device, precision, choice, graphs, work, as_before)
    known = work is None or (work.compiles if path.engine in PROGRAMS else work.walks)
    if known or path.engine in ("torch", "readable"):
        return path
    return replace(path, why=f"{path.why}; the denoiser's network has no walk and runs by torch's operations")


def _chosen(
    device: torch.device,
    precision: Precision | torch.dtype,
    choice: EngineChoice,
    graphs: bool,
    work: Work | None,
    as_before: str | None,
) -> Path:
    found = candidates(device, precision, graphs, work, choice)
    wanted = [path for path in found if choice in ("auto", path.engine)]
    if not wanted:
        needs = {"amx": torch.bfloat16, "program": torch.float32}.get(choice) if device.type == "cpu" else None
        why_not = cpu_program.why_unavailable(needs) if needs else None
        have = ", ".join(dict.fromkeys(path.engine for path in found))
        raise ValueError(
            f"--engine {choice}: there is none on {device}{f' ({why_not})' if why_not else ''}; it has {have}"
        )
    if choice == "auto" and device.type == "cpu" and not (work and work.alone):
        # what it gains in drawing frames is less than the policy's second pass, with gradients, would cost
        wanted = [path for path in wanted if path.engine != "torch"]
    if choice != "auto":
        wanted = [replace(path, why="asked for") for path in wanted]
    if before := next((path for path in wanted if path.name == as_before), None):
        return before if choice != "auto" else replace(before, why=f"as the run began; {before.why}")
    if work is None or len(wanted) == 1 or not may_measure(device):
        return wanted[0]
    return _measured(work, wanted)


def candidates(
    device: torch.device,
    precision: Precision | torch.dtype = "bf16",
    graphs: bool = True,
    work: Work | None = None,
    choice: EngineChoice = "auto",
) -> list[Path]:
    """The paths that come into question, the one expected to be fastest first. A new one is a line here.

    Of those that would run a network without a walk alike, only the first and the one that is asked for are named.
    """
    dtype = precision if isinstance(precision, torch.dtype) else torch.float32
    if precision == "bf16":
        dtype = fast_dtype(device)
    walks = work is None or work.walks
    torchs_own = walks or choice == "torch" or (work is not None and work.compiles and device.type == "cpu")
    found: list[Path] = []

    def add(engine: Engine, dtype: torch.dtype = dtype, **more) -> None:
        found.append(Path(device, dtype, engine, why=_why(device, precision, dtype, engine), **more))

    # a network without a walk runs as it is under autocast on any of them; a run's other networks gain all the same
    if device.type == "cuda":
        kinds: list[tuple[str, Techniques]] = [("", Techniques())] if TRITON_INSTALLED else []
        if TRITON_INSTALLED and walks and has_fast_products(device):  # fewer launches and bytes
            # in bfloat16 faster than without on an H200, Hopper's own faster still; in float32 nobody has measured it
            kinds.insert(0 if dtype == torch.bfloat16 else 1, ("convolutions", Techniques(fused_convs=True)))
            if dtype == torch.bfloat16 and torch.cuda.get_device_capability(device) == (9, 0):
                kinds.insert(0, ("hopper convolutions", Techniques(fused_convs=True, hopper_convs=True)))
        for variant, techniques in kinds:
            add("fused", graphs=graphs, techniques=techniques, variant=variant)
        if torchs_own or not TRITON_INSTALLED:
            add("torch", graphs=graphs, techniques=WITHOUT_TRITON)
        if dtype != torch.float32:
            add("torch", torch.float32, graphs=graphs, techniques=WITHOUT_TRITON, variant="float32")
    else:
        if runs_on_amx(device, dtype):
            add("amx", graphs=False)
        compiled_for = cpu_program.instruction_set(torch.float32) if device.type == "cpu" else None
        # in float32 even where AMX is what bf16 would take, if it is asked for: commands mean the same on any processor
        if compiled_for and (dtype == torch.float32 or (choice == "program" and precision == "bf16")):
            add("program", torch.float32, graphs=False, variant=compiled_for)
        if torchs_own and device.type == "cpu":
            add("torch", graphs=False, techniques=WITHOUT_TRITON)
    add("readable", torch.float32, graphs=False)
    return found


def _why(device: torch.device, precision: Precision | torch.dtype, dtype: torch.dtype, engine: Engine) -> str:
    """Why a path is taken that was not measured."""
    if engine == "amx":
        return "the processor has AMX"
    if engine == "program":
        return "expected to be the fastest here"
    if precision != "bf16":
        return f"precision {str(precision).removeprefix('torch.')}"
    if device.type == "cuda":
        return "the GPU has tensor cores for it" if dtype == torch.bfloat16 else "the GPU is not made for bfloat16"
    lacking = cpu_program.why_unavailable() if device.type == "cpu" else f"there is no faster one on {device.type}"
    return lacking or "precision bf16"


def may_measure(device: torch.device) -> bool:
    """Not if the user does not want it, nor while a graph is captured."""
    capturing = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    return os.environ.get(MEASURE) != "0" and not capturing


def _measured(work: Work, paths: Sequence[Path]) -> Path:
    """The fastest that agrees with the readable networks."""
    try:
        rows, when = compared(work, paths)
    except Exception as error:  # a compiler, a driver or a library can fail in any way
        _say(f"Not measured which engine is fastest: {one_line(error)}")
        return paths[0]
    taken = best(rows)
    path = next((path for path in paths if taken and path.name == taken.name), None)
    if path is None or taken is None:
        return replace(choose_path(paths[0].device, choice="readable"), why="no other one agrees with them")
    return replace(path, why=f"{taken.gain(rows)}, {when}")


def compared(work: Work, paths: Sequence[Path]) -> tuple[list[Row], str]:
    """A row for each path, of an earlier measurement if there is one, and when that was.

    Raises:
        Exception: of any kind, if the readable networks themselves fail.
    """
    conditions = decisions.conditions(work, paths)
    if (rows := decisions.find(conditions)) is not None:
        return rows, "measured before"
    rows = measure(work, paths)
    if not any(row.may_pass for row in rows):
        rows = decisions.keep(conditions, rows)
    return rows, "measured just now"


def measure(work: Work, paths: Sequence[Path]) -> list[Row]:
    """Measures paths, prints how far it is and what is left out. On a GPU in a process of its own.

    Raises:
        Exception: of any kind, if the readable networks themselves fail.
    """
    _say(f"Measuring which engine is fastest for {work}:", end="")
    begun: set[str] = set()

    def begins(name: str) -> None:
        if name not in begun:
            _say(f" {name}", end="")
        begun.add(name)

    try:
        rows = (contest_in_child if work.device.type == "cuda" else contest)(work, paths, begins)
    finally:
        _say("")
    for row in rows:
        if row.why_not:
            _say(f"Left out: {row.name}, {row.why_not}; {row.cost(rows)}")
    return rows


def _say(words: str, end: str = "\n") -> None:
    print(words, end=end, file=sys.stderr, flush=True)


def set_matmul_precision(precision: Precision) -> None:
    """Lets matrix products and convolutions on a GPU use TF32 unless ``fp32`` is asked for. For the whole process."""
    allow = precision != "fp32"
    torch.backends.cuda.matmul.allow_tf32 = allow
    torch.backends.cudnn.allow_tf32 = allow
