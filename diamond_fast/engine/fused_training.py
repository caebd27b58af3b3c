"""Training on a GPU: the networks' walks through the fused kernels, forward and back.

Weights, sums, statistics and what knows the noise level stay float32; recurrence and heads are the models' own.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from diamond_fast.engine.denoiser_networks import FUSED, joined, padded
from diamond_fast.engine.fast_encoders import classify
from diamond_fast.engine.fused_torch import Activation, FusedTorch, Techniques
from diamond_fast.engine.trainable_weights import TrainableWeights
from diamond_fast.formulations.edm import context_condition
from diamond_fast.networks.actor_critic.model import ActorCritic
from diamond_fast.networks.blocks import AdaGroupNorm
from diamond_fast.networks.exact import outside_autocast
from diamond_fast.networks.recurrent.model import MemoryModel
from diamond_fast.networks.reward_end.model import RewardEndModel
from diamond_fast.world_model import Denoiser

Model = TypeVar("Model", bound=Denoiser | RewardEndModel | MemoryModel | ActorCritic)


class TrainableWalk:
    """A network's walk with gradients.

    Args:
        network, dtype, pad_channels, exact: as for ``TrainableWeights``.
        techniques: what to use.
    """

    def __init__(
        self,
        network: nn.Module,
        dtype: torch.dtype,
        techniques: Techniques,
        pad_channels: dict[str, tuple[int, int]] | None = None,
        exact: Sequence[str] = (),
    ):
        self.dtype = dtype
        self._techniques = techniques
        self._weights = TrainableWeights(network, dtype, pad_channels if dtype != torch.float32 else None, exact)

    def take(self) -> None:
        """Takes the weights as they are now. Gradients of the calls until the next time add up."""
        self._weights.take()

    def __call__(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """x [N,C,H,W] of the dtype, channels last; cond [N,E] any float. -> [N,C',H',W'] of the dtype."""
        weights = self._weights
        weights.spread()
        scales_and_shifts = {}
        if cond is not None:
            rows = torch.addmm(weights.modulation_bias, cond.to(self.dtype), weights.modulation_weight.t())
            widths = [norm.linear.out_features // 2 for norm in weights.norms for _ in "ab"]
            pieces = iter(rows.split(widths, dim=1))  # all at once, so that their gradients are joined at once
            scales_and_shifts = dict(zip(weights.norms, zip(pieces, pieces, strict=True), strict=True))
        return weights.network.walk(_Backend(self._techniques, scales_and_shifts), Activation(x)).x


class _Backend(FusedTorch):
    def __init__(self, techniques: Techniques, scales_and_shifts: dict[AdaGroupNorm, tuple[Tensor, Tensor]]):
        super().__init__(None, techniques)
        self._scales_and_shifts = scales_and_shifts

    def _modulation(self, norm: AdaGroupNorm) -> tuple[Tensor, Tensor]:
        return self._scales_and_shifts[norm]


class TrainableDenoiser(Denoiser):
    """A denoiser as it is trained on a GPU, weights shared; its network has a walk.

    Args:
        dtype: of the network's weights and activations; the conditioning is computed in float32.
        techniques: what to use.
    """

    def __init__(self, denoiser: Denoiser, dtype: torch.dtype, techniques: Techniques):
        self.__dict__.update(denoiser.__dict__)
        network: Any = denoiser.inner_model
        padding = {"conv_in": (16, 1), "conv_out": (1, 8)}
        self._walk = TrainableWalk(network, dtype, techniques, padding, network.conditioning_modules)
        self._pad_to = 16 if dtype != torch.float32 else 1
        if fused_formulation := FUSED.get(type(denoiser.formulation)):
            context_channels = network.conv_in.in_channels - network.conv_out.out_channels
            impl = "auto" if techniques.fused_edm else "torch"
            self.formulation = fused_formulation(denoiser.formulation, context_channels, dtype, self._pad_to, impl)

    def loss(self, *arguments: Any, **options: Any) -> Tensor:
        with self.learning():
            return super().loss(*arguments, **options)

    def denoise(self, *arguments: Any, **options: Any) -> Tensor:
        with self.learning():
            return super().denoise(*arguments, **options)

    @contextmanager
    def learning(self) -> Iterator[None]:
        with outside_autocast(self.device):
            self._walk.take()
            yield

    def predict(
        self, noisy: Tensor, level: Tensor, context: Tensor, act: Tensor, context_level: Tensor | None = None
    ) -> Tensor:
        network: Any = self.inner_model
        prepared = self.formulation.prepare(noisy, context, level)
        told = () if context_level is None else (context_condition(context_level),)
        cond = network.conditioning(self.formulation.condition(level), act, *told)
        output = self._walk(joined(prepared, self._walk.dtype, self._pad_to), cond)
        return output[:, : noisy.size(1)]

    def frame_loss(self, *arguments: Any) -> tuple[Tensor, Tensor]:
        formulations = getattr(self.formulation, "frame_loss", super().frame_loss)
        return formulations(*arguments)


class TrainableEncoder(nn.Module):
    """An encoder as it is trained on a GPU: called as the readable one is.

    Args:
        first: name of its first convolution, whose input is padded with zeros to what tensor cores want.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype, techniques: Techniques, first: str):
        super().__init__()
        self._walk = TrainableWalk(network, dtype, techniques, {first: (8, 1)})
        self._pad_to = 8 if dtype != torch.float32 else 1

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """x [N,C,H,W], cond [N,E], any float. -> [N,C',H',W'] float32."""
        with outside_autocast(x.device):
            self._walk.take()
            return self._walk(padded(x, self._walk.dtype, self._pad_to), cond).float()


class TrainableRewardEnd(RewardEndModel):
    """The reward/end model as it is trained on a GPU, weights shared."""

    def __init__(self, model: RewardEndModel, dtype: torch.dtype, techniques: Techniques):
        encoder = TrainableEncoder(model.encoder, dtype, techniques, "conv_in")
        self.__dict__.update(_with_modules(model, encoder=encoder).__dict__)

    def predict(
        self, obs: Tensor, act: Tensor, next_obs: Tensor, hx_cx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        n, t = self._check_sequence(obs, act)
        # frames lie channels last, and so does the pair
        pairs = torch.cat([x.movedim(2, -1) for x in (obs, next_obs)], dim=-1).flatten(0, 1).movedim(-1, 1)
        with outside_autocast(self.device):
            x = self.encoder(pairs, self.act_emb(act.flatten(0, 1)))
            return classify(self, x.reshape(n, t, -1), hx_cx)


def fused(model: Model, dtype: torch.dtype, techniques: Techniques | None = None) -> Model:
    """The same model, weights shared, as it is trained on a GPU; itself if its network has no walk.

    Args:
        dtype: of weights and activations: bfloat16 or float32.
        techniques: what to use.
    """
    techniques = techniques or Techniques()
    twin: Any = model
    if isinstance(model, Denoiser):
        twin = TrainableDenoiser(model, dtype, techniques) if hasattr(model.inner_model, "walk") else model
    elif isinstance(model, RewardEndModel):
        twin = TrainableRewardEnd(model, dtype, techniques)
    else:
        twin = _with_modules(model, encoder=TrainableEncoder(model.encoder, dtype, techniques, "encoder.0"))
    return twin


def _with_modules(model: Any, **modules: nn.Module) -> Any:
    twin = copy.copy(model)
    twin._modules = {**model._modules, **modules}
    return twin
