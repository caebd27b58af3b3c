"""PPO inside a world model, in the manner of CleanRL's single files. All it needs of this package is the environment.

python examples/ppo.py runs/Catch-v0-... --steps 200000    # a run with a world model; its own policy is not used
"""

import argparse

import gymnasium
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

ENVIRONMENT = "diamond_fast.gymnasium_envs:diamond_fast/WorldModel-v0"
GAMMA, LAMBDA, CLIP, ENTROPY, VALUE, EPOCHS, MINIBATCHES = 0.985, 0.95, 0.2, 0.01, 0.5, 4, 4


class Policy(nn.Module):
    """Of frames uint8 [N,H,W,C]: a distribution over actions, and values [N]."""

    def __init__(self, channels: int, num_actions: int):
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(channels, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()),
            *(nn.AdaptiveMaxPool2d(8), nn.Flatten(), nn.Linear(32 * 64, 128), nn.ReLU()),
        )
        self.actor, self.critic = nn.Linear(128, num_actions), nn.Linear(128, 1)

    def forward(self, frames: Tensor) -> tuple[Categorical, Tensor]:
        x = self.body(frames.permute(0, 3, 1, 2).float() / 255)
        return Categorical(logits=self.actor(x)), self.critic(x).squeeze(1)


def advantages(rewards: Tensor, values: Tensor, last_value: Tensor, over: Tensor) -> Tensor:
    """Generalised advantages [T,N]; ``over``: 1 if the episode ended or was cut short at that step."""
    result, later = torch.zeros_like(rewards), torch.zeros_like(last_value)
    for t in reversed(range(len(rewards))):
        following = last_value if t == len(rewards) - 1 else values[t + 1]
        error = rewards[t] + GAMMA * following * (1 - over[t]) - values[t]
        result[t] = later = error + GAMMA * LAMBDA * (1 - over[t]) * later
    return result


def train(env: gymnasium.vector.VectorEnv, total_steps: int, steps: int = 32, lr: float = 1e-3) -> list[float]:
    """Mean reward a step of each rollout of ``steps`` steps in all episodes."""
    num_envs, shape = env.num_envs, env.single_observation_space.shape
    policy = Policy(shape[-1], int(env.single_action_space.n))
    optimizer = torch.optim.Adam(policy.parameters(), lr, eps=1e-5)
    obs = torch.zeros(steps, num_envs, *shape, dtype=torch.uint8)
    acts = torch.zeros(steps, num_envs, dtype=torch.int64)
    logprobs, rewards, over, values = torch.zeros(4, steps, num_envs)
    frames, means = torch.from_numpy(env.reset(seed=0)[0]), []
    for _ in range(total_steps // (steps * num_envs)):
        with torch.no_grad():
            for t in range(steps):
                choice, values[t] = policy(frames)
                obs[t], acts[t] = frames, choice.sample()
                logprobs[t] = choice.log_prob(acts[t])
                following, reward, ended, cut, info = env.step(acts[t].numpy())
                frames, rewards[t] = torch.from_numpy(following), torch.from_numpy(reward)
                over[t] = torch.from_numpy(ended | cut)
                if cut.any():  # an episode that was cut short would have gone on: what that was worth is added
                    rewards[t] += (
                        GAMMA * policy(torch.from_numpy(info["final_obs"]))[1] * torch.from_numpy(cut & ~ended)
                    )
            means.append(rewards.mean().item())
            gains = advantages(rewards, values, policy(frames)[1], over)
        batch = [x.flatten(0, 1) for x in (obs, acts, logprobs, gains, gains + values)]
        for chosen in (i for _ in range(EPOCHS) for i in torch.randperm(steps * num_envs).chunk(MINIBATCHES)):
            seen, act, logprob, gain, target = (x[chosen] for x in batch)
            choice, value = policy(seen)
            ratio = (choice.log_prob(act) - logprob).exp()
            gain = (gain - gain.mean()) / (gain.std() + 1e-8)
            gained = torch.minimum(ratio * gain, ratio.clamp(1 - CLIP, 1 + CLIP) * gain).mean()
            loss = VALUE * (value - target).square().mean() - gained - ENTROPY * choice.entropy().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
            optimizer.step()
    return means


def main(*argv: str) -> list[float]:
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--num-envs", type=int, default=32)
    args = parser.parse_args(argv or None)
    torch.manual_seed(0)
    env = gymnasium.make_vec(ENVIRONMENT, num_envs=args.num_envs, run=args.run)
    means = train(env, args.steps)
    print(f"mean reward a step: {means[0]:.3f} in the first rollout, {means[-1]:.3f} in the last")
    return means


if __name__ == "__main__":
    main()
