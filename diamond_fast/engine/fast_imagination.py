"""Imagined episodes as ``engine.imagination`` plays them, without a branch and without asking the device anything.

What ends an episode is data on the device, so nothing about it may decide what is launched: every step takes fresh
starts for all rows and keeps those of rows whose episode ended. Starts are handed out by a cursor on the device. The
order of random draws differs from the twin's, their distribution does not.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from diamond_fast.engine.fast_denoiser import FastDenoiser
from diamond_fast.engine.fast_encoders import FastMemory, FastPolicy, FastRewardEnd
from diamond_fast.engine.imagination import ImaginationState, InitialStates, NoRewardEnd, imagine
from diamond_fast.engine.lasting import lasting
from diamond_fast.engine.recompute import Play, Played, play
from diamond_fast.engine.rollout import EnvStep, RolloutState
from diamond_fast.networks.actor_critic.distributions import sample_categorical


class StartPool:
    """Starts of imagined episodes, at fixed addresses, handed out in order by the device.

    Args:
        initial_states: where they come from.
        at_least: how many a refill has at least.
    """

    def __init__(self, initial_states: InitialStates, at_least: int):
        self.initial_states = initial_states
        self.at_least = at_least
        self._pool: tuple[Tensor, ...] = ()
        self._cursor: Tensor  # [] int64, starts handed out; made with the pool
        self._noted: tuple[Tensor, torch.cuda.Event] | None = None
        self._stale = True

    def clear(self) -> None:
        """The next starts are drawn, and burned in, as replay and models are then."""
        self.initial_states.clear()
        self._stale = True

    def reserve(self, n: int) -> None:
        """Makes sure that n more starts, at most ``at_least``, can be handed out. Not while a graph is captured."""
        if self._stale and self.initial_states.can_draw_again:
            self.initial_states.draw_again()
            self._keep()
        if self._stale or self._used() + n > len(self._pool[0]):
            self.initial_states.refill(self.at_least)
            self._keep()

    def _keep(self) -> None:
        starts = self.initial_states.pool
        if not self._pool:
            self._pool = tuple(x.clone() for x in starts)
            self._cursor = torch.zeros((), dtype=torch.int64, device=starts[0].device)
        for fixed, x in zip(self._pool, starts, strict=True):
            fixed.copy_(x)
        self._cursor.fill_(self.initial_states.used)
        self._noted, self._stale = None, False

    def note(self) -> None:
        """Sends the cursor on its way to the host without waiting for it. Behind a rollout."""
        if self._cursor.is_cuda:
            value = torch.empty((), dtype=torch.int64, pin_memory=True)
            value.copy_(self._cursor, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            self._noted = (value, event)

    def _used(self) -> int:
        if self._noted is None:
            return int(self._cursor)
        value, event = self._noted
        event.synchronize()  # the end of the rollout before: long past when the next one begins
        return int(value)

    def take(self, wanted: Tensor) -> tuple[ImaginationState, Tensor]:
        """wanted [N] bool -> N starts, and their numbers [N]: new ones for wanted rows, any for the others."""
        rows = self._rows(wanted.cumsum(0) - 1)
        self._cursor.add_(wanted.sum())
        frames, pixel_mask, act, hx, cx = (x.index_select(0, rows) for x in self._pool)
        state = ImaginationState(frames, pixel_mask, act, hx.unsqueeze(0), cx.unsqueeze(0), torch.zeros_like(rows))
        return state, rows

    def ahead(self, n: int) -> tuple[Tensor, Tensor]:
        """Contexts of the next n starts, without handing them out: [n,T,C,H,W], and the first one's number []."""
        rows = self._rows(torch.arange(n, device=self._cursor.device))
        frames, pixel_mask = (x.index_select(0, rows) for x in self._pool[:2])
        return self.initial_states.to_float(frames, pixel_mask), self._cursor.clone()

    def _rows(self, ahead: Tensor) -> Tensor:
        return (self._cursor + ahead).clamp(0, len(self._pool[0]) - 1)

    def state_dict(self) -> dict[str, Any]:
        if not self._stale:
            self.initial_states.used = int(self._cursor)
        return self.initial_states.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.initial_states.load_state_dict(state)
        self._stale = not self.initial_states.pool
        if not self._stale:
            self._cursor.fill_(self.initial_states.used)
            self._noted = None


class FastImaginedEnv:
    """N imagined episodes stepped together. Satisfies ``BatchedEnv``; the tensors of ``state`` keep their addresses.

    Args:
        sampler: draws next frames.
        reward_end: predicts rewards and ends, or remembers besides.
        horizon: steps before an episode is cut off.
        initial_states: where starts come from.
        num_envs: N.
        num_steps: of a rollout; on a GPU ``begin_rollout`` has to be called before as many. None: any step asks the
            device how many starts it needs.
        generator: source of noise, rewards and ends; None: the default one.
    """

    def __init__(
        self,
        sampler: FastDenoiser,
        reward_end: FastRewardEnd | NoRewardEnd | FastMemory,
        horizon: int,
        initial_states: InitialStates,
        num_envs: int,
        num_steps: int | None = None,
        generator: torch.Generator | None = None,
    ):
        self.sampler = sampler
        self.reward_end = reward_end
        self.horizon = horizon
        self.num_envs = num_envs
        self.asks = num_steps is None or reward_end.device.type == "cpu"  # there it is free
        self.to_float = initial_states.to_float
        self.starts = StartPool(initial_states, at_least=num_envs * (num_steps or 1))
        self.randn = partial(torch.randn, generator=generator)
        self.categorical = partial(sample_categorical, generator=generator)
        self.state: ImaginationState | None = None
        self.trajectory: list[Tensor] = []  # as ``ImaginedEnv`` has it
        self.started: Tensor  # [N] numbers of the starts that the last step put in the place of what ended

    @lasting
    def reset(self) -> Tensor:
        self.starts.reserve(self.num_envs)
        everyone = torch.ones(self.num_envs, dtype=torch.bool, device=self.reward_end.device)
        return self._obs(self._set(self.starts.take(everyone)[0]))[:, -1]

    def begin_rollout(self) -> None:
        """Makes sure there are starts for every end a rollout can have."""
        self.starts.reserve(self.starts.at_least)

    def burnins_ahead(self) -> tuple[Tensor, Tensor] | None:
        """Burn-in frames [M,B,C,H,W] of all starts that a rollout can take, and the number [] of the first one.

        None if starts may be drawn during a rollout: they are not known at its beginning then.
        """
        if self.asks:
            return None
        contexts, first = self.starts.ahead(self.starts.at_least)
        return contexts[:, :-1], first

    def end_rollout(self) -> None:
        self.starts.note()

    @lasting
    def step(self, act: Tensor) -> EnvStep:
        assert self.state is not None
        s, obs = self.state, self._obs(self.state)
        acts = torch.cat((s.act[:, :-1], act.unsqueeze(1)), dim=1)
        with torch.autocast(act.device.type, enabled=False):  # every part has its own precision
            made = imagine(self.sampler, self.reward_end, s, obs, acts, self.randn, self.to_float)
        self.trajectory = made.trajectory
        rew = self.reward_end.coding.reward(made.logits_rew, self.categorical) + made.nan
        end = self.categorical(made.logits_end).bool()
        ep_len = s.ep_len + 1
        trunc = ep_len >= self.horizon

        dead = end | trunc
        if self.asks:
            self.starts.reserve(int(dead.sum()))
        fresh, self.started = self.starts.take(dead)
        alive = ImaginationState(
            frames=torch.cat((s.frames[:, 1:], made.frames.unsqueeze(1)), dim=1),
            pixel_mask=torch.cat((s.pixel_mask[:, 1:], torch.ones_like(trunc.unsqueeze(1))), dim=1),
            act=acts.roll(-1, dims=1),  # the last entry waits for the next action
            hx=made.hx,
            cx=made.cx,
            ep_len=ep_len,
        )
        obs = self._obs(self._set(_where(dead, fresh, alive)))
        return EnvStep(obs[:, -1], rew, end, trunc, final_obs=made.obs, burnin_obs=obs[:, :-1])

    def _obs(self, state: ImaginationState) -> Tensor:
        return self.to_float(state.frames, state.pixel_mask)

    def _set(self, new: ImaginationState) -> ImaginationState:
        if self.state is None:
            self.state = ImaginationState(**{name: x.clone() for name, x in vars(new).items()})
        for name, x in vars(new).items():
            getattr(self.state, name).copy_(x)
        return self.state

    @lasting
    def begin_epoch(self) -> None:
        """Takes the models' weights as they are now, and starts drawn and burned in anew."""
        self._refresh()
        self.starts.clear()

    def _refresh(self) -> None:
        self.sampler.refresh()
        self.reward_end.refresh()

    def state_dict(self) -> dict[str, Any]:
        state = None if self.state is None else {name: x.clone() for name, x in vars(self.state).items()}
        return {"state": state, "initial_states": self.starts.state_dict()}

    @lasting
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there with the models' weights as they are now: in mid-epoch, where ``begin_epoch`` is past."""
        self._refresh()
        self.go_on_from(state)

    @lasting
    def go_on_from(self, state: dict[str, Any]) -> None:
        """The same with the weights as they were taken last."""
        saved = state["state"]
        if saved is None:
            self.state = None
        else:
            self._set(ImaginationState.load(saved, self.reward_end.device))
        self.starts.load_state_dict(state["initial_states"])


def _where(condition: Tensor, a: ImaginationState, b: ImaginationState) -> ImaginationState:
    """Row by row: a's where the condition [N] holds, b's elsewhere."""

    def pick(name: str) -> Tensor:
        x, y = getattr(a, name), getattr(b, name)
        rows = condition.view(1, -1, 1) if name in ("hx", "cx") else condition.view(-1, *[1] * (x.dim() - 1))
        return torch.where(rows, x, y)

    return ImaginationState(**{name: pick(name) for name in vars(a)})


class ImaginedRollouts:
    """Plays on in the imagination where the last rollout stopped, without gradients.

    Args:
        env: where to play.
        policy: who plays; its copies of the weights are refreshed before every rollout.
        num_steps: of a rollout.
        capacity: burn-ins kept for the recomputation, at most.
        captured: makes a rollout one CUDA graph, as ``Captured`` does; None: it is none.
    """

    def __init__(
        self,
        env: FastImaginedEnv,
        policy: FastPolicy,
        num_steps: int,
        capacity: int,
        captured: Callable[[str, Callable], Callable] | None = None,
    ):
        self.env = env
        self.policy = policy
        self.asks = captured is None and env.asks  # steps see to their starts themselves then
        self._play: Play = partial(play, env, policy, num_steps=num_steps, capacity=capacity, asks=self.asks)
        if captured is not None:
            self._play = captured("imagined rollout", self._play)

    def __call__(self, state: RolloutState) -> tuple[Played, RolloutState]:
        self.policy.refresh()
        if not self.asks:
            self.env.begin_rollout()
        played = self._play(state)
        self.env.end_rollout()
        return played
