"""What a world says of itself. No torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from diamond_fast.config import RunConfig

if TYPE_CHECKING:  # neither numpy nor torch is needed for --help
    from diamond_fast.controls import Controls
    from diamond_fast.envs.slot import Slot
    from diamond_fast.replay import Replay


def _load_recording(path: Path) -> "Replay":
    from diamond_fast.replay import load_recording

    return load_recording(path)


@dataclass(frozen=True)
class Domain:
    """A world, or worlds of one kind, beside what the settings of a run say.

    Its functions import what they need when they are called: ``--help`` and the checks load no environment.
    """

    name: str
    """What --domain calls it."""
    owns: Callable[[RunConfig], bool] = lambda cfg: False
    """Whether settings without --domain mean this world."""
    settings: tuple[str, ...] = ()
    """Which of game, env_id, env_kwargs and num_actions it reads: the others are refused."""
    checked: Callable[[RunConfig], RunConfig] = lambda cfg: cfg
    """The settings as they are usually written. Raises ValueError if they do not fit the world; it names the flag."""
    make_slot: "Callable[[RunConfig], Slot] | None" = None
    """Makes one game; None if there are only recordings. Raises ValueError, EnvironmentFailedError. Can be pickled."""
    load_recording: "Callable[[Path], Replay]" = _load_recording
    """Reads a journal, or whatever else recordings of this world are kept in. Raises ValueError, OSError."""
    action_names: Callable[[RunConfig], Sequence[str]] = lambda cfg: ()
    """What the actions are called, if that is known. May raise anything if the game is not installed."""
    controls: "Callable[[RunConfig], Controls | None]" = lambda cfg: None
    """What a player moves, if actions are not one choice; None: it follows from their kinds. May raise as names may."""
    presets: Mapping[str, RunConfig] = field(default_factory=dict)
    """Sets of defaults for --preset. --domain takes the first."""
