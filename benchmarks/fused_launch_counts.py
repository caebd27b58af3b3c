"""Counts what the fused path launches on a GPU, and the bytes it moves: an evaluation, a step, a rollout's beginning.

    python benchmarks/fused_launch_counts.py
    python benchmarks/fused_launch_counts.py mamba    # with a memory (or gru) in place of the reward/end model

Runs without a GPU, on fake CUDA tensors and the paper's networks at a batch of 32, in bfloat16. Every operation that is
not a view is one launch, as torch and our kernels have it there; attention and an RMS norm count as one, a draw from a
categorical distribution as four. Bytes are those of every operand and result, once each.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fake_cuda import fake_cuda, move_to_fake_cuda

from diamond_fast.config import RunConfig
from diamond_fast.engine import recompute
from diamond_fast.engine.denoiser_networks import fast_sampler
from diamond_fast.engine.fast_encoders import FastMemory, FastPolicy, FastRewardEnd
from diamond_fast.engine.fast_imagination import FastImaginedEnv
from diamond_fast.engine.fused_torch import Techniques
from diamond_fast.engine.imagination import STARTS_AT_ONCE, ImaginationState, InitialStates
from diamond_fast.engine.recompute import play, usual_capacity
from diamond_fast.engine.rollout import RolloutState
from diamond_fast.kernels.frames_to_float import frames_to_float
from diamond_fast.networks.recurrent.config import Memory
from diamond_fast.world_model import Agent

NUM_ENVS, NUM_ACTIONS = 32, 18
NO_LAUNCH = (
    "empty",
    "new_empty",
    "empty_like",
    "empty_strided",
    "new_empty_strided",
    "detach",
    "device",
    "_unsafe_view",
)
CPU = torch.device("cpu")


class Launches(NamedTuple):
    count: int
    gigabytes: float


class CountLaunches(TorchDispatchMode):
    """Counts what is dispatched."""

    def __init__(self):
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if not func.is_view and name not in NO_LAUNCH:
            self.counts[name] += 1
            tensors = {id(x): x for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor)}
            self.bytes += sum(x.numel() * x.element_size() for x in tensors.values())
        return out

    @property
    def launches(self) -> Launches:
        return Launches(self.counts.total(), self.bytes / 1e9)


class Fakes:
    """The paper's agent on a GPU that is not there.

    Args:
        techniques: what the networks use.
        num_steps: evaluations a frame; with a student 1.
        memory: of the world model.
    """

    def __init__(self, techniques: Techniques, num_steps: int = 3, memory: Memory = "none"):
        self.cfg = cfg = RunConfig(memory=memory)
        agent = Agent(cfg, NUM_ACTIONS).requires_grad_(False)
        denoiser = agent.denoiser
        self.sampler = fast_sampler(
            denoiser.formulation,
            denoiser.inner_model,
            cfg.world_model.with_denoising_steps(num_steps).sampler,
            CPU,
            torch.bfloat16,
            techniques,
            "fused",
        )
        self.reward_end: Any
        if agent.memory is None:
            self.reward_end = FastRewardEnd(agent.rew_end_model, torch.bfloat16, techniques, "fused")
            self.remembered = (cfg.reward_end.lstm_dim, cfg.reward_end.lstm_dim)
        else:
            self.reward_end = FastMemory(agent.memory, torch.bfloat16, techniques, "fused")
            self.remembered = (agent.memory.state_width, 0)
        self.policy = FastPolicy(agent.actor_critic, torch.bfloat16, techniques, "fused")

    @contextmanager
    def on_gpu(self) -> Iterator[None]:
        attention = patch.object(F, "scaled_dot_product_attention", torch.addcmul)  # as many operands, one launch
        norms = patch.object(
            F, "rms_norm", lambda x, shape, weight, eps: x * weight
        )  # of torch's kernel in CUDA builds
        draws = patch.object(recompute, "draw_actions", lambda distribution, outputs: categorical(outputs))
        with torch.no_grad(), fake_cuda(), attention, norms, draws:
            for holder in (self.sampler, self.reward_end, self.policy):
                move_to_fake_cuda(holder)
            if isinstance(self.reward_end, FastMemory):
                move_to_fake_cuda(self.reward_end._run)
            yield

    def evaluation(self) -> CountLaunches:
        """One evaluation of the denoiser's network on its prepared input."""
        network: Any = self.sampler.network
        with self.on_gpu():
            x = torch.empty(NUM_ENVS, 64, 64, 16, dtype=torch.bfloat16, device="cuda").permute(0, 3, 1, 2)
            act = torch.empty(NUM_ENVS, 4, dtype=torch.int64, device="cuda")
            conditioning = network.conditioning(torch.empty(1, 1, device="cuda"), act)[0]
            with CountLaunches() as counted:
                network.evaluate(x, (conditioning[0], conditioning[1].expand(NUM_ENVS, -1).contiguous()))
        return counted

    def rollout(self, num_steps: int) -> CountLaunches:
        """An imagined rollout of so many steps, with starts for one of the usual length."""
        cfg, n, size = self.cfg, NUM_ENVS, self.cfg.frame_size
        steps = cfg.actor_critic_loss.backup_every
        with self.on_gpu():
            unused: Any = None
            states = InitialStates(unused, self.reward_end, 1, frames_to_float)
            env = FastImaginedEnv(self, self.reward_end, cfg.world_model.horizon, states, n, steps)
            env.asks = False
            env.randn, env.categorical = normal, categorical
            state = contexts(n, size, self.remembered)
            env.state = ImaginationState(*state[:3], *(x[None] for x in state[3:]), state[2][:, 0])
            env.starts._pool = contexts(2 * n * steps, size, self.remembered)
            env.starts._cursor = torch.empty((), dtype=torch.int64, device="cuda")
            obs = torch.empty(n, size, size, 3, device="cuda").permute(0, 3, 1, 2)
            memory = torch.empty(n, cfg.actor_critic.lstm_dim, device="cuda")
            capacity = usual_capacity(n, steps, cfg.world_model.horizon)
            with CountLaunches() as counted:
                play(env, self.policy, RolloutState(obs, memory, memory), num_steps, capacity)
        return counted

    def burn_in(self) -> CountLaunches:
        """The reward/end model's memory for as many starts of episodes as are burned in together."""
        with self.on_gpu():
            starts = contexts(STARTS_AT_ONCE, self.cfg.frame_size, (0, 0))[:3]
            unused: Any = None
            states = InitialStates(unused, self.reward_end, 1, frames_to_float)
            with CountLaunches() as counted:
                states.burnt_in(*starts)
        return counted

    def rewards_and_ends(self) -> CountLaunches:
        """What a step has beside policy, frame and bookkeeping: the reward/end model, or memory and heads."""
        with self.on_gpu():
            frames = torch.empty(NUM_ENVS, 64, 64, 3, device="cuda").permute(0, 3, 1, 2)
            act = torch.empty(NUM_ENVS, dtype=torch.int64, device="cuda")
            state = [torch.empty(NUM_ENVS, width, device="cuda") for width in self.remembered]
            with CountLaunches() as counted:
                if isinstance(self.reward_end, FastMemory):
                    self.reward_end.classify(self.reward_end.step(frames, act, state[0])[0])
                else:
                    self.reward_end.predict(frames[:, None], act[:, None], frames[:, None], [x[None] for x in state])
        return counted

    def sample(
        self, obs: Tensor, act: Tensor, randn: Callable[..., Tensor], memory: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """As ``FastDenoiser`` does it."""
        noise = torch.stack([randn(*obs[:, 0].shape, device=obs.device) for _ in range(self.sampler.num_draws)])
        trajectory = self.sampler.sample(obs.flatten(1, 2), act if memory is None else memory, noise)
        return trajectory[-1], trajectory


def contexts(n: int, size: int, remembered: tuple[int, int]) -> tuple[Tensor, ...]:
    """Frames, pixel mask, actions and memories of those widths, of so many starts."""
    return (
        torch.empty(n, 4, size, size, 3, dtype=torch.uint8, device="cuda"),
        torch.empty(n, 4, dtype=torch.bool, device="cuda"),
        torch.empty(n, 4, dtype=torch.int64, device="cuda"),
        *(torch.empty(n, width, device="cuda") for width in remembered),
    )


def normal(*shape: int, device: torch.device) -> Tensor:
    return torch.empty(shape, device=device).fill_(0)  # dice have no fake: something else that is one launch


def categorical(logits: Tensor) -> Tensor:
    probabilities = logits.softmax(dim=-1)
    return (probabilities / torch.empty_like(probabilities).fill_(1)).argmax(dim=-1)


def counted(techniques: Techniques, memory: Memory = "none") -> dict[str, Launches]:
    """An evaluation, a step of a rollout, what a rollout has beside its steps, and the burn-in of some starts.

    With a memory there is its share of a step in place of the evaluation.
    """
    fakes = Fakes(techniques, memory=memory)
    evaluation = {"evaluation": fakes.evaluation()} if memory == "none" else {"its share": fakes.rewards_and_ends()}
    one, step = of_step(techniques, memory=memory)
    return {
        **{what: count.launches for what, count in evaluation.items()},
        "step": step,
        "beside": Launches(one.count - step.count, one.gigabytes - step.gigabytes),
        "burn-in": Fakes(techniques, memory=memory).burn_in().launches,
    }


def of_step(techniques: Techniques, num_steps: int = 3, memory: Memory = "none") -> tuple[Launches, Launches]:
    """A rollout of one imagined step, and what one step more adds."""
    one, two = (Fakes(techniques, num_steps, memory).rollout(n).launches for n in (1, 2))
    return one, Launches(two.count - one.count, two.gigabytes - one.gigabytes)


def main() -> None:
    memory: Any = sys.argv[1] if len(sys.argv) > 1 else "none"
    fused = Techniques(fused_convs=True)
    ways = {"plain": Techniques(), "fused_convs": fused, "and hopper_convs": replace(fused, hopper_convs=True)}
    for way, techniques in ways.items():
        for what, (count, gigabytes) in counted(techniques, memory).items():
            print(f"{way}, {what}: {count} launches, {gigabytes:.2f} GB")
        if memory == "none":
            count, gigabytes = of_step(techniques, num_steps=1)[1]
            print(f"{way}, step with a student: {count} launches, {gigabytes:.2f} GB")


if __name__ == "__main__":
    main()
