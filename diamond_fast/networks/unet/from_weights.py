"""A U-Net's settings and world, read off the names and shapes of its weights."""

from collections.abc import Mapping

from torch import Tensor

from diamond_fast.networks.unet.config import InnerModelConfig
from diamond_fast.spec import Action, Discrete, Frame, MultiBinary, NoAction, Spec


def read_config(weights: Mapping[str, Tensor]) -> InnerModelConfig:
    """The settings. Raises LookupError, ArithmeticError if the weights are those of something else."""
    img_channels = weights["conv_out.weight"].size(0)
    depths: list[int] = []
    channels: list[int] = []
    attention: list[int] = []
    while f"unet.d_blocks.{len(depths)}.resblocks.0.conv2.weight" in weights:
        level = f"unet.d_blocks.{len(depths)}.resblocks."
        blocks = {name.removeprefix(level).split(".")[0] for name in weights if name.startswith(level)}
        channels.append(weights[f"{level}0.conv2.weight"].size(0))
        attention.append(int(f"{level}0.attn.qkv_proj.weight" in weights))
        depths.append(len(blocks))
    return InnerModelConfig(
        img_channels=img_channels,
        num_steps_conditioning=weights["conv_in.weight"].size(1) // img_channels - 1,
        cond_channels=weights["cond_proj.0.weight"].size(0),
        depths=tuple(depths),
        channels=tuple(channels),
        attn_depths=tuple(attention),
        context_noise="noise_cond_emb.weight" in weights,
    )


def read_spec(cfg: InnerModelConfig, weights: Mapping[str, Tensor]) -> Spec:
    """The world, with frames of 64x64 pixels: the weights do not say, and fit any size.

    Nor do they say the kind of actions: those of networks that are told of noise in the context are buttons, as in
    published files, of others choices. Without an embedding there are none, or a memory has seen them.
    """
    action: Action = NoAction()
    memory = weights["memory_emb.weight"].size(1) if "memory_emb.weight" in weights else 0
    if "act_emb.0.weight" in weights:
        action = (MultiBinary if cfg.context_noise else Discrete)(weights["act_emb.0.weight"].size(0))
    return Spec(Frame(64, 64, cfg.img_channels), action, cfg.num_steps_conditioning, memory)
