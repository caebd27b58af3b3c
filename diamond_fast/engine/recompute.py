"""The rollout of ``engine.rollout`` in two parts: played without gradients, then the policy computed anew in one batch.

Playing has to go step by step, learning has not: the frames are known by then. So one encoder pass sees all of
them, the burn-in frames included, one product gives the LSTM's input side, and only the small recurrent half runs in
sequence. Loss and gradients are those of ``engine.rollout.rollout``.

This is for a GPU, where many small steps cost more than one large one costs twice, and where nothing may depend on how
many episodes ended. Values of final frames are computed for every row at every step and masked, in one pass with the
step that follows. Memories after resets are computed for every start a rollout could take, at its beginning if the
environment knows them. That costs some passes of a small encoder without gradients. With gradients the same would
multiply the batch by the number of burn-in frames, so those go to a fixed number of places instead.

A CPU may be asked which episodes ended, and computes final values and burn-ins of those alone. It gains nothing from
larger batches and pays for the second forward pass: without compiled programs the twin is faster there.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from diamond_fast.engine.fast_encoders import FastPolicy
from diamond_fast.engine.imagination import STARTS_AT_ONCE
from diamond_fast.engine.lstm import Memory, unroll, where
from diamond_fast.engine.rollout import BatchedEnv, EnvStep, Rollout, RolloutState, draw_actions
from diamond_fast.networks.actor_critic.model import ActorCritic
from diamond_fast.networks.exact import outside_autocast


class Played(NamedTuple):
    """T steps of N environments, batch first, and all that the policy's outputs on them follow from.

    K burn-ins of B frames, one after each reset; K is 0 in an environment that gives no such frames.
    """

    obs: Tensor  # [N,T,C,H,W] the frames acted on
    act: Tensor  # [N,T,...] as the policy drew them
    rew: Tensor  # [N,T] float
    end: Tensor  # [N,T] bool
    trunc: Tensor  # [N,T] bool
    val_bootstrap: Tensor  # [N,T] value of the state each step led to
    hx: Tensor  # [N,D] memory before the first step
    cx: Tensor  # [N,D]
    hx_next: Tensor  # [N,T,D] memory behind each step, after a reset if there was one
    cx_next: Tensor  # [N,T,D]
    burnin_obs: Tensor  # [K,B,C,H,W]
    burnin_cell: Tensor  # [K] int64, n * T + t of the step that ended the episode; N * T where a place is not used
    num_burnins: Tensor  # [] int64, more than K if some found no place


class KnowsItsStarts(Protocol):
    """An environment whose episodes begin from starts that may be known before a rollout."""

    started: Tensor
    """[N] numbers of the starts that the last step put in the place of episodes that ended; any for the others."""

    def burnins_ahead(self) -> tuple[Tensor, Tensor] | None:
        """Burn-in frames [M,B,C,H,W] of all starts that a rollout can take, and the number [] of the first one."""


Play = Callable[[RolloutState], tuple[Played, RolloutState]]
"""Plays a rollout."""


@torch.no_grad()
def play(
    env: BatchedEnv,
    policy: ActorCritic | FastPolicy,
    state: RolloutState,
    num_steps: int,
    capacity: int,
    asks: bool = False,
) -> tuple[Played, RolloutState]:
    """Plays ``num_steps`` steps with actions drawn from the policy, the same as its twin draws.

    No shape depends on what happens, unless it asks: nothing waits for a GPU, and a graph can hold it all. What the
    environment returns is copied, so it may use the same memory at every step.

    Args:
        capacity: burn-ins kept for ``recompute``, at most.
        asks: which episodes ended, at every step; what only they need is computed for them alone then.
    """
    n, obs, memory = env.num_envs, state.obs, Memory(state.hx, state.cx)
    frames = _empty_frames(obs, n, num_steps)
    acts = []
    end, trunc = (torch.empty(n, num_steps, dtype=torch.bool, device=obs.device) for _ in range(2))
    rew, val, val_final = (state.hx.new_empty(n, num_steps) for _ in range(3))
    hx_next, cx_next = (state.hx.new_empty(n, num_steps, policy.lstm_dim) for _ in range(2))
    burnins = _Burnins(n, num_steps, capacity, obs)
    burnt_in = _BurntIn(env, policy)
    logits, value, hx_cx = policy.predict_act_value(obs, memory)
    memory = Memory(*hx_cx)
    for t in range(num_steps):
        frames[:, t], val[:, t] = obs, value
        acts.append(draw_actions(policy.distribution, logits))
        step = env.step(policy.distribution.action(acts[t]))
        dead = step.end | step.trunc
        if step.burnin_obs is not None:
            burnins.add(t, dead, step.burnin_obs)
        rows = dead.nonzero().flatten() if asks else slice(None)  # those that may have ended
        ended = Memory(*(x[rows] for x in memory))
        fresh = burnt_in(step, rows, ended)
        reset = _with_rows(memory, rows, fresh) if asks else where(dead, fresh, memory)
        # the final frames' values with the memory before a reset, and the next step's, in one pass
        both = Memory(*(torch.cat(x) for x in zip(ended, reset, strict=True)))
        logits, value, hx_cx = policy.predict_act_value(torch.cat((step.final_obs[rows], step.obs)), both)
        k = len(ended.hx)
        val_final[rows, t], logits, value, memory = value[:k], logits[k:], value[k:], Memory(*(x[k:] for x in hx_cx))
        obs = step.obs
        rew[:, t], end[:, t], trunc[:, t] = step.rew, step.end, step.trunc
        hx_next[:, t], cx_next[:, t] = reset

    val_next = torch.cat((val[:, 1:], value[:, None]), dim=1)
    val_bootstrap = torch.where(end | trunc, val_final, val_next)
    memories = state.hx, state.cx, hx_next, cx_next
    act = torch.stack(acts, dim=1)
    played = Played(frames, act, rew, end, trunc, val_bootstrap, *memories, *burnins.collected(asks))
    return played, RolloutState(obs, *reset)


def usual_capacity(num_envs: int, num_steps: int, horizon: int) -> int:
    """Places for as many burn-ins as truncations can bring, and once more as many for episodes that end.

    A model that ends episodes more often than that loses some gradient through burn-ins, and the figures say so.
    """
    return num_envs * (math.ceil(num_steps / horizon) + 1)


def recompute(policy: ActorCritic, played: Played) -> Rollout:
    """The policy's outputs on what was played, with gradients, through the burn-ins too.

    A reset whose burn-in found no place keeps its memory and its loss; what lacks is the gradient of that burn-in.
    """
    p = played
    (n, t), (k, b) = p.rew.shape, p.burnin_obs.shape[:2]
    gates = _input_gates(policy, torch.cat((p.obs.flatten(0, 1), p.burnin_obs.flatten(0, 1))))

    fresh = Memory(p.hx_next, p.cx_next)
    if k and b:  # shapes, known without asking the device
        zeros = Memory(*(x.new_zeros(k, policy.lstm_dim) for x in (p.hx, p.cx)))
        burnt_in, _ = unroll(policy.lstm.weight_hh, gates[n * t :].view(k, b, -1), zeros)
        fresh = Memory(*(_with_cells(x, p.burnin_cell, y) for x, y in zip(fresh, burnt_in, strict=True)))
    _, hidden = unroll(policy.lstm.weight_hh, gates[: n * t].view(n, t, -1), Memory(p.hx, p.cx), p.end | p.trunc, fresh)

    with outside_autocast(hidden.device):
        logits, val = policy.actor_linear(hidden), policy.critic_linear(hidden).squeeze(2)
    return Rollout(p.act, p.rew, p.end, p.trunc, logits, val, p.val_bootstrap)


def _input_gates(policy: ActorCritic | FastPolicy, obs: Tensor) -> Tensor:
    """The input's share of the LSTM's gates. obs [M,C,H,W] -> [M,4D]."""
    x, lstm = policy.encoder(obs).flatten(1), policy.lstm
    with outside_autocast(x.device):
        return F.linear(x.to(lstm.weight_ih.dtype), lstm.weight_ih, lstm.bias_ih + lstm.bias_hh)


def _with_cells(x: Tensor, cells: Tensor, rows: Tensor) -> Tensor:
    """x [N,T,D] with ``rows`` [K,D] in the cells n * T + t [K]; cell N * T does not exist and swallows its rows."""
    flat = F.pad(x.flatten(0, 1), (0, 0, 0, 1))
    return flat.index_copy(0, cells, rows)[:-1].view_as(x)


def _with_rows(memory: Memory, rows: Tensor | slice, new: Memory) -> Memory:
    """The memory [N,D], but for K rows the new one [K,D]."""
    changed = Memory(*(x.clone() for x in memory))
    for x, y in zip(changed, new, strict=True):
        x[rows] = y
    return changed


class _BurntIn:
    """Memories of episodes that begin: for all starts a rollout can take at once, if those are known."""

    def __init__(self, env: BatchedEnv, policy: ActorCritic | FastPolicy):
        self.policy = policy
        self.ahead: Memory | None = None
        burnins_ahead = getattr(env, "burnins_ahead", None)
        if burnins_ahead is not None and (ahead := burnins_ahead()) is not None:
            self.env = cast(KnowsItsStarts, env)
            frames, self.first = ahead
            pieces = [self._memories(x) for x in frames.split(STARTS_AT_ONCE)]
            self.ahead = Memory(*(torch.cat(x) for x in zip(*pieces, strict=True)))

    def __call__(self, step: EnvStep, rows: Tensor | slice, memory: Memory) -> Memory:
        """For those of the rows, K, that are reset behind this step, [K,D] as ``memory``; anything for the others."""
        if step.burnin_obs is None:
            return Memory(*(torch.zeros_like(x) for x in memory))
        if self.ahead is None:
            return self._memories(step.burnin_obs[rows])
        starts = (self.env.started[rows] - self.first).clamp(0, len(self.ahead.hx) - 1)
        return Memory(*(x.index_select(0, starts) for x in self.ahead))

    def _memories(self, burnin_obs: Tensor) -> Memory:
        """burnin_obs [N,B,C,H,W] -> [N,D]."""
        n, b = burnin_obs.shape[:2]
        lstm = self.policy.lstm
        zeros = Memory(*(lstm.weight_hh.new_zeros(n, self.policy.lstm_dim) for _ in range(2)))
        if not n or not b:
            return zeros
        gates = _input_gates(self.policy, burnin_obs.flatten(0, 1)).view(n, b, -1)
        memory, _ = unroll(lstm.weight_hh, gates, zeros)
        return memory


class _Burnins:
    """The frames of burn-ins in ``places`` places, filled in order; one more place swallows what finds none."""

    def __init__(self, num_envs: int, num_steps: int, places: int, like: Tensor):
        self.places = places
        self.first_cell = torch.arange(num_envs, device=like.device) * num_steps
        self.cells = torch.full((places + 1,), num_envs * num_steps, device=like.device)
        self.count = torch.zeros((), dtype=torch.int64, device=like.device)
        self.obs = _empty_frames(like, places + 1, 0)

    def add(self, t: int, dead: Tensor, burnin_obs: Tensor) -> None:
        """Burn-ins of the rows that are ``dead`` [N] behind step t. burnin_obs [N,B,C,H,W]."""
        if not self.obs.size(1):
            self.obs = _empty_frames(burnin_obs, self.places + 1, burnin_obs.size(1)).zero_()
        place = self.count + dead.cumsum(0) - 1
        place = torch.where(dead & (place < self.places), place, self.places)
        self.obs.index_copy_(0, place, burnin_obs)
        self.cells.index_copy_(0, place, self.first_cell + t)
        self.count += dead.sum()

    def collected(self, asks: bool) -> tuple[Tensor, Tensor, Tensor]:
        """What ``Played`` keeps of them: all places or, if it asks, those that were filled."""
        k = min(self.places, int(self.count)) if asks else self.places
        return self.obs[:k], self.cells[:k], self.count


def _empty_frames(like: Tensor, *sizes: int) -> Tensor:
    """[*sizes,C,H,W] for frames such as ``like`` [...,C,H,W], each of them in channels_last."""
    c, h, w = like.shape[-3:]
    return like.new_empty(*sizes, h, w, c).movedim(-1, -3)
