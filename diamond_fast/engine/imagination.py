"""The world model as a batched environment: denoiser, reward/end model, horizon and resets (paper, section 3.2)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from diamond_fast.engine.rollout import EnvStep
from diamond_fast.frames import ToFloat, to_float, to_uint8
from diamond_fast.networks.actor_critic.distributions import sample_categorical
from diamond_fast.networks.reward_end.coding import RewardCoding, Signs
from diamond_fast.replay import Segments

STARTS_AT_ONCE = 256
"""Starts whose frames go through an encoder together on a GPU: they fill it, without taking a gigabyte of it."""


class Sampler(Protocol):
    """Draws next frames, as ``DiffusionSampler`` and ``FastDenoiser`` do."""

    def sample(
        self,
        prev_obs: Tensor,
        prev_act: Tensor,
        randn: Callable[..., Tensor] = torch.randn,
        memory: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]]: ...


class RewardEnd(Protocol):
    """Predicts rewards and ends, as ``RewardEndModel``, ``FastRewardEnd`` and ``NoRewardEnd`` do."""

    coding: RewardCoding

    @property
    def device(self) -> torch.device: ...

    def predict(
        self, obs: Tensor, act: Tensor, next_obs: Tensor, hx_cx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]: ...


@runtime_checkable
class Remembering(Protocol):
    """Remembers an episode, and reads rewards and ends off that, as ``MemoryModel`` and ``FastMemory`` do."""

    coding: RewardCoding

    @property
    def device(self) -> torch.device: ...

    def __call__(self, obs: Tensor, act: Tensor, real: Tensor) -> tuple[Tensor, Tensor]: ...

    def step(self, obs: Tensor, act: Tensor, state: Tensor) -> tuple[Tensor, Tensor]: ...

    def classify(self, e: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass
class ImaginationState:
    """Everything an imagined step depends on, apart from the models. N episodes, contexts of T frames."""

    frames: Tensor  # uint8 [N,T,H,W,C], oldest first
    pixel_mask: Tensor  # bool [N,T], False where a frame is padding
    act: Tensor  # [N,T,...]; the last entry is overwritten by the action taken
    hx: Tensor  # [1,N,D] reward/end LSTM, or the world model's memory
    cx: Tensor  # [1,N,D]; [1,N,0] with a memory
    ep_len: Tensor  # [N] int64, imagined steps so far

    @property
    def obs(self) -> Tensor:
        """[N,T,C,H,W] in [-1, 1]; padding is exactly 0.0."""
        return to_float(self.frames, self.pixel_mask)

    @classmethod
    def load(cls, saved: Mapping[str, Tensor], device: torch.device) -> "ImaginationState":
        """From its attributes. Runs saved by earlier versions have ``obs`` in place of bytes and mask."""
        if "obs" in saved:
            saved = dict(saved)
            obs = saved.pop("obs")
            saved |= {"frames": to_uint8(obs), "pixel_mask": (obs != 0).flatten(2).any(2)}
        return cls(**{name: x.to(device) for name, x in saved.items()})


def as_stored(drawn: Tensor, to_float: ToFloat = to_float) -> tuple[Tensor, Tensor, Tensor]:
    """A drawn frame [N,C,H,W] as bytes [N,H,W,C], as what they stand for [N,C,H,W], and 0, or NaN where it was [N].

    A quantised sampler draws the 256 levels, but for the rounding of its last step. Bytes know no NaN: added to the
    reward, it still shows in the losses.
    """
    frames = to_uint8(drawn)
    return frames, to_float(frames), drawn.mean(dim=(1, 2, 3)) * 0


class NoRewardEnd:
    """Where there is no reward/end model: rewards are 0, and nothing but the horizon ends an episode."""

    coding: RewardCoding = Signs()

    def __init__(self, device: torch.device):
        self.device = device
        self._only_zero = torch.tensor([-torch.inf, 0, -torch.inf], device=device)
        self._never = torch.tensor([0, -torch.inf], device=device)

    def refresh(self) -> None:
        """There are no weights to take."""

    def predict(
        self, obs: Tensor, act: Tensor, next_obs: Tensor, hx_cx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """As ``RewardEndModel.predict``: logits that leave no choice [N,T,3] and [N,T,2], and a memory of width 0."""
        n, t = obs.shape[:2]
        memory = obs.new_zeros(1, n, 0)
        return self._only_zero.expand(n, t, 3), self._never.expand(n, t, 2), (memory, memory)


class Imagined(NamedTuple):
    """What the models make of an action."""

    frames: Tensor  # uint8 [N,H,W,C]
    obs: Tensor  # [N,C,H,W], what they stand for
    logits_rew: Tensor  # [N,K]
    logits_end: Tensor  # [N,2]
    hx: Tensor  # [1,N,D]
    cx: Tensor  # [1,N,D]
    nan: Tensor  # [N] 0, or NaN if a frame has some
    trajectory: list[Tensor]


def imagine(
    sampler: Sampler,
    reward_end: RewardEnd | Remembering,
    state: ImaginationState,
    obs: Tensor,
    acts: Tensor,
    randn: Callable[..., Tensor],
    to_float: ToFloat = to_float,
) -> Imagined:
    """The next frames, with rewards and ends.

    A memory reads the frame acted on and the action first: the sampler is told what it says then, and rewards and ends
    are read off it. The reward/end model looks at the next frame.

    Args:
        obs: [N,T,C,H,W] of the state. acts: [N,T,...] of the context, the action taken at last.
    """
    if isinstance(reward_end, Remembering):
        told, memory = reward_end.step(obs[:, -1], acts[:, -1], state.hx[0])
        drawn, trajectory = sampler.sample(obs, acts, randn, memory=told)
        frames, next_obs, nan = as_stored(drawn, to_float)
        return Imagined(frames, next_obs, *reward_end.classify(told), memory[None], state.cx, nan, trajectory)
    drawn, trajectory = sampler.sample(obs, acts, randn)
    frames, next_obs, nan = as_stored(drawn, to_float)
    logits_rew, logits_end, (hx, cx) = reward_end.predict(
        obs[:, -1:], acts[:, -1:], next_obs.unsqueeze(1), (state.hx, state.cx)
    )
    return Imagined(frames, next_obs, logits_rew.squeeze(1), logits_end.squeeze(1), hx, cx, nan, trajectory)


def burn_in(reward_end: RewardEnd | Remembering, obs: Tensor, act: Tensor, pixel_mask: Tensor) -> tuple[Tensor, Tensor]:
    """What is remembered behind contexts obs [N,T,C,H,W], act [N,T,...], pixel_mask [N,T]: hx and cx, [1,N,D].

    The last frame is not seen yet: the action taken at it is still to come. Without others nothing is remembered.
    """
    if obs.size(1) == 1:
        hx, cx = burn_in(reward_end, *(x.expand(-1, 2, *x.shape[2:]) for x in (obs, act, pixel_mask)))
        return torch.zeros_like(hx), torch.zeros_like(cx)
    if isinstance(reward_end, Remembering):
        _, memory = reward_end(obs[:, :-1], act[:, :-1], pixel_mask[:, :-1])
        return memory[None], memory.new_zeros(1, len(memory), 0)
    *_, hx_cx = reward_end.predict(obs[:, :-1], act[:, :-1], obs[:, 1:])
    return hx_cx


class InitialStates:
    """A pool of starts for imagined episodes: real contexts, with the reward/end LSTM or memory burned in on them.

    Contexts are drawn ``num_batches`` batches at a time and kept as bytes on the device. A state names them by where
    the drawing began; they are drawn again only if starts are taken before the next ``clear``.

    Args:
        contexts: real frames.
        reward_end: what remembers.
        num_batches: drawn at a time, at least.
        to_float: makes floats of frames.
        captured: makes the burn-in of a part of the pool one CUDA graph, as ``Captured`` does; None: it is none.
    """

    def __init__(
        self,
        contexts: Segments,
        reward_end: RewardEnd | Remembering,
        num_batches: int,
        to_float: ToFloat = to_float,
        captured: Callable[[str, Callable], Callable] | None = None,
    ):
        self.contexts = contexts
        self.reward_end = reward_end
        self.num_batches = num_batches
        self.to_float = to_float
        self._burnt_in = self.burnt_in if captured is None else captured("starts of imagined episodes", self.burnt_in)
        self.clear()

    def clear(self) -> None:
        """Forgets what is left, so that the next starts are drawn from the replay, and burned in, as they are now."""
        self.pool: tuple[Tensor, ...] = ()  # frames, pixel mask, actions, hx, cx, all [size, ...]
        self.used = 0
        self._drawn: dict[str, Any] | None = None

    def take(self, n: int) -> ImaginationState:
        """The next n starts. A remainder of fewer than n is dropped and the pool filled anew, as published."""
        if self.can_draw_again:
            self.draw_again()
        if not self.pool or self.used + n > len(self.pool[0]):
            self.refill(n)
        rows = slice(self.used, self.used + n)
        self.used += n
        frames, pixel_mask, act, hx, cx = (x[rows] for x in self.pool)
        ep_len = torch.zeros(n, dtype=torch.int64, device=act.device)
        return ImaginationState(frames, pixel_mask, act, hx[None], cx[None], ep_len)

    def state_dict(self) -> dict[str, Any]:
        drawn = None if self._drawn is None else {**self._drawn, "used": self.used}
        return {"contexts": self.contexts.state_dict(), "drawn": drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keeps the pool if the state names the starts that are in it."""
        drawn, kept = state["drawn"], self._drawn
        if drawn is None or kept is None or any(drawn[key] != kept[key] for key in ("from", "at_least")):
            self.clear()
        self.contexts.load_state_dict(state["contexts"])
        self._drawn = drawn
        if drawn is not None:
            self.used = drawn["used"]

    @property
    def can_draw_again(self) -> bool:
        """Whether a loaded state names starts that are not in the pool yet."""
        return self._drawn is not None and not self.pool

    def draw_again(self) -> None:
        """Fills the pool with the starts the loaded state names."""
        assert self._drawn is not None
        used = self.used
        self.contexts.load_state_dict(self._drawn["from"])
        self.refill(self._drawn["at_least"])
        self.used = used

    @torch.no_grad()
    def refill(self, at_least: int) -> None:
        """Draws a new pool, of at least so many starts."""
        self._drawn = {"from": self.contexts.state_dict(), "at_least": at_least}
        batches: list[tuple[Tensor, ...]] = []
        size = 0
        while len(batches) < self.num_batches or size < at_least:
            batch = self.contexts.next().to(self.reward_end.device)
            batches.append((batch.frames, batch.pixel_mask, batch.act))
            size += len(batch.act)
        contexts = [torch.cat(x) for x in zip(*batches, strict=True)]
        on_gpu = self.reward_end.device.type == "cuda"  # where a few large passes cost less than many small ones
        at_once = STARTS_AT_ONCE if on_gpu else len(batches[0][0])
        memories = [self._burnt_in(*x) for x in zip(*(x.split(at_once) for x in contexts), strict=True)]
        self.pool = (*contexts, *(torch.cat(x) for x in zip(*memories, strict=True)))
        self.used = 0

    def burnt_in(self, frames: Tensor, pixel_mask: Tensor, act: Tensor) -> tuple[Tensor, Tensor]:
        """What is remembered behind contexts, each [N,D]."""
        hx, cx = burn_in(self.reward_end, self.to_float(frames, pixel_mask), act, pixel_mask)
        return hx[0], cx[0]


class ImaginedEnv:
    """N imagined episodes stepped together. Satisfies ``BatchedEnv``; all of its state is in ``state``.

    Args:
        sampler: draws next frames.
        reward_end: predicts rewards and ends, or remembers besides.
        horizon: steps before an episode is cut off.
        initial_states: where episodes start.
        num_envs: N.
        generator: source of noise, rewards and ends; None: the default one.
    """

    def __init__(
        self,
        sampler: Sampler,
        reward_end: RewardEnd | Remembering,
        horizon: int,
        initial_states: InitialStates,
        num_envs: int,
        generator: torch.Generator | None = None,
    ):
        self.sampler = sampler
        self.reward_end = reward_end
        self.horizon = horizon
        self.initial_states = initial_states
        self.num_envs = num_envs
        self.generator = generator
        self.state: ImaginationState | None = None
        self.trajectory: list[Tensor] = []
        """The last step's way from noise to the next frames: num_steps + 1 frames [N,C,H,W]."""

    @torch.no_grad()
    def reset(self) -> Tensor:
        self.state = self.initial_states.take(self.num_envs)
        return self.state.obs[:, -1]

    @torch.no_grad()
    def step(self, act: Tensor) -> EnvStep:
        assert self.state is not None
        s, obs = self.state, self.state.obs
        acts = torch.cat((s.act[:, :-1], act[:, None]), dim=1)
        made = imagine(self.sampler, self.reward_end, s, obs, acts, partial(torch.randn, generator=self.generator))
        self.trajectory = made.trajectory
        categorical = partial(sample_categorical, generator=self.generator)
        rew = self.reward_end.coding.reward(made.logits_rew, categorical) + made.nan
        end = categorical(made.logits_end).bool()
        ep_len = s.ep_len + 1
        trunc = ep_len >= self.horizon

        self.state = ImaginationState(
            frames=torch.cat((s.frames[:, 1:], made.frames[:, None]), dim=1),
            pixel_mask=torch.cat((s.pixel_mask[:, 1:], torch.ones_like(trunc[:, None])), dim=1),
            act=acts.roll(-1, dims=1),  # the last entry waits for the next action
            hx=made.hx,
            cx=made.cx,
            ep_len=ep_len,
        )
        self._restart((end | trunc).nonzero().flatten())
        obs = self.state.obs
        return EnvStep(obs[:, -1], rew, end, trunc, final_obs=made.obs, burnin_obs=obs[:, :-1])

    def begin_epoch(self) -> None:
        """Draws the starts to come anew: fresher than the published trainer's, left over from epochs before."""
        self.initial_states.clear()

    def state_dict(self) -> dict[str, Any]:
        return {
            "state": None if self.state is None else dict(vars(self.state)),
            "initial_states": self.initial_states.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.go_on_from(state)

    def go_on_from(self, state: dict[str, Any]) -> None:
        """The same, which asks for no weights: they are the models' own."""
        saved = state["state"]
        self.state = None if saved is None else ImaginationState.load(saved, self.reward_end.device)
        self.initial_states.load_state_dict(state["initial_states"])

    def _restart(self, dead: Tensor) -> None:
        """Puts fresh starts in the place of episodes that ended."""
        if not dead.numel():
            return
        assert self.state is not None
        s, fresh = self.state, self.initial_states.take(dead.numel())
        s.frames[dead], s.pixel_mask[dead] = fresh.frames, fresh.pixel_mask
        s.act[dead], s.ep_len[dead] = fresh.act, fresh.ep_len
        s.hx[:, dead], s.cx[:, dead] = fresh.hx, fresh.cx
