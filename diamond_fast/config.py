"""Every setting of a run, with the paper's values as defaults.

Frozen dataclasses and nothing else: no torch, so that ``--help`` is instant. The text under a field
is its help on the command line, the type says what values it takes. Units: steps are environment steps
(4 Atari frames each), updates are optimiser steps, epochs follow DIAMOND's trainer (collect, then train each model).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from diamond_fast.formulations.config import (
    DenoiserConfig,
    DiffusionConfig,
    LevelsConfig,
    SamplerConfig,
    SigmaDistributionConfig,
    StepsConfig,
)
from diamond_fast.networks.actor_critic.config import ActorCriticConfig, ActorCriticLossConfig
from diamond_fast.networks.recurrent.config import Memory, MemoryConfig
from diamond_fast.networks.reward_end.config import RewardEndConfig
from diamond_fast.networks.unet.config import InnerModelConfig as InnerModelConfig  # to be had with the others
from diamond_fast.registry import FORMULATIONS, NETWORKS, find
from diamond_fast.settings import (
    BatchSize,
    CountInt,
    Fraction,
    Length,
    Limits,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Seed,
    Width,
    require,
)

if TYPE_CHECKING:  # numpy is not needed for --help
    from diamond_fast.spec import Action, Spec

Precision = Literal["fp32", "tf32", "bf16"]
EngineChoice = Literal["auto", "readable", "torch", "fused", "amx", "program"]

Place = Literal["thread", "process", "main"]
NumActions = Annotated[int, Limits(minimum=1, maximum=2**12)]


@dataclass(frozen=True)
class WorldModelConfig:
    """The imagined environment."""

    sampler: StepsConfig = field(default_factory=SamplerConfig)
    horizon: Length = 15
    """After so many imagined steps an imagined episode is cut short."""
    num_batches_to_preload: Width = 256
    """So many batches of starting points for imagined episodes are drawn from the real experience at once."""
    first_frame_share: Fraction = 0.0
    """So large a share of imagined episodes begins with the first frame of a real one. A memory needs it if what it
    has to keep shows there alone. 0: all begin anywhere (published)."""
    student: bool = False
    """Imagine with a student of the denoiser, which learns to draw in one step what the denoiser draws in
    --world-model.sampler.num-steps from the same noise."""
    upsampling: SamplerConfig = field(
        default_factory=lambda: SamplerConfig(
            num_steps=1, sigma_min=1.0, sigma_max=5.0, s_churn=10.0, s_tmin=1.0, s_tmax=5.0, s_noise=0.9
        )
    )

    def with_denoising_steps(self, count: int) -> "WorldModelConfig":
        """The same, with frames drawn in so many steps. Raises ValueError if the formulation has not as many."""
        most = self.sampler.most_steps
        require(count <= most, "denoising_steps", f"must be at most {most} with this formulation, got {count}")
        return replace(self, sampler=replace(self.sampler, num_steps=count))


# --- training -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class UpdateConfig:
    """Optimisation of one of the three models."""

    steps_first_epoch: CountInt = 10_000
    """The first epoch has so many updates."""
    steps_per_epoch: CountInt = 400
    """Each later epoch has so many updates."""
    start_after_epochs: CountInt = 0
    """The model is not trained in so many first epochs."""
    batch_size: BatchSize = 32
    """A batch has so many sequences; for the policy, so many episodes are imagined in parallel."""
    grad_acc_steps: PositiveInt = 1
    """The gradients of so many batches are added up for one update."""
    lr: PositiveFloat = 1e-4
    """This is the learning rate of the optimiser, AdamW."""
    lstm_input_lr_scale: PositiveFloat = 1.0
    """If the model has an LSTM, the weights of its inputs learn at so many times --lr. Below 1 keeps many inputs from
    saturating the gates in short trainings with a large --lr; try 32 / inputs."""
    weight_decay: NonNegativeFloat = 1e-2
    """This is the weight decay of AdamW. It applies to weights only: biases, embeddings and norms never decay."""
    eps: PositiveFloat = 1e-8
    """This term keeps AdamW from dividing by zero."""
    lr_warmup_steps: CountInt = 100
    """Over so many updates the learning rate rises linearly from 0."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients with a larger norm are scaled down to it."""


@dataclass(frozen=True)
class AugmentationConfig:
    """Changes to the frames that a world model alone is trained on, drawn once a sequence (paper, appendix M, driving;
    the paper prints no ranges). All off by default."""

    shift: Fraction = 0.0
    """Frames are moved by up to this share of their height and width."""
    scale: Fraction = 0.0
    """Frames are magnified or shrunk by a factor up to this far from 1."""
    contrast: Fraction = 0.0
    """Differences from a sequence's mean are multiplied by a factor up to this far from 1."""
    brightness: Fraction = 0.0
    """Up to this share of the whole range is added to every pixel, or taken away."""
    saturation: Fraction = 0.0
    """Differences from grey are multiplied by a factor up to this far from 1."""
    mirrored: tuple[CountInt, ...] = ()
    """Half of all sequences are mirrored left to right, which changes the sign of these numbers of the action, such as
    0 for steering; none: no sequence is mirrored."""


@dataclass(frozen=True)
class CollectionConfig:
    """How real experience is gathered."""

    num_envs: Length = 1
    """So many real environments collect experience in parallel."""
    num_steps_total: PositiveInt = 100_000
    """The whole run has so many real steps."""
    first_epoch_min: PositiveInt = 5_000
    """At least this many steps are collected before the first update."""
    first_epoch_max: PositiveInt = 10_000
    """At most this many steps are collected before the first update."""
    first_epoch_threshold_rew: CountInt = 10
    """Until then, collection goes on until the two rarer of the reward signs -1, 0 and 1 together came this often."""
    steps_per_epoch: PositiveInt = 100
    """So many real steps are collected in each later epoch."""
    epsilon: Fraction = 0.01
    """With this probability an action is uniformly random when collecting."""
    policy_temperature: Annotated[PositiveFloat, arg(aliases=("--policy-temperature",))] = 1.0
    """The policy's logits are divided by it when collecting. Freeway needs less than 1 to leave a score of 0."""
    sample_weights: tuple[NonNegativeFloat, ...] = (0.1, 0.1, 0.1, 0.7)
    """These shares of a training batch come from equal parts of the episodes, ordered from the oldest to the newest."""


@dataclass(frozen=True)
class EvaluationConfig:
    """Test episodes: full games, no random actions."""

    every: PositiveInt = 10
    """The agent plays test episodes every so many epochs."""
    num_episodes: PositiveInt = 4
    """Each evaluation has so many test episodes."""
    num_final_episodes: PositiveInt = 100
    """So many test episodes are played at the end of the run."""
    num_envs: Length = 8
    """At most this many test episodes are played in parallel. Short ones are not favoured by that."""
    max_steps: Annotated[int, Limits(minimum=1, maximum=10**6)] = 27_000
    """A test episode that has not ended after this many steps is cut short. No Atari game is longer."""


@dataclass(frozen=True)
class RunConfig:
    """Train DIAMOND: a policy learned inside a diffusion world model of a game."""

    game: Annotated[str | None, arg(metavar="NAME")] = None
    """Play this Atari game, such as Boxing or Pong. A run needs --game, --env-id or a recording (--static-dataset)."""
    env_id: Annotated[str | None, arg(metavar="ID")] = None
    """Play the Gymnasium environment of this id; any with images for observations will do, if its actions are
    Discrete, MultiBinary (buttons) or a Box with bounds (numbers)."""
    domain: Annotated[str | None, arg(metavar="NAME")] = None
    """Learn this world, if neither --game nor --env-id says which."""
    env_kwargs: Annotated[str | None, arg(metavar="JSON")] = None
    """Give the environment of --env-id these arguments, such as '{"continuous": false}' for CarRacing-v3."""
    env_runs_in: Place = "thread"
    """Environments run in one thread for all of them (thread), in a process for each (process), which an environment
    needs that uses the main thread, signal handlers or an event loop, or that may crash, or in the main thread, without
    time limits (main)."""
    env_timeout: PositiveFloat = 60.0
    """If a step of the environment takes longer than so many seconds, the run ends."""
    env_start_timeout: PositiveFloat = 300.0
    """An environment may take so many seconds to be made, and so many until its first episode begins."""
    seed: Seed = 0
    """The seed fixes every random number of the run: the same seed gives the same run on the same machine."""
    frame_size: Length | tuple[Length, Length] = 64
    """Frames are scaled to this size in pixels for the models: height and width, or one number for both. If not given,
    those of --static-dataset stay as they are, unless there is --upsampling."""
    num_autoregressive_steps: Annotated[int, Limits(minimum=0, maximum=2**12)] = 1
    """In training, the denoiser predicts so many further frames from its own output."""
    num_final_epochs: CountInt = 50
    """So many epochs train on after the last real step was collected."""
    model_free: bool = False
    """Train the policy in the real environment, without a world model."""
    world_model_only: bool = False
    """Train the denoiser alone: no rewards, no ends of episodes, no policy. Games are played at random, if there are
    any; the result is the loss on held-out episodes."""
    static_dataset: Annotated[str | None, arg(metavar="PATH")] = None
    """Train from this recording instead of collecting: a journal, a .npz file or a published dataset/train folder.
    It needs neither --game nor --env-id; without them no test games are played."""
    held_out: Annotated[str | None, arg(metavar="PATH")] = None
    """Judge the world model on this recording, as --static-dataset reads it, instead of the test games."""
    num_actions: Annotated[NumActions | None, arg(metavar="N")] = None
    """The game in --static-dataset has so many actions, if no --game or --env-id says it and not all were recorded."""
    precision: Precision = "bf16"
    """The networks compute in this arithmetic. With bf16, convolutions are in bfloat16 if the machine is made for it
    (tensor cores, AMX), else in float32; weights, sums and losses stay float32. tf32 is as published, on a CPU fp32."""
    engine: Annotated[EngineChoice, arg(aliases=("--path",))] = "auto"
    """Networks are computed in the way that is fastest on this machine, measured at first use, of those that agree with
    readable (auto), as they are written, in float32 and without CUDA graphs (readable), operation by operation and
    channels last (torch), with Triton kernels (fused), or by compiled programs for a CPU, in bfloat16
    on AMX (amx) or in float32 (program)."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """If a loss or gradient is NaN or infinite, which never reaches the weights, the run ends and says where (stop), or
    that update is left out and counted in the metrics (skip); looking at each one slows a GPU down."""
    checkpoint_every: PositiveInt = 1
    """A checkpoint is written every so many epochs."""

    formulation: Annotated[str, arg(metavar="NAME")] = "edm"
    """The denoiser learns this diffusion. The denoiser, its noise levels and its sampler have its settings."""
    network: Annotated[str, arg(metavar="NAME")] = "unet"
    """The denoiser has this network. The inner model has its settings."""
    memory: Memory = "none"
    """The world model remembers all frames and actions of an episode in layers of this kind, tells the denoiser what it
    remembers in place of the last actions, and reads rewards and ends off it (EDELINE, arXiv 2502.00466). It is trained
    in the denoiser's updates, and there is no reward/end model. none: there is one, and no memory, as in DIAMOND."""
    memory_model: MemoryConfig = field(default_factory=MemoryConfig)
    denoiser: DiffusionConfig = field(default_factory=DenoiserConfig)
    denoiser_update: UpdateConfig = field(default_factory=UpdateConfig)
    student_update: UpdateConfig = field(
        default_factory=lambda: UpdateConfig(steps_first_epoch=2_000, steps_per_epoch=50)
    )
    upsampling: Annotated[int, Limits(minimum=1, maximum=64)] = 1
    """Frames are imagined in the size of --frame-size, and a second model, the upsampler, makes them so many times as
    high and wide. It is trained on recordings that hold both sizes; 1 does without."""
    upsampler: DenoiserConfig = field(
        default_factory=lambda: DenoiserConfig(
            InnerModelConfig(num_steps_conditioning=1, context_noise=True), sigma_offset_noise=0.1
        )
    )
    upsampler_update: UpdateConfig = field(
        default_factory=lambda: UpdateConfig(steps_first_epoch=400, batch_size=4, max_grad_norm=10.0)
    )
    upsampler_autoregressive_steps: Annotated[int, Limits(minimum=0, maximum=2**12)] = 1
    """In training, the upsampler predicts so many further frames from its own output."""
    sigma_distribution: LevelsConfig = field(default_factory=SigmaDistributionConfig)
    reward_end: RewardEndConfig = field(default_factory=RewardEndConfig)
    reward_end_update: UpdateConfig = field(default_factory=lambda: UpdateConfig(max_grad_norm=100.0))
    reward_end_event_share: Fraction = 0.0
    """So large a share of the reward/end model's sequences is drawn around a step that is rewarded or ends the episode.
    In short trainings it learns rare ones this way. 0: as rare as in the game (published)."""
    actor_critic: ActorCriticConfig = field(default_factory=ActorCriticConfig)
    actor_critic_update: UpdateConfig = field(
        default_factory=lambda: UpdateConfig(steps_first_epoch=5_000, weight_decay=0.0, max_grad_norm=100.0)
    )
    actor_critic_loss: ActorCriticLossConfig = field(default_factory=ActorCriticLossConfig)
    world_model: WorldModelConfig = field(default_factory=WorldModelConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    collection: CollectionConfig = field(default_factory=CollectionConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """H, W, C of the frames the models see."""
        from diamond_fast.spec import Frame  # numpy is not needed for --help

        return Frame.of_size(self.frame_size, self.denoiser.inner_model.img_channels).shape

    def spec(self, action: "Action") -> "Spec":
        """The world, if these are its actions."""
        from diamond_fast.spec import Frame, Spec

        height, width, channels = self.frame_shape
        context = self.denoiser.inner_model.num_steps_conditioning
        memory = 0 if self.memory == "none" else self.memory_model.width
        return Spec(Frame(height, width, channels), action, context, memory)

    @property
    def env_arguments(self) -> dict[str, Any]:
        """``env_kwargs``, decoded.

        Raises:
            ValueError: it is no JSON object.
        """
        try:
            arguments = json.loads(self.env_kwargs or "{}")
        except (ValueError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict):
            example = """for instance '{"continuous": false}'"""
            raise ValueError(f"--env-kwargs: must be a JSON object, {example}, got {self.env_kwargs!r}")
        return arguments

    @property
    def name(self) -> str:
        """The game, the environment's id, the world or, without any, what the recording is called."""
        return world_name(vars(self))

    @property
    def title(self) -> str:
        """The name without a namespace: for people, and for folders."""
        return self.name.rpartition("/")[2]

    @property
    def reward_end_seq_length(self) -> int:
        """Frames in a reward/end training sequence, and in one of a memory: a rollout after its burn-in."""
        return self.world_model.horizon + self.denoiser.inner_model.num_steps_conditioning

    @property
    def full_frame_shape(self) -> tuple[int, int, int]:
        """H, W, C of the frames that the upsampler makes."""
        height, width, channels = self.frame_shape
        return height * self.upsampling, width * self.upsampling, channels

    @property
    def upsampler_seq_length(self) -> int:
        """Frames in an upsampler's training sequence."""
        return self.upsampler.inner_model.num_steps_conditioning + 1 + self.upsampler_autoregressive_steps

    @property
    def denoiser_seq_length(self) -> int:
        """Frames in a denoiser training sequence: context, the next frame, and the autoregressive ones."""
        return self.denoiser.inner_model.num_steps_conditioning + 1 + self.num_autoregressive_steps


def of_kind(config: RunConfig, formulation: str, network: str) -> RunConfig:
    """The settings with that formulation and network, whose own settings take their defaults if they are new.

    Raises:
        ValueError: there is none of that name; the message names the flag.
    """
    inner, kind = config.denoiser.inner_model, find(NETWORKS, "--network", network)
    if type(inner) is not kind:
        inner = kind(img_channels=inner.img_channels, num_steps_conditioning=inner.num_steps_conditioning)
    denoiser, levels, sampler = config.denoiser, config.sigma_distribution, config.world_model.sampler
    kind = find(FORMULATIONS, "--formulation", formulation)
    if type(denoiser) is not kind:
        denoiser, levels, sampler = kind(), kind.levels(), kind.steps(num_steps=sampler.num_steps)
    autoregressive = config.num_autoregressive_steps if kind.autoregressive else 0
    return replace(
        config,
        formulation=formulation,
        network=network,
        num_autoregressive_steps=autoregressive,
        denoiser=replace(denoiser, inner_model=inner),
        sigma_distribution=levels,
        world_model=replace(config.world_model, sampler=sampler),
    )


MACHINE_FLAGS = ("env_runs_in", "env_timeout", "env_start_timeout", "engine")
"""Settings of the machine rather than of the run: every command may give them anew."""


def with_machine_flags(config: RunConfig, args: Any) -> RunConfig:
    """The settings with those of ``MACHINE_FLAGS`` that ``args`` has, if they are not None."""
    given = {name: getattr(args, name) for name in MACHINE_FLAGS}
    return replace(config, **{name: value for name, value in given.items() if value is not None})


def world_name(settings: Mapping[str, Any]) -> str:
    """What a run is about, by its settings, which may be those of an older version; empty if they do not say.

    A recording is called by the last part of its path that says something: boxing of ``boxing/dataset/train``.
    """
    if name := settings.get("game") or settings.get("env_id") or settings.get("domain"):
        return name
    if not (recording := settings.get("static_dataset")):
        return ""
    path, generic = Path(recording), ("", "train", "test", "dataset", "replay", "journal")
    return next((part.stem for part in (path, *path.parents) if part.stem not in generic), "recording")
