"""Settings for worlds in two resolutions that are learned from recordings alone. No torch."""

from dataclasses import replace

from diamond_fast import config
from diamond_fast.networks.recurrent.config import MemoryConfig

CSGO = config.RunConfig(
    domain="csgo",
    frame_size=(30, 56),
    upsampling=5,
    world_model_only=True,
    num_autoregressive_steps=4,
    num_final_epochs=600,
    denoiser=config.DenoiserConfig(
        config.InnerModelConfig(
            cond_channels=2048,
            channels=(128, 256, 512, 1024),
            attn_depths=(0, 0, 1, 1),
            context_noise=True,
        ),
        sigma_offset_noise=0.1,
        noise_context=True,
    ),
    denoiser_update=config.UpdateConfig(steps_first_epoch=400, batch_size=16, grad_acc_steps=8, max_grad_norm=10.0),
    sigma_distribution=config.SigmaDistributionConfig(loc=-1.2),
    upsampler=config.DenoiserConfig(
        config.InnerModelConfig(
            num_steps_conditioning=1,
            cond_channels=2048,
            channels=(64, 64, 128, 256),
            attn_depths=(0, 0, 0, 1),
            context_noise=True,
        ),
        sigma_offset_noise=0.1,
    ),
    upsampler_update=config.UpdateConfig(steps_first_epoch=400, batch_size=4, grad_acc_steps=8, max_grad_norm=10.0),
    world_model=config.WorldModelConfig(config.SamplerConfig(num_steps=1, s_cond=0.005), horizon=200),
    evaluation=config.EvaluationConfig(every=20),
)
"""The published world of Counter-Strike."""

_RECORDING = replace(
    CSGO,
    domain=None,
    frame_size=(30, 40),
    upsampling=4,
    num_final_epochs=100,
    denoiser=replace(
        CSGO.denoiser,
        inner_model=config.InnerModelConfig(
            cond_channels=512,
            channels=(64, 128, 256, 256),
            attn_depths=(0, 0, 1, 1),
            context_noise=True,
        ),
    ),
    denoiser_update=replace(CSGO.denoiser_update, batch_size=32, grad_acc_steps=1),
    upsampler=replace(
        CSGO.upsampler,
        inner_model=config.InnerModelConfig(
            num_steps_conditioning=1,
            cond_channels=512,
            channels=(64, 64, 128, 128),
            context_noise=True,
        ),
    ),
    upsampler_update=replace(CSGO.upsampler_update, batch_size=4, grad_acc_steps=2),
    evaluation=config.EvaluationConfig(every=5),
)

_FEW_UPDATES = config.UpdateConfig(
    steps_first_epoch=200, steps_per_epoch=200, batch_size=8, lr=5e-4, lr_warmup_steps=20, max_grad_norm=10.0
)

_SMALL_UPSAMPLER = config.InnerModelConfig(
    num_steps_conditioning=1,
    cond_channels=64,
    depths=(1, 1, 1),
    channels=(16, 16, 32),
    attn_depths=(0, 0, 0),
    context_noise=True,
)

_QUICK = replace(
    _RECORDING,
    num_autoregressive_steps=1,
    num_final_epochs=5,
    denoiser=replace(
        CSGO.denoiser,
        inner_model=config.InnerModelConfig(
            cond_channels=64, depths=(1, 1, 1), channels=(32, 32, 64), attn_depths=(0, 0, 0), context_noise=True
        ),
    ),
    denoiser_update=_FEW_UPDATES,
    upsampler=replace(
        CSGO.upsampler,
        inner_model=_SMALL_UPSAMPLER,
    ),
    upsampler_update=replace(_FEW_UPDATES, steps_first_epoch=60, steps_per_epoch=60, batch_size=2),
    upsampler_autoregressive_steps=0,
    world_model=replace(CSGO.world_model, horizon=50),
)

_DOOM = replace(
    _QUICK,
    frame_size=(15, 20),
    num_autoregressive_steps=0,
    num_final_epochs=50,
    # Frames are drawn in one step from noise that hides them, and learned so.
    sigma_distribution=config.SigmaDistributionConfig(loc=1.5, scale=0.5),
    denoiser=config.DenoiserConfig(
        config.InnerModelConfig(cond_channels=128, depths=(1, 1, 1), channels=(32, 32, 64), attn_depths=(0, 0, 0)),
        sigma_data=0.35,  # these frames' own
        sigma_offset_noise=0.1,
    ),
    memory_model=MemoryConfig(channels=(32, 32, 64), down=(1, 1, 0), action_width=32, width=128, layers=2, window=48),
    denoiser_update=replace(_FEW_UPDATES, steps_first_epoch=200, steps_per_epoch=200, batch_size=16, lr=2e-3),
    upsampler=replace(
        _QUICK.upsampler,
        inner_model=replace(_SMALL_UPSAMPLER, channels=(24, 24, 32)),
        sigma_data=0.35,
    ),
    upsampler_update=replace(_FEW_UPDATES, steps_first_epoch=30, steps_per_epoch=30, batch_size=4, lr=1e-3),
    world_model=config.WorldModelConfig(config.SamplerConfig(num_steps=1), horizon=20),
    evaluation=config.EvaluationConfig(every=15),
)

PRESETS: dict[str, config.RunConfig] = {
    "recording": _RECORDING,  # for a GPU with 8 to 12 GB
    "recording-quick": _QUICK,  # for a CPU
    "doom": _DOOM,  # the rooms of --env doom, on a CPU
}
