"""What can be imported: episodes one after another, each read when its turn comes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from diamond_fast.replay.buffer import Episode
from diamond_fast.spec import Action


class Item(NamedTuple):
    """One episode to import."""

    name: str
    """Where it is, for messages and lists of files: unlike all others, and the same in another folder."""
    read: Callable[[], Iterator[Episode]]
    """Its parts in order, frames uint8 [T, H, W, 3]; only the last may have an end and a final observation. Raises
    ValueError that names the file and what is wrong with it, OSError."""
    half: str | None = None
    """``train`` or ``test``, if that is settled."""


@dataclass(frozen=True)
class Source:
    """Episodes of one kind."""

    items: Sequence[Item]
    size: tuple[int, int]
    """Height and width of the frames."""
    action: Action | None
    """None: int64 numbers, of how many is not known."""
    fps: float | None = None
    """Frames a second, if that is known."""
    low_size: tuple[int, int] | None = None
    """Height and width that frames get if nothing else is said; None: their own."""
    full_size: tuple[int, int] | None = None
    """The same of the second size; None: there is none."""
    action_scale: tuple[float, ...] | None = None
    """What each of the numbers of an action was divided by; None: by nothing."""
    bicubic: bool = False
    """Frames are made smaller by bicubic filtering with antialiasing, not by area averaging."""
    is_test: Callable[[str], bool] | None = None
    """Whether a name is in the published test half, if one was published."""
