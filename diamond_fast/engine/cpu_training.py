"""Training on a CPU: convolutional networks forward and back as compiled programs, with AMX in bfloat16.

Sums, statistics and the weights that are trained stay float32. Between the two passes activations are kept, up to half
a GiB a network; of samples beyond that the way back runs forward again, so that memory does not grow with the batch.
"""

import copy
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diamond_fast.engine.cpu_program import CpuProgram
from diamond_fast.networks.actor_critic.model import ActorCritic, ActorCriticEncoder
from diamond_fast.networks.recurrent.model import MemoryModel
from diamond_fast.networks.reward_end.model import RewardEndEncoder, RewardEndModel
from diamond_fast.networks.unet.model import InnerModel
from diamond_fast.world_model import Denoiser

Whole = TypeVar("Whole", bound=nn.Module)
Model = TypeVar("Model", bound=Denoiser | RewardEndModel | MemoryModel | ActorCritic)


class TrainableProgram:
    """A network's program that gives gradients. Weights are taken anew at every call with gradients.

    Args:
        walk: a network's ``walk``.
        dtype, on: as for ``CpuProgram``.
    """

    def __init__(self, walk: Callable, dtype: torch.dtype = torch.bfloat16, on: str | None = None):
        self.walk = walk
        self._options: Any = {"dtype": dtype, "on": on}
        self._programs: dict[tuple[int, ...], CpuProgram] = {}

    def __call__(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """x [N,C,H,W] float32, without gradient; cond [N,E]. -> [N,C',H',W'] float32."""
        program = self._program(x)
        program.refresh()
        modulation = None
        if cond is not None:
            weight = torch.cat([m.weight for m in program.modulations])
            modulation = F.linear(cond, weight, torch.cat([m.bias for m in program.modulations]))
        return _Run.apply(program, torch.is_grad_enabled(), x, modulation, *program.parameters)

    def _program(self, x: Tensor) -> CpuProgram:
        key = tuple(x.shape[1:])
        if key not in self._programs:
            channels, height, width = key
            self._programs[key] = CpuProgram(self.walk, [(channels, 1.0)], height, width, **self._options)
        return self._programs[key]


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, program: CpuProgram, learns: bool, x: Tensor, modulation: Tensor | None, *parameters: Tensor
    ) -> Tensor:
        if not learns:
            return program([x], modulation)
        if ctx.needs_input_grad[2]:
            raise ValueError("x: a program has no gradient of its input; detach it")
        ctx.program = program
        ctx.save_for_backward(x, modulation, *parameters)  # the last so that autograd notices if they have changed
        output, ctx.kept = program.run_and_keep([x], modulation)
        return output

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, modulation, *_ = ctx.saved_tensors
        kept, ctx.kept = ctx.kept, None  # of one pass back: its memory is the next forward pass's
        modulation_grad, grads = ctx.program.backward([x], modulation, grad, kept)
        return None, None, None, modulation_grad, *grads


class ProgramInnerModel(nn.Module):
    """``InnerModel``, its U-Net as a program."""

    def __init__(self, network: InnerModel, dtype: torch.dtype, on: str | None):
        super().__init__()
        self.network = network
        self._run = TrainableProgram(network.walk, dtype, on)

    def forward(
        self, noisy_next_obs: Tensor, c_noise: Tensor, obs: Tensor, act: Tensor, *context_level: Tensor
    ) -> Tensor:
        """Shapes as in ``InnerModel.forward``."""
        with torch.autocast("cpu", enabled=False):
            cond = self.network.conditioning(c_noise, act, *context_level)
            return self._run(torch.cat((obs, noisy_next_obs), dim=1).float(), cond)


class ProgramEncoder(nn.Module):
    """An encoder as a program: called as the readable one is."""

    def __init__(self, network: RewardEndEncoder | ActorCriticEncoder, dtype: torch.dtype, on: str | None):
        super().__init__()
        self._run = TrainableProgram(network.walk, dtype, on)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return self._run(x.float(), None if cond is None else cond.float())


def as_programs(model: Model, dtype: torch.dtype = torch.bfloat16, on: str | None = None) -> Model:
    """The same model, weights shared, with its convolutional network as a program; itself if that has no walk.

    Args:
        dtype, on: as for ``CpuProgram``.
    """
    if isinstance(model, Denoiser):
        if not hasattr(model.inner_model, "walk"):
            return model
        return with_modules(model, inner_model=ProgramInnerModel(cast(InnerModel, model.inner_model), dtype, on))
    return with_modules(model, encoder=ProgramEncoder(model.encoder, dtype, on))


def with_modules(model: Whole, **modules: nn.Module | None) -> Whole:
    """The same model, weights shared, with other modules for some of its own."""
    twin = copy.copy(model)
    twin._modules = {**model._modules, **modules}
    return twin
