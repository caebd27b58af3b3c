"""Writing an epoch of the paper's networks with optimisers: flushed to the disk and checksummed, against torch.save.

pytest benchmarks/test_checkpoint.py --benchmark-only
"""

import torch
from workloads import make_agent, noise_replay

from diamond_fast.engine.choose import choose_path
from diamond_fast.runs import checkpoint
from diamond_fast.training.make_updates import make_updates


def test_checkpoint(measure, machine, device, cfg, tmp_path):
    """A run copies the state, goes on training, and writes meanwhile: ``copy`` is what training waits for."""
    agent = make_agent(cfg, device)
    updates = make_updates(cfg, agent, noise_replay(cfg, 100), choose_path(device, cfg.precision), segments_seed=0)
    for update in updates.values():  # moments as they are after the first step
        for p in update.parameters:
            p.grad = torch.zeros_like(p)
        update.optimizer.step()
    networks = {"denoiser": agent.denoiser, "reward_end": agent.rew_end_model, "actor_critic": agent.actor_critic}
    tensors = {name: network.state_dict() for name, network in networks.items()}
    state = {name: update.optimizer.state_dict() for name, update in updates.items()}

    def copy():
        return checkpoint.snapshot(1, tensors, state)

    kept = copy()
    num_bytes = sum(x.nbytes for group in kept.groups.values() for x in group.values())
    turns = measure.take_turns(
        {
            "copy and write": lambda: checkpoint.save(tmp_path / "checkpoints", 1, tensors, state),
            "copy": copy,
            "torch.save, not flushed": lambda: torch.save((tensors, state), tmp_path / "published.pt"),
        }
    )
    case = {"MB": round(num_bytes / 1e6)}
    measure.row("checkpoint", case, turns, "copy and write", floor=machine.memory(2 * num_bytes))
