"""Settings that differ in the denoiser's network: those of the paper's appendix M in size, and small ones. No torch."""

from dataclasses import replace

from diamond_fast import config
from diamond_fast.networks.cross_attention.config import CrossAttentionConfig
from diamond_fast.networks.dit.config import DiTConfig
from diamond_fast.networks.unet3d.config import UNet3DConfig

_FRAME_STACK = config.RunConfig(
    domain="csgo",
    world_model_only=True,
    num_final_epochs=300,  # of 400 updates
    denoiser=config.DenoiserConfig(
        config.InnerModelConfig(
            num_steps_conditioning=6,
            cond_channels=828,
            depths=(3, 3, 3, 3),
            channels=(128, 256, 256, 512),
            attn_depths=(0, 0, 1, 1),
        )
    ),
    denoiser_update=config.UpdateConfig(steps_first_epoch=400, batch_size=64),
    world_model=config.WorldModelConfig(config.SamplerConfig(num_steps=20), horizon=16),
)

_CROSS_ATTENTION = replace(
    _FRAME_STACK,
    network="cross_attention",
    denoiser=config.DenoiserConfig(
        CrossAttentionConfig(
            num_steps_conditioning=6,
            cond_channels=800,
            depths=(3, 3, 3, 3),
            channels=(128, 256, 256, 512),
            attn_depths=(0, 0, 1, 1),
            encoder_depths=(2, 2, 2, 6),
            encoder_channels=(128, 256, 256, 512),
        )
    ),
)

_UNET3D = replace(
    _FRAME_STACK,
    network="unet3d",
    denoiser=config.DenoiserConfig(
        UNet3DConfig(
            num_steps_conditioning=6,
            cond_channels=760,
            depths=(3, 3, 3, 3),
            channels=(128, 256, 256, 512),
            attn_depths=(0, 0, 1, 1),
        )
    ),
)

PRESETS: dict[str, config.RunConfig] = {
    # 64x64, six past frames, 120 000 updates, 20 denoising steps; widths are unpublished, parameters are the paper's
    "csgo-frame-stack": _FRAME_STACK,  # 122 M
    "csgo-cross-attention": _CROSS_ATTENTION,  # 184 M, of which the encoder 62 M
    "csgo-unet3d": _UNET3D,  # 122 M too: the paper draws it and trains none
}

SMALL_NETWORKS = {
    "small-cross-attention": (
        "cross_attention",
        CrossAttentionConfig(
            cond_channels=128,
            depths=(1, 1, 1, 1),
            channels=(16, 32, 64, 64),
            encoder_depths=(1, 1, 1, 1),
            encoder_channels=(16, 32, 64, 64),
        ),
    ),
    "small-unet3d": (
        "unet3d",
        UNet3DConfig(cond_channels=128, depths=(1, 1, 2, 2), channels=(16, 32, 32, 32), attn_depths=(0, 0, 0, 0)),
    ),
    "small-dit": ("dit", DiTConfig(width=160, depth=7)),
}
"""Networks that take as many operations for an evaluation as that of the preset small, nothing being remembered."""
