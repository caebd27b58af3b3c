"""Counts the device operations of one imagined step of the readable models, by what they belong to.

    python benchmarks/launch_counts.py
    python benchmarks/launch_counts.py mamba    # with a memory (gru, attention) in place of the reward/end model

Runs without a GPU, on meta tensors: every operation of torch that is not a mere view counts as one, although some
launch several kernels (a convolution with bias 2, a group norm 2, a draw from a distribution 4). On CUDA the pointwise
operations of an LSTM cell (sigmoid, tanh, mul, add below) are one kernel of torch's own.
"""

import sys
from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from diamond_fast.config import RunConfig
from diamond_fast.networks.actor_critic.distributions import sample_categorical
from diamond_fast.networks.recurrent.config import Memory
from diamond_fast.world_model import Agent, DiffusionSampler

NUM_ENVS, NUM_ACTIONS = 32, 18


class CountOperations(TorchDispatchMode):
    """Counts what is dispatched, under the name in ``part``."""

    def __init__(self):
        super().__init__()
        self.counts: Counter[tuple[str, str]] = Counter()
        self.part = ""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not func.is_view and func.name() not in ("aten::empty.memory_format", "aten::detach", "aten::_unsafe_view"):
            self.counts[self.part, func.overloadpacket.__name__] += 1
        return out


def imagined_step(memory: Memory = "none") -> Counter[tuple[str, str]]:
    """One step of ``NUM_ENVS`` imagined episodes: policy, next frame, reward and end, draws, bookkeeping, resets."""
    cfg = RunConfig(memory=memory)
    with torch.no_grad(), CountOperations() as counted, torch.device("meta"):
        agent = Agent(cfg, NUM_ACTIONS)
        sampler = DiffusionSampler(agent.denoiser, cfg.world_model.sampler)
        n, size, width = NUM_ENVS, cfg.frame_size, cfg.actor_critic.lstm_dim
        obs, fresh_obs = (torch.empty(n, 4, 3, size, size) for _ in range(2))
        act, fresh_act = (torch.empty(n, 4, dtype=torch.int64) for _ in range(2))
        state = [torch.empty(n, width) for _ in range(2)]
        if agent.memory is None:
            model_state = [torch.empty(1, n, cfg.reward_end.lstm_dim) for _ in range(2)]
        else:
            model_state = [torch.empty(n, agent.memory.state_width)]
        ep_len = torch.zeros(n, dtype=torch.int64)
        counted.counts.clear()

        counted.part = "policy"
        logits, _, state = agent.actor_critic.predict_act_value(obs[:, -1], state)
        counted.part = "draws"
        acts = torch.cat((act[:, :-1], sample_categorical(logits)[:, None]), dim=1)
        told = None
        if agent.memory is not None:
            counted.part = "memory with heads"
            told, *model_state = agent.memory.step(obs[:, -1], acts[:, -1], *model_state)
            logits_rew, logits_end = agent.memory.classify(told)
        counted.part = "denoiser and sampler"
        next_obs, _ = sampler.sample(obs, acts, torch.empty, told)
        if agent.rew_end_model is not None:
            counted.part = "reward/end model"
            logits_rew, logits_end, model_state = agent.rew_end_model.predict(
                obs[:, -1:], acts[:, -1:], next_obs[:, None], model_state
            )
            logits_rew, logits_end = logits_rew.squeeze(1), logits_end.squeeze(1)
        counted.part = "draws"
        sample_categorical(logits_rew).float() - 1
        end = sample_categorical(logits_end).bool()
        counted.part = "bookkeeping and masked resets"
        ep_len = ep_len + 1
        dead = end | (ep_len >= 15)
        obs = torch.cat((obs[:, 1:], next_obs[:, None]), dim=1)
        for old, fresh in ((obs, fresh_obs), (acts.roll(-1, dims=1), fresh_act), (ep_len, torch.zeros_like(ep_len))):
            torch.where(dead.view(-1, *[1] * (old.dim() - 1)), fresh, old)
        for s in (*state, *model_state):
            torch.where(dead[:, None], torch.zeros_like(s), s)
    return counted.counts


def main() -> None:
    counts = imagined_step(*sys.argv[1:2])
    for part in dict.fromkeys(part for part, _ in counts):
        ops = {op: count for (p, op), count in counts.most_common() if p == part}
        print(f"{part}: {sum(ops.values())}  {ops}")
    print(f"in all: {counts.total()}")


if __name__ == "__main__":
    main()
