"""What is played: an agent with its world model, real experience to start from, and the real game."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path

import numpy as np
import torch

from diamond_fast.config import RunConfig
from diamond_fast.domains import domain_of
from diamond_fast.domains.environments import make_env
from diamond_fast.engine import choose
from diamond_fast.engine.contest import Work
from diamond_fast.engine.fast_encoders import FastPolicy
from diamond_fast.engine.imagination import Sampler
from diamond_fast.engine.world import at_play, next_frame_sampler
from diamond_fast.envs.failure import EnvironmentFailedError
from diamond_fast.envs.real import RealEnv
from diamond_fast.formulations.config import StepsConfig
from diamond_fast.networks.actor_critic.model import ActorCritic
from diamond_fast.playing.buttons import Buttons, action_names
from diamond_fast.playing.hands import Panel, panel_of
from diamond_fast.playing.spawns import load_spawns
from diamond_fast.replay import Replay
from diamond_fast.runs.agents import TrainedAgent, check_actions
from diamond_fast.spec import Action, Discrete
from diamond_fast.training.collect import Collector
from diamond_fast.world_model import Agent

NUM_RANDOM_STEPS = 500
"""Real steps collected as starts for imagined episodes if an agent comes without its experience."""


@dataclass(frozen=True)
class Source:
    """An agent and all that playing with it needs."""

    title: str
    """The game."""
    agent: Agent
    """On its device, in evaluation mode. Without a policy the player is on their own."""
    cfg: RunConfig
    replay: Replay
    """Real experience: imagined episodes start from it, and it can be browsed."""
    replay_name: str
    """What that experience is, in a few words."""
    action_names: tuple[str, ...] = ()
    """Of the choices, if one of several is made at each step."""
    given_panel: Panel | None = None
    """What a player holds and moves; None: a button for each choice, or combinations of them."""
    following: Mapping[int, np.ndarray] = field(default_factory=dict)
    """By episode, actions that are known to come after its last one, of which no frames are there."""

    @cached_property
    def panel(self) -> Panel:
        """What a player holds and moves."""
        return self.given_panel or Buttons(self.action_names)

    @property
    def enlarges(self) -> bool:
        """Whether frames are shown in full size: there is an upsampler, and no policy, which looks at small frames."""
        return self.agent.upsampler is not None and self.agent.actor_critic is None

    @property
    def has_rewards(self) -> bool:
        """Whether the world model says what a step is worth."""
        memory = self.agent.memory
        return self.agent.rew_end_model is not None or (memory is not None and memory.head is not None)

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """H, W, C of what is shown."""
        return self.cfg.full_frame_shape if self.enlarges else self.replay.frame_shape

    @property
    def recorded_action(self) -> Action | None:
        """What a recording says of its actions."""
        return _named(self.agent.spec.action)

    @cached_property
    def path(self) -> choose.Path:
        """How frames are drawn."""
        work = Work.of(self.agent.denoiser, self.cfg.world_model.sampler, 1)
        return choose.choose_path(self.device, self.cfg.precision, self.cfg.engine, work=work)

    @cached_property
    def policy(self) -> ActorCritic | FastPolicy | None:
        """The agent's, as it plays."""
        return at_play(self.agent.actor_critic, self.path)

    @cached_property
    def sampler(self) -> Callable[[StepsConfig], Sampler]:
        """Makes what draws the next frame. The last few stay: a fast one is prepared at its first call."""
        return lru_cache(maxsize=4)(partial(next_frame_sampler, self.agent.denoiser, path=self.path))

    @cached_property
    def upsampling(self) -> Callable[[StepsConfig], Sampler]:
        """Makes what draws full frames, as ``sampler``."""
        assert self.agent.upsampler is not None
        return lru_cache(maxsize=2)(partial(next_frame_sampler, self.agent.upsampler, path=self.path))

    @property
    def num_full(self) -> int:
        """Full frames that the next one is drawn from, if frames are enlarged."""
        return self.cfg.upsampler.inner_model.num_steps_conditioning

    @property
    def most_seen(self) -> int:
        """How many frames a dream can begin with: as many as the denoiser sees, and a memory has learned to read."""
        context = self.agent.spec.context
        return context if self.agent.memory is None else max(context, self.cfg.reward_end_seq_length)

    @property
    def device(self) -> torch.device:
        return self.agent.denoiser.device

    def make_real_env(self) -> RealEnv:
        """The real game: one environment, full games, in frames as they are shown."""
        cfg = replace(self.cfg, frame_size=self.frame_shape[:2]) if self.enlarges else self.cfg
        return make_env(cfg, 1, done_on_life_loss=False)


def load_source(trained: TrainedAgent, device: torch.device) -> Source:
    """What an agent has to offer. It is moved to the device.

    A run may still be training. If an agent comes without its experience, some is collected with random actions:
    only then must the real game be installed.

    Raises:
        ValueError, OSError: the run has no world model, or there is neither experience to start from nor the game.
    """
    cfg, agent = trained.config, trained.agent
    if cfg.model_free:
        raise ValueError(f"{trained.source}: a model-free run has no world model to play in")
    choose.set_matmul_precision(cfg.precision)
    agent.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stubs lack it
    agent.eval().requires_grad_(False)
    replay, replay_name = None, "the run's experience"
    following: dict[int, np.ndarray] = {}
    if trained.folder is not None:
        replay = domain_of(cfg).load_recording(Path(cfg.static_dataset or trained.folder.journal))
    if trained.recording is not None:
        replay, replay_name = domain_of(cfg).load_recording(trained.recording), "the game that comes with it"
    if trained.weights is not None:
        replay, following = load_spawns(trained.weights, cfg, agent.spec.action)
        replay_name = "the published starts"
    if replay is None or not replay.num_episodes:
        replay, replay_name = _random_experience(cfg, agent), "random play"
    action = agent.spec.action
    names = action_names(cfg, action.n) if isinstance(action, Discrete) else ()
    return Source(cfg.title, agent, cfg, replay, replay_name, names, panel_of(cfg, action, replay, names), following)


def _random_experience(cfg: RunConfig, agent: Agent) -> Replay:
    replay = Replay(cfg.frame_shape, capacity=NUM_RANDOM_STEPS, action=_named(agent.spec.action))
    try:
        env = make_env(cfg, 1, done_on_life_loss=True)
    except (ValueError, EnvironmentFailedError) as error:
        raise ValueError(f"imagined episodes start from real frames, of which none are here: {error}") from None
    try:
        check_actions("the agent", agent.spec.action, cfg, env.action)
        Collector(env, cfg.seed).collect(None, replay, NUM_RANDOM_STEPS)
    finally:
        env.close()
    return replay


def _named(action: Action) -> Action | None:
    """None for choices: a recording of them is one of any number."""
    return None if isinstance(action, Discrete) else action
