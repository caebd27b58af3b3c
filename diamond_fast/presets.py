"""Named sets of defaults. Each is a full :class:`config.RunConfig`; explicit flags override it."""

from dataclasses import replace

from diamond_fast import architecture_presets, config, recording_presets
from diamond_fast.domains import DOMAINS
from diamond_fast.networks.recurrent.config import MemoryConfig

_PAPER = config.RunConfig()

_SMALL_NETWORKS = replace(
    _PAPER,
    denoiser=config.DenoiserConfig(
        config.InnerModelConfig(cond_channels=64, depths=(1, 1, 1), channels=(16, 32, 32), attn_depths=(0, 0, 0))
    ),
    reward_end=config.RewardEndConfig(
        lstm_dim=64, cond_channels=32, depths=(1, 1, 1, 1), channels=(16, 16, 32, 32), attn_depths=(0, 0, 0, 0)
    ),
    actor_critic=config.ActorCriticConfig(lstm_dim=64, channels=(16, 16, 32, 32), down=(1, 1, 1, 1)),
    memory_model=MemoryConfig(channels=(16, 16, 32, 32), down=(1, 1, 1, 1), action_width=16, width=64, layers=2),
)

_FEW_UPDATES = config.UpdateConfig(steps_first_epoch=45, steps_per_epoch=20, batch_size=8, lr=1e-3, lr_warmup_steps=10)

_QUICK = replace(
    _SMALL_NETWORKS,
    num_final_epochs=1,
    denoiser_update=_FEW_UPDATES,
    student_update=replace(_FEW_UPDATES, steps_first_epoch=20, steps_per_epoch=5),
    reward_end_update=replace(_FEW_UPDATES, steps_first_epoch=25, steps_per_epoch=15, max_grad_norm=100.0),
    actor_critic_update=replace(
        _FEW_UPDATES, steps_first_epoch=6, steps_per_epoch=3, weight_decay=0.0, max_grad_norm=100.0
    ),
    world_model=config.WorldModelConfig(num_batches_to_preload=4),
    collection=config.CollectionConfig(
        num_steps_total=1_600, first_epoch_min=1_000, first_epoch_max=1_200, steps_per_epoch=200
    ),
    evaluation=config.EvaluationConfig(every=2, num_episodes=1, num_final_episodes=3),
)

_DEMO = replace(
    _PAPER,
    game="Boxing",
    frame_size=48,
    world_model_only=True,
    num_autoregressive_steps=0,
    num_final_epochs=1_000,
    # Noise on past frames, as in the published world of Counter-Strike: the network learns not to trust them to the
    # last detail, so that what it got wrong itself is mended instead of copied. Without, a boxer or the colours went.
    denoiser=config.DenoiserConfig(
        config.InnerModelConfig(
            cond_channels=128,
            depths=(1, 1, 1, 1),
            channels=(64, 64, 64, 64),
            attn_depths=(0, 0, 0, 0),
            context_noise=True,
        ),
        noise_context=True,
    ),
    denoiser_update=config.UpdateConfig(steps_first_epoch=300, steps_per_epoch=300, batch_size=8, lr=3e-4),
    world_model=config.WorldModelConfig(config.SamplerConfig(num_steps=3, sigma_max=3.0, s_cond=0.02), horizon=100),
    # Of the policy that comes with it, which was cloned from a player.
    actor_critic=config.ActorCriticConfig(lstm_dim=128, channels=(16, 32, 32, 32), down=(1, 1, 1, 1)),
    actor_critic_update=config.UpdateConfig(
        steps_first_epoch=100,
        steps_per_epoch=100,
        weight_decay=0.0,
        max_grad_norm=100.0,
        lr=5e-4,
        lstm_input_lr_scale=0.1,
    ),
    evaluation=config.EvaluationConfig(every=10),
)

_SMALL = replace(
    _PAPER,
    denoiser=config.DenoiserConfig(
        config.InnerModelConfig(
            cond_channels=128, depths=(1, 1, 1, 1), channels=(32, 64, 64, 64), attn_depths=(0, 0, 0, 0)
        )
    ),
    reward_end=replace(_SMALL_NETWORKS.reward_end, lstm_dim=128),
    actor_critic=replace(_SMALL_NETWORKS.actor_critic, lstm_dim=128),
    memory_model=replace(_SMALL_NETWORKS.memory_model, width=128),
    denoiser_update=replace(_PAPER.denoiser_update, lr=3e-4),
)

PRESETS: dict[str, config.RunConfig] = {
    "atari100k": _PAPER,  # the paper's: Atari with 100 000 steps of real experience
    "small": _SMALL,  # the paper's with smaller networks
    **{  # another network of the denoiser
        name: replace(_SMALL, network=network, denoiser=config.DenoiserConfig(inner_model))
        for name, (network, inner_model) in architecture_presets.SMALL_NETWORKS.items()
    },
    "quick": _QUICK,  # the whole pipeline in minutes on a CPU; far too short to learn
    "demo": _DEMO,  # the world model that comes with the package, from a recording: docs/demo.md
    **architecture_presets.PRESETS,  # the paper's two architectures at its sizes, and what they came from
    **recording_presets.PRESETS,  # worlds in two resolutions, from recordings alone
    **{name: preset for domain in DOMAINS.values() for name, preset in domain.presets.items()},
}


def known_presets() -> dict[str, config.RunConfig]:
    """:data:`PRESETS`, and those of worlds that were registered since it was made."""
    of_worlds = {name: preset for domain in DOMAINS.values() for name, preset in domain.presets.items()}
    return {**PRESETS, **of_worlds, **PRESETS}
