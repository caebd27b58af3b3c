"""Actions of a Gymnasium environment, and how ours become its own."""

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces

from diamond_fast.spec import Action, Box, Discrete, Mixed, MultiBinary


def adapt_actions(env_id: str, space: spaces.Space) -> tuple[Action, Callable[[np.ndarray], Any]]:
    """What can be done, and what makes an action that the environment takes of one of ours.

    A Box of any shape becomes as many numbers from -1 to 1, which stand for its bounds; what lies beyond is cut off. A
    Dict of such spaces becomes an action of named parts.

    Raises:
        ValueError: the space is of another kind, or a Box has no bounds.
    """
    match space:
        case spaces.Discrete():
            first = int(space.start)
            return Discrete(int(space.n)), lambda action: first + int(action)
        case spaces.MultiBinary():
            return MultiBinary(int(np.prod(space.shape))), lambda action: action.reshape(space.shape).astype(
                space.dtype
            )
        case spaces.Box() if space.dtype.kind == "f":
            if not space.is_bounded():
                raise ValueError(
                    f"{env_id}: expected actions with bounds, got {space}; its action_space should say between which "
                    "numbers it plays"
                )
            low, high = space.low.astype(np.float64), space.high.astype(np.float64)

            def scaled(action: np.ndarray) -> np.ndarray:
                share = (1 + action.astype(np.float64).clip(-1, 1).reshape(space.shape)) / 2
                return (low + share * (high - low)).astype(space.dtype).clip(space.low, space.high)

            return Box(int(np.prod(space.shape))), scaled
        case spaces.Dict() if space.spaces and not any(isinstance(part, spaces.Dict) for part in space.values()):
            adapted = {name: adapt_actions(f"{env_id}: {name}", part) for name, part in space.items()}
            mixed = Mixed(parts=tuple((name, action) for name, (action, _) in adapted.items()))

            def by_name(row: np.ndarray) -> dict[str, Any]:
                return {name: adapted[name][1](value) for name, value in mixed.decode(row).items()}

            return mixed, by_name
    raise ValueError(
        f"{env_id}: expected actions that are Discrete, MultiBinary or a Box of floats, or a Dict of those, "
        f"got {space}; gymnasium.wrappers.TransformAction makes one of them of others"
    )
