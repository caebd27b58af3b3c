"""Access to the golden vectors: inputs and outputs of the published implementation (CPU, float32)."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from worlds import world

from diamond_fast.config import ActorCriticConfig, DenoiserConfig, InnerModelConfig, RewardEndConfig
from diamond_fast.networks.actor_critic.model import ActorCritic
from diamond_fast.networks.reward_end.model import RewardEndModel
from diamond_fast.world_model import Denoiser

FOLDER = Path(__file__).parent / "golden"
META = json.loads((FOLDER / "meta.json").read_text())
SHAPES = json.loads((FOLDER / "official_state_dict_shapes.json").read_text())


def load(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{name}.npz") as f:
        return dict(f)


def tensors(name: str) -> dict[str, torch.Tensor]:
    """The arrays of a file as tensors, frames (``*_u8``, channels first) as floats in [-1, 1]."""
    out = {}
    for key, value in load(name).items():
        t = torch.from_numpy(np.asarray(value))
        if key.endswith("_u8"):
            key, t = key.removesuffix("_u8"), t.float() / 255 * 2 - 1
        out[key] = t
    if "mask" in out:  # padding frames are 0 once normalised
        out["obs"] = out["obs"] * out["mask"][:, :, None, None, None]
    return out


def golden_weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A weight as the golden vectors define it: a function of the parameter's name."""
    r = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if name.endswith(("noise_emb.weight", "noise_cond_emb.weight")):
        return r
    if name.endswith("norm.weight"):
        return 1 + 0.1 * r
    if len(shape) >= 2:
        return r / np.sqrt(np.prod(shape[1:])).astype(np.float32)
    return 0.1 * r


def with_golden_weights(model: torch.nn.Module) -> torch.nn.Module:
    state = model.state_dict()
    model.load_state_dict({k: torch.from_numpy(golden_weight(k, tuple(v.shape))) for k, v in state.items()})
    return model


def _config(cls, meta: dict, *left_out: str):
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in meta.items() if k not in left_out})


def denoiser(size: str) -> Denoiser:
    meta = META[f"inner_model_{size}"]
    cfg = DenoiserConfig(inner_model=_config(InnerModelConfig, meta, "num_actions"))
    return with_golden_weights(Denoiser(cfg, world(meta["num_actions"])))


def reward_end_model() -> RewardEndModel:
    meta = META["rew_end_small"]
    cfg = _config(RewardEndConfig, meta, "num_actions", "img_size")
    return with_golden_weights(RewardEndModel(cfg, world(meta["num_actions"], meta["img_size"])))


def actor_critic() -> ActorCritic:
    meta = META["actor_critic_small"]
    cfg = _config(ActorCriticConfig, meta, "num_actions", "img_size")
    return with_golden_weights(ActorCritic(cfg, world(meta["num_actions"], meta["img_size"])))


def replay_draws(arrays: list[torch.Tensor]):
    """A stand-in for torch.randn that hands out recorded draws and checks the shapes asked for."""
    queue = list(arrays)

    def randn(*shape, device=None):
        draw = queue.pop(0)
        assert tuple(draw.shape) == tuple(shape)
        return draw

    randn.left = queue
    return randn
