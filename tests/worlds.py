"""Worlds for tests."""

from diamond_fast.spec import Discrete, Frame, Spec


def world(num_actions: int, size: int = 64, context: int = 4) -> Spec:
    """Square colour frames and discrete actions, as Atari has them."""
    return Spec(Frame(size, size), Discrete(num_actions), context)
