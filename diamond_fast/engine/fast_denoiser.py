"""FastDenoiser: the denoiser and its sampler with the published signatures, on the fastest path the machine has."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from diamond_fast.config import EngineChoice, Precision, WorldModelConfig
from diamond_fast.distillation import single_step
from diamond_fast.engine.choose import candidates, choose_path
from diamond_fast.engine.contest import Work, told_nothing
from diamond_fast.engine.denoiser_arguments import (
    require_told,
    sampler_config,
    to_actions,
    to_frames,
    to_levels,
)
from diamond_fast.engine.denoiser_networks import fast_sampler
from diamond_fast.engine.fused_torch import Techniques
from diamond_fast.engine.given_weights import Watch, as_own_network, bind, find_network, rebuild, weights_of
from diamond_fast.engine.graphs import Captured
from diamond_fast.engine.path import Path as EnginePath
from diamond_fast.engine.uncompiled import uncompiled
from diamond_fast.formulations.config import DenoiserConfig, SamplerConfig, StepsConfig
from diamond_fast.formulations.edm import EDM
from diamond_fast.networks.config import NetworkConfig
from diamond_fast.networks.exact import outside_autocast
from diamond_fast.official import find_official, read_weights
from diamond_fast.runs.agents import load_agent
from diamond_fast.spec import Spec
from diamond_fast.world_model import Denoiser, PlainNetwork, Sampler

PUBLISHED_S_COND = 0.005
"""Noise in the past frames, with which a denoiser draws that was trained on a noised past. Without any it errs."""
DTYPES = (torch.float32, torch.bfloat16)


def by_itself(method: Callable) -> Callable:
    """Keeps a method's surroundings out of it: copies of weights and graphs made in a call outlive them.

    ``torch.compile`` would trace how they are made, and tensors made in inference mode could not be written again.
    """

    @uncompiled
    @wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with torch.inference_mode(False), torch.no_grad():
            return method(self, *args, **kwargs)

    return call


class FastDenoiser(nn.Module):
    """Stands in for a denoiser and for its sampler.

    At its first call the engines that the device has are held against the readable networks and timed, unless that was
    done before on this machine (``engine/choose.py``); the fastest that agrees is taken for all further calls. On a GPU
    all kernels of a call are one CUDA graph for each shape. The fast path works on copies of the weights, which follow
    when the denoiser's change: see :meth:`refresh` for what goes unnoticed. ``torch.compile`` leaves its calls alone,
    so what calls it may be compiled.

    Args:
        denoiser: a ``Denoiser``, one of the published project, an agent with one, or the state dict of any of these;
            also as ``DistributedDataParallel`` or ``torch.compile`` wrap it. A module's weights are shared, those of a
            state dict copied.
        sampler: noise levels, order and churn; the paper's three Euler steps if None, with a little noise in the past
            for a denoiser that is told of it, or an upsampler's single step. Settings of the published project's
            sampler will do. Other formulations than EDM have settings of their own, and three steps if None.
        sigma_data, sigma_offset_noise: of EDM's preconditioning; the denoiser's own, or the published 0.5 and 0.3, 0.1
            if it is told of noise in its context.
        dtype: of the network: bfloat16 or float32; None: bfloat16 if tensor cores or AMX make it fast, else float32.
        techniques: what to use operation by operation; if given, nothing is measured.
        max_graphs: shapes whose graphs are kept.
        engine: "auto": measured at the first call; or the one to take: "readable", "torch", "fused", "amx", "program";
            or a path that was chosen already, with its dtype and techniques.

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
        engine: EngineChoice | EnginePath = "auto",
    ):
        super().__init__()
        self.sampler_config: StepsConfig
        self._configure(sampler, dtype, techniques, max_graphs, engine)
        given = [denoiser] if isinstance(denoiser, nn.Module) else []
        if isinstance(denoiser, nn.Module):
            self.inner_model = find_network(denoiser)
        elif isinstance(denoiser, Mapping):
            self.inner_model = rebuild(denoiser)
        else:
            raise TypeError(f"denoiser: expected a Denoiser or its state dict, got {type(denoiser).__name__}")
        self._given = given  # in a list: as an attribute it would be registered, and its weights there twice
        own = next((m for module in given for m in module.modules() if isinstance(m, Denoiser)), None)
        self._own = own is not None or isinstance(denoiser, Mapping)
        knowing: Any = own or as_own_network(self.inner_model, self._own)
        self._spec: Spec | None = knowing.spec
        settings = (getattr(m, "cfg", None) for module in given for m in module.modules())
        scales = next((cfg for cfg in settings if hasattr(cfg, "sigma_data")), None)
        if own and not isinstance(own.formulation, EDM):
            for name, value in (("sigma_data", sigma_data), ("sigma_offset_noise", sigma_offset_noise)):
                if value is not None:
                    raise ValueError(f"{name}: the denoiser is no EDM, whose preconditioning has one")
            self.formulation: Any = own.formulation
            if sampler is None:
                self.sampler_config = own.cfg.steps()
        else:
            data = _first(sigma_data, getattr(scales, "sigma_data", None), 0.5)
            told = getattr(knowing.inner_model if own else knowing, "noise_cond_emb", None) is not None
            offset = _first(sigma_offset_noise, getattr(scales, "sigma_offset_noise", None), 0.1 if told else 0.3)
            context = NetworkConfig(num_steps_conditioning=knowing.spec.context)
            self.formulation = EDM(DenoiserConfig(context, sigma_data=float(data), sigma_offset_noise=float(offset)))
            if sampler is None and knowing.spec.action.n == 0 and not knowing.spec.memory:
                self.sampler_config = WorldModelConfig().upsampling
            elif sampler is None and (own.cfg.noise_context if own else told):
                self.sampler_config = SamplerConfig(s_cond=PUBLISHED_S_COND)
            require_told(self.sampler_config, told)
        self._wrapped: Callable[..., Tensor] | None = None

    def _configure(
        self,
        sampler: Any,
        dtype: torch.dtype | None,
        techniques: Techniques | None,
        max_graphs: int,
        engine: EngineChoice | EnginePath = "auto",
    ):
        if dtype is not None and dtype not in DTYPES:
            raise ValueError(f"dtype: expected torch.bfloat16, torch.float32 or None, got {dtype}")
        if max_graphs < 1:
            raise ValueError(f"max_graphs: expected at least 1, got {max_graphs}")
        if not (isinstance(engine, EnginePath) or engine in get_args(EngineChoice)):
            raise ValueError(f"engine: expected one of {', '.join(get_args(EngineChoice))}, got {engine!r}")
        self.sampler_config = sampler_config(sampler)
        self.dtype = dtype
        self.techniques = techniques
        self.engine = engine
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
        require_told(self.sampler_config, False)
        scales = DenoiserConfig(sigma_data=float(sigma_data), sigma_offset_noise=float(sigma_offset_noise))
        self.formulation = EDM(scales, quantised)
        if isinstance(network, nn.Module):
            self.inner_model = network
            network = network.__call__  # a method: as a module it would be registered twice
        self._given, self._spec, self._wrapped = [], None, network
        return self

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> "FastDenoiser":
        """The denoiser of a published agent.

        Args:
            source: path of its ``.pt`` file, of a file with nothing but a denoiser's weights, or an Atari game's name
                to fetch it from the Hub.
            options: as for the class.

        Raises:
            FileNotFoundError: there is no such file, and ``source`` is not a game's name.
            ConnectionError: the Hub could not be reached.
            TypeError, ValueError: the file holds no denoiser's weights, or an option does not fit.
        """
        path = find_official(source)
        weights = read_weights(path)
        try:
            return cls(weights, **options)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @classmethod
    def from_run(cls, run: str | Path, student: bool = False, **options: Any) -> "FastDenoiser":
        """The denoiser of a run's newest checkpoint, with the run's sampler.

        Args:
            run: its folder.
            student: take the student instead, which draws in a single step.
            options: as for the class.

        Raises:
            TypeError, ValueError, OSError: there is no such run or student, or an option does not fit.
        """
        trained = load_agent(Path(run))
        sampler = trained.config.world_model.sampler
        if not student:
            return cls(trained.agent.denoiser, **{"sampler": sampler, **options})
        if trained.agent.student is None:
            raise ValueError(f"student: {trained.source} has none; --world-model.student trains one")
        return cls(trained.agent.student, **{"sampler": single_step(sampler), **options})

    @property
    def denoiser(self) -> nn.Module:
        """The denoiser that was given, as the published sampler holds it; this module if it was none with a device."""
        return next((given for given in self._given if hasattr(given, "device")), self)

    @property
    def sigma_data(self) -> float:
        """Of the preconditioning."""
        return self.formulation.cfg.sigma_data

    @property
    def sigma_offset_noise(self) -> float:
        """Of the preconditioning."""
        return self.formulation.cfg.sigma_offset_noise

    @property
    def device(self) -> torch.device | None:
        """Where the weights are; None if a wrapped function has none."""
        tensor = next(self.parameters(), None)
        return None if tensor is None else tensor.device

    @property
    @by_itself
    def path(self) -> str:
        """Which path runs: ``amx``, ``program``, ``fused``, ``torch`` or ``readable``, its variant if there are several
        and its dtype, such as ``fused convolutions bfloat16``; or ``wrapped``.

        Before the first call: the one for 32 frames of 64x64.
        """
        if self._wrapped is not None:
            return "wrapped"
        path = self._ready(self.device or torch.device("cpu")).path
        assert path is not None
        return path.short

    @by_itself
    def refresh(self) -> None:
        """Takes the weights as they are now, in place, without waiting for the device.

        Each call notices what optimisers, ``load_state_dict``, ``to`` and other writes do. Needed after what leaves no
        trace: writes through ``weight.data``, to inference tensors, or by a CUDA graph of the caller's own; and for
        graphs that hold a call of this one, which look at no weights when they are replayed.
        """
        if self._wrapped is not None:
            self._fast = None  # what a function closes over may have moved
        elif self._fast is not None:
            self._fast.refresh(self)

    def __getstate__(self) -> dict[str, Any]:
        """Copies of weights and graphs are made anew where they are needed."""
        return {**self.__dict__, "_fast": None}

    @by_itself
    def denoise(
        self,
        noisy_next_obs: Tensor,
        sigma: Tensor | float,
        obs: Tensor,
        act: Tensor,
        sigma_cond: Tensor | float | None = None,
        memory: Tensor | None = None,
    ) -> Tensor:
        """The estimate of the clean next frame, as ``Denoiser.denoise`` gives it.

        Args:
            noisy_next_obs: [N,C,H,W] of floats.
            sigma: noise level: a number, or a tensor [N] or of one number.
            obs: [N,T*C,H,W] of floats, the T context frames in [-1, 1], oldest first.
            act: [N,T] int64 or int32, or [N,T,n] buttons or numbers, the actions taken at them.
            sigma_cond: noise level of ``obs``, as ``sigma``; None: without.
            memory: [N,M] float32, what a memory says of everything before, for a denoiser that is told it; else None.

        Returns:
            [N,C,H,W] float32 in [-1, 1].

        Raises:
            TypeError, ValueError: an argument does not fit; the message names it.
        """
        noisy_next_obs, obs = to_frames("noisy_next_obs", noisy_next_obs, 4), to_frames("obs", obs, 4)
        act = to_actions(noisy_next_obs, obs, act, noisy_next_obs.size(1), self.device, self._spec, memory)
        n, device = len(noisy_next_obs), obs.device
        levels = [to_levels("sigma", sigma, n, device)]
        if sigma_cond is not None:
            levels.append(to_levels("sigma_cond", sigma_cond, n, device))
        if n == 0:
            return torch.empty_like(noisy_next_obs)
        with self._arithmetic(device):
            level, *of_context = levels
            return self._ready(device, noisy_next_obs, act).denoise(noisy_next_obs, level, obs, act, *of_context)

    @by_itself
    def sample(
        self,
        prev_obs: Tensor,
        prev_act: Tensor,
        randn: Callable[..., Tensor] = torch.randn,
        memory: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """The next frame, as ``DiffusionSampler.sample`` draws it.

        Args:
            prev_obs: [N,T,C,H,W] of floats, the context frames in [-1, 1], oldest first.
            prev_act: [N,T] int64 or int32, or [N,T,n] buttons or numbers, the actions taken at them.
            randn: source of standard normal numbers: the start [N,C,H,W], then one such draw per churned step, and T
                for each step that adds noise to the context.
            memory: [N,M] float32, what a memory says of everything so far, for a denoiser that is told it; else None.

        Returns:
            the next frame [N,C,H,W] float32 in [-1, 1], and the trajectory towards it: num_steps + 1 frames, start
            first.

        Raises:
            TypeError, ValueError: an argument does not fit; the message names it.
        """
        frames, context, prev_act = self.given_context(prev_obs, prev_act, memory)
        if len(frames) == 0:
            trajectory = [torch.empty_like(frames) for _ in range(self.sampler_config.num_steps + 1)]
            return trajectory[-1], trajectory
        with self._arithmetic(frames.device):
            fast = self._ready(frames.device, frames, prev_act)
            trajectory = fast.sample(context, prev_act, fast.noise(frames, randn))
        return trajectory[-1], trajectory

    def given_context(
        self, prev_obs: Tensor, prev_act: Tensor, memory: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``sample``'s arguments, checked: frames like those to be drawn [N,C,H,W], context [N,T*C,H,W], and actions or
        the memory."""
        prev_obs = to_frames("prev_obs", prev_obs, 5)
        n, t, c, h, w = prev_obs.shape
        context = prev_obs.reshape(n, t * c, h, w)
        return prev_obs[:, 0], context, to_actions(prev_obs, context, prev_act, c, self.device, self._spec, memory)

    def _arithmetic(self, device: torch.device) -> AbstractContextManager:
        """The network's own; a wrapped network is left to the autocast it is called in."""
        return outside_autocast(device) if self._wrapped is None else nullcontext()

    def _ready(self, device: torch.device, frames: Tensor | None = None, act: Tensor | None = None) -> "_Fast":
        """What runs there, with the weights as they are. Frames and actions of a call: what is measured at first."""
        fast = self._fast
        if fast is not None and fast.device == device:
            written, moved = fast.watch.look()
            copies = not isinstance(fast.network, PlainNetwork)
            if copies and (written or moved):
                fast.refresh(self)
            elif written:
                fast.network.refresh()  # what other weights have remembered
            if copies or not moved:  # without copies, a graph reads the network's weights where they were
                return fast
        self._fast = _Fast(self, device, frames, act)
        return self._fast


class _Fast:
    """What lives on one device: the fast network, its sampler, its graphs."""

    def __init__(self, owner: FastDenoiser, device: torch.device, frames: Tensor | None, act: Tensor | None):
        self.device = device
        self.watch = Watch(owner)
        self._source: nn.Module | None = None
        self.path: EnginePath | None = None
        formulation, steps, graphs = owner.formulation, owner.sampler_config, True
        if owner._wrapped is not None:
            self.sampler = Sampler(formulation, PlainNetwork(owner._wrapped), steps, device)
        else:
            self._source = network = as_own_network(owner.inner_model, owner._own)
            path = self.path = _choose(owner, network, device, frames, act)
            graphs = path.graphs
            self.sampler = fast_sampler(formulation, network, steps, device, path.dtype, path.techniques, path.engine)
        self.network = self.sampler.network
        self.graphs = graphs
        self.sample: Callable[..., list[Tensor]] = self.sampler.sample
        self.denoise: Callable[..., Tensor] = self.sampler.denoise
        if graphs:
            self.sample = Captured("FastDenoiser.sample", self.sampler.sample, max_graphs=owner.max_graphs)
            self.denoise = Captured("FastDenoiser.denoise", self.sampler.denoise, max_graphs=owner.max_graphs)

    def noise(self, frames: Tensor, randn: Callable[..., Tensor]) -> Tensor:
        """What is drawn for frames like these: [num_draws,N,C,H,W]."""
        return torch.stack([randn(*frames.shape, device=frames.device) for _ in range(self.sampler.num_draws)])

    def refresh(self, owner: FastDenoiser) -> None:
        """Takes the weights as they are now, in place."""
        self.watch = Watch(owner)
        if self._source is not owner.inner_model:
            assert self._source is not None
            bind(self._source, weights_of(owner.inner_model))
        self.network.refresh()


def _choose(
    owner: FastDenoiser, network: nn.Module, device: torch.device, frames: Tensor | None, act: Tensor | None
) -> EnginePath:
    """The path for this device. With techniques that are given it is the one expected to be fastest."""
    if isinstance(owner.engine, EnginePath):
        return owner.engine
    spec = owner._spec
    if frames is None or act is None:
        assert spec is not None
        frames = torch.empty(32, spec.frame.channels, 64, 64, device="meta")
        act = told_nothing(spec, 32)
    n, c, h, w = frames.shape
    past = act.size(1) if spec is None else spec.context
    work = Work(network, owner.formulation, owner.sampler_config, device, (n, c, h, w), past, act, alone=True)
    techniques = owner.techniques
    precision: Precision | torch.dtype = owner.dtype or "bf16"
    if techniques is None:
        return choose_path(device, precision, owner.engine, work=work)
    path = candidates(device, precision, techniques.cuda_graphs, work)[0]
    return replace(path, techniques=techniques)


def _first(*values: Any) -> Any:
    return next(v for v in values if v is not None)
