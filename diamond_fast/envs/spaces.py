"""Actions as Gymnasium and its users say them."""

import numpy as np
from gymnasium import spaces

from diamond_fast.spec import Action, Box, Discrete, Mixed, MultiBinary

_KINDS = {
    Discrete.dtype: ("iu", "integers"),
    MultiBinary.dtype: ("iub", "integers"),
    Box.dtype: ("f", "fractions"),
}
"""numpy's kinds of numbers that are taken for actions of a dtype, and what they are called."""


def action_space(action: Action) -> spaces.Space:
    """The Gymnasium space of one action."""
    match action:
        case Discrete(n):
            return spaces.Discrete(n)
        case MultiBinary(n=n) | Mixed(n=n) if action.dtype == MultiBinary.dtype:
            return spaces.MultiBinary(n)
        case Box(n=n) | Mixed(n=n):
            return spaces.Box(-np.inf, np.inf, (n,), action.dtype.type)
    raise TypeError(f"action: expected Discrete, MultiBinary, Box or Mixed, got {action!r}")


def checked_actions(action: Action, actions: np.ndarray, num_envs: int) -> np.ndarray:
    """A copy of N actions, [N, *action.shape] of its dtype.

    Raises:
        TypeError: they are of another kind.
        ValueError: they are of another shape, or one is out of range.
    """
    actions = np.asarray(actions)
    kinds, name = _KINDS[action.dtype]
    if actions.dtype.kind not in kinds:
        raise TypeError(f"actions: expected {name}, got {actions.dtype}")
    if actions.shape != (num_envs, *action.shape):
        raise ValueError(f"actions: expected shape {(num_envs, *action.shape)}, got {actions.shape}")
    actions = actions.astype(action.dtype)
    if reason := action.why_not(actions):
        raise ValueError(f"actions: {reason}")
    return actions
