"""Networks on a CPU: written down once as a program of fused operations that compiled code runs.

The compiled part (``csrc/cpu``) runs one sample a core from its first operation to its last, so that activations stay
in the core's cache; samples that are too few for all cores are shared by them, operation by operation. It is compiled
once for every instruction set: with AMX activations are bfloat16, with the others float32; sums and statistics are
float32. Weights are copies: ``refresh`` brings them up to date.
"""

import os
import threading
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diamond_fast.networks.backend import Norm
from diamond_fast.networks.blocks import NORM_EPS, AdaGroupNorm, SelfAttention2d
from diamond_fast.threads import engine_threads

INSTRUCTION_SETS = {
    "amx": torch.bfloat16,
    "avx512": torch.float32,
    "avx2": torch.float32,
    "neon": torch.float32,
    "portable": torch.float32,
}
"""What programs are compiled for, and the type they store activations in; of those of one type the fastest first."""

CHOICE = "DIAMOND_FAST_CPU"
"""The environment variable that holds a name of ``INSTRUCTION_SETS``, to use this one alone."""

MOST_KEPT = 512 << 20
"""Bytes of activations that a program keeps for backward passes, at most."""


@cache
def why_not(instruction_set: str) -> str | None:
    """None if programs compiled for this set run here; else what is missing, in a few words."""
    try:
        from diamond_fast import _cpu
    except ImportError:
        return "the compiled part diamond_fast._cpu is not built"
    if not hasattr(_cpu, "missing"):
        return "the compiled part diamond_fast._cpu is of another version and not built again"
    if missing := _cpu.missing(instruction_set):
        return f"the processor lacks {', '.join(missing)}"
    library = _library(instruction_set)
    return None if library.exists() else f"the compiled part {library.name} is not built"


def _library(instruction_set: str) -> Path:
    from diamond_fast import _cpu

    module = Path(_cpu.__file__)
    return module.with_name(module.name.replace("_cpu", f"_cpu_{instruction_set}", 1))


@cache
def _asked_for() -> str | None:
    asked = os.environ.get(CHOICE) or None
    if asked is not None and asked not in INSTRUCTION_SETS:
        raise ValueError(f"{CHOICE}: expected one of {', '.join(INSTRUCTION_SETS)}, got {asked}")
    return asked


@cache
def instruction_set(dtype: torch.dtype) -> str | None:
    """The set whose programs compute in this type here: the fastest there is, or the one asked for; None: none.

    Raises:
        ValueError: the environment variable holds no set's name.
    """
    return next((name for name in _names(dtype) if why_not(name) is None), None)


def why_unavailable(dtype: torch.dtype = torch.bfloat16) -> str | None:
    """None if programs that compute in this type run here; else what is missing, in a few words."""
    if not (names := _names(dtype)):
        return f"{CHOICE} is {_asked_for()}"
    return None if instruction_set(dtype) is not None else why_not(names[0])


def _names(dtype: torch.dtype) -> list[str]:
    asked = _asked_for()
    return [name for name, stored in INSTRUCTION_SETS.items() if stored == dtype and asked in (None, name)]


class CpuProgram:
    """One network for images of one size. Float32 in and out, any number of samples a call.

    Args:
        walk: hands the network's operations to a backend, given the backend and the network's input
            (``networks/backend.py``), and returns the output's value, or those of several.
        pieces: channels and scale of every tensor the input is concatenated from.
        height, width: of the input, in pixels.
        num_threads: cores to use; as many as torch uses and are allowed (``threads.py``), if None.
        dtype: what activations are stored in: bfloat16 or float32.
        on: one of ``INSTRUCTION_SETS``, whatever ``dtype``; the fastest for it if None.

    Raises:
        RuntimeError: the processor, the operating system or the installation cannot run it.
    """

    def __init__(
        self,
        walk: Callable[[Any, int], int | list[int]],
        pieces: Sequence[tuple[int, float]],
        height: int,
        width: int,
        num_threads: int | None = None,
        *,
        dtype: torch.dtype = torch.bfloat16,
        on: str | None = None,
    ):
        reason = why_unavailable(dtype) if on is None else why_not(on)
        if reason is not None:
            raise RuntimeError(f"the CPU engine cannot run here: {reason}")
        from diamond_fast import _cpu

        self._cpu = _cpu
        self.instruction_set = on or instruction_set(dtype)
        assert self.instruction_set is not None
        self._stored = INSTRUCTION_SETS[self.instruction_set]
        library = str(_library(self.instruction_set))
        self._program = _cpu.Program(num_threads or engine_threads(), self.instruction_set, library)
        self._convs: list[tuple[int, nn.Conv2d | nn.Linear]] = []
        self._learned_norms: list[tuple[int, nn.GroupNorm]] = []
        self.modulations: list[nn.Linear] = []  # of the adaptive norms, in the order of the program
        self._modulation_size = 0
        self._going_back = threading.Lock()  # the program keeps gradients of weights until they are read
        channels, scales = zip(*pieces, strict=True)
        given = walk(self, self._program.input(list(channels), list(scales), height, width))
        outputs = given if isinstance(given, list) else [given]
        for value in outputs:
            self._program.output(value)
        self._output_shapes = [self._program.shape(value) for value in outputs]  # C, H, W
        self.refresh()

    # What a backend offers; values are numbers of the program.

    def conv(self, layer, inputs, norm=None, residual=None, upsample=False) -> int:
        (kernel, _), (stride, _) = layer.kernel_size, layer.stride
        value = self._program.conv(
            list(inputs),
            layer.out_channels,
            kernel=kernel,
            stride=stride,
            upsample=upsample,
            norm=None if norm is None else self._norm(norm, silu=True),
            residual=-1 if residual is None else residual,
        )
        op = self._program.num_ops() - 1
        self._convs.append((op, layer))
        self._remember(op, norm)
        return value

    def attention(self, layer: SelfAttention2d, x: int) -> int:
        x = self._program.norm(x, self._norm(layer.norm, silu=False))
        self._remember(self._program.num_ops() - 1, layer.norm)
        y = self._program.attention(self.conv(layer.qkv_proj, [x]), layer.num_heads)
        return self.conv(layer.out_proj, [y], residual=x)

    def max_pool(self, x: int) -> int:
        return self._program.max_pool(x)

    def resize(self, x: int, height: int, width: int) -> int:
        return self._program.resize(x, height, width)

    def size(self, x: int) -> tuple[int, int]:
        return self._program.shape(x)[1:]

    def _norm(self, norm: Norm, silu: bool):
        if isinstance(norm, AdaGroupNorm):
            at = self._modulation_size
            self.modulations.append(norm.linear)
            self._modulation_size += norm.linear.out_features
            return self._cpu.Norm(norm.num_groups, NORM_EPS, silu, modulation=at)
        return self._cpu.Norm(norm.norm.num_groups, norm.norm.eps, silu)

    def _remember(self, op: int, norm: Norm | None) -> None:
        if norm is not None and not isinstance(norm, AdaGroupNorm):
            self._learned_norms.append((op, norm.norm))

    # Running

    @torch.no_grad()
    def refresh(self) -> None:
        """Copies the network's weights as they are now."""
        for op, layer in self._convs:
            assert layer.bias is not None
            self._program.set_conv(op, array(layer.weight), array(layer.bias))
        for op, norm in self._learned_norms:
            self._program.set_norm(op, array(norm.weight), array(norm.bias))
        if self.modulations:
            # As coarse as activations: of a wide network it is a third of all the weights that are read.
            self._modulation_weight = torch.cat([m.weight for m in self.modulations]).to(self._stored)
            self._modulation_bias = torch.cat([m.bias for m in self.modulations]).float()

    @torch.no_grad()
    def modulation(self, cond: Tensor) -> Tensor | None:
        """All scales and shifts from the conditioning: [N,E] -> [N,sum of 2C], float32."""
        if not self.modulations:
            return None
        cond, weight = cond.to(self._stored), self._modulation_weight
        rows = cond.expand(2, -1) if len(cond) == 1 else cond  # one alone would be summed up in another order
        return nn.functional.linear(rows, weight)[: len(cond)].float().add_(self._modulation_bias)

    def __call__(self, inputs: Sequence[Tensor], modulation: Tensor | None = None) -> Tensor:
        """inputs: per piece [N,C,H,W] float32. modulation: [N, ...] from :meth:`modulation`. -> [N,C,H,W] float32."""
        (output,), _ = self._forward(self._program.run, inputs, modulation)
        return output

    def run_and_keep(self, inputs: Sequence[Tensor], modulation: Tensor | None = None) -> tuple[Tensor, Any]:
        """The output, and activations that make ``backward`` faster; they hold memory for as long as they live."""
        run = partial(self._program.run_and_keep, most_bytes=MOST_KEPT)
        (output,), kept = self._forward(run, inputs, modulation)
        return output, kept

    def _forward(self, run: Callable, inputs: Sequence[Tensor], modulation: Tensor | None) -> tuple[list[Tensor], Any]:
        n = len(inputs[0])
        outputs = [torch.empty(n, *shape) for shape in self._output_shapes]
        return outputs, self._hand_over(run, inputs, modulation, outputs)

    def _hand_over(
        self, run: Callable, inputs: Sequence[Tensor], modulation: Tensor | None, written: Sequence[Tensor]
    ) -> Any:
        n = len(inputs[0])
        rows = np.empty((n, 0), np.float32) if modulation is None else array(modulation)
        return run(n, [array(x) for x in inputs], rows, [x.numpy() for x in written])

    @property
    def parameters(self) -> list[Tensor]:
        """Weights and biases of convolutions, then of learned norms: those that ``backward`` gives gradients of."""
        layers: list[Any] = [layer for _, layer in (*self._convs, *self._learned_norms)]
        return [p for layer in layers for p in (layer.weight, layer.bias)]

    def backward(
        self, inputs: Sequence[Tensor], modulation: Tensor | None, output_grad: Tensor, kept: Any = None
    ) -> tuple[Tensor | None, list[Tensor]]:
        """Gradients of the modulation and of ``parameters``, given the output's; arguments as for the call.

        The same bits for the same number of threads, with activations of ``run_and_keep`` and without.

        Raises:
            ValueError: the activations are of another program, or of another number of samples.
        """
        n = len(inputs[0])
        rows = np.empty((n, 0), np.float32) if modulation is None else array(modulation)
        grads = []
        with self._going_back:
            rows_grad = self._program.backward(n, [array(x) for x in inputs], rows, [array(output_grad)], kept)
            for op, layer in self._convs:
                grads += self._program.conv_grads(op, list(layer.weight.shape))
            for op, _ in self._learned_norms:
                grads += self._program.norm_grads(op)
        return None if modulation is None else torch.from_numpy(rows_grad), [torch.from_numpy(g) for g in grads]


def array(x: Tensor) -> np.ndarray:
    """x as NumPy sees it: float32, without gaps, copied only if it was not so."""
    return x.detach().to("cpu", torch.float32).contiguous().numpy()
