"""Trains a policy to do what a recorded player does, such as the one that comes with the package (docs/demo.md).

python examples/scripted_players.py boxing boxing-player.journal --steps 40000 --noise 0.03 --hold 4
python examples/clone_player.py boxing-player.journal --out runs/clone
python -m diamond_fast.evaluate --run runs/clone --episodes 20   # what it scores in the game
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diamond_fast.engine.choose import choose_path
from diamond_fast.engine.world import trained
from diamond_fast.frames import to_float
from diamond_fast.networks.actor_critic.model import ActorCritic, lambda_returns
from diamond_fast.presets import PRESETS
from diamond_fast.replay import Replay, load_recording
from diamond_fast.replay.buffer import Episode
from diamond_fast.runs import checkpoint
from diamond_fast.runs.folder import RunFolder
from diamond_fast.spec import Discrete
from diamond_fast.training.optim import make_optimizer, set_learning_rate, warmed_up
from diamond_fast.world_model import Agent

LENGTH = 16  # frames of a sequence, whose memory begins empty
BURN_IN = 4  # of them, for which nothing is asked: the memory is about to begin


def returns_of(episode: Episode, gamma: float) -> np.ndarray:
    """Discounted sums of the signs of rewards, from each step to the episode's end. float32 [T]."""
    rew, end, trunc = (torch.tensor(x)[None] for x in (episode.rew, episode.end, episode.trunc))
    return lambda_returns(rew, end, trunc, torch.zeros_like(rew), gamma, lambda_=1.0)[0].numpy()


def outputs(policy: ActorCritic, obs: Tensor) -> tuple[Tensor, Tensor]:
    """obs [N,T,C,H,W] in [-1, 1] -> logits [N,T,A] and values [N,T], from an empty memory."""
    n, t = obs.shape[:2]
    features = policy.encoder(obs.flatten(0, 1)).reshape(n, t, -1)
    memory, hidden = None, []
    for frame in features.unbind(1):
        memory = policy.lstm(frame, memory)
        hidden.append(memory[0])
    stacked = torch.stack(hidden, 1)
    return policy.actor_linear(stacked), policy.critic_linear(stacked).squeeze(2)


def clone(
    policy: ActorCritic, replay: Replay, values: list[np.ndarray], updates: int, batch_size: int, lr: float
) -> None:
    """Cross-entropy of the player's actions, and squared errors of the values of its states.

    Args:
        policy: as it is trained; its weights change.
        replay: whole episodes of the player.
        values: of each episode, what its states were worth.
    """
    optimizer = make_optimizer(policy, lr, 0.0, 1e-8, PRESETS["demo"].actor_critic_update.lstm_input_lr_scale)
    segments = replay.segments(batch_size, LENGTH)
    for update in range(updates):
        set_learning_rate(optimizer, warmed_up(lr, 100, update))
        batch = next(segments)
        logits, value = outputs(policy, to_float(batch.frames, batch.pixel_mask))
        mask = batch.mask_padding.clone()
        mask[:, :BURN_IN] = False
        steps = batch.start[:, None] + torch.arange(LENGTH)
        rows = zip(batch.episode.tolist(), steps.clamp(min=0).numpy(), strict=True)
        worth = torch.from_numpy(np.stack([values[episode][row] for episode, row in rows]))
        imitation = F.cross_entropy(logits[mask], batch.act[mask])
        loss = imitation + F.mse_loss(value[mask], worth[mask])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (update + 1) % 50 == 0:
            right = (logits.argmax(2) == batch.act)[mask].float().mean()
            print(f"{update + 1}/{updates}: cross-entropy {imitation:.3f}, the same action in {right:.0%}", flush=True)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recording", type=Path, help="a journal of whole games")
    parser.add_argument("--out", type=Path, required=True, help="the run to write, for --init-from")
    parser.add_argument("--updates", type=int, default=3000)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)
    cfg = replace(PRESETS["demo"], world_model_only=False, model_free=True, seed=args.seed)
    replay = load_recording(args.recording)
    episodes = [replay.episode(i) for i in range(len(replay.lengths))]
    num_actions = 1 + max(int(episode.act.max()) for episode in episodes)
    agent = Agent(cfg, Discrete(num_actions))
    assert agent.actor_critic is not None
    values = [returns_of(episode, cfg.actor_critic_loss.gamma) for episode in episodes]
    path = choose_path(torch.device("cpu"), cfg.precision)
    print(path)
    clone(trained(agent.actor_critic, path), replay, values, args.updates, args.batch_size, args.lr)
    folder = RunFolder.create(args.out, cfg)
    state = {"epoch": 0, "action": agent.spec.action.to_json(), "formulation": cfg.formulation}
    checkpoint.save(folder.checkpoints, 0, {name: model.state_dict() for name, model in agent.named_children()}, state)
    folder.no_checkpoint_yet.unlink()
    print(f"{args.out}: a policy for --init-from")


if __name__ == "__main__":
    main()
