"""Changes to the frames a world model is trained on, one draw for a whole sequence: context and target change alike.

Everything happens on the device that the frames are on, with its generator, so that it can be part of a CUDA graph.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from diamond_fast.config import AugmentationConfig
from diamond_fast.spec import Action, Box

GREY = (0.299, 0.587, 0.114)
"""Shares of red, green and blue (ITU-R BT.601)."""


def check_mirrored(cfg: AugmentationConfig, action: Action) -> None:
    """Raises ValueError if actions have no such numbers."""
    if cfg.mirrored and not (isinstance(action, Box) and max(cfg.mirrored) < action.n):
        listed = " ".join(map(str, cfg.mirrored))
        raise ValueError(
            f"--augmentation.mirrored: must be numbers of a Box action, of which {action} has none {listed}"
        )


def augment(obs: Tensor, act: Tensor, pixel_mask: Tensor, cfg: AugmentationConfig) -> tuple[Tensor, Tensor]:
    """Sequences as they might have been filmed, too. Nothing is drawn for what is off.

    Args:
        obs: [N,L,3,H,W] in [-1,1].
        act: [N,L] or [N,L,A], the latter as numbers if there is mirroring.
        pixel_mask: [N,L] bool, of frames that are there; the others stay 0.
        cfg: how much of what.

    Returns:
        obs in [-1,1] and act, of the same shapes.
    """
    if cfg == AugmentationConfig():
        return obs, act
    n, length = obs.shape[:2]

    def drawn(most: float) -> Tensor:
        """[N,1,1,1,1], uniform in [-most,most]."""
        return most * (2 * torch.rand(n, 1, 1, 1, 1, device=obs.device) - 1)

    if cfg.mirrored:
        flipped = torch.rand(n, device=obs.device) < 0.5
        obs = torch.where(flipped[:, None, None, None, None], obs.flip(-1), obs)
        act = act.clone()
        for i in cfg.mirrored:
            act[..., i] = torch.where(flipped[:, None], -act[..., i], act[..., i])
    if cfg.shift or cfg.scale:
        zoom = 1 / (1 + drawn(cfg.scale)).view(n, 1)
        across, down = (2 * drawn(cfg.shift).view(n, 1) for _ in range(2))  # a frame is 2 wide and high here
        zero = torch.zeros_like(zoom)
        map_ = torch.cat((zoom, zero, -across, zero, zoom, -down), dim=1).view(n, 2, 3)
        grid = F.affine_grid(map_.repeat_interleave(length, 0), [n * length, *obs.shape[2:]], align_corners=False)
        moved = F.grid_sample(obs.flatten(0, 1), grid, padding_mode="border", align_corners=False)
        obs = moved.unflatten(0, (n, length))
    if cfg.saturation:
        red, green, blue = obs.split(1, dim=2)
        grey = GREY[0] * red + GREY[1] * green + GREY[2] * blue
        obs = grey + (1 + drawn(cfg.saturation)) * (obs - grey)
    if cfg.contrast:
        there = pixel_mask[:, :, None, None, None].expand_as(obs)
        mean = (obs * there).sum((1, 2, 3, 4), keepdim=True) / there.sum((1, 2, 3, 4), keepdim=True).clamp(min=1)
        obs = mean + (1 + drawn(cfg.contrast)) * (obs - mean)
    if cfg.brightness:
        obs = obs + 2 * drawn(cfg.brightness)
    return obs.clamp(-1, 1) * pixel_mask[:, :, None, None, None], act
