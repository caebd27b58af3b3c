"""Three worlds to play in, one episode at a time: the world model, the real game, and what was recorded of it."""

from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from diamond_fast.config import SamplerConfig, WorldModelConfig
from diamond_fast.engine.imagination import ImaginationState, burn_in
from diamond_fast.engine.lasting import lasting
from diamond_fast.engine.world import imagination
from diamond_fast.envs.real import RealEnv
from diamond_fast.frames import to_float
from diamond_fast.playing.source import Source
from diamond_fast.playing.starts import Beginning
from diamond_fast.replay.batch import Batch
from diamond_fast.replay.buffer import Episode
from diamond_fast.upsampling import upsampling_input
from diamond_fast.world_model import trajectory_levels

BURN_IN = 20  # recorded frames the policy sees before the one that is looked at


class Start(NamedTuple):
    """Where an episode begins."""

    obs: Tensor
    """[1,C,H,W] in [-1, 1]: the frame to act on."""
    before: Tensor
    """[B,C,H,W]: frames before it, for the policy's memory."""
    small: Tensor | None = None
    """[1,C,h,w]: the frame as the world model sees it, if it is shown in full size."""


class Outcome(NamedTuple):
    """What one action led to."""

    obs: Tensor
    """[1,C,H,W]: the next frame; if the episode ended, its last."""
    reward: float
    end: bool
    """The game, or the world model's idea of it, ended the episode."""
    trunc: bool
    """The episode was cut off."""
    trajectory: Tensor | None = None
    """[S,C,H,W]: the steps of denoising that made the frame, pure noise first; None if no model made it."""
    small: Tensor | None = None
    """[S',C,h,w]: those of the small frame that was enlarged, and last it itself; None if none was."""


class World(Protocol):
    """One episode after the other."""

    def begin(self) -> Start: ...

    def step(self, action: np.ndarray) -> Outcome: ...

    def close(self) -> None:
        """Let go of what it holds."""
        return


class Dream(World):
    """The world model, starting from real frames and then on its own until its own end or the horizon.

    Args:
        source: whose world model, and the experience to start from.
        cfg: sampler and horizon.
        seed: of the starts, the noise, the rewards and the ends.
    """

    def __init__(self, source: Source, cfg: WorldModelConfig, seed: int):
        self._source, self._cfg = source, cfg
        words = np.random.SeedSequence(seed).generate_state(2)
        contexts = source.replay.segments(1, source.agent.spec.context, seed=int(words[1]), num_threads=0)
        self._places = np.random.default_rng(int(words[1]))
        generator = torch.Generator(source.device).manual_seed(int(words[0]))
        self._env = imagination(source.agent, cfg, source.path, contexts, 1, generator=generator)
        self._randn = partial(torch.randn, generator=generator)
        self._full: Tensor  # [1,T',C,H,W] the last full frames, if frames are enlarged
        self._upsampling = cfg.upsampling
        self._restarted = False  # the environment has put the next start in place by itself
        self.set_denoising_steps(cfg.sampler.num_steps)

    @lasting
    def begin(self) -> Start:
        if self._source.enlarges:  # the environment keeps small frames of its starts only
            return self.begin_from(Beginning(self._whole_context()))
        if not self._restarted:
            self._env.reset()
        return self._started()

    @lasting
    def begin_from(self, beginning: Beginning) -> Start:
        """Go on from these frames, which stay as they are: the environment writes over its own."""
        model = self._env.reward_end
        context = beginning.context.to(model.device)
        hx, cx = burn_in(model, context.obs(), context.act, context.pixel_mask)
        ep_len = torch.zeros(1, dtype=torch.int64, device=model.device)
        last = -self._source.agent.spec.context
        frames, pixel_mask, act = (x[:, last:].clone() for x in (context.frames, context.pixel_mask, context.act))
        self._env.state = ImaginationState(frames, pixel_mask, act, hx, cx, ep_len)
        if self._source.enlarges:
            self._full = context.full_obs()[:, -self._source.num_full :] if beginning.full is None else beginning.full
        return self._started()

    def _whole_context(self) -> Batch:
        """Frames from anywhere in the experience, in both sizes, none of them padded if an episode is long enough."""
        replay, length = self._source.replay, self._source.agent.spec.context
        lengths = replay.lengths
        episode = int(self._places.choice(np.flatnonzero(lengths >= min(length, lengths.max()))))
        start = int(self._places.integers(max(lengths[episode] - length, 0) + 1))
        return replay.cut([(episode, start)], length, full=True)

    def _started(self) -> Start:
        self._restarted = False
        assert self._env.state is not None
        obs = self._env.state.obs
        if self._source.enlarges:
            return Start(self._full[:, -1], obs[0, :-1], obs[:, -1])
        return Start(obs[:, -1], obs[0, :-1])

    def step(self, action: np.ndarray) -> Outcome:
        act = torch.from_numpy(np.array(action[None]))
        step = self._env.step(act.to(self._env.reward_end.device))
        end, trunc = bool(step.end), bool(step.trunc)
        self._restarted = end or trunc
        obs, trajectory, small = step.final_obs, torch.cat(self._env.trajectory), None
        if self._source.enlarges:
            small = torch.cat((trajectory[:-1], obs))  # as bytes, at last
            sampler = self._source.upsampling(self._upsampling)
            obs, full_trajectory = sampler.sample(*upsampling_input(obs, self._full), self._randn)
            trajectory = torch.cat(full_trajectory)
            self._full = torch.cat((self._full[:, 1:], obs[:, None]), dim=1)
        return Outcome(obs, float(step.rew), end, trunc and not end, trajectory, small)

    def set_denoising_steps(self, count: int) -> None:
        self._cfg = self._cfg.with_denoising_steps(count)
        self._env.sampler = self._source.sampler(self._cfg.sampler)

    def set_upsampling(self, steps: SamplerConfig) -> None:
        """How full frames are drawn from now on."""
        self._upsampling = steps

    def set_horizon(self, horizon: int) -> None:
        self._env.horizon = horizon

    @property
    def noise_levels(self) -> list[float]:
        """Those of the frames of a trajectory: of full ones, if they are enlarged."""
        if (upsampler := self._source.agent.upsampler) is not None and self._source.enlarges:
            return trajectory_levels(upsampler.formulation.plan(self._upsampling))
        return self.small_noise_levels

    @property
    def small_noise_levels(self) -> list[float]:
        """Those of frames as the world model draws them."""
        return trajectory_levels(self._source.agent.denoiser.formulation.plan(self._cfg.sampler))


class Real(World):
    """The game itself.

    Args:
        env: one environment; closed with the world.
        seed: of its games.
        device: of the frames.
    """

    def __init__(self, env: RealEnv, seed: int, device: torch.device):
        self._env, self._device = env, device
        self._seed: int | None = seed
        self._next_obs: np.ndarray | None = None  # the first frame of a game that has begun by itself

    def begin(self) -> Start:
        if self._next_obs is None:
            self._next_obs, _ = self._env.reset(seed=self._seed)
            self._seed = None  # later games follow from it
        obs = _to_obs(self._next_obs, self._device)
        self._next_obs = None
        return Start(obs, obs[:0])

    def step(self, action: np.ndarray) -> Outcome:
        obs, rew, end, trunc, info = self._env.step(action[None])
        if end[0] or trunc[0]:
            self._next_obs = obs
        return Outcome(_to_obs(info["final_obs"], self._device), float(rew[0]), bool(end[0]), bool(trunc[0]))

    def close(self) -> None:
        self._env.close()


class Recorded(World):
    """Experience from a replay buffer, played back."""

    def __init__(self, source: Source):
        self._source, self._replay, self._device = source, source.replay, source.device
        self.episode = self._t = 0
        self._at_end = False

    @property
    def position(self) -> tuple[int, int, int]:
        """Episode, step, and steps in the episode; step is their number at the final frame."""
        return self.episode, self._t + self._at_end, len(self._recording.act)

    @property
    def action(self) -> np.ndarray:
        """What was done at the frame it stands at."""
        return np.asarray(self._recording.act[self._t])

    def begin(self) -> Start:
        """The next episode if one has been played to its end, else the frame it stands at."""
        if self._at_end:
            self.seek((self.episode + 1) % self._replay.num_episodes, 0)
        before = self._recording.obs[max(self._t - BURN_IN, 0) : self._t]
        return Start(_to_obs(self._frames[0][self._t][None], self._device), _to_obs(before, self._device))

    def seek(self, episode: int, step: int) -> None:
        """Stand at a frame; ``begin`` shows it.

        Raises:
            ValueError: there is no such episode or step.
        """
        if not 0 <= episode < self._replay.num_episodes:
            raise ValueError(f"episode: expected 0 to {self._replay.num_episodes - 1}, got {episode}")
        length = len(self._replay.episode(episode).act)
        if not 0 <= step < length:
            raise ValueError(f"step: expected 0 to {length - 1} in episode {episode}, got {step}")
        self.episode, self._t, self._at_end = episode, step, False

    def skip(self) -> None:
        """Leave the episode: ``begin`` goes to the next."""
        self._at_end = True

    def step(self, action: np.ndarray) -> Outcome:
        recording, t = self._recording, self._t
        last = t == len(recording.act) - 1
        self._at_end = last
        frames, final = self._frames
        if not last:
            self._t += 1
            frame = frames[t + 1]
        else:
            frame = frames[t] if final is None else final
        end = bool(recording.end[t])
        return Outcome(_to_obs(frame[None], self._device), float(recording.rew[t]), end, last and not end)

    def beginning(self) -> Beginning:
        """The frames up to the one it stands at; padded if the episode has fewer."""
        place, seen = (self.episode, self._t), min(self._t + 1, self._source.most_seen)
        length = max(self._source.agent.spec.context, seen)
        context = self._replay.cut([(self.episode, self._t + 1 - length)], length, full=self._source.enlarges)
        return Beginning(context, place=place)

    @property
    def _frames(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Those of the episode, and its final observation, in the size that is shown."""
        recording = self._recording
        if self._source.enlarges and recording.full_obs is not None:
            return recording.full_obs, recording.full_final_obs
        return recording.obs, recording.final_obs

    @property
    def _recording(self) -> Episode:
        return self._replay.episode(self.episode)


def _to_obs(frames: np.ndarray, device: torch.device) -> Tensor:
    return to_float(torch.from_numpy(np.array(frames)).to(device))
