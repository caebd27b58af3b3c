"""The settings of diffusion formulations: what all have in common, and EDM's. No torch."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from diamond_fast.networks.config import NetworkConfig
from diamond_fast.networks.unet.config import InnerModelConfig
from diamond_fast.settings import FiniteFloat, Length, Limits, NonNegativeFloat, PositiveFloat, flag, require


@dataclass(frozen=True)
class LevelsConfig:
    """Noise levels a denoiser is trained on."""

    def check(self, path: str) -> None:
        """Raises ValueError if settings do not fit together; ``path`` is where they stand in a run's."""


@dataclass(frozen=True)
class StepsConfig:
    """How a next frame is drawn."""

    most_steps: ClassVar[int] = 2**12  # as Length has it

    num_steps: Length = 3
    """Number of denoising steps that draw one frame. Fewer are faster and less exact."""

    @property
    def num_evaluations(self) -> int:
        """Evaluations of the denoiser for one frame."""
        return self.num_steps

    @property
    def s_cond(self) -> float:
        """Standard deviation of the noise that each step adds to the context."""
        return 0.0

    def draws_more(self, path: str) -> str:
        """The setting by which steps draw noise of their own, so that a frame does not follow from the noise at the
        start; empty if it does. ``path`` is where these settings stand in a run's."""
        return ""

    def check(self, path: str) -> None:
        """Raises ValueError if settings do not fit together; ``path`` is where they stand in a run's."""


@dataclass(frozen=True)
class DiffusionConfig:
    """A denoiser, whatever its formulation."""

    formulation: ClassVar[str]  # where its class is: package.module:Name, made from this config
    levels: ClassVar[type[LevelsConfig]] = LevelsConfig
    steps: ClassVar[type[StepsConfig]] = StepsConfig
    autoregressive: ClassVar[bool] = True  # whether it may be trained on frames of its own

    inner_model: NetworkConfig = field(default_factory=InnerModelConfig)

    @property
    def noise_context(self) -> bool:
        """Whether it is trained on past frames with noise in them."""
        return False


@dataclass(frozen=True)
class SigmaDistributionConfig(LevelsConfig):
    """Noise levels the denoiser is trained on: exp(N(loc, scale^2)), clipped."""

    loc: FiniteFloat = -0.4
    """Mean of the logarithm of the noise level."""
    scale: NonNegativeFloat = 1.2
    """Standard deviation of the logarithm of the noise level."""
    sigma_min: PositiveFloat = 2e-3
    """Noise levels below this one are raised to it."""
    sigma_max: PositiveFloat = 20.0
    """Noise levels above this one are lowered to it."""

    def check(self, path: str) -> None:
        check_range(path, self.sigma_min, self.sigma_max)


@dataclass(frozen=True)
class SamplerConfig(StepsConfig):
    """How a next frame is drawn from the denoiser (EDM, algorithm 2)."""

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
    s_cond: NonNegativeFloat = 0.0
    """Each step adds noise of this standard deviation to the past frames, on top of what earlier steps added. It needs
    a denoiser that was trained with --denoiser.noise-context."""

    @property
    def num_evaluations(self) -> int:
        """Heun's method takes two evaluations a step, except at the last."""
        return self.num_steps if self.order == 1 else 2 * self.num_steps - 1

    def draws_more(self, path: str) -> str:
        return next((flag(f"{path}.{name}") for name in ("s_churn", "s_cond") if getattr(self, name) > 0), "")

    def check(self, path: str) -> None:
        check_range(path, self.sigma_min, self.sigma_max)


@dataclass(frozen=True)
class DenoiserConfig(DiffusionConfig):
    """EDM preconditioning (Karras et al. 2022, table 1) around a network."""

    formulation: ClassVar[str] = "diamond_fast.formulations.edm:EDM"
    levels: ClassVar[type[LevelsConfig]] = SigmaDistributionConfig
    steps: ClassVar[type[StepsConfig]] = SamplerConfig

    sigma_data: PositiveFloat = 0.5
    """Standard deviation of the pixels, which lie in [-1, 1], that the preconditioning assumes."""
    sigma_offset_noise: NonNegativeFloat = 0.3
    """Standard deviation of the noise that shifts a whole colour channel of a frame."""
    noise_context: bool = False
    """Noise is added to the past frames in training, too, so that the denoiser forgives mistakes of its own in them. It
    is told how much (--denoiser.inner-model.context-noise)."""


NUM_TIMESTEPS = 1000
"""Noise levels of DDPM."""


@dataclass(frozen=True)
class DDPMStepsConfig(StepsConfig):
    """How a next frame is drawn: ancestral sampling, on as many timesteps."""

    most_steps: ClassVar[int] = NUM_TIMESTEPS

    def draws_more(self, path: str) -> str:
        return "--formulation ddpm"

    def check(self, path: str) -> None:
        message = f"must be at most {self.most_steps} with --formulation ddpm, got {self.num_steps}"
        require(self.num_steps <= self.most_steps, f"{path}.num_steps", message)


@dataclass(frozen=True)
class DDPMConfig(DiffusionConfig):
    """A network that predicts the noise (Ho et al. 2020), with the offset noise as a part of it."""

    formulation: ClassVar[str] = "diamond_fast.formulations.ddpm:DDPM"
    steps: ClassVar[type[StepsConfig]] = DDPMStepsConfig
    autoregressive: ClassVar[bool] = False

    sigma_offset_noise: NonNegativeFloat = 0.3
    """Standard deviation of the noise that shifts a whole colour channel of a frame."""


@dataclass(frozen=True)
class FlowTimesConfig(LevelsConfig):
    """Times that the velocity is learned at, from 0 (clean) to 1 (noise): logit-normal, sigmoid(N(loc, scale^2))."""

    loc: FiniteFloat = 0.0
    """Mean of the times' logit. Above 0 there is more noise in training."""
    scale: NonNegativeFloat = 1.0
    """Standard deviation of the times' logit."""


@dataclass(frozen=True)
class FlowStepsConfig(StepsConfig):
    """How a next frame is drawn: Euler's method along the velocity."""

    shift: PositiveFloat = 3.0
    """How the steps are spaced: 1 is evenly, a larger number puts more of them at high noise (Esser et al. 2024)."""


@dataclass(frozen=True)
class FlowConfig(DiffusionConfig):
    """A network that predicts the velocity from frame to noise, along a straight line (rectified flow)."""

    formulation: ClassVar[str] = "diamond_fast.formulations.flow:Flow"
    levels: ClassVar[type[LevelsConfig]] = FlowTimesConfig
    steps: ClassVar[type[StepsConfig]] = FlowStepsConfig


def check_range(path: str, sigma_min: float, sigma_max: float) -> None:
    """Raises ValueError if the noise levels are not in order."""
    message = f"must be below {flag(path + '.sigma_max')} ({sigma_max}), got {sigma_min}"
    require(sigma_min < sigma_max, f"{path}.sigma_min", message)
