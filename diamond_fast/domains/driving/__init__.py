"""Driving, with steering and acceleration as actions (paper, appendix M): from recordings, of CarRacing or of cars."""

from dataclasses import replace

from diamond_fast import config
from diamond_fast.domains import recordings

_PRESET = config.RunConfig(
    domain="driving",
    world_model_only=True,
    num_final_epochs=20,
    denoiser=config.DenoiserConfig(
        config.InnerModelConfig(
            num_steps_conditioning=6,
            cond_channels=96,
            depths=(1, 1, 1, 1),
            channels=(16, 32, 64, 64),
            attn_depths=(0, 0, 0, 0),
        )
    ),
    denoiser_update=config.UpdateConfig(steps_first_epoch=200, steps_per_epoch=200, batch_size=8, lr=5e-4),
    world_model=config.WorldModelConfig(horizon=20),
    evaluation=config.EvaluationConfig(every=5),
)

DOMAIN = replace(recordings.DOMAIN, name="driving", presets={"driving": _PRESET})
