"""The denoiser's network F in the forms that can be run fast. All have the same five members:

refresh()                       takes the weights as they are now
conditioning(c_noise, act)      everything that depends on noise level and actions, for all levels at once
prepare(x, context, sigma)      F's input, preconditioned
in_place                        whether that input is one tensor that a sampler step may write to
evaluate(input, conditioning)   F's output
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from diamond_fast.engine.cpu_program import CpuProgram
from diamond_fast.engine.fused_torch import Activation, FusedTorch, Techniques
from diamond_fast.engine.weight_copies import WeightCopies
from diamond_fast.kernels._edm import preconditioners_reference
from diamond_fast.kernels.edm_precondition_input import edm_precondition_input
from diamond_fast.networks.unet.model import InnerModel


class DenoiserNetwork(Protocol):
    """N samples, contexts of T frames of C channels."""

    in_place: bool

    def refresh(self) -> None: ...

    def conditioning(self, c_noise: Tensor, act: Tensor) -> list[Any]:
        """c_noise: S noise levels, for all samples [S,1] or one a sample [S,N]. act [N,T] int64. One entry a level."""
        ...

    def prepare(self, x: Tensor, context: Tensor, sigma: Tensor | float) -> Any:
        """x [N,C,H,W] noisy frames; context [N,T*C,H,W]; sigma [N], or one for all."""
        ...

    def evaluate(self, network_input: Any, conditioning: Any) -> Tensor:
        """-> [N,C,H,W]."""
        ...


class _Conditioner(nn.Module):
    """What turns noise level and actions into the conditioning. Its modules are the network's own."""

    def __init__(self, network: InnerModel):
        super().__init__()
        self.noise_emb, self.act_emb, self.cond_proj = network.noise_emb, network.act_emb, network.cond_proj

    def forward(self, c_noise: Tensor, act: Tensor) -> Tensor:
        """c_noise [S,1] or [S,N], act [N,T] -> [S,N,E]."""
        actions = self.act_emb(act)
        noise = self.noise_emb(c_noise.flatten()).view(*c_noise.shape, actions.size(1))
        return self.cond_proj(noise + actions)


class FusedUNet:
    """With fused kernels, operation by operation.

    Args:
        network: whose weights are used.
        sigma_data, sigma_offset_noise: of the preconditioning.
        dtype: of weights and activations; the conditioning is computed in float32.
        techniques: what to use.
    """

    def __init__(
        self,
        network: InnerModel,
        sigma_data: float,
        sigma_offset_noise: float,
        dtype: torch.dtype,
        techniques: Techniques,
    ):
        self.techniques = techniques
        self.in_place = techniques.fused_edm
        self._source = network
        self._scales = {"sigma_data": sigma_data, "sigma_offset_noise": sigma_offset_noise}
        self._dtype = dtype
        tensor_cores = dtype != torch.float32  # they want channels in multiples of 8
        self._pad_to = 16 if tensor_cores else 1
        self._copies = WeightCopies(network, dtype, {"conv_in": (16, 1), "conv_out": (1, 8)} if tensor_cores else None)
        self._conditioner = WeightCopies(_Conditioner(network), torch.float32)
        self._out_channels = network.conv_out.out_channels

    def refresh(self) -> None:
        self._copies.refresh(self._source)
        self._conditioner.refresh(_Conditioner(self._source))

    def conditioning(self, c_noise: Tensor, act: Tensor) -> list[tuple[Tensor, Tensor | None]]:
        cond = self._conditioner.network(c_noise, act).to(self._dtype)
        if not self.techniques.one_modulation:
            return [(level, None) for level in cond]
        rows = torch.addmm(self._copies.modulation_bias, cond.flatten(0, 1), self._copies.modulation_weight.t())
        return list(zip(cond, rows.split(len(act)), strict=True))

    def prepare(self, x: Tensor, context: Tensor, sigma: Tensor | float) -> Tensor:
        impl = "auto" if self.techniques.fused_edm else "torch"
        return edm_precondition_input(
            x, context, sigma, pad_to=self._pad_to, dtype=self._dtype, impl=impl, **self._scales
        )

    def evaluate(self, network_input: Tensor, conditioning: tuple[Tensor, Tensor | None]) -> Tensor:
        cond, modulation = conditioning
        backend = FusedTorch(self._copies, self.techniques, modulation, cond)
        return self._copies.network.walk(backend, Activation(network_input)).x[:, : self._out_channels]


class AmxUNet:
    """As one compiled program on a CPU with AMX, in bfloat16.

    Args:
        network: whose weights are used.
        sigma_data, sigma_offset_noise: of the preconditioning.
    """

    in_place = False

    def __init__(self, network: InnerModel, sigma_data: float, sigma_offset_noise: float):
        self._source = network
        self._sigma_data, self._sigma_offset_noise = sigma_data, sigma_offset_noise
        self._conditioner = WeightCopies(_Conditioner(network), torch.float32)
        self._programs: dict[tuple[int, int], CpuProgram] = {}  # by image size

    def refresh(self) -> None:
        self._conditioner.refresh(_Conditioner(self._source))
        for program in self._programs.values():
            program.refresh()

    def conditioning(self, c_noise: Tensor, act: Tensor) -> list[Tensor]:
        return list(self._conditioner.network(c_noise, act))

    def prepare(self, x: Tensor, context: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        sigma = torch.as_tensor(sigma, dtype=torch.float32).reshape(-1)
        c_in, _, _ = preconditioners_reference(sigma, self._sigma_data, self._sigma_offset_noise)
        return context, c_in * x

    def evaluate(self, network_input: tuple[Tensor, Tensor], conditioning: Tensor) -> Tensor:
        program = self._program(*network_input)
        return program(network_input, program.modulation(conditioning))

    def _program(self, context: Tensor, x: Tensor) -> CpuProgram:
        size = tuple(x.shape[-2:])
        if size not in self._programs:
            pieces = [(context.size(1), 1 / self._sigma_data), (x.size(1), 1.0)]
            self._programs[size] = CpuProgram(self._source.walk, pieces, *size)
        return self._programs[size]


class WrappedNetwork:
    """Anything of the same form as ``InnerModel``: network(c_in x, c_noise, context / sigma_data, act)."""

    in_place = False

    def __init__(self, network: Callable[..., Tensor], sigma_data: float, sigma_offset_noise: float):
        self._network = network
        self._sigma_data, self._sigma_offset_noise = sigma_data, sigma_offset_noise

    def refresh(self) -> None:
        """Nothing to do: the network runs with its own weights."""

    def conditioning(self, c_noise: Tensor, act: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(level.expand(len(act)), act) for level in c_noise]

    def prepare(self, x: Tensor, context: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        if not isinstance(sigma, Tensor):
            sigma = torch.full((1,), sigma, dtype=torch.float32, device=x.device)
        c_in, _, _ = preconditioners_reference(sigma.reshape(-1), self._sigma_data, self._sigma_offset_noise)
        return c_in * x, context / self._sigma_data

    def evaluate(self, network_input: tuple[Tensor, Tensor], conditioning: tuple[Tensor, Tensor]) -> Tensor:
        (x, context), (c_noise, act) = network_input, conditioning
        return self._network(x, c_noise, context, act)
