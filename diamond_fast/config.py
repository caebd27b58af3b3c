"""Every setting of a run, with the paper's values as defaults.

Frozen dataclasses and nothing else: no torch, so that ``--help`` is instant. The text under a field
is its help on the command line, the type says what values it takes. Units: steps are environment steps
(4 Atari frames each), updates are optimiser steps, epochs follow DIAMOND's trainer (collect, then train each model).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

from diamond_fast.settings import Limits

Precision = Literal["fp32", "tf32", "bf16"]
PathChoice = Literal["auto", "readable"]

MOST = 2**31 - 1  # what every library below takes
PositiveInt = Annotated[int, Limits(minimum=1, maximum=MOST)]
CountInt = Annotated[int, Limits(minimum=0, maximum=MOST)]
BatchSize = Annotated[int, Limits(minimum=1, maximum=2**20)]
Width = Annotated[int, Limits(minimum=1, maximum=2**16)]
Depth = Annotated[int, Limits(minimum=1, maximum=64)]
Length = Annotated[int, Limits(minimum=1, maximum=2**12)]
Switch = Annotated[int, Limits(minimum=0, maximum=1)]
PositiveFloat = Annotated[float, Limits(above=0)]
NonNegativeFloat = Annotated[float, Limits(minimum=0)]
FiniteFloat = Annotated[float, Limits()]
Fraction = Annotated[float, Limits(minimum=0, maximum=1)]
Seed = Annotated[int, Limits(minimum=0, maximum=MOST)]
RgbChannels = Annotated[int, Limits(minimum=3, maximum=3)]
Place = Literal["thread", "process", "main"]
NumActions = Annotated[int, Limits(minimum=1, maximum=2**12)]


# --- networks -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InnerModelConfig:
    """The denoiser's U-Net F (paper, appendix C)."""

    img_channels: RgbChannels = 3
    """Number of colour channels of a frame."""
    num_steps_conditioning: Length = 4
    """How many past frames and actions the next frame is predicted from."""
    cond_channels: Width = 256
    """Width of the vector that tells the network the noise level and the actions."""
    depths: tuple[Depth, ...] = (2, 2, 2, 2)
    """Number of residual blocks of each level of the network."""
    channels: tuple[Width, ...] = (64, 64, 64, 64)
    """Number of channels of each level of the network."""
    attn_depths: tuple[Switch, ...] = (0, 0, 0, 0)
    """Which levels have self-attention in their blocks: 1 for yes, 0 for no, level by level."""


@dataclass(frozen=True)
class DenoiserConfig:
    """EDM preconditioning (Karras et al. 2022, table 1) around the U-Net."""

    inner_model: InnerModelConfig = field(default_factory=InnerModelConfig)
    sigma_data: PositiveFloat = 0.5
    """Standard deviation of the pixels, which lie in [-1, 1], that the preconditioning assumes."""
    sigma_offset_noise: NonNegativeFloat = 0.3
    """Standard deviation of the noise that shifts a whole colour channel of a frame."""


@dataclass(frozen=True)
class RewardEndConfig:
    """The reward and termination model: convolutions and an LSTM (paper, appendix C)."""

    img_channels: RgbChannels = 3
    """Number of colour channels of a frame."""
    lstm_dim: Width = 512
    """Width of the LSTM's state, the model's memory."""
    cond_channels: Width = 128
    """Width of the vector that tells the network the action."""
    depths: tuple[Depth, ...] = (2, 2, 2, 2)
    """Number of residual blocks of each level of the network."""
    channels: tuple[Width, ...] = (32, 32, 32, 32)
    """Number of channels of each level of the network."""
    attn_depths: tuple[Switch, ...] = (0, 0, 0, 0)
    """Which levels have self-attention in their blocks: 1 for yes, 0 for no, level by level."""


@dataclass(frozen=True)
class ActorCriticConfig:
    """Policy and value: a small convolutional encoder and an LSTM cell (paper, appendix C)."""

    img_channels: RgbChannels = 3
    """Number of colour channels of a frame."""
    lstm_dim: Width = 512
    """Width of the LSTM's state, the model's memory."""
    channels: tuple[Width, ...] = (32, 32, 64, 64)
    """Number of channels of each level of the network."""
    down: tuple[Switch, ...] = (1, 1, 1, 1)
    """Which levels end with 2x2 max-pooling: 1 for yes, 0 for no, level by level."""


# --- world model ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SamplerConfig:
    """How a next frame is drawn from the denoiser (EDM, algorithm 2)."""

    num_steps: Length = 3
    """Number of denoising steps that draw one frame. Fewer are faster and less exact."""
    sigma_min: PositiveFloat = 2e-3
    """Noise level (standard deviation) of the last denoising step."""
    sigma_max: PositiveFloat = 5.0
    """Noise level (standard deviation) that drawing a frame begins at."""
    rho: PositiveFloat = 7.0
    """How the noise levels are spaced: a larger number puts more steps at low noise."""
    order: Literal[1, 2] = 1
    """The solver: 1 is Euler's method, 2 is Heun's, which is more exact and costs nearly twice the time."""
    s_churn: NonNegativeFloat = 0.0
    """How much noise is put back between steps. 0 makes sampling deterministic once the first noise is drawn."""
    s_tmin: NonNegativeFloat = 0.0
    """Noise is put back at this noise level or above."""
    s_tmax: Annotated[float, Limits(minimum=0, infinite=True)] = float("inf")
    """Noise is put back at this noise level or below."""
    s_noise: PositiveFloat = 1.0
    """Standard deviation of the noise that is put back, as a factor."""

    @property
    def num_evaluations(self) -> int:
        """Evaluations of the denoiser for one frame: Heun's method takes two a step, except at the last."""
        return self.num_steps if self.order == 1 else 2 * self.num_steps - 1


@dataclass(frozen=True)
class SigmaDistributionConfig:
    """Noise levels the denoiser is trained on: exp(N(loc, scale^2)), clipped."""

    loc: FiniteFloat = -0.4
    """Mean of the logarithm of the noise level."""
    scale: NonNegativeFloat = 1.2
    """Standard deviation of the logarithm of the noise level."""
    sigma_min: PositiveFloat = 2e-3
    """Noise levels below this one are raised to it."""
    sigma_max: PositiveFloat = 20.0
    """Noise levels above this one are lowered to it."""


@dataclass(frozen=True)
class WorldModelConfig:
    """The imagined environment."""

    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    horizon: Length = 15
    """Number of imagined steps after which an imagined episode is cut short."""
    num_batches_to_preload: Width = 256
    """How many batches of starting points for imagined episodes are drawn from the real experience at once."""

    def with_denoising_steps(self, count: int) -> "WorldModelConfig":
        """The same, with frames drawn in so many steps."""
        return replace(self, sampler=replace(self.sampler, num_steps=count))


# --- training -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class UpdateConfig:
    """Optimisation of one of the three models."""

    steps_first_epoch: CountInt = 10_000
    """Number of updates in the first epoch."""
    steps_per_epoch: CountInt = 400
    """Number of updates in each later epoch."""
    start_after_epochs: CountInt = 0
    """The model is not trained in this many first epochs."""
    batch_size: BatchSize = 32
    """Number of sequences in a batch; for the policy, of episodes imagined in parallel."""
    grad_acc_steps: PositiveInt = 1
    """Number of batches whose gradients are added up for one update."""
    lr: PositiveFloat = 1e-4
    """Learning rate of the optimiser, AdamW."""
    weight_decay: NonNegativeFloat = 1e-2
    """Weight decay of AdamW. It applies to weights only: biases, embeddings and norms never decay."""
    eps: PositiveFloat = 1e-8
    """The term that keeps AdamW from dividing by zero."""
    lr_warmup_steps: CountInt = 100
    """Number of updates over which the learning rate rises linearly from 0."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients with a larger norm are scaled down to it."""


@dataclass(frozen=True)
class ActorCriticLossConfig:
    """REINFORCE with a value baseline on lambda-returns (paper, appendix D)."""

    backup_every: Length = 15
    """Number of steps that are played before each update of the policy."""
    gamma: Fraction = 0.985
    """Discount factor: what a reward one step later is worth."""
    lambda_: Annotated[Fraction, arg(name="lambda")] = 0.95
    """How far returns rely on rewards that came (1) rather than on the value network (0)."""
    weight_value_loss: NonNegativeFloat = 1.0
    """Weight of the value network's squared error in the loss."""
    weight_entropy_loss: NonNegativeFloat = 0.001
    """Weight of the policy's entropy in the loss. A larger weight makes for more exploration."""


@dataclass(frozen=True)
class CollectionConfig:
    """How real experience is gathered."""

    num_envs: Length = 1
    """Number of real environments that collect experience in parallel."""
    num_steps_total: PositiveInt = 100_000
    """Number of real steps in the whole run."""
    first_epoch_min: PositiveInt = 5_000
    """At least this many steps are collected before the first update."""
    first_epoch_max: PositiveInt = 10_000
    """At most this many steps are collected before the first update."""
    first_epoch_threshold_rew: CountInt = 10
    """Until then, collection goes on until the two rarer of the reward signs -1, 0 and 1 together came this often."""
    steps_per_epoch: PositiveInt = 100
    """Number of real steps collected in each later epoch."""
    epsilon: Fraction = 0.01
    """Probability of a uniformly random action when collecting."""
    policy_temperature: Annotated[PositiveFloat, arg(aliases=("--policy-temperature",))] = 1.0
    """Divides the policy's logits when collecting. Freeway needs less than 1 to leave a score of 0."""
    sample_weights: tuple[NonNegativeFloat, ...] = (0.1, 0.1, 0.1, 0.7)
    """Shares of a training batch that come from equal parts of the episodes, ordered from the oldest to the newest."""


@dataclass(frozen=True)
class EvaluationConfig:
    """Test episodes: full games, no random actions."""

    every: PositiveInt = 10
    """The agent plays test episodes every so many epochs."""
    num_episodes: PositiveInt = 4
    """Number of test episodes in each evaluation."""
    num_final_episodes: PositiveInt = 100
    """Number of test episodes at the end of the run."""
    num_envs: Length = 8
    """At most this many test episodes are played in parallel. Short ones are not favoured by that."""
    max_steps: Annotated[int, Limits(minimum=1, maximum=10**6)] = 27_000
    """A test episode that has not ended after this many steps is cut short. No Atari game is longer."""


@dataclass(frozen=True)
class RunConfig:
    """Train DIAMOND: a policy learned inside a diffusion world model of a game."""

    game: Annotated[str | None, arg(metavar="NAME")] = None
    """The Atari game, such as Boxing or Pong. A run needs --game, --env-id or a recording (--static-dataset)."""
    env_id: Annotated[str | None, arg(metavar="ID")] = None
    """The id of any Gymnasium environment with image observations and discrete actions."""
    domain: Annotated[str | None, arg(metavar="NAME")] = None
    """The world, where neither --game nor --env-id says it."""
    env_kwargs: Annotated[str | None, arg(metavar="JSON")] = None
    """Arguments for the environment of --env-id, such as '{"continuous": false}' for CarRacing-v3."""
    env_runs_in: Place = "thread"
    """Where the environment runs. thread: in one thread for all of them. process: in a process for each, which an
    environment needs that uses the main thread, signal handlers or an event loop, or that may crash. main: in the main
    thread, without time limits."""
    env_timeout: PositiveFloat = 60.0
    """Seconds to wait for a step of the environment before the run ends."""
    env_start_timeout: PositiveFloat = 300.0
    """Seconds to wait until an environment is made, and until its first episode begins."""
    seed: Seed = 0
    """Fixes every random number of the run: the same seed gives the same run on the same machine."""
    frame_size: Length | tuple[Length, Length] = 64
    """Size in pixels to which frames are scaled for the models: height and width, or one number for both."""
    num_autoregressive_steps: Annotated[int, Limits(minimum=0, maximum=2**12)] = 1
    """In training, the denoiser predicts so many further frames from its own output."""
    num_final_epochs: CountInt = 50
    """Number of epochs that train on after the last real step was collected."""
    model_free: bool = False
    """Train the policy in the real environment, without a world model."""
    static_dataset: Annotated[str | None, arg(metavar="PATH")] = None
    """Train from this recording instead of collecting: a journal, a .npz file or a published dataset/train folder.
    It needs neither --game nor --env-id; without them no test games are played."""
    num_actions: Annotated[NumActions | None, arg(metavar="N")] = None
    """Number of actions of the game in --static-dataset, if no --game or --env-id says it and not all were recorded."""
    precision: Precision = "bf16"
    """Arithmetic of the networks. bf16: convolutions in bfloat16 if the machine is made for it (tensor cores, AMX),
    else float32; weights, sums and losses stay float32. tf32: as published; on a CPU the same as fp32."""
    path: PathChoice = "auto"
    """How networks are computed. auto: the fastest way this machine has. readable: as they are written, in float32 and
    without CUDA graphs."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """When a loss or gradient is NaN or infinite, which never reaches the weights. stop: the run ends and says where.
    skip: that update is left out and counted in the metrics; looking at each one slows a GPU down."""
    checkpoint_every: PositiveInt = 1
    """A checkpoint is written every so many epochs."""

    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    denoiser_update: UpdateConfig = field(default_factory=UpdateConfig)
    sigma_distribution: SigmaDistributionConfig = field(default_factory=SigmaDistributionConfig)
    reward_end: RewardEndConfig = field(default_factory=RewardEndConfig)
    reward_end_update: UpdateConfig = field(default_factory=lambda: UpdateConfig(max_grad_norm=100.0))
    actor_critic: ActorCriticConfig = field(default_factory=ActorCriticConfig)
    actor_critic_update: UpdateConfig = field(
        default_factory=lambda: UpdateConfig(steps_first_epoch=5_000, weight_decay=0.0, max_grad_norm=100.0)
    )
    actor_critic_loss: ActorCriticLossConfig = field(default_factory=ActorCriticLossConfig)
    world_model: WorldModelConfig = field(default_factory=WorldModelConfig)
    collection: CollectionConfig = field(default_factory=CollectionConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """H, W, C of the frames the models see."""
        from diamond_fast.spec import Frame  # numpy is not needed for --help

        return Frame.of_size(self.frame_size, self.denoiser.inner_model.img_channels).shape

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
        """Frames in a reward/end training sequence: a rollout after its burn-in."""
        return self.world_model.horizon + self.denoiser.inner_model.num_steps_conditioning

    @property
    def denoiser_seq_length(self) -> int:
        """Frames in a denoiser training sequence: context, the next frame, and the autoregressive ones."""
        return self.denoiser.inner_model.num_steps_conditioning + 1 + self.num_autoregressive_steps


MACHINE_FLAGS = ("env_runs_in", "env_timeout", "env_start_timeout", "path")
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
