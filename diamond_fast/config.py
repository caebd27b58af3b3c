"""Every setting of a run, with the paper's values as defaults, and the named presets.

Frozen dataclasses and nothing else: no torch, so that ``--help`` is instant. The text under a field
is its help on the command line. Units: steps are environment steps (4 Atari frames each), updates are
optimiser steps, epochs follow DIAMOND's trainer (collect, then train each model).
"""

from dataclasses import asdict, dataclass, field, replace
from typing import Literal

Precision = Literal["fp32", "tf32", "bf16"]


# --- networks -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InnerModelConfig:
    """The denoiser's U-Net F (paper, appendix C)."""

    img_channels: int = 3
    """Colour channels of a frame."""
    num_steps_conditioning: int = 4
    """Past frames and actions the next frame is conditioned on."""
    cond_channels: int = 256
    """Width of the conditioning vector (noise level and actions)."""
    depths: tuple[int, ...] = (2, 2, 2, 2)
    """Residual blocks per level."""
    channels: tuple[int, ...] = (64, 64, 64, 64)
    """Channels per level."""
    attn_depths: tuple[int, ...] = (0, 0, 0, 0)
    """1 where a level's blocks have self-attention."""


@dataclass(frozen=True)
class DenoiserConfig:
    """EDM preconditioning (Karras et al. 2022, table 1) around the U-Net."""

    inner_model: InnerModelConfig = field(default_factory=InnerModelConfig)
    sigma_data: float = 0.5
    """Standard deviation of the data."""
    sigma_offset_noise: float = 0.3
    """Standard deviation of the noise added per channel to a whole frame."""


@dataclass(frozen=True)
class RewardEndConfig:
    """The reward and termination model: convolutions and an LSTM (paper, appendix C)."""

    img_channels: int = 3
    lstm_dim: int = 512
    cond_channels: int = 128
    """Width of the action embedding."""
    depths: tuple[int, ...] = (2, 2, 2, 2)
    channels: tuple[int, ...] = (32, 32, 32, 32)
    attn_depths: tuple[int, ...] = (0, 0, 0, 0)


@dataclass(frozen=True)
class ActorCriticConfig:
    """Policy and value: a small convolutional encoder and an LSTM cell (paper, appendix C)."""

    img_channels: int = 3
    lstm_dim: int = 512
    channels: tuple[int, ...] = (32, 32, 64, 64)
    down: tuple[int, ...] = (1, 1, 1, 1)
    """1 where a level ends with 2x2 max-pooling."""


# --- world model ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SamplerConfig:
    """How a next frame is drawn from the denoiser (EDM, algorithm 2)."""

    num_steps: int = 3
    """Denoising steps per frame."""
    sigma_min: float = 2e-3
    sigma_max: float = 5.0
    rho: float = 7.0
    """Bend of the noise schedule: larger puts more steps at low noise."""
    order: Literal[1, 2] = 1
    """1: Euler. 2: Heun."""
    s_churn: float = 0.0
    """Amount of noise put back between steps."""
    s_tmin: float = 0.0
    s_tmax: float = float("inf")
    s_noise: float = 1.0


@dataclass(frozen=True)
class SigmaDistributionConfig:
    """Noise levels the denoiser is trained on: exp(N(loc, scale^2)), clipped."""

    loc: float = -0.4
    scale: float = 1.2
    sigma_min: float = 2e-3
    sigma_max: float = 20.0


@dataclass(frozen=True)
class WorldModelConfig:
    """The imagined environment."""

    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    horizon: int = 15
    """Imagined steps before an episode is truncated."""
    num_batches_to_preload: int = 256
    """Batches of initial states drawn from the replay at once."""


# --- training -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class UpdateConfig:
    """Optimisation of one of the three models."""

    steps_first_epoch: int = 10_000
    """Updates in epoch 1."""
    steps_per_epoch: int = 400
    """Updates in each later epoch."""
    start_after_epochs: int = 0
    """Train only after this many epochs."""
    batch_size: int = 32
    grad_acc_steps: int = 1
    """Batches whose gradients are added up per update."""
    lr: float = 1e-4
    weight_decay: float = 1e-2
    """Of weights; biases, embeddings and norms never decay."""
    eps: float = 1e-8
    """Of AdamW."""
    lr_warmup_steps: int = 100
    """Updates over which the learning rate rises linearly from 0."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to at most this norm."""


@dataclass(frozen=True)
class ActorCriticLossConfig:
    """REINFORCE with a value baseline on lambda-returns (paper, appendix D)."""

    backup_every: int = 15
    """Length of a rollout, in steps."""
    gamma: float = 0.985
    lambda_: float = 0.95
    weight_value_loss: float = 1.0
    weight_entropy_loss: float = 0.001


@dataclass(frozen=True)
class CollectionConfig:
    """How real experience is gathered."""

    num_envs: int = 1
    """Training environments stepped together."""
    num_steps_total: int = 100_000
    """Real steps in the whole run."""
    first_epoch_min: int = 5_000
    """Steps collected before the first update, at least."""
    first_epoch_max: int = 10_000
    """And at most."""
    first_epoch_threshold_rew: int = 10
    """Initial collection goes on until the rarer reward signs together count this many."""
    steps_per_epoch: int = 100
    epsilon: float = 0.01
    """Probability of a uniformly random action."""
    policy_temperature: float = 1.0
    """Divides the policy's logits when collecting. Freeway needs less than 1 to leave a score of 0."""
    sample_weights: tuple[float, ...] = (0.1, 0.1, 0.1, 0.7)
    """Shares of training batches from the first, second, ... part of the episodes in order of age."""


@dataclass(frozen=True)
class EvaluationConfig:
    """Test episodes: full games, no random actions."""

    every: int = 10
    """Epochs between evaluations."""
    num_episodes: int = 4
    num_final_episodes: int = 100
    """Episodes at the end of the run."""
    num_envs: int = 8
    """Environments stepped together, at most. Episodes are dealt out beforehand, so short ones are not favoured."""


@dataclass(frozen=True)
class RunConfig:
    """Train DIAMOND: a policy learned inside a diffusion world model of a game."""

    game: str | None = None
    """Atari game: Boxing, Pong, ... (one of the two, --game or --env-id)."""
    env_id: str | None = None
    """Any Gymnasium environment with image observations and discrete actions."""
    seed: int = 0
    """Fixes every random number of the run."""
    frame_size: int = 64
    """Height and width of the frames the models see, in pixels."""
    num_autoregressive_steps: int = 1
    """Denoiser training: further frames predicted from the model's own output."""
    num_final_epochs: int = 50
    """Epochs of training after the last collection."""
    model_free: bool = False
    """Train the policy in the real environment instead; no world model."""
    precision: Precision = "fp32"
    """Arithmetic of the networks: fp32 is exact, tf32 is the published trainer's on a GPU, bf16 the fastest."""
    checkpoint_every: int = 1
    """Epochs between checkpoints."""

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
    def reward_end_seq_length(self) -> int:
        """Frames in a reward/end training sequence: a rollout after its burn-in."""
        return self.world_model.horizon + self.denoiser.inner_model.num_steps_conditioning

    @property
    def denoiser_seq_length(self) -> int:
        """Frames in a denoiser training sequence: context, the next frame, and the autoregressive ones."""
        return self.denoiser.inner_model.num_steps_conditioning + 1 + self.num_autoregressive_steps
