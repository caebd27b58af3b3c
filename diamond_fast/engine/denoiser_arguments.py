"""What FastDenoiser's arguments must be, and what it makes of those that are nearly so."""

from typing import Any

import torch
from torch import Tensor

from diamond_fast.formulations.config import SamplerConfig, StepsConfig
from diamond_fast.spec import Action, Spec
from diamond_fast.world_model import told_of_past


def to_frames(name: str, x: Any, dims: int) -> Tensor:
    """They in float32, in which the published sampler computes whatever it is given. Raises TypeError, ValueError."""
    shape = "[N,T,C,H,W]" if dims == 5 else "[N,C,H,W]"
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name}: expected a tensor of floats {shape}, got {kind}")
    if x.dim() != dims or 0 in x.shape[1:]:
        raise ValueError(f"{name}: expected shape {shape} with no size of 0 but N, got {list(x.shape)}")
    return x.float()


def to_levels(name: str, sigma: Any, n: int, device: torch.device) -> Tensor:
    """Noise levels [N], of a number or a tensor. Raises ValueError if there are not as many."""
    if isinstance(sigma, int | float):  # no copy from the host, which no graph can hold
        sigma = torch.full((1,), sigma, dtype=torch.float32, device=device)
    sigma = torch.as_tensor(sigma, dtype=torch.float32, device=device).reshape(-1)
    if sigma.numel() not in (1, n):
        raise ValueError(f"{name}: expected one number, or one for each of {n} samples, got {sigma.numel()}")
    return sigma.expand(n)


def to_actions(
    frames: Tensor,
    context: Tensor,
    act: Any,
    channels: int,
    device: torch.device | None,
    spec: Spec | None,
    memory: Any = None,
) -> Tensor:
    """The actions as the network takes them, or the memory [N,M] it is told in their place, if all fits together.

    Args:
        frames: [N,T,C,H,W] as ``sample`` takes them, or [N,C,H,W] as ``denoise`` does.
        context: [N,T*C,H,W]. act: [N,T,...]. channels: C.
        device: where the network is, if anywhere.
        spec: the world it knows; None if nothing is known of it.
        memory: what a memory says; None: there is none. Actions are not looked at then: it has seen them.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.
    """
    name, actions = ("prev_obs", "prev_act") if frames.dim() == 5 else ("obs", "act")
    remembers = spec is not None and spec.memory > 0
    if remembers or memory is not None:
        if spec is None:
            raise ValueError("memory: a wrapped network knows none")
        act = told_of_past(spec, act, memory, (len(frames),), context)
    else:
        act = _as_given(actions, act, spec.action if spec else None)
    if len(act) != len(frames):
        raise ValueError(f"{actions}: expected shape [{len(frames)}, T], got {list(act.shape)}")
    if len(context) != len(frames) or context.shape[-2:] != frames.shape[-2:]:
        raise ValueError(f"obs: expected frames like noisy_next_obs {list(frames.shape)}, got {list(context.shape)}")
    device = device or frames.device
    for what, tensor in ((name, context), (actions, act)):
        if tensor.device != device:
            raise ValueError(f"{what}: is on {tensor.device}, but the denoiser is on {device}")
    if spec is not None:
        expected, have = (spec.context + 1) * spec.frame.channels, context.size(1) + channels
        if have != expected:
            raise ValueError(
                f"{name}: context and frame have {have} channels together, but the network takes {expected}"
            )
        if remembers:
            return act
        if act.size(1) != spec.context:
            steps = f"the {spec.context} actions taken at the context frames"
            raise ValueError(f"{actions}: expected {steps}, got {act.size(1)}")
        # a GPU is not asked: that would stall it at every call
        if act.device.type == "cpu" and (wrong := spec.action.why_not(act.numpy())):
            raise ValueError(f"{actions}: {wrong}")
    return act


def _as_given(name: str, act: Any, action: Action | None) -> Tensor:
    """Actions [N,T,...] of the world's dtype; int32 will do for int64. A network of which nothing is known says what
    it takes itself."""
    what = act.dtype if isinstance(act, Tensor) else type(act).__name__
    shape: tuple[int, ...] = ()
    if action is None or action.shape == ():
        if not isinstance(act, Tensor) or act.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"{name}: expected an int64 or int32 tensor, got {what}")
        act = act.long()
    else:
        if not isinstance(act, Tensor) or act.dtype != getattr(torch, action.dtype.name):
            raise TypeError(f"{name}: expected a {action.dtype} tensor, got {what}")
        shape = action.shape
    if act.dim() != 2 + len(shape) or tuple(act.shape[2:]) != shape:
        raise ValueError(f"{name}: expected shape [N, T{''.join(f', {n}' for n in shape)}], got {list(act.shape)}")
    return act


def sampler_config(sampler: Any) -> StepsConfig:
    """Ours, or one made from the published project's settings."""
    if sampler is None:
        return SamplerConfig()
    if isinstance(sampler, StepsConfig):
        return sampler
    names = ["sigma_min", "sigma_max", "rho", "order", "s_churn", "s_tmin", "s_tmax", "s_noise"]
    if not all(hasattr(sampler, name) for name in [*names, "num_steps_denoising"]):
        raise TypeError(f"sampler: expected a SamplerConfig or None, got {type(sampler).__name__}")
    settings = {name: getattr(sampler, name) for name in names}
    return SamplerConfig(num_steps=sampler.num_steps_denoising, s_cond=getattr(sampler, "s_cond", 0.0), **settings)


def require_told(sampler: StepsConfig, told: bool) -> None:
    """Raises ValueError if noise is added to the context of a network that cannot be told of it."""
    if sampler.s_cond > 0 and not told:
        raise ValueError("sampler: adds noise to the context (s_cond), of which this network cannot be told")
