"""The rollout of ``engine.rollout`` in two parts: played without gradients, then the policy computed anew in one batch.

Playing has to go step by step, learning has not: the frames are known by then. So one encoder pass sees all of
them, the burn-in frames included, one product gives the LSTM's input side, and only the small recurrent half runs in
sequence. Loss and gradients are those of ``engine.rollout.rollout``.

This is for a GPU, where many small steps cost more than one large one costs twice, and where nothing may depend on how
many episodes ended. Values of final frames and memories after resets are computed for every row at every step and
masked, which costs some passes of a small encoder without gradients. With gradients the same would multiply the
batch by the number of burn-in frames, so those go to a fixed number of places instead. A CPU gains nothing from
larger batches and pays for the second forward pass: there the twin is faster.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from diamond_fast.engine.fast_encoders import FastPolicy
from diamond_fast.engine.lstm import Memory, unroll, where
from diamond_fast.engine.rollout import BatchedEnv, Rollout, RolloutState, sample_categorical
from diamond_fast.networks.actor_critic.model import ActorCritic
from diamond_fast.networks.exact import outside_autocast


class Played(NamedTuple):
    """T steps of N environments, batch first, and all that the policy's outputs on them follow from.

    K burn-ins of B frames, one after each reset; K is 0 in an environment that gives no such frames.
    """

    obs: Tensor  # [N,T,C,H,W] the frames acted on
    act: Tensor  # [N,T] int64
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


Play = Callable[[RolloutState], tuple[Played, RolloutState]]
"""Plays a rollout."""


@torch.no_grad()
def play(
    env: BatchedEnv, policy: ActorCritic | FastPolicy, state: RolloutState, num_steps: int, capacity: int
) -> tuple[Played, RolloutState]:
    """Plays ``num_steps`` steps with actions drawn from the policy, the same as its twin draws.

    No shape depends on what happens: nothing waits for a GPU, and a graph can hold it all. What the environment
    returns is copied, so it may use the same memory at every step.

    Args:
        capacity: burn-ins kept for ``recompute``, at most.
    """
    n, obs, memory = env.num_envs, state.obs, Memory(state.hx, state.cx)
    frames = _empty_frames(obs, n, num_steps)
    act = torch.empty(n, num_steps, dtype=torch.int64, device=obs.device)
    end, trunc = torch.empty_like(act, dtype=torch.bool), torch.empty_like(act, dtype=torch.bool)
    rew, val, val_final = (state.hx.new_empty(n, num_steps) for _ in range(3))
    hx_next, cx_next = (state.hx.new_empty(n, num_steps, policy.lstm_dim) for _ in range(2))
    burnins = _Burnins(n, num_steps, capacity, obs)

    for t in range(num_steps):
        frames[:, t] = obs
        logits, val[:, t], hx_cx = policy.predict_act_value(obs, memory)
        memory = Memory(*hx_cx)
        act[:, t] = sample_categorical(logits)
        step = env.step(act[:, t])
        dead = step.end | step.trunc
        _, val_final[:, t], _ = policy.predict_act_value(step.final_obs, memory)
        fresh = Memory(*(torch.zeros_like(x) for x in memory))
        if step.burnin_obs is not None:
            gates = _input_gates(policy, step.burnin_obs.flatten(0, 1)).view(n, step.burnin_obs.size(1), -1)
            fresh, _ = unroll(policy.lstm.weight_hh, gates, fresh)
            burnins.add(t, dead, step.burnin_obs)
        memory = where(dead, fresh, memory)
        obs = step.obs
        rew[:, t], end[:, t], trunc[:, t] = step.rew, step.end, step.trunc
        hx_next[:, t], cx_next[:, t] = memory

    _, val_next, _ = policy.predict_act_value(obs, memory)
    val_next = torch.cat((val[:, 1:], val_next[:, None]), dim=1)
    val_bootstrap = torch.where(end | trunc, val_final, val_next)
    memories = state.hx, state.cx, hx_next, cx_next
    played = Played(frames, act, rew, end, trunc, val_bootstrap, *memories, *burnins.collected())
    return played, RolloutState(obs, *memory)


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
    (n, t), (k, b) = p.act.shape, p.burnin_obs.shape[:2]
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

    def collected(self) -> tuple[Tensor, Tensor, Tensor]:
        """What ``Played`` keeps of them."""
        return self.obs[:-1], self.cells[:-1], self.count


def _empty_frames(like: Tensor, *sizes: int) -> Tensor:
    """[*sizes,C,H,W] for frames such as ``like`` [...,C,H,W], each of them in channels_last."""
    c, h, w = like.shape[-3:]
    return like.new_empty(*sizes, h, w, c).movedim(-1, -3)
