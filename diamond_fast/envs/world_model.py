"""The world model as a ``gymnasium.vector.VectorEnv``, for any other RL library."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from diamond_fast.config import EngineChoice, WorldModelConfig
from diamond_fast.engine.choose import choose_path
from diamond_fast.engine.contest import Work
from diamond_fast.engine.fast_imagination import FastImaginedEnv
from diamond_fast.engine.imagination import ImaginedEnv
from diamond_fast.engine.world import imagination
from diamond_fast.envs.spaces import action_space, checked_actions
from diamond_fast.frames import to_uint8
from diamond_fast.replay import Replay
from diamond_fast.world_model import Agent

STATE_FORMAT = 1


class WorldModelEnv(VectorEnv):
    """Imagined episodes that start from real contexts and end by the model's word or after ``cfg.horizon`` steps.

    Observations are uint8 [N,H,W,C], actions those of the agent's world (int64 [N] if it has discrete ones), rewards
    float32 [N], in {-1, 0, 1} if the reward model predicts signs. Episodes that end are
    reset in the same step; ``info["final_obs"]`` [N,H,W,C] holds the frames the actions led to, and
    ``info["_final_obs"]`` bool [N] says where an episode ended.

    Args:
        agent: its denoiser and reward/end model are the world; they are used where they are, on their device,
            with the weights they have at a reset. Without a reward/end model rewards are 0, and the horizon ends
            episodes.
        replay: real experience to start from.
        num_envs: imagined episodes stepped together.
        cfg: sampler and horizon.
        render_mode: "rgb_array" lets ``render()`` return the current frames.
        engine: how networks are computed. "auto": the fastest on this machine, measured when it is first needed;
            "readable": as they are written; or another one of ``engine/choose.py``.

    Raises:
        ValueError: ``render_mode`` is unknown.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(
        self,
        agent: Agent,
        replay: Replay,
        num_envs: int = 32,
        cfg: WorldModelConfig | None = None,
        render_mode: str | None = None,
        engine: EngineChoice = "auto",
    ):
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode: expected None or 'rgb_array', got {render_mode!r}")
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.single_observation_space = spaces.Box(0, 255, replay.frame_shape, np.uint8)
        self._action = agent.spec.action
        self.single_action_space = action_space(self._action)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._agent = agent
        self._replay = replay
        self._cfg = cfg or WorldModelConfig()
        self._generator = torch.Generator(agent.denoiser.device)
        work = Work.of(agent.denoiser, self._cfg.sampler, num_envs)
        self._path = choose_path(agent.denoiser.device, choice=engine, work=work)
        self._env: ImaginedEnv | FastImaginedEnv | None = None
        self._obs: np.ndarray | None = None

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts every episode from a real context. A seed fixes contexts, noise, rewards and ends from here on."""
        super().reset(seed=seed if isinstance(seed, int) else None)
        if seed is not None or self._env is None:
            words = np.random.SeedSequence(seed).generate_state(2, np.uint32)
            self._generator.manual_seed(int(words[0]))
            length = self._agent.spec.context
            contexts = self._replay.segments(self.num_envs, length, seed=int(words[1]))
            self._env = imagination(
                self._agent, self._cfg, self._path, contexts, self.num_envs, generator=self._generator
            )
        else:
            self._env.begin_epoch()
        self._obs = to_uint8(self._env.reset()).cpu().numpy()
        return self._obs.copy(), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """
        Raises:
            RuntimeError: before the first reset.
            TypeError, ValueError: actions are of another kind, shape or range.
        """
        if self._env is None:
            raise RuntimeError("step: call reset first")
        act = torch.from_numpy(checked_actions(self._action, actions, self.num_envs)).to(self._agent.denoiser.device)
        step = self._env.step(act)
        self._obs = to_uint8(step.obs).cpu().numpy()
        end, trunc = step.end.cpu().numpy(), step.trunc.cpu().numpy()
        info = {"final_obs": to_uint8(step.final_obs).cpu().numpy(), "_final_obs": end | trunc}
        return self._obs.copy(), step.rew.cpu().numpy(), end, trunc, info

    def get_state(self) -> dict[str, Any]:
        """Everything that decides what comes next, but for networks and replay: frames and actions seen, the memory or
        what the reward/end model remembers, the starts to come, and the random state. ``torch.save`` writes it.

        Raises:
            RuntimeError: before the first reset.
        """
        if self._env is None:
            raise RuntimeError("get_state: call reset first")
        return {"format": STATE_FORMAT, "random": self._generator.get_state(), **self._env.state_dict()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from what ``get_state`` returned, here or in another one of as many episodes, with the same agent and
        replay. Weights are those of the last reset.

        Raises:
            ValueError: the state is of something else; the message says what does not fit.
        """
        if state.keys() != {"format", "random", "state", "initial_states"} or state["format"] != STATE_FORMAT:
            raise ValueError("state: expected what get_state returned")
        if self._env is None:
            self.reset(seed=0)
        assert self._env is not None
        assert self._env.state is not None
        for name, x in vars(self._env.state).items():
            if (given := tuple(state["state"][name].shape)) != tuple(x.shape):
                raise ValueError(f"state: its {name} is {list(given)}, but {list(x.shape)} in this environment")
        self._env.go_on_from(dict(state))
        self._generator.set_state(state["random"])
        self._obs = self._env.state.frames[:, -1].cpu().numpy()

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The current frames, each uint8 [H,W,C]; None without a render mode."""
        return None if self.render_mode is None or self._obs is None else tuple(self._obs)
