"""What a policy's outputs say about the next action, for each kind of action.

Nothing here waits for a device or branches on what is drawn: all of it can be part of a CUDA graph.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from diamond_fast.spec import Action, Box, Discrete, Mixed, MultiBinary

MOST_MEAN = 5.0
"""Means stay within this of 0 before the squash: tanh of it is 0.9999."""
MOST_LOG_STD = 3.0
"""Standard deviations stay between exp of minus this and exp of this: 0.05 to 20."""


def sample_categorical(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draws a class a row: the one whose exponential clock, of rate p, rings first. logits [N,K] -> [N] int64.

    The same draws as torch.multinomial's, without its check, which would wait for a GPU. Any class where a row's
    logits are not finite: the loss tells.
    """
    probabilities = logits.detach().softmax(dim=-1)
    return (probabilities / torch.empty_like(probabilities).exponential_(generator=generator)).argmax(dim=-1)


class ActionDistribution(ABC):
    """A distribution over the actions of a world, given the outputs of the policy's last layer.

    Args:
        n: size of the action.
    """

    def __init__(self, n: int):
        self.n = n
        self.num_outputs = n
        """K, of the policy's last layer."""

    @abstractmethod
    def draw(self, outputs: Tensor) -> Tensor:
        """Draws of torch's default generator, without gradient. outputs [N,K] -> [N,...]."""

    def action(self, drawn: Tensor) -> Tensor:
        """What was drawn as the world takes it, of its action's shape and dtype."""
        return drawn

    @abstractmethod
    def action_at(self, outputs: Tensor, uniform: Tensor, temperature: float = 1.0) -> Tensor:
        """Actions by inversion of the distribution function: the same ones on every device.

        Args:
            outputs: [N,K] float64.
            uniform: [N, *shape] float64 in [0, 1); [N,1] for a discrete action.
            temperature: the distribution is raised to the power of 1 / temperature, before any squash.
        """

    @abstractmethod
    def log_prob_and_entropy(self, outputs: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """The logarithm of the probability, or density, of what was drawn, and the entropy, both in nats.

        Args:
            outputs: [...,K]. drawn: [...] or [...,n], as ``draw`` gave it.

        Returns:
            [...], [...]; gradients flow to the outputs.
        """


class Categorical(ActionDistribution):
    """One of n, from logits. Draws are int64 [N]."""

    def draw(self, outputs: Tensor) -> Tensor:
        return sample_categorical(outputs)

    def action_at(self, outputs: Tensor, uniform: Tensor, temperature: float = 1.0) -> Tensor:
        cumulative = (outputs / temperature).softmax(dim=1).cumsum(dim=1)
        return torch.searchsorted(cumulative, uniform, right=True).squeeze(1).clamp_(max=self.n - 1)

    def log_prob_and_entropy(self, outputs: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        log_probs = F.log_softmax(outputs, dim=-1)
        log_prob = log_probs.gather(-1, drawn[..., None]).squeeze(-1)
        return log_prob, -(log_probs.exp() * log_probs).sum(dim=-1)


class Bernoullis(ActionDistribution):
    """Each of n buttons held or not, independently, from logits. Draws are uint8 [N,n]."""

    def draw(self, outputs: Tensor) -> Tensor:
        return (torch.rand_like(outputs) < outputs.detach().sigmoid()).to(torch.uint8)

    def action_at(self, outputs: Tensor, uniform: Tensor, temperature: float = 1.0) -> Tensor:
        return (uniform < (outputs / temperature).sigmoid()).to(torch.uint8)

    def log_prob_and_entropy(self, outputs: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        log_normaliser = F.softplus(outputs)
        log_prob = drawn.to(outputs.dtype) * outputs - log_normaliser
        return log_prob.sum(dim=-1), (log_normaliser - outputs.sigmoid() * outputs).sum(dim=-1)


class SquashedGaussian(ActionDistribution):
    """n numbers in [-1, 1], each tanh(u) of an independent u ~ N(mean, std²) (SAC, arXiv 1801.01290, appendix C).

    Outputs are n means, then n logarithms of standard deviations, both bounded smoothly: zeros stand for N(0, 1), which
    tanh spreads almost evenly. Draws are u, float [N,n]: tanh in float32 would forget large ones.
    """

    def __init__(self, n: int):
        super().__init__(n)
        self.num_outputs = 2 * n

    def draw(self, outputs: Tensor) -> Tensor:
        mean, log_std = self._mean_and_log_std(outputs.detach())
        return mean + log_std.exp() * torch.randn_like(mean)

    def action(self, drawn: Tensor) -> Tensor:
        return drawn.tanh().float()

    def action_at(self, outputs: Tensor, uniform: Tensor, temperature: float = 1.0) -> Tensor:
        mean, log_std = self._mean_and_log_std(outputs)
        return self.action(mean + math.sqrt(temperature) * log_std.exp() * torch.special.ndtri(uniform))

    def log_prob_and_entropy(self, outputs: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """The entropy is estimated on the draw itself: unbiased, and so is its gradient, by reparameterisation.

        H[tanh(u)] = H[u] + E[log tanh'(u)], and u = mean + std * z has a gradient for a given z.
        """
        mean, log_std = self._mean_and_log_std(outputs)
        std, u = log_std.exp(), drawn.to(outputs.dtype)
        z = (u - mean) / std
        log_density = -0.5 * z.square() - log_std - 0.5 * math.log(2 * math.pi)
        entropy = log_std + 0.5 * math.log(2 * math.pi * math.e) + _log_slope_of_tanh(mean + std * z.detach())
        return (log_density - _log_slope_of_tanh(u)).sum(dim=-1), entropy.sum(dim=-1)

    def _mean_and_log_std(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = outputs.chunk(2, dim=-1)
        return MOST_MEAN * (mean / MOST_MEAN).tanh(), MOST_LOG_STD * (log_std / MOST_LOG_STD).tanh()


def _log_slope_of_tanh(u: Tensor) -> Tensor:
    """log(1 - tanh(u)²), without the cancellation."""
    return 2 * (math.log(2) - u - F.softplus(-2 * u))


class Parts(ActionDistribution):
    """Independent parts of a mixed action, each with a distribution of its own.

    Outputs are those of the parts, one after another. Draws are rows [N,n] of the outputs' dtype, as ``Mixed`` has them
    but for the squash of numbers: a choice is one-hot.
    """

    def __init__(self, action: Mixed):
        super().__init__(action.n)
        self._dtype = getattr(torch, action.dtype.name)
        self._parts = [distribution_of(part) for _, part in action.parts]
        self._sizes = [part.n for part in self._parts]
        self._outputs = [part.num_outputs for part in self._parts]
        self.num_outputs = sum(self._outputs)

    def draw(self, outputs: Tensor) -> Tensor:
        return self._rows([part.draw(x) for part, x in self._with(outputs)], outputs.dtype)

    def action(self, drawn: Tensor) -> Tensor:
        columns = drawn.split(self._sizes, dim=-1)
        return torch.cat([d.action(x).to(self._dtype) for d, x in zip(self._parts, columns, strict=True)], dim=-1)

    def action_at(self, outputs: Tensor, uniform: Tensor, temperature: float = 1.0) -> Tensor:
        numbers = uniform.split(self._sizes, dim=-1)
        chosen = []
        for (part, x), u in zip(self._with(outputs), numbers, strict=True):
            u = u[:, :1].contiguous() if isinstance(part, Categorical) else u
            chosen.append(part.action_at(x, u, temperature))
        return self._rows(chosen, self._dtype)

    def log_prob_and_entropy(self, outputs: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        columns = drawn.split(self._sizes, dim=-1)
        judged = []
        for (part, x), y in zip(self._with(outputs), columns, strict=True):
            judged.append(part.log_prob_and_entropy(x, y.argmax(dim=-1) if isinstance(part, Categorical) else y))
        log_probs, entropies = zip(*judged, strict=True)
        return torch.stack(log_probs).sum(dim=0), torch.stack(entropies).sum(dim=0)

    def _with(self, outputs: Tensor) -> Iterator[tuple[ActionDistribution, Tensor]]:
        pieces = (x.contiguous() for x in outputs.split(self._outputs, dim=-1))
        return zip(self._parts, pieces, strict=True)

    def _rows(self, values: list[Tensor], dtype: torch.dtype) -> Tensor:
        """[N] of a choice, [N,n] of other parts -> [N, n of all]."""
        rows = [
            (x[:, None] == torch.arange(n, device=x.device)) if isinstance(part, Categorical) else x
            for part, n, x in zip(self._parts, self._sizes, values, strict=True)
        ]
        return torch.cat([x.to(dtype) for x in rows], dim=-1)


_OF_KIND: dict[type[Action], Callable[[int], ActionDistribution]] = {
    Discrete: Categorical,
    MultiBinary: Bernoullis,
    Box: SquashedGaussian,
}


def distribution_of(action: Action) -> ActionDistribution:
    """The policy's distribution over such actions. Raises ValueError if there is none."""
    if isinstance(action, Mixed):
        return Parts(action)
    if type(action) not in _OF_KIND:
        raise ValueError(f"action: a policy chooses among {', '.join(k.kind for k in _OF_KIND)} actions, got {action}")
    return _OF_KIND[type(action)](action.n)
