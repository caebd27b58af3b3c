"""The diffusion world model: a denoiser of any formulation and network, its training loss, and how frames are drawn."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from diamond_fast.arguments import check_actions, check_mask, check_tensor
from diamond_fast.config import RunConfig
from diamond_fast.formulations.config import DiffusionConfig, LevelsConfig, StepsConfig
from diamond_fast.formulations.edm import context_condition
from diamond_fast.formulations.protocol import Formulation, Randn, Step
from diamond_fast.networks.actor_critic.model import ActorCritic
from diamond_fast.networks.masking import masked_mean
from diamond_fast.networks.recurrent.model import MemoryModel
from diamond_fast.networks.reward_end.model import RewardEndModel
from diamond_fast.registry import load
from diamond_fast.spec import Action, Discrete, Frame, Spec, as_spec, upsampler_spec


class Denoiser(nn.Module):
    """A network that predicts the next frame from its noisy version, past frames and past actions.

    Args:
        cfg: formulation and network.
        num_actions: the world, whose frames may have any height and width here; a number stands for as many discrete
            actions, frames and context as ``cfg`` has them.
    """

    def __init__(self, cfg: DiffusionConfig, num_actions: Spec | int):
        super().__init__()
        inner = cfg.inner_model
        spec = as_spec(num_actions, channels=inner.img_channels, context=inner.num_steps_conditioning)
        self.cfg = cfg
        self.spec = spec
        self.formulation: Formulation = load(cfg.formulation)(cfg)
        self.inner_model: nn.Module = load(cfg.inner_model.model)(cfg.inner_model, spec)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def predict(
        self, noisy: Tensor, level: Tensor, context: Tensor, act: Tensor, context_level: Tensor | None = None
    ) -> Tensor:
        """The network's output [N,C,H,W] for noisy frames and context as they are, at noise levels [N] or [1].

        ``act``: of the context or, if there is a memory, what that says. ``context_level``: standard deviation
        [N] or [1] of the noise in the context; None: without.
        """
        x, context = self.formulation.prepare(noisy, context, level)
        told = () if context_level is None else (context_condition(context_level),)
        return self.inner_model(x, self.formulation.condition(level), context, act, *told)

    @torch.no_grad()
    def denoise(
        self,
        noisy_next_obs: Tensor,
        sigma: Tensor,
        obs: Tensor,
        act: Tensor,
        sigma_cond: Tensor | None = None,
        memory: Tensor | None = None,
    ) -> Tensor:
        """The estimate of the clean next frame (equation 4), on the 256 levels of a stored frame.

        Args:
            noisy_next_obs: [N,C,H,W] float.
            sigma: [N] (or a single value) its noise level: in EDM, the standard deviation of its noise.
            obs: [N,T*C,H,W] the T context frames in [-1, 1], oldest first.
            act: [N,T,...] the actions taken at them.
            sigma_cond: [N] (or a single value) standard deviation of the noise in ``obs``; None: without.
            memory: [N,M] what a memory says of everything before, for a denoiser that is told it; else None.

        Returns:
            [N,C,H,W] in [-1, 1].

        Raises:
            TypeError, ValueError: an argument is not of that kind, shape or range; the message names it.
        """
        self._check_frames(noisy_next_obs, sigma, obs, act)
        told = told_of_past(self.spec, act, memory, (len(act),), next(self.parameters()))
        output = self.predict(noisy_next_obs, sigma, obs, told, sigma_cond)
        return self.formulation.estimate(noisy_next_obs, output, sigma)

    def loss(
        self,
        obs: Tensor,
        act: Tensor,
        mask: Tensor,
        levels: LevelsConfig,
        randn: Randn = torch.randn,
        guide: Tensor | None = None,
        memory: Tensor | None = None,
    ) -> Tensor:
        """The training loss: squared error on the network's target, averaged over autoregressive steps.

        Each step predicts one frame from T context frames; later steps see the model's own output as context.

        Args:
            obs: [N,L,C,H,W] in [-1, 1], L > T; the L - T last frames are predicted one after the other.
            act: [N,L,...].
            mask: [N,L] bool, False where a frame is padding; such targets do not count.
            levels: the noise levels trained on.
            randn: source of standard normal numbers. Drawn per step, in the formulation's order (``draw``), and before
                that for the context if noise is added to it (``noise_context``), whose next step begins without.
            guide: [N,L,C,H,W] pictures of the frames; the one of the frame to predict is the last of its context.
            memory: [N,L,M] what a memory says behind each frame and action, for a denoiser that is told it; else None.
                It is that of the frames as they are, not of the model's own.

        Returns:
            scalar.

        Raises:
            TypeError, ValueError: an argument is not of that kind, shape or range; the message names it.
        """
        t = self._check_sequence(obs, act, mask, guide)
        told_of_past(self.spec, act, memory, tuple(act.shape[:2]), next(self.parameters()))
        frames, losses = list(obs.unbind(1)), []
        for i in range(obs.size(1) - t):
            guides = () if guide is None else (guide[:, i + t],)
            context, clean = torch.cat((*frames[i : i + t], *guides), dim=1), frames[i + t]
            context, context_level = self._noised(context, levels, randn)
            level, noise = self.formulation.draw(clean, levels, randn)
            noisy = self.formulation.corrupt(clean, level, noise)
            told = act[:, i : i + t] if memory is None else memory[:, i + t - 1]
            output = self.predict(noisy, level, context, told, context_level)
            loss, frames[i + t] = self.frame_loss(output, clean, noisy, level, noise, mask[:, i + t])
            losses.append(loss)
        return torch.stack(losses).mean()

    def _noised(self, context: Tensor, levels: LevelsConfig, randn: Randn) -> tuple[Tensor, Tensor | None]:
        """The context as it is trained on, and the noise level [N] in it; None: as it is."""
        if not self.cfg.noise_context:
            return context, None
        level, noise = self.formulation.draw(context, levels, randn)
        return self.formulation.corrupt(context, level, noise), level

    def learning(self) -> AbstractContextManager[None]:
        """Around calls of ``predict`` whose gradients add up, in a loss that is not ``loss``: what trains fast prepares
        itself there."""
        return nullcontext()

    def frame_loss(
        self, output: Tensor, clean: Tensor, noisy: Tensor, level: Tensor, noise: Any, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The loss (scalar) of the network's output for one frame a sample, and the estimate of that frame."""
        target = self.formulation.target(clean, noisy, level, noise)
        loss = masked_mean((output.float() - target).square().mean(dim=(1, 2, 3)), mask)
        with torch.no_grad():
            return loss, self.formulation.estimate(noisy, output, level)

    def _check_frames(self, noisy_next_obs: Tensor, sigma: Tensor, obs: Tensor, act: Tensor) -> None:
        """Checks the arguments of ``denoise``."""
        c, t, weight = self.spec.frame.channels, self.spec.context, next(self.parameters())
        check_tensor("noisy_next_obs", noisy_next_obs, (None, c, None, None), weight)
        n, _, h, w = noisy_next_obs.shape
        if not isinstance(sigma, Tensor) or sigma.numel() != 1:
            check_tensor("sigma", sigma, (n,), weight)
        check_tensor("obs", obs, (n, t * c, h, w), weight)
        check_actions("act", act, (n, t), self.device, self.spec.action)

    def _check_sequence(self, obs: Tensor, act: Tensor, mask: Tensor, guide: Tensor | None) -> int:
        """Checks the arguments of ``loss``, and returns how many frames before the predicted one it depends on."""
        t = self.spec.context
        if guide is not None:
            t -= 1
            check_tensor("guide", guide, tuple(obs.shape), next(self.parameters()))
        check_tensor("obs", obs, (None, None, self.spec.frame.channels, None, None), next(self.parameters()))
        if obs.size(1) <= t:
            raise ValueError(f"obs: expected more than {t} frames, got {obs.size(1)}")
        check_actions("act", act, tuple(obs.shape[:2]), self.device, self.spec.action)
        check_mask("mask", mask, tuple(obs.shape[:2]), self.device)
        return t


def told_of_past(spec: Spec, act: Tensor, memory: Tensor | None, shape: tuple[int, ...], weight: Tensor) -> Tensor:
    """What a denoiser's network is told of the past beside its frames: the memory [*shape,M] if it knows one, else act.

    Args:
        weight: one of the network's.

    Raises:
        TypeError, ValueError: there is a memory and should be none, or the other way round, or it is of another shape.
    """
    if not spec.memory:
        if memory is not None:
            raise ValueError("memory: this denoiser knows none, but is told the actions")
        return act
    if memory is None:
        raise ValueError(f"memory: this denoiser is told what a memory says, {[*shape, spec.memory]}; got None")
    check_tensor("memory", memory, (*shape, spec.memory), weight)
    return memory


def make_upsampler(cfg: DiffusionConfig, small: Frame, factor: int) -> Denoiser:
    """The second stage of a world in two resolutions (``upsampling.py``): a denoiser that enlarges small frames.

    ``num_steps_conditioning`` of its network counts full frames.
    """
    return Denoiser(cfg, upsampler_spec(small, factor, cfg.inner_model.num_steps_conditioning))


class DrawingNetwork(Protocol):
    """A denoiser's network as frames are drawn with it."""

    def conditioning(self, levels: Tensor, act: Tensor, *context_level: Tensor) -> list[Any]:
        """Everything that depends on noise levels and actions, once for a frame.

        Args:
            levels: what it is told of S noise levels, for all samples [S,1] or one a sample [S,N].
            act: [N,T,...].
            context_level: what it is told of the noise in the context [1], if there is any.

        Returns:
            one entry a level.
        """
        ...

    def refresh(self) -> None:
        """Takes the weights as they are now, in place."""
        ...

    def evaluate(self, network_input: Any, conditioning: Any) -> Tensor:
        """The network's output [N,C,H,W] for what the formulation prepared."""
        ...


class PlainNetwork:
    """A network as it is: network(x [N,C,H,W], level [N], context [N,T*C,H,W], act [N,T,...]) -> [N,C,H,W]."""

    def __init__(self, network: Callable[..., Tensor]):
        self._network = network

    def refresh(self) -> None:
        """Nothing to do: it runs with its own weights."""

    def conditioning(self, levels: Tensor, act: Tensor, *context_level: Tensor) -> list[Any]:
        return [(level.expand(len(act)), act, *context_level) for level in levels]

    def evaluate(self, network_input: tuple[Tensor, Tensor], conditioning: Any) -> Tensor:
        (x, context), (level, *rest) = network_input, conditioning
        return self._network(x, level, context, *rest)


class Sampler:
    """Draws next frames: the one loop behind training, evaluation and play, whatever formulation and network.

    It asks the device nothing: noise levels are plain numbers, noise comes in as tensors.

    Args:
        formulation: whose steps are taken.
        network: the denoiser's.
        cfg: how many steps, and how.
        device: where frames and network are.
    """

    def __init__(self, formulation: Formulation, network: DrawingNetwork, cfg: StepsConfig, device: torch.device):
        self.formulation = formulation
        self.network = network
        self.steps = formulation.plan(cfg)
        # filled in there, one by one: what a graph captures copies nothing from the host
        levels = torch.stack([torch.full((), step.level, dtype=torch.float32, device=device) for step in self.steps])
        self._levels = formulation.condition(levels)[:, None]
        self._perturb_context: Callable[..., Tensor] | None = None
        self._context_level: Tensor | None = None  # what the network is told
        if cfg.s_cond > 0:
            self._perturb_context = cast(Any, formulation).perturb_context
            self._context_level = context_condition(torch.full((1,), cfg.s_cond, device=device))

    @property
    def num_draws(self) -> int:
        """Tensors of noise a frame takes: the start, and what the steps put back."""
        return 1 + sum(step.num_draws for step in self.steps)

    @torch.no_grad()
    def sample(self, context: Tensor, act: Tensor, noise: Iterable[Tensor]) -> list[Tensor]:
        """context [N,T*C,H,W], act [N,T,...], noise num_draws of [N,C,H,W] -> trajectory, start first, frame last."""
        formulation, draws = self.formulation, iter(noise)
        told = () if self._context_level is None else (self._context_level,)
        conditioning = self.network.conditioning(self._levels, act, *told)
        x = next(draws)
        trajectory, carry, network_input = [x], None, None
        for step, cond in zip(self.steps, conditioning, strict=True):
            perturbed, noised = formulation.perturb(x, step, draws), context
            if self._perturb_context is not None:
                noised = self._perturb_context(context, step, draws)
            if network_input is None or perturbed is not x or noised is not context:
                context = noised
                network_input = formulation.prepare(perturbed, context, step.level)
            output = self.network.evaluate(network_input, cond)
            x, carry, network_input = formulation.step(perturbed, output, step, carry, network_input, draws)
            if step.ends:
                trajectory.append(x)
        return trajectory

    @torch.no_grad()
    def denoise(
        self, noisy: Tensor, level: Tensor, context: Tensor, act: Tensor, context_level: Tensor | None = None
    ) -> Tensor:
        """noisy [N,C,H,W] at noise levels [N] or [1] -> the estimate of the clean frame.

        ``context_level``: standard deviation [N] or [1] of the noise in the context; None: without.
        """
        told = () if context_level is None else (context_condition(context_level),)
        conditioning = self.network.conditioning(self.formulation.condition(level)[None], act, *told)[0]
        output = self.network.evaluate(self.formulation.prepare(noisy, context, level), conditioning)
        return self.formulation.estimate(noisy, output, level)


def trajectory_levels(steps: Sequence[Step]) -> list[float]:
    """Noise levels of a trajectory's frames, start first; the last one is clean."""
    begins = [True, *(step.ends for step in steps[:-1])]
    return [step.level for step, first in zip(steps, begins, strict=True) if first] + [0.0]


class DiffusionSampler:
    """Draws next frames from a denoiser as it is."""

    def __init__(self, denoiser: Denoiser, cfg: StepsConfig):
        self.denoiser = denoiser
        self.cfg = cfg

    @property
    def sigmas(self) -> list[float]:
        """Noise levels of the trajectory's frames."""
        return trajectory_levels(self.denoiser.formulation.plan(self.cfg))

    @torch.no_grad()
    def sample(
        self, prev_obs: Tensor, prev_act: Tensor, randn: Randn = torch.randn, memory: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """
        Args:
            prev_obs: [N,T,C,H,W] context frames in [-1, 1], oldest first.
            prev_act: [N,T,...] the actions taken at them.
            randn: source of standard normal numbers: the start [N,C,H,W], then one such draw per churned step, and T
                for each step that adds noise to the context.
            memory: [N,M] what a memory says of everything so far, for a denoiser that is told it; else None.

        Returns:
            the next frame [N,C,H,W] in [-1, 1], and the trajectory towards it: num_steps + 1 frames, start first.

        Raises:
            TypeError, ValueError: an argument is not of that kind, shape or range; the message names it.
        """
        denoiser, spec = self.denoiser, self.denoiser.spec
        shape = (None, spec.context, spec.frame.channels, None, None)
        check_tensor("prev_obs", prev_obs, shape, next(denoiser.parameters()))
        check_actions("prev_act", prev_act, tuple(prev_obs.shape[:2]), denoiser.device, spec.action)
        n, _, c, h, w = prev_obs.shape
        sampler = Sampler(denoiser.formulation, PlainNetwork(denoiser.inner_model), self.cfg, prev_obs.device)
        noise = (randn(n, c, h, w, device=prev_obs.device) for _ in range(sampler.num_draws))
        told = told_of_past(spec, prev_act, memory, (n,), next(denoiser.parameters()))
        trajectory = sampler.sample(prev_obs.flatten(1, 2), told, noise)
        return trajectory[-1], trajectory


class Agent(nn.Module):
    """Denoiser, reward/end model and actor-critic, built from a run's settings, under the names published files use.

    If ``cfg.world_model_only``, reward/end model and actor-critic are None. The upsampler is None, unless
    ``cfg.upsampling`` is above 1; the student of the denoiser, unless ``cfg.world_model.student``; the memory, unless
    ``cfg.memory`` says its kind. Its heads are the reward/end model then, or it has none if the world model is alone.

    Args:
        cfg: of the run.
        num_actions: the world's actions; a number stands for as many discrete ones.

    Raises:
        ValueError: a network's settings do not fit together; the message names the setting.
    """

    def __init__(self, cfg: RunConfig, num_actions: Action | int):
        super().__init__()
        spec = self.spec = cfg.spec(num_actions if isinstance(num_actions, Action) else Discrete(num_actions))
        self.denoiser = Denoiser(cfg.denoiser, spec)
        self.student = Denoiser(cfg.denoiser, spec) if cfg.world_model.student else None
        two_stages, alone = cfg.upsampling > 1, cfg.world_model_only
        self.upsampler = make_upsampler(cfg.upsampler, spec.frame, cfg.upsampling) if two_stages else None
        head = None if alone else cfg.reward_end.reward_head
        self.memory = None if cfg.memory == "none" else MemoryModel(cfg.memory_model, cfg.memory, spec, head)
        self.rew_end_model = None if alone or self.memory is not None else RewardEndModel(cfg.reward_end, spec)
        self.actor_critic = None if alone else ActorCritic(cfg.actor_critic, spec)

    @property
    def reward_end(self) -> RewardEndModel | MemoryModel | None:
        """What predicts rewards and ends, if anything does."""
        if self.memory is not None and self.memory.head is not None:
            return self.memory
        return self.rew_end_model
