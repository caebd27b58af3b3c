"""What a policy does, and what it would do."""

import numpy as np
import torch
from torch import Tensor

from diamond_fast.networks.actor_critic.distributions import distribution_of, sample_categorical
from diamond_fast.spec import Action, Box, Discrete, Mixed


def choose(action: Action, outputs: Tensor, generator: torch.Generator) -> np.ndarray:
    """Draws an action [*action.shape] from a policy's outputs [1,K] on the CPU."""
    if isinstance(action, Discrete):
        return np.asarray(sample_categorical(outputs, generator)[0].item())
    uniform = torch.rand(1, *action.shape, dtype=torch.float64, generator=generator)
    return distribution_of(action).action_at(outputs.double(), uniform)[0].numpy()


def expected(action: Action, outputs: Tensor) -> np.ndarray:
    """What outputs [K] say of each of the action's numbers [n]: probabilities, and medians of numbers from -1 to 1."""
    if isinstance(action, Mixed):
        rows, first = list[np.ndarray](), 0
        for _, part in action.parts:
            count = distribution_of(part).num_outputs
            rows.append(expected(part, outputs[first : first + count]))
            first += count
        return np.concatenate(rows)
    if isinstance(action, Discrete):
        return outputs.softmax(dim=0).numpy()
    if isinstance(action, Box):
        middle = torch.full((1, action.n), 0.5, dtype=torch.float64)
        return distribution_of(action).action_at(outputs[None].double(), middle)[0].numpy()
    return outputs.sigmoid().numpy()
