"""FastDenoiser: the denoiser and its sampler with the published signatures, on the fastest path the machine has."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diamond_fast.config import InnerModelConfig, SamplerConfig
from diamond_fast.engine.denoiser_networks import AmxUNet, DenoiserNetwork, FusedUNet, WrappedNetwork
from diamond_fast.engine.edm_sampler import EDMSampler
from diamond_fast.engine.fused_torch import Techniques
from diamond_fast.engine.graphs import Recorded
from diamond_fast.engine.paths import fast_dtype, runs_on_amx
from diamond_fast.models.unet import InnerModel

DTYPES = (torch.float32, torch.bfloat16)


class FastDenoiser(nn.Module):
    """Stands in for a denoiser and for its sampler.

    On a GPU all kernels of a call are one CUDA graph for each shape; on a CPU with AMX a compiled program runs in
    bfloat16. The fast path works on copies of the weights: call :meth:`refresh` after they have changed.

    Args:
        denoiser: a ``Denoiser``, one of the published project, or the state dict of either.
        sampler: noise levels, order and churn; the paper's three Euler steps if None. Settings of the published
            project's sampler will do.
        sigma_data, sigma_offset_noise: of the preconditioning; the denoiser's own, or the paper's 0.5 and 0.3.
        dtype: of the network: bfloat16 or float32; if None, bfloat16 where tensor cores or AMX make it fast.
        techniques: what to use on a GPU.
        max_graphs: shapes whose graphs are kept.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.
    """

    def __init__(
        self,
        denoiser: nn.Module | Mapping[str, Tensor],
        sampler: Any = None,
        *,
        sigma_data: float | None = None,
        sigma_offset_noise: float | None = None,
        dtype: torch.dtype | None = None,
        techniques: Techniques | None = None,
        max_graphs: int = 8,
    ):
        super().__init__()
        self._configure(sampler, dtype, techniques, max_graphs)
        cfg = getattr(denoiser, "cfg", None)
        self.sigma_data = float(_first(sigma_data, getattr(cfg, "sigma_data", None), 0.5))
        self.sigma_offset_noise = float(_first(sigma_offset_noise, getattr(cfg, "sigma_offset_noise", None), 0.3))
        network = getattr(denoiser, "inner_model", None)
        self._foreign_weights: Callable[[], Mapping[str, Tensor]] | None = None
        if isinstance(network, InnerModel):
            self.inner_model = network
        else:
            self.inner_model = _rebuild(denoiser)
            self._foreign_weights = getattr(network, "state_dict", None)
        self._wrapped: Callable[..., Tensor] | None = None
        self._quantised = True

    def _configure(self, sampler: Any, dtype: torch.dtype | None, techniques: Techniques | None, max_graphs: int):
        if dtype is not None and dtype not in DTYPES:
            raise ValueError(f"dtype: expected torch.bfloat16, torch.float32 or None, got {dtype}")
        if max_graphs < 1:
            raise ValueError(f"max_graphs: expected at least 1, got {max_graphs}")
        self.sampler_config = _sampler_config(sampler)
        self.dtype = dtype
        self.techniques = techniques or Techniques()
        self.max_graphs = max_graphs
        self._fast: _Fast | None = None

    @classmethod
    def wrap(
        cls,
        network: Callable[..., Tensor],
        *,
        sigma_data: float,
        sigma_offset_noise: float = 0.0,
        sampler: Any = None,
        quantised: bool = False,
        max_graphs: int = 8,
    ) -> "FastDenoiser":
        """The same preconditioning, sampler and graph around any network of EDM form.

        Args:
            network: network(c_in * x [N,C,H,W], c_noise [N], context / sigma_data [N,T*C,H,W], act [N,T]) -> F
                [N,C,H,W], with c_noise = log(sqrt(sigma^2 + sigma_offset_noise^2)) / 4. To be captured in a graph it
                must not ask the device anything.
            sigma_data, sigma_offset_noise, sampler, max_graphs: as for the class.
            quantised: whether frames have 256 levels.

        Raises:
            TypeError, ValueError: an argument does not fit; the message names it.
        """
        if not callable(network):
            raise TypeError(f"network: expected a module or function, got {type(network).__name__}")
        self = cls.__new__(cls)
        nn.Module.__init__(self)
        self._configure(sampler, None, None, max_graphs)
        self.sigma_data, self.sigma_offset_noise = float(sigma_data), float(sigma_offset_noise)
        if isinstance(network, nn.Module):
            self.inner_model = network
            network = network.__call__  # a method: as a module it would be registered twice
        self._foreign_weights, self._wrapped, self._quantised = None, network, quantised
        return self

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> "FastDenoiser":
        """The denoiser of a published agent.

        Args:
            source: path of its ``.pt`` file, or an Atari game's name to fetch it from the Hub.
            options: as for the class.

        Raises:
            FileNotFoundError, ConnectionError, ValueError: as for ``load_official``.
        """
        from diamond_fast.models.official import load_official

        return cls(load_official(source).denoiser, **options)

    @property
    def device(self) -> torch.device | None:
        """Where the weights are; None where a wrapped function has none."""
        tensor = next(self.parameters(), None)
        return None if tensor is None else tensor.device

    @property
    def path(self) -> str:
        """Which path runs: ``amx``, ``fused`` or ``wrapped``, with its dtype."""
        network = self._ready(self.device or torch.device("cpu")).network
        name = {AmxUNet: "amx", FusedUNet: "fused", WrappedNetwork: "wrapped"}[type(network)]
        return name if name == "wrapped" else f"{name} {str(self._resolved_dtype()).removeprefix('torch.')}"

    def refresh(self) -> None:
        """Takes the weights as they are now, in place, without waiting for the device."""
        if self._foreign_weights is not None:
            self.inner_model.load_state_dict(self._foreign_weights())
        if self._fast is not None:
            self._fast.network.refresh()

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any):
        result = super().load_state_dict(state_dict, *args, **kwargs)
        if self._fast is not None:
            self._fast.network.refresh()
        return result

    @torch.no_grad()
    def denoise(self, noisy_next_obs: Tensor, sigma: Tensor | float, obs: Tensor, act: Tensor) -> Tensor:
        """The estimate of the clean next frame, as ``Denoiser.denoise`` gives it.

        Args:
            noisy_next_obs: [N,C,H,W] float32.
            sigma: noise level: a number, or a tensor [N] or of one number.
            obs: [N,T*C,H,W] the T context frames in [-1, 1], oldest first.
            act: [N,T] int64, the actions taken at them.

        Returns:
            [N,C,H,W] in [-1, 1].

        Raises:
            TypeError, ValueError: an argument does not fit; the message names it.
        """
        _check_images("noisy_next_obs", noisy_next_obs, 4)
        _check_images("obs", obs, 4)
        self._check(noisy_next_obs, obs, act, noisy_next_obs.size(1))
        n = len(noisy_next_obs)
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=noisy_next_obs.device).reshape(-1)
        if sigma.numel() not in (1, n):
            raise ValueError(f"sigma: expected one number, or one for each of {n} samples, got {sigma.numel()}")
        return self._ready(obs.device).denoise(noisy_next_obs, sigma.expand(n), obs, act)[0]

    @torch.no_grad()
    def sample(
        self, prev_obs: Tensor, prev_act: Tensor, randn: Callable[..., Tensor] = torch.randn
    ) -> tuple[Tensor, list[Tensor]]:
        """The next frame, as ``DiffusionSampler.sample`` draws it.

        Args:
            prev_obs: [N,T,C,H,W] float32 context frames in [-1, 1], oldest first.
            prev_act: [N,T] int64, the actions taken at them.
            randn: source of standard normal numbers: the start [N,C,H,W], then one such draw per churned step.

        Returns:
            the next frame [N,C,H,W] in [-1, 1], and the trajectory towards it: num_steps + 1 frames, start first.

        Raises:
            TypeError, ValueError: an argument does not fit; the message names it.
        """
        _check_images("prev_obs", prev_obs, 5)
        n, t, c, h, w = prev_obs.shape
        self._check(prev_obs, prev_obs.flatten(1, 2), prev_act, c)
        fast = self._ready(prev_obs.device)
        noise = torch.stack([randn(n, c, h, w, device=prev_obs.device) for _ in range(fast.sampler.num_draws)])
        trajectory = fast.sample(prev_obs.reshape(n, t * c, h, w), prev_act, noise)
        return trajectory[-1], trajectory

    def _check(self, frames: Tensor, context: Tensor, act: Tensor, channels: int) -> None:
        name, actions = ("prev_obs", "prev_act") if frames.dim() == 5 else ("obs", "act")
        if not isinstance(act, Tensor) or act.dtype != torch.int64:
            kind = act.dtype if isinstance(act, Tensor) else type(act).__name__
            raise TypeError(f"{actions}: expected an int64 tensor, got {kind}")
        if act.dim() != 2 or len(act) != len(frames):
            raise ValueError(f"{actions}: expected shape [{len(frames)}, T], got {list(act.shape)}")
        if len(context) != len(frames) or context.shape[-2:] != frames.shape[-2:]:
            raise ValueError(
                f"obs: expected frames like noisy_next_obs {list(frames.shape)}, got {list(context.shape)}"
            )
        device = self.device or frames.device
        for what, tensor in ((name, context), (actions, act)):
            if tensor.device != device:
                raise ValueError(f"{what}: is on {tensor.device}, but the denoiser is on {device}")
        if self._wrapped is None:
            expected, have = self.inner_model.conv_in.in_channels, context.size(1) + channels
            if have != expected:
                raise ValueError(
                    f"{name}: context and frame have {have} channels together, but the network takes {expected}"
                )
            steps = expected // channels - 1
            if act.size(1) != steps:
                raise ValueError(
                    f"{actions}: expected the {steps} actions taken at the context frames, got {act.size(1)}"
                )
            num_actions = self.inner_model.act_emb[0].num_embeddings
            # a GPU is not asked: that would stall it at every call
            if act.device.type == "cpu" and not bool(((act >= 0) & (act < num_actions)).all()):
                raise ValueError(f"{actions}: expected 0 to {num_actions - 1}, got {act.min()} to {act.max()}")

    def _resolved_dtype(self) -> torch.dtype:
        return self.dtype or fast_dtype(self.device)

    def _ready(self, device: torch.device) -> "_Fast":
        if self._fast is None or self._fast.device != device:
            self._fast = _Fast(self, device)
        return self._fast

    def _make_network(self) -> DenoiserNetwork:
        scales = (self.sigma_data, self.sigma_offset_noise)
        if self._wrapped is not None:
            return WrappedNetwork(self._wrapped, *scales)
        dtype = self._resolved_dtype()
        if runs_on_amx(self.device, dtype):
            return AmxUNet(self.inner_model, *scales)
        return FusedUNet(self.inner_model, *scales, dtype, self.techniques)


class _Fast:
    """What lives on one device: the fast network, its sampler, its graphs."""

    def __init__(self, owner: FastDenoiser, device: torch.device):
        self.device = device
        self.network = owner._make_network()
        self.sampler = EDMSampler(
            self.network,
            owner.sampler_config,
            owner.sigma_data,
            owner.sigma_offset_noise,
            device,
            owner._quantised,
            "auto" if owner.techniques.fused_edm else "torch",
        )
        record = owner.techniques.cuda_graphs
        denoise: Callable[..., list[Tensor]] = lambda *inputs: [self.sampler.denoise(*inputs)]  # noqa: E731
        self.sample = Recorded(self.sampler.sample, owner.max_graphs) if record else self.sampler.sample
        self.denoise = Recorded(denoise, owner.max_graphs) if record else denoise


def _first(*values: Any) -> Any:
    return next(v for v in values if v is not None)


def _check_images(name: str, x: Any, dims: int) -> None:
    shape = "[N,T,C,H,W]" if dims == 5 else "[N,C,H,W]"
    if not isinstance(x, Tensor) or x.dtype != torch.float32:
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name}: expected a float32 tensor {shape}, got {kind}")
    if x.dim() != dims or x.numel() == 0:
        raise ValueError(f"{name}: expected shape {shape} with no size of 0, got {list(x.shape)}")


def _sampler_config(sampler: Any) -> SamplerConfig:
    """Ours, or one made from the published project's settings."""
    if sampler is None:
        return SamplerConfig()
    if isinstance(sampler, SamplerConfig):
        return sampler
    names = ["sigma_min", "sigma_max", "rho", "order", "s_churn", "s_tmin", "s_tmax", "s_noise"]
    if not all(hasattr(sampler, name) for name in [*names, "num_steps_denoising"]):
        raise TypeError(f"sampler: expected a SamplerConfig or None, got {type(sampler).__name__}")
    return SamplerConfig(num_steps=sampler.num_steps_denoising, **{name: getattr(sampler, name) for name in names})


def _rebuild(denoiser: nn.Module | Mapping[str, Tensor]) -> InnerModel:
    """Our network with the weights of a denoiser that is not ours, whose names and shapes tell its settings."""
    if isinstance(denoiser, nn.Module):
        denoiser = denoiser.state_dict()
    if not isinstance(denoiser, Mapping):
        raise TypeError(f"denoiser: expected a Denoiser or its state dict, got {type(denoiser).__name__}")
    prefix = next((p for p in ("denoiser.inner_model.", "inner_model.", "") if f"{p}conv_in.weight" in denoiser), None)
    if prefix is None:
        raise ValueError("denoiser: these are not a denoiser's weights (no conv_in.weight); for others use wrap()")
    state = {k.removeprefix(prefix): v for k, v in denoiser.items() if k.startswith(prefix)}
    try:
        with torch.random.fork_rng(devices=[]):  # random weights are about to be overwritten: the caller's dice stay
            network = InnerModel(_read_config(state), state["act_emb.0.weight"].size(0))
        network.load_state_dict(state)
    except (KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()
        raise ValueError(f"denoiser: its weights are not those of this U-Net ({' '.join(reason[:2])})") from None
    return network.to(state["conv_in.weight"].device)


def _read_config(state: Mapping[str, Tensor]) -> InnerModelConfig:
    img_channels = state["conv_out.weight"].size(0)
    depths, channels, attention = [], [], []
    while f"unet.d_blocks.{len(depths)}.resblocks.0.conv2.weight" in state:
        level = f"unet.d_blocks.{len(depths)}.resblocks."
        blocks = {name.removeprefix(level).split(".")[0] for name in state if name.startswith(level)}
        channels.append(state[f"{level}0.conv2.weight"].size(0))
        attention.append(int(f"{level}0.attn.qkv_proj.weight" in state))
        depths.append(len(blocks))
    return InnerModelConfig(
        img_channels=img_channels,
        num_steps_conditioning=state["conv_in.weight"].size(1) // img_channels - 1,
        cond_channels=state["cond_proj.0.weight"].size(0),
        depths=tuple(depths),
        channels=tuple(channels),
        attn_depths=tuple(attention),
    )
