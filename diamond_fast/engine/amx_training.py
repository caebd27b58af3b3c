"""Training on a CPU with AMX: convolutional networks forward and back as compiled programs, in bfloat16.

Sums, statistics and the weights that are trained stay float32. Nothing but the inputs is kept between the two passes:
the way back runs forward again, one sample at a time, so that memory does not grow with the batch.
"""

import copy
from collections.abc import Callable
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diamond_fast.engine.cpu_program import CpuProgram
from diamond_fast.networks.actor_critic.model import ActorCritic, ActorCriticEncoder
from diamond_fast.networks.reward_end.model import RewardEndEncoder, RewardEndModel
from diamond_fast.networks.unet.model import InnerModel
from diamond_fast.world_model import Denoiser

Model = TypeVar("Model", bound=Denoiser | RewardEndModel | ActorCritic)


class TrainableProgram:
    """A network's program that gives gradients. Weights are taken anew at every call with gradients.

    Args:
        walk: a network's ``walk``.
    """

    def __init__(self, walk: Callable):
        self.walk = walk
        self._programs: dict[tuple[int, ...], CpuProgram] = {}

    def __call__(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """x [N,C,H,W] float32, without gradient; cond [N,E]. -> [N,C',H',W'] float32."""
        program = self._program(x)
        program.refresh()
        modulation = None
        if cond is not None:
            weight = torch.cat([m.weight for m in program.modulations])
            modulation = F.linear(cond, weight, torch.cat([m.bias for m in program.modulations]))
        return _Run.apply(program, x, modulation, *program.parameters)

    def _program(self, x: Tensor) -> CpuProgram:
        key = tuple(x.shape[1:])
        if key not in self._programs:
            self._programs[key] = CpuProgram(self.walk, [(key[0], 1.0)], *key[1:])
        return self._programs[key]


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(ctx, program: CpuProgram, x: Tensor, modulation: Tensor | None, *parameters: Tensor) -> Tensor:
        ctx.program = program
        ctx.save_for_backward(x, modulation)
        return program([x], modulation)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, modulation = ctx.saved_tensors
        modulation_grad, grads = ctx.program.backward([x], modulation, grad)
        return None, None, modulation_grad, *grads


class AmxInnerModel(nn.Module):
    """``InnerModel``, its U-Net on AMX."""

    def __init__(self, network: InnerModel):
        super().__init__()
        self.network = network
        self._run = TrainableProgram(network.walk)

    def forward(self, noisy_next_obs: Tensor, c_noise: Tensor, obs: Tensor, act: Tensor) -> Tensor:
        """Shapes as in ``InnerModel.forward``."""
        with torch.autocast("cpu", enabled=False):
            cond = self.network.conditioning(c_noise, act)
            return self._run(torch.cat((obs, noisy_next_obs), dim=1).float(), cond)


class AmxEncoder(nn.Module):
    """An encoder on AMX: called as the readable one is."""

    def __init__(self, network: RewardEndEncoder | ActorCriticEncoder):
        super().__init__()
        self._run = TrainableProgram(network.walk)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return self._run(x.float(), None if cond is None else cond.float())


def on_amx(model: Model) -> Model:
    """The same model, weights shared, with its convolutional network on AMX; itself if that has no walk."""
    if isinstance(model, Denoiser):
        if not hasattr(model.inner_model, "walk"):
            return model
        return _with_modules(model, inner_model=AmxInnerModel(cast(InnerModel, model.inner_model)))
    return _with_modules(model, encoder=AmxEncoder(model.encoder))


def _with_modules(model: Model, **modules: nn.Module) -> Model:
    twin = copy.copy(model)
    twin._modules = {**model._modules, **modules}
    return twin
