"""A game in progress: which world, who plays, and everything there is to see. Knows no clock, network or screen."""

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from diamond_fast.config import SamplerConfig
from diamond_fast.frames import to_uint8
from diamond_fast.playing.agent import choose, expected
from diamond_fast.playing.buttons import Buttons
from diamond_fast.playing.hands import Hands
from diamond_fast.playing.recorder import Recorder
from diamond_fast.playing.source import Source
from diamond_fast.playing.starts import Beginning, Place, of_frames, own_picture, spread_places
from diamond_fast.playing.worlds import Dream, Outcome, Real, Recorded, Start, World

WorldName = Literal["model", "real", "replay"]
Controller = Literal["human", "agent", "recorded"]
Over = Literal["", "end", "cut"]
Quality = Literal["fast", "high"]

LIMITS = {"denoising_steps": (1, 50), "horizon": (1, 10_000), "speed": (1, 60), "seed": (0, 2**31 - 1)}
"""Least and greatest value of each number that can be set."""
QUALITIES: dict[Quality, tuple[int, int]] = {"fast": (1, 1), "high": (3, 10)}
"""Denoising steps of a small frame, and of a full one, in worlds that enlarge them (config/world_model_env of csgo)."""


def _no_frames() -> np.ndarray:
    return np.empty((0, 1, 1, 3), np.uint8)


@dataclass(frozen=True)
class View:
    """Everything to show at one moment."""

    frame: np.ndarray
    """uint8 [H,W,3]."""
    world: WorldName
    controller: Controller
    paused: bool
    trajectory: np.ndarray = field(default_factory=_no_frames)
    """uint8 [S,H,W,3]: how the frame was denoised, pure noise first; S = 0 if no model made it."""
    noise_levels: tuple[float, ...] = ()
    """[S]: standard deviation of the noise in them."""
    small: np.ndarray = field(default_factory=_no_frames)
    """uint8 [S',h,w,3]: how the small frame was denoised, which is the last; S' = 0 if frames are shown as they are."""
    small_noise_levels: tuple[float, ...] = ()
    """[S']."""
    details: bool = False
    """Whether there is more to see of the denoising than the frames that came out."""
    quality: Quality | None = None
    """If there are two stages: how full frames are drawn."""
    denoising_steps: int = 1
    horizon: int = 1
    seed: int = 0
    speed: int = 15
    """Steps a second, at most."""
    episode: int = 0
    """Episodes begun."""
    step: int = 0
    """Steps of this one."""
    action: int | tuple[float, ...] | None = None
    """The one that led to the frame: its number, or what each of the controls was at; None at an episode's start."""
    reward: float = 0.0
    """The reward of the last step."""
    total: float = 0.0
    """The sum of the episode's rewards."""
    value: float | None = None
    """What the agent expects from here on, discounted; None without a policy."""
    probabilities: tuple[float, ...] = ()
    """The agent's, of each action, or what it expects each of the controls to be at; none without a policy."""
    over: Over = ""
    """How the episode ended, if it did."""
    answers: float | None = None
    """When the player asked for what this step did, by their own clock; None if nothing was asked since the last."""
    position: tuple[int, int, int] | None = None
    """In a replay: episode, step, and steps in the episode."""
    recording: bool = False
    recordings: tuple[str, ...] = ()
    """Names of the recorded episodes, without suffix."""
    notice: str = ""
    """What went wrong last, in one line."""


class Session:
    """Plays one step at a time; every random number follows from the seed.

    Args:
        source: agent, world model and real experience.
        recorder: takes the episodes that are recorded.
        world, controller: to begin with.
        denoising_steps: per imagined frame; the run's own number if None.
        horizon: imagined steps before an episode is cut off.
        seed: of everything.
        speed: steps a second, for whoever keeps time.

    Raises:
        ValueError: a setting is out of range, or a real environment or a policy is asked for and there is none.
    """

    def __init__(
        self,
        source: Source,
        recorder: Recorder,
        world: WorldName = "model",
        controller: Controller = "human",
        denoising_steps: int | None = None,
        horizon: int = 50,
        seed: int = 0,
        speed: int = 15,
    ):
        self.source, self.recorder = source, recorder
        self.hands = Hands(source.panel)
        self._check_controller(controller)
        self.controller: Controller = "human"
        self.denoising_steps = denoising_steps or source.cfg.world_model.sampler.num_steps
        self.horizon, self.seed, self.speed = horizon, seed, speed
        for name in LIMITS:
            _check(name, getattr(self, name))
        self.paused = True
        self.notice = ""
        self.details = not source.enlarges  # many bytes, of two stages
        self.quality: Quality | None = "fast" if source.enlarges else None
        self._beginning: Beginning | None = None  # that was chosen, of this dream
        self._value: float | None = None
        self._probabilities: tuple[float, ...] = ()
        self._episodes = 0
        self.world: WorldName = world
        self._action_generator = torch.Generator().manual_seed(seed)
        self._world = self._make_world(world)
        self._enter(self._world.begin())
        self.set_controller(controller)

    # --- playing ----------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """One action and the frame it leads to; the start of the next episode if one is over."""
        if self.over:
            self.next_episode()
            return
        action = self._choose()
        self._recent.append((self._frame, action))
        outcome = self._world.step(action)
        if self.controller == "recorded" and self._steps + 1 >= len(self._recorded_actions()):
            outcome = outcome._replace(trunc=not outcome.end)
        self._show(outcome, action)
        if self.recorder.active:
            frame = self._recent[-1][0]
            self.recorder.add(frame, action, outcome.reward, outcome.end, outcome.trunc, self._frame)

    def view(self) -> View:
        """Everything to show now."""
        world = self._world
        return View(
            frame=self._frame,
            trajectory=self._trajectory,
            noise_levels=tuple(world.noise_levels) if isinstance(world, Dream) and len(self._trajectory) else (),
            small=self._small,
            small_noise_levels=tuple(world.small_noise_levels)
            if isinstance(world, Dream) and len(self._small) > 1
            else (),
            details=self.details,
            quality=self.quality,
            world=self.world,
            controller=self.controller,
            paused=self.paused,
            denoising_steps=self.denoising_steps,
            horizon=self.horizon,
            seed=self.seed,
            speed=self.speed,
            episode=self._episodes,
            step=self._steps,
            action=self._action,
            reward=self._reward,
            total=self._total,
            value=self._value,
            probabilities=self._probabilities,
            over=self.over,
            answers=self._answers,
            position=world.position if isinstance(world, Recorded) else None,
            recording=self.recorder.active,
            recordings=self.recorder.names,
            notice=self.recorder.problem or self.notice,
        )

    # --- changing what is played ------------------------------------------------------------------------------------

    def restart(self) -> None:
        """Begin anew with the same seed: the same starts, and the same dreams under the same actions."""
        if isinstance(self._world, Recorded):
            self.seek(self._world.episode, 0)
        elif self._beginning is not None:
            self._action_generator.manual_seed(self.seed)
            self._dream_on(self._beginning)
        else:
            self.switch_world(self.world)

    def next_episode(self) -> None:
        """Leave the episode for the next one."""
        self.recorder.finish()
        if self.controller == "recorded":
            episode, _ = self._place()
            self._dream_on(self._recorded((episode + 1) % self.source.replay.num_episodes))
            return
        self._beginning = None
        if isinstance(self._world, Recorded) and not self.over:
            self._world.skip()
        self._enter(self._world.begin())

    def switch_world(self, world: WorldName) -> None:
        """Begin in another world.

        Raises:
            ValueError: there is no such world.
            OSError, RuntimeError, TimeoutError: the real game does not start; all is as before.
        """
        if world not in get_args(WorldName):
            raise ValueError(f"world: expected one of {', '.join(get_args(WorldName))}, got {world!r}")
        made = self._make_world(world)
        try:
            start = made.begin()
        except BaseException:
            made.close()
            raise
        if self.controller == "recorded":
            self.controller = "human"
        self._beginning = None
        self._action_generator.manual_seed(self.seed)
        self._change_to(world, made)
        self._enter(start)

    def dream_from_here(self) -> None:
        """Go on in the world model from the frames just seen in the real game or the replay.

        Raises:
            ValueError: the world model is where the player is already.
        """
        if isinstance(self._world, Dream):
            raise ValueError("dream from here: this is the world model; switch to the real game or the replay first")
        if isinstance(self._world, Recorded):
            self._dream_on(self._world.beginning())
        else:
            self._dream_on(of_frames(self.source, [*self._recent, (self._frame, self.source.panel.idle)]))

    def start(self, episode: int, step: int) -> None:
        """Dream on from a recorded moment. Raises ValueError if there is no such one."""
        recorded = Recorded(self.source)
        recorded.seek(episode, step)
        self._dream_on(recorded.beginning())

    def start_from_picture(self, pixels: bytes) -> None:
        """Dream on from a picture, as ``own_picture``. Raises ValueError if it has another size."""
        self._dream_on(own_picture(self.source, pixels))

    def seek(self, episode: int, step: int) -> None:
        """Look at a frame of the replay.

        Raises:
            ValueError: there is no such episode or step.
        """
        recorded = self._world
        if not isinstance(recorded, Recorded):
            recorded = Recorded(self.source)
        recorded.seek(episode, step)
        if recorded is not self._world:
            self._change_to("replay", recorded)
        self._enter(recorded.begin())

    def set_controller(self, controller: Controller) -> None:
        """Who plays: you, the agent, or what was recorded after a moment, in a dream that begins there.

        Raises:
            ValueError: there is nobody of this name, or the agent has no policy.
        """
        self._check_controller(controller)
        if controller == "recorded":
            self._dream_on(self._recorded(self._place()[0]) if self._beginning is None else self._beginning)
        self.controller = controller

    def set_number(self, name: str, value: int) -> None:
        """Set denoising_steps, horizon, speed or seed; the seed begins anew. Raises ValueError out of range."""
        _check(name, value)
        setattr(self, name, value)
        if name == "seed":
            self.restart()
        elif isinstance(self._world, Dream):
            self._world.set_denoising_steps(self.denoising_steps)
            self._world.set_horizon(self.horizon)
            self._world.set_upsampling(self._upsampling)

    def show_details(self, on: bool) -> None:
        """Whether views have all steps of denoising from now on."""
        self.details = on

    def set_quality(self, quality: Quality) -> None:
        """Raises ValueError if it is neither fast nor high, or frames are not enlarged."""
        if quality not in QUALITIES:
            raise ValueError(f"quality: expected one of {', '.join(QUALITIES)}, got {quality!r}")
        if self.quality is None:
            raise ValueError("quality: this world has one stage; choose its number of denoising steps")
        self.quality = quality
        self.set_number("denoising_steps", QUALITIES[quality][0])

    def record(self, on: bool) -> None:
        """Record from here on, or stop; what has been recorded of the episode is kept.

        Raises:
            ValueError: the replay cannot be recorded again.
        """
        if on and isinstance(self._world, Recorded):
            raise ValueError("record: this is a recording already; switch to the world model or the real game")
        self.recorder.active = on
        if not on:
            self.recorder.finish()

    def close(self) -> None:
        """Write what is still being recorded, and let go of the real game."""
        self._world.close()
        self.recorder.close()

    # --- inside -----------------------------------------------------------------------------------------------------

    def _check_controller(self, controller: str) -> None:
        if controller not in get_args(Controller):
            raise ValueError(f"controller: expected one of {', '.join(get_args(Controller))}, got {controller!r}")
        if controller == "agent" and self.source.agent.actor_critic is None:
            raise ValueError("controller: this world model was trained without a policy that could play")

    def _make_world(self, world: WorldName) -> World:
        if world == "real":
            return Real(self.source.make_real_env(), self.seed, self.source.device)
        if world == "replay":
            return Recorded(self.source)
        return self._make_dream()

    def _make_dream(self) -> Dream:
        cfg = self.source.cfg.world_model.with_denoising_steps(self.denoising_steps)
        return Dream(self.source, replace(cfg, horizon=self.horizon, upsampling=self._upsampling), self.seed)

    @property
    def _upsampling(self) -> SamplerConfig:
        steps = self.source.cfg.world_model.upsampling
        return steps if self.quality in (None, "fast") else replace(steps, num_steps=QUALITIES["high"][1], order=1)

    def _dream_on(self, beginning: Beginning) -> None:
        dream = self._make_dream()
        start = dream.begin_from(beginning)
        self._change_to("model", dream)
        self._beginning = beginning
        self._enter(start)

    def _place(self) -> Place:
        """The recorded moment that this dream began at; else the first."""
        return (self._beginning and self._beginning.place) or spread_places(self.source)[0]

    def _recorded(self, episode: int) -> Beginning:
        """As soon in an episode as the model can look back."""
        recorded = Recorded(self.source)
        length = int(self.source.replay.lengths[episode])
        recorded.seek(episode, min(self.source.agent.spec.context, length) - 1)
        return recorded.beginning()

    def _recorded_actions(self) -> np.ndarray:
        """What was done from the dream's beginning on."""
        episode, step = self._place()
        acts = self.source.replay.episode(episode).act[step:]
        return np.concatenate((acts, *(after for after in [self.source.following.get(episode)] if after is not None)))

    def _change_to(self, name: WorldName, world: World) -> None:
        self.recorder.finish()
        self._world.close()
        self.world, self._world = name, world
        if name == "replay":
            self.recorder.active = False

    def _enter(self, start: Start) -> None:
        self._memory: tuple[Tensor, Tensor] | None = None
        self._recent: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=self.source.most_seen)
        for obs in start.before:
            self._think(obs[None])
        self._episodes += 1
        self._steps, self._total = -1, 0.0
        self._show(Outcome(start.obs, 0.0, end=False, trunc=False, small=start.small), action=None)

    def _show(self, outcome: Outcome, action: np.ndarray | None) -> None:
        self._think(outcome.obs)
        self._frame = to_uint8(outcome.obs[0]).cpu().numpy()
        empty = np.empty((0, *self._frame.shape), np.uint8)
        trajectory = outcome.trajectory
        self._trajectory = empty if trajectory is None or not self.details else to_uint8(trajectory).cpu().numpy()
        small = outcome.small if self.details or outcome.small is None else outcome.small[-1:]
        self._small = empty if small is None else to_uint8(small).cpu().numpy()
        self._steps += 1
        self._action = None if action is None else self.source.panel.shown(action)
        asked_at = self.hands.asked_at()
        self._answers = None if action is None else asked_at
        self._reward = outcome.reward
        self._total += outcome.reward
        self.over: Over = "end" if outcome.end else "cut" if outcome.trunc else ""
        """How the episode ended, if it did; the next step begins another."""

    @torch.inference_mode()
    def _think(self, obs: Tensor) -> None:
        """Show the policy a frame [1,C,H,W]: each is seen once, in order, whoever plays."""
        policy = self.source.policy
        if policy is None:
            return
        memory = self._memory or (torch.zeros(1, policy.lstm_dim, device=obs.device),) * 2
        self._logits, value, self._memory = policy.predict_act_value(obs, memory)
        self._value = float(value)
        likely = expected(self.source.agent.spec.action, self._logits[0].float().cpu())
        panel = self.source.panel
        self._probabilities = tuple(likely.tolist()) if isinstance(panel, Buttons) else panel.shown(likely)

    def _choose(self) -> np.ndarray:
        held = self.hands.act(self.speed)  # whoever plays: what was pressed meanwhile does not wait
        if isinstance(self._world, Recorded):
            return self._world.action
        if self.controller == "recorded":
            return np.asarray(self._recorded_actions()[self._steps])
        if self.controller == "agent":
            return choose(self.source.agent.spec.action, self._logits.cpu(), self._action_generator)
        return held


def _check(name: str, value: int) -> None:
    low, high = LIMITS[name]
    if not low <= value <= high:
        raise ValueError(f"{name}: expected {low} to {high}, got {value}")
