"""Candidates against each other: how far each is from the readable networks, and how long it takes for a frame.

Networks have random weights, since fresh ones give zeros and the decision is to hold for any. Random numbers come from
generators of their own: a run draws the same ones whether or not anything was measured.
"""

import copy
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from diamond_fast.engine.autocast_network import AutocastNetwork
from diamond_fast.engine.denoiser_networks import fast_sampler
from diamond_fast.engine.fused_convs import require_working
from diamond_fast.engine.graphs import Captured
from diamond_fast.engine.path import Path
from diamond_fast.formulations.config import StepsConfig
from diamond_fast.formulations.edm import EDM
from diamond_fast.formulations.protocol import Formulation
from diamond_fast.networks.memory_walk import WalkingMemory
from diamond_fast.one_line import counted, one_line
from diamond_fast.spec import Spec
from diamond_fast.timing import wait_for
from diamond_fast.world_model import Denoiser, PlainNetwork, Sampler

SECONDS = 0.5  # of timing in all, but ROUNDS at least
ROUNDS = 3
HOPELESS = 3.0  # times slower than the fastest in the first round: not timed again
MOST_FLOAT32, MOST_BFLOAT16 = 1e-4, 1e-2  # relative errors of the network's output, before quantisation
WORTH = 1.03  # times as fast as readable is the least that counts as faster
PASSING = ("out of memory", "no answer within")  # failures that may be others' doing
ROUNDING = 1.5  # times what bfloat16 does to the readable networks, if in a deep one that is more than MOST_BFLOAT16

Begins = Callable[[str], None]
Timer = Callable[[str, Callable[[], object], torch.device], float]


def told_nothing(spec: Spec, n: int) -> Tensor:
    """What a denoiser's network is told of the past beside its frames, all zeros: actions, or what a memory says."""
    if spec.memory:
        return torch.zeros(n, spec.memory)
    return torch.zeros(n, spec.context, *spec.action.shape, dtype=getattr(torch, spec.action.dtype.name))


@dataclass(frozen=True)
class Work:
    """What is to be computed: frames drawn from a denoiser.

    Args:
        network, formulation, steps: of the denoiser; nothing of the network's weights is looked at.
        device: where.
        frames: N, C, H, W of the frames that are drawn in one call.
        past: number of frames before each of them that the network sees.
        act: actions [N,T,...] of a call, or what a memory says [N,M], of any values.
        alone: whether nothing but frames is computed on the path; else rewards, ends and a policy are as well.
    """

    network: nn.Module
    formulation: Formulation
    steps: StepsConfig
    device: torch.device
    frames: tuple[int, int, int, int]
    past: int
    act: Tensor
    alone: bool = False

    @classmethod
    def of(cls, denoiser: Denoiser, steps: StepsConfig, num_frames: int) -> "Work":
        """Frames drawn ``num_frames`` at a time from a denoiser where it is."""
        spec = denoiser.spec
        act = told_nothing(spec, num_frames)
        frames = (num_frames, spec.frame.channels, spec.frame.height, spec.frame.width)
        return cls(denoiser.inner_model, denoiser.formulation, steps, denoiser.device, frames, spec.context, act)

    @property
    def walks(self) -> bool:
        """Whether the network's operations can be run one by one."""
        return hasattr(self.network, "walk")

    @property
    def compiles(self) -> bool:
        """Whether the network can be a compiled program."""
        return self.walks or isinstance(self.network, WalkingMemory)

    def fingerprint(self) -> str:
        """What tells it from other work: the same for the same architecture, steps and shapes."""
        shapes = [(name, list(x.shape)) for name, x in self.network.state_dict().items()]
        kinds = type(self.network).__qualname__, type(self.formulation).__qualname__
        weights = hashlib.sha256(repr(shapes).encode()).hexdigest()[:12]
        return f"{kinds} {weights} {self.steps} {self.frames} {list(self.act.shape)}"

    def light(self) -> "Work":
        """As it travels to another process: the network without its weights."""
        return replace(self, network=_on_meta(self.network), act=torch.zeros_like(self.act, device="cpu"))

    def short(self) -> "Work":
        """On a CPU less of the same: what is fastest for two frames a thread, and one step, is so for more."""
        if self.device.type != "cpu":
            return self
        n = min(self.frames[0], 2 * torch.get_num_threads())
        return replace(self, steps=replace(self.steps, num_steps=1), frames=(n, *self.frames[1:]), act=self.act[:n])

    def __str__(self) -> str:
        n, _, h, w = self.frames
        return f"{counted(n, 'frame')} of {h}x{w} on {self.device}"


@dataclass(frozen=True)
class Row:
    """What was found out about one path."""

    name: str
    error: float | None = None
    """Relative, of the network's output."""
    seconds: float | None = None
    """For a frame."""
    why_not: str | None = None
    """Why it may not be taken."""

    def checked(self) -> "Row":
        """Itself, if it can have been written by this version. Raises ValueError."""
        numbers = all(x is None or isinstance(x, float) for x in (self.error, self.seconds))
        if not (isinstance(self.name, str) and numbers and isinstance(self.why_not, str | None)):
            raise ValueError("not a row")
        if self.why_not is None and not self.seconds:
            raise ValueError("taken without having been measured")
        return self

    @property
    def may_pass(self) -> bool:
        """Whether it failed of something that another day may be otherwise: memory or time that others took."""
        return self.why_not is not None and any(words in self.why_not for words in PASSING)

    def gain(self, rows: Sequence["Row"]) -> str:
        """What it gains over the readable networks, in a few words."""
        readable = next((row.seconds for row in rows if row.name == "readable"), None)
        if self.name == "readable" or not readable or not self.seconds:
            slower = min((row.seconds for row in rows if row.seconds and row.name != self.name), default=None)
            return (
                f"the next takes {slower / self.seconds:.2f} times as long" if slower and self.seconds else "it works"
            )
        return f"{readable / self.seconds:.2f} times as fast as readable"

    def cost(self, rows: Sequence["Row"]) -> str:
        """What it costs that this one is left out, in a few words."""
        taken = best(rows)
        if taken is None or taken.seconds is None:
            return "nothing else works either"
        if self.seconds is None:
            return f"what it would have gained over {taken.name} is not known"
        if self.seconds >= taken.seconds:
            return f"{taken.name} is faster anyway"
        return f"{taken.name} takes {taken.seconds / self.seconds:.2f} times as long"


def best(rows: Sequence[Row]) -> Row | None:
    """The fastest of those that may be taken: readable, unless another one gains more than noise."""

    def handicapped(row: Row) -> float:
        return (row.seconds or 0.0) * (1.0 if row.name == "readable" else WORTH)

    return min((row for row in rows if row.why_not is None), key=handicapped, default=None)


def clock(name: str, call: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    call()
    wait_for(device)
    return time.perf_counter() - started


def contest(work: Work, paths: Sequence[Path], begins: Begins, timer: Timer = clock) -> list[Row]:
    """Holds each path against the readable networks, and times them in turns.

    Args:
        begins: is told a path's name whenever something of it is about to run.
        timer: seconds of a call of the path of that name.

    Raises:
        Exception: of any kind, if the readable networks fail.
    """
    work = work.short()
    network = _with_random_weights(work.network, work.device)
    generator = torch.Generator(work.device).manual_seed(0)
    n, c, h, w = work.frames

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=work.device)

    context, act = normal(n, work.past * c, h, w).clamp(-1, 1), work.act.to(work.device)
    twin = Sampler(work.formulation, PlainNetwork(network), work.steps, work.device)
    noise = normal(twin.num_draws, n, c, h, w)
    inputs = (noise[0], context, act)
    with exactly():
        truth = _network_output(twin, *inputs)

    def distance(sampler: Sampler) -> float:
        return ((_network_output(sampler, *inputs).float() - truth).norm() / truth.norm()).item()

    def allowed(path: Path, error: float) -> float:
        if not _is_coarse(path):
            return MOST_FLOAT32
        if path.dtype != torch.bfloat16 or error <= MOST_BFLOAT16:
            return MOST_BFLOAT16
        plain = AutocastNetwork(network, work.device, torch.bfloat16)
        rounding = distance(Sampler(work.formulation, plain, work.steps, work.device))
        return max(MOST_BFLOAT16, ROUNDING * rounding)

    def prepare(path: Path) -> tuple[Callable[[], object], float]:
        """A call that draws frames, and how far the network's output is from the truth."""
        sampler = twin
        if path.engine != "readable":
            sampler = fast_sampler(
                work.formulation, network, work.steps, work.device, path.dtype, path.techniques, path.engine
            )
        error = distance(sampler)
        draw: Callable[..., list[Tensor]] = sampler.sample
        if path.graphs:
            draw = captured = Captured("a trial", sampler.sample)

        def call() -> None:
            draw(context, act, noise)
            if path.graphs and captured.failed:
                raise RuntimeError("it cannot be captured as a CUDA graph")

        call()
        wait_for(work.device)
        require_working(path.techniques)  # what goes on without its kernels is not this path
        return call, error

    rows, calls = {}, {}
    for path in paths:
        begins(path.name)
        try:
            calls[path.name], error = prepare(path)
        except Exception as failure:  # a compiler, a driver or a library can fail in any way
            rows[path.name] = Row(path.name, why_not=f"it fails: {one_line(failure)}")
            if path.engine == "readable":
                raise
            continue
        why_not = None
        if not error <= (most := allowed(path, error)):  # nor if it is NaN
            why_not = f"it differs from readable by {error:.1e}, more than {most:.1e}"
        rows[path.name] = Row(path.name, error if math.isfinite(error) else None, why_not=why_not)

    def timed(name: str) -> float:
        begins(name)
        return timer(name, calls[name], work.device)

    times, failed = _in_turns(list(calls), timed)
    rows |= {name: replace(rows[name], seconds=seconds / n) for name, seconds in times.items()}
    rows |= {name: replace(rows[name], why_not=why_not) for name, why_not in failed.items()}
    return list(rows.values())


def _in_turns(names: Sequence[str], timed: Callable[[str], float]) -> tuple[dict[str, float], dict[str, str]]:
    """The median of each, and why others have none."""
    times: dict[str, list[float]] = {name: [] for name in names}
    failed: dict[str, str] = {}
    left, spent, rounds = list(names), 0.0, 0
    while left and (spent < SECONDS or rounds < ROUNDS):
        for name in left:
            try:
                times[name].append(timed(name))
            except Exception as error:
                failed[name] = f"it fails: {one_line(error)}"
                del times[name]
        rounds, spent = rounds + 1, sum(map(sum, times.values()))
        fastest = min(map(min, times.values()), default=0.0)
        left = [name for name in left if name in times and min(times[name]) <= HOPELESS * fastest]
    return {name: median(taken) for name, taken in times.items()}, failed


def _network_output(sampler: Sampler, noisy: Tensor, context: Tensor, act: Tensor) -> Tensor:
    """At the noise level of the first step, before anything is quantised."""
    formulation, level = sampler.formulation, sampler.steps[0].level
    levels = torch.full((1,), level, device=noisy.device)
    with torch.no_grad():
        conditioning = sampler.network.conditioning(formulation.condition(levels)[None], act)[0]
        noisy = level * noisy if isinstance(formulation, EDM) else noisy  # elsewhere frames do not grow with the level
        return sampler.network.evaluate(formulation.prepare(noisy, context, level), conditioning)


def _is_coarse(path: Path) -> bool:
    """Whether it rounds more than float32 does: TF32 has as few digits as bfloat16 leaves right."""
    tf32 = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
    return path.dtype == torch.bfloat16 or (path.device.type == "cuda" and tf32)


@contextmanager
def exactly() -> Iterator[None]:
    """Inside, a GPU's float32 is float32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def _on_meta(network: nn.Module) -> nn.Module:
    """A copy with shapes instead of weights; nothing of the weights is copied."""
    memo: dict[int, Any] = {id(b): torch.empty_like(b, device="meta") for b in network.buffers()}
    for p in network.parameters():
        memo[id(p)] = nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=False)
    return copy.deepcopy(network, memo)


@torch.no_grad()
def _with_random_weights(network: nn.Module, device: torch.device) -> nn.Module:
    """Of the size of those that torch begins with."""
    generator = torch.Generator(device).manual_seed(1)
    network = _on_meta(network).to_empty(device=device).float()
    parameters = dict(network.named_parameters())
    for name, x in network.state_dict().items():
        normal = torch.randn(x.shape, generator=generator, device=device)
        if x.dim() < 2:
            x.copy_(0.1 * normal + (1.0 if name.endswith("weight") else 0.0))
        elif name in parameters:
            x.copy_(normal / (3 * x[0].numel()) ** 0.5)
        else:
            x.copy_(normal)
    return network
