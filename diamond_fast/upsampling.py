"""The second stage of a world in two resolutions: a denoiser that enlarges small frames (paper, section 6).

It predicts a full frame from the full frame before it and the small one of the same moment, enlarged: its guide. It is
told no action. Small frames never depend on full ones.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from diamond_fast.formulations.config import LevelsConfig, StepsConfig
from diamond_fast.formulations.protocol import Randn
from diamond_fast.world_model import Denoiser, DiffusionSampler


def enlarged(small: Tensor, factor: int) -> Tensor:
    """Small frames [...,C,h,w], bicubically. -> [...,C,factor*h,factor*w] float32, not clamped: edges overshoot.

    Published weights know them so.
    """
    leading = small.shape[:-3]
    x = small.float().flatten(0, -4) if leading else small.float()[None]
    x = F.interpolate(x, scale_factor=factor, mode="bicubic", align_corners=False)
    return x.unflatten(0, leading) if leading else x[0]


def no_actions(*shape: int, device: torch.device | None = None) -> Tensor:
    """uint8 [*shape,0]: the actions that an upsampler is told."""
    return torch.empty(*shape, 0, dtype=torch.uint8, device=device)


def upsampler_loss(
    upsampler: Denoiser, full: Tensor, small: Tensor, mask: Tensor, levels: LevelsConfig, randn: Randn = torch.randn
) -> Tensor:
    """The upsampler's training loss, scalar, as ``Denoiser.loss``; later steps see its own output as the frame before.

    Args:
        full: [N,L,C,H,W] in [-1, 1]. small: [N,L,C,h,w], the same moments.
        mask: [N,L] bool, False where a frame is padded.
        levels: the noise levels trained on.
        randn: source of standard normal numbers.

    Raises:
        TypeError, ValueError: an argument is not of that kind, shape or range; the message names it.
    """
    if full.size(-1) % small.size(-1):
        raise ValueError(f"full: expected a multiple of the small frames {list(small.shape)}, got {list(full.shape)}")
    guide = enlarged(small, full.size(-1) // small.size(-1))
    return upsampler.loss(full, no_actions(*full.shape[:2], device=full.device), mask, levels, randn, guide)


class FrameSampler(Protocol):
    """Draws next frames, as ``DiffusionSampler`` and ``FastDenoiser`` do."""

    def sample(self, prev_obs: Tensor, prev_act: Tensor, randn: Randn = torch.randn) -> tuple[Tensor, list[Tensor]]: ...


class TwoResolutions(NamedTuple):
    """A next frame in both resolutions, and the ways from noise to them, start first."""

    small: Tensor  # [N,C,h,w] in [-1, 1]
    full: Tensor  # [N,C,H,W]
    small_trajectory: list[Tensor]
    full_trajectory: list[Tensor]


class TwoStageSampler:
    """Draws next frames in two resolutions: small ones from the past, full ones from them.

    Args:
        denoiser: of small frames.
        upsampler: of full ones.
        cfg, upsampling: how many steps each takes, and how.
    """

    def __init__(self, denoiser: Denoiser, upsampler: Denoiser, cfg: StepsConfig, upsampling: StepsConfig):
        self.small: FrameSampler = DiffusionSampler(denoiser, cfg)
        self.full: FrameSampler = DiffusionSampler(upsampler, upsampling)

    @torch.no_grad()
    def sample(
        self, prev_obs: Tensor, prev_act: Tensor, prev_full: Tensor, randn: Callable[..., Tensor] = torch.randn
    ) -> TwoResolutions:
        """
        Args:
            prev_obs: [N,T,C,h,w] small context frames in [-1, 1], oldest first.
            prev_act: [N,T,...] the actions taken at them.
            prev_full: [N,T',C,H,W] the last full frames, oldest first.
            randn: source of standard normal numbers: those of the small frame, then those of the full one.

        Raises:
            TypeError, ValueError: an argument is not of that kind, shape or range; the message names it.
        """
        small, small_trajectory = self.small.sample(prev_obs, prev_act, randn)
        full, full_trajectory = self.full.sample(*upsampling_input(small, prev_full), randn)
        return TwoResolutions(small, full, small_trajectory, full_trajectory)


def upsampling_input(small: Tensor, prev_full: Tensor) -> tuple[Tensor, Tensor]:
    """small [N,C,h,w] and full frames before it [N,T',C,H,W] -> an upsampler's context [N,T'+1,C,H,W] and actions."""
    guide = enlarged(small, prev_full.size(-1) // small.size(-1))
    context = torch.cat((prev_full, guide[:, None]), dim=1)
    return context, no_actions(*context.shape[:2], device=context.device)
