"""DIAMOND, reinforcement learning inside a diffusion world model: the same algorithm, built for speed.

The names below are the public API. Each is imported when it is first used, so that ``import diamond_fast`` and every
``--help`` are instant.
"""

from importlib import import_module

__version__ = "0.2.0"

_HOME = {
    "ActorCritic": "diamond_fast.networks.actor_critic.model",
    "Agent": "diamond_fast.world_model",
    "Denoiser": "diamond_fast.world_model",
    "DiffusionSampler": "diamond_fast.world_model",
    "FastDenoiser": "diamond_fast.engine.fast_denoiser",
    "FastTwoStage": "diamond_fast.engine.fast_two_stage",
    "PRESETS": "diamond_fast.presets",
    "Replay": "diamond_fast.replay",
    "RewardEndModel": "diamond_fast.networks.reward_end.model",
    "RunConfig": "diamond_fast.config",
    "RunFolder": "diamond_fast.runs.folder",
    "Techniques": "diamond_fast.engine.fused_torch",
    "Trainer": "diamond_fast.training.trainer",
    "TwoStageSampler": "diamond_fast.upsampling",
    "WorldModelEnv": "diamond_fast.envs.world_model",
    "export_official": "diamond_fast.official",
    "load_official": "diamond_fast.official",
    "make_real_env": "diamond_fast.domains.environments",
}

__all__ = list(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'diamond_fast' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
