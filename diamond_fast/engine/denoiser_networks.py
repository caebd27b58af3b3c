"""A denoiser's network in the forms in which frames are drawn fast, each a ``DrawingNetwork``."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diamond_fast.engine.autocast_network import AutocastNetwork
from diamond_fast.engine.cached_network import CachedNetwork, CachedProgramNetwork
from diamond_fast.engine.cpu_program import CpuProgram
from diamond_fast.engine.fused_convs import make_backend
from diamond_fast.engine.fused_torch import Activation, Techniques
from diamond_fast.engine.path import PROGRAMS, Engine, runs_on_amx
from diamond_fast.engine.weight_copies import WeightCopies
from diamond_fast.formulations.config import StepsConfig
from diamond_fast.formulations.ddpm import DDPM
from diamond_fast.formulations.edm import EDM
from diamond_fast.formulations.edm_fused import FusedEDM
from diamond_fast.formulations.flow import Flow
from diamond_fast.formulations.linear_fused import FusedDDPM, FusedFlow
from diamond_fast.formulations.protocol import Formulation
from diamond_fast.networks.memory import MemoryNetwork
from diamond_fast.networks.memory_walk import WalkingMemory
from diamond_fast.world_model import DrawingNetwork, PlainNetwork, Sampler

FUSED: dict[type, Callable[..., Formulation]] = {EDM: FusedEDM, DDPM: FusedDDPM, Flow: FusedFlow}
"""Formulations whose functions are there over Triton as well."""


def fast_sampler(
    formulation: Formulation,
    network: nn.Module,
    cfg: StepsConfig,
    device: torch.device,
    dtype: torch.dtype,
    techniques: Techniques | None = None,
    engine: Engine | None = None,
) -> Sampler:
    """Draws frames on a fast engine.

    A network without a walk runs as it is under autocast; one that remembers past frames does so, and has walks for
    compiled programs alone. A formulation without fused functions runs as it is written.

    Args:
        formulation, network: the denoiser's.
        cfg: how many steps, and how.
        device: where frames and network are.
        dtype: of weights and activations: bfloat16 or float32.
        techniques: what to use on a GPU.
        engine: of a path; if None, amx if there is AMX for this dtype, else operation by operation.
    """
    engine = engine or ("amx" if runs_on_amx(device, dtype) else "fused")
    fast: DrawingNetwork
    if engine == "readable":
        fast = PlainNetwork(network)
    elif isinstance(network, MemoryNetwork) and isinstance(network, WalkingMemory) and engine in PROGRAMS:
        fast = CachedProgramNetwork(network, dtype)
    elif isinstance(network, MemoryNetwork):
        fast = CachedNetwork(network, device, dtype)
    elif not hasattr(network, "walk"):
        fast = AutocastNetwork(network, device, dtype)
    elif engine in PROGRAMS:
        fast = ProgramNetwork(network, dtype)
    else:
        techniques = techniques or Techniques()
        fast = FusedNetwork(network, dtype, techniques)
        if fused := FUSED.get(type(formulation)):
            impl = "auto" if techniques.fused_edm else "torch"
            formulation = fused(formulation, fast.context_channels, dtype, fast.pad_to, impl)
    return Sampler(formulation, fast, cfg, device)


class FusedNetwork:
    """A network's walk with fused kernels, operation by operation.

    Args:
        network: a module with a walk (``networks/backend.py``), whose weights are used.
        dtype: of weights and activations; the conditioning is computed in float32.
        techniques: what to use.
    """

    def __init__(self, network: Any, dtype: torch.dtype, techniques: Techniques):
        self.techniques = techniques
        self._source = network
        self._dtype = dtype
        self._out_channels = network.conv_out.out_channels
        self.context_channels = network.conv_in.in_channels - self._out_channels
        tensor_cores = dtype != torch.float32  # they want channels in multiples of 8
        self.pad_to = 16 if tensor_cores else 1
        padding = {"conv_in": (16, 1), "conv_out": (1, 8)} if tensor_cores else None
        self._copies = WeightCopies(network, dtype, padding, network.conditioning_modules)

    def refresh(self) -> None:
        """Takes the weights as they are now, in place."""
        self._copies.refresh(self._source)

    def conditioning(self, levels: Tensor, act: Tensor, *context_level: Tensor) -> list[tuple[Tensor, Tensor | None]]:
        cond = self._copies.network.conditioning(levels, act, *context_level).to(self._dtype)
        if not self.techniques.one_modulation:
            return [(level, None) for level in cond]
        weight, bias = self._copies.modulation_weight, self._copies.modulation_bias
        assert weight is not None
        assert bias is not None
        rows = torch.addmm(bias, cond.flatten(0, 1), weight.t())
        return list(zip(cond, rows.split(len(act)), strict=True))

    def evaluate(
        self, network_input: Tensor | tuple[Tensor, Tensor], conditioning: tuple[Tensor, Tensor | None]
    ) -> Tensor:
        cond, modulation = conditioning
        backend = make_backend(self._copies, self.techniques, modulation, cond)
        y = self._copies.network.walk(backend, Activation(joined(network_input, self._dtype, self.pad_to)))
        return y.x[:, : self._out_channels]


def joined(network_input: Tensor | tuple[Tensor, Tensor], dtype: torch.dtype, pad_to: int) -> Tensor:
    """Context and frame as one tensor, as a fused formulation makes it at once."""
    if isinstance(network_input, Tensor):
        return network_input
    x, context = network_input
    return padded(torch.cat((context, x), dim=1), dtype, pad_to)


def padded(x: Tensor, dtype: torch.dtype, pad_to: int) -> Tensor:
    """x [N,C,H,W] in another type, channels last, with zeros behind them up to a multiple of ``pad_to``."""
    x = x.to(dtype, memory_format=torch.channels_last)
    more = -x.size(1) % pad_to
    return F.pad(x, (0, 0, 0, 0, 0, more)) if more else x


class ProgramNetwork:
    """A network's walk as one compiled program on a CPU.

    Args:
        network: a module with a walk, whose weights are used.
        dtype: what the program stores activations in: bfloat16 or float32.
    """

    def __init__(self, network: Any, dtype: torch.dtype):
        self._source = network
        self._dtype = dtype
        self._copies = WeightCopies(network, torch.float32)  # of the conditioning, whatever the weights are given in
        self._programs: dict[tuple[int, ...], CpuProgram] = {}  # by image size

    def refresh(self) -> None:
        """Takes the weights as they are now, in place."""
        self._copies.refresh(self._source)
        for program in self._programs.values():
            program.refresh()

    def conditioning(self, levels: Tensor, act: Tensor, *context_level: Tensor) -> list[Tensor]:
        return list(self._copies.network.conditioning(levels, act, *context_level))

    def evaluate(self, network_input: tuple[Tensor, Tensor], conditioning: Tensor) -> Tensor:
        x, context = network_input
        size = (x.size(-2), x.size(-1))
        if size not in self._programs:
            pieces = [(context.size(1), 1.0), (x.size(1), 1.0)]
            self._programs[size] = CpuProgram(self._source.walk, pieces, *size, dtype=self._dtype)
        program = self._programs[size]
        return program((context, x), program.modulation(conditioning))
