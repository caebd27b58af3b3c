"""Networks run with convolutions that are one kernel each: the techniques ``fused_convs`` and ``hopper_convs``."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from diamond_fast.engine.fused_torch import Activation, FusedTorch, Techniques, fitting_stats, groups_of
from diamond_fast.engine.weight_copies import WeightCopies
from diamond_fast.kernels.dispatch import use_triton
from diamond_fast.kernels.fused_conv import Norm as FusedNorm
from diamond_fast.kernels.fused_conv import Projection, fits, fused_conv
from diamond_fast.kernels.hopper_conv import can_do, hopper_conv, pays
from diamond_fast.networks.backend import Norm
from diamond_fast.networks.blocks import NORM_EPS, AdaGroupNorm, num_groups


def make_backend(
    copies: WeightCopies, techniques: Techniques, modulation: Tensor | None = None, cond: Tensor | None = None
) -> FusedTorch:
    """The backend that these techniques name; arguments as for ``FusedTorch``."""
    kind = FusedConvs if techniques.fused_convs else FusedTorch
    return kind(copies, techniques, modulation, cond)


class FusedConvs(FusedTorch):
    """``FusedTorch``, with ``kernels.fused_conv`` for all convolutions that it can do."""

    works = hopper_works = True
    """Until a kernel fails, for whatever reason: from then on the process does without."""
    failure = ""
    """The last one's message."""

    def conv(
        self,
        layer: nn.Conv2d,
        inputs: Sequence[Activation],
        norm: Norm | None = None,
        residual: Activation | None = None,
        upsample: bool = False,
    ) -> Activation:
        if self.works and use_triton("auto", inputs[0].x) and self._can_do(layer, inputs, norm):
            if layer.kernel_size == (1, 1) and norm is None and residual is None and not upsample:
                return _Projected(self, layer, inputs)
            try:
                return self._one_kernel(layer, inputs, norm, residual, upsample)
            except Exception as error:  # a compiler or a driver can raise anything
                FusedConvs.works = False
                _say("fused convolutions: going on with the library's, which are slower", error)
        return super().conv(layer, inputs, norm, residual, upsample)

    def _can_do(self, layer: nn.Conv2d, inputs: Sequence[Activation], norm: Norm | None) -> bool:
        if norm is not None:
            size = layer.in_channels // groups_of(norm)
            if not fits(layer.in_channels, groups_of(norm)) or any(i.x.size(1) % size for i in inputs):
                return False
        (k, _), (stride, _) = layer.kernel_size, layer.stride
        usual = (layer.kernel_size, layer.stride, layer.padding) == ((k, k), (stride, stride), (k // 2, k // 2))
        usual = usual and (layer.dilation, layer.groups) == ((1, 1), 1) and k in (1, 3) and stride in (1, 2)
        return usual and len(inputs) <= 2 and fits(layer.out_channels, num_groups(layer.out_channels))

    def _one_kernel(
        self,
        layer: nn.Conv2d,
        inputs: Sequence[Activation],
        norm: Norm | None,
        residual: Activation | None,
        upsample: bool,
    ) -> Activation:
        before = None
        if norm is not None:
            groups = groups_of(norm)
            stats = [fitting_stats(i, layer.in_channels // groups) for i in inputs]
            if isinstance(norm, AdaGroupNorm):
                before = FusedNorm(*self._modulation(norm), groups, NORM_EPS, *stats)
            else:
                before = FusedNorm(norm.norm.weight, norm.norm.bias, groups, norm.norm.eps, *stats)
        added: Any = residual
        if isinstance(residual, _Projected):
            added = Projection(residual.layer.weight, residual.layer.bias, *(i.x for i in residual.inputs))
        elif residual is not None:
            added = residual.x
        groups = num_groups(layer.out_channels)
        x, x2 = inputs[0].x, inputs[1].x if len(inputs) > 1 else None
        arguments = (x, layer.weight, layer.bias, before, added, x2, layer.stride[0], upsample, groups)
        if self.techniques.hopper_convs and self.hopper_works and pays(x, upsample) and can_do(*arguments):
            try:
                return Activation(*hopper_conv(*arguments))
            except Exception as error:
                FusedConvs.hopper_works = False
                _say("Hopper's convolutions: going on with Triton's, which are slower", error)
        return Activation(*fused_conv(*arguments))


def require_working(techniques: Techniques) -> None:
    """RuntimeError if kernels that these techniques name have failed in this process, which goes on without them."""
    if (techniques.fused_convs and not FusedConvs.works) or (techniques.hopper_convs and not FusedConvs.hopper_works):
        raise RuntimeError(FusedConvs.failure)


def _say(words: str, error: Exception) -> None:
    FusedConvs.failure = f"{type(error).__name__}: {error}".partition("\n")[0]
    print(f"{words} ({FusedConvs.failure})", flush=True)


class _Projected(Activation):
    """A 1x1 convolution that the kernel which adds it up computes by the way; ``x`` is for any other use."""

    def __init__(self, backend: FusedTorch, layer: nn.Conv2d, inputs: Sequence[Activation]):
        self.backend = backend
        self.layer = layer
        self.inputs = inputs
        self.stats = None

    @property
    def x(self) -> Tensor:
        return FusedTorch.conv(self.backend, self.layer, self.inputs).x
