"""Names of Atari games: the 26 of Atari 100k, and every other single-player game that ale_py brings.

Names are looked up without importing ale_py or gymnasium, so that a typo is answered at once.
"""

import difflib
import json
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

ATARI_100K = (
    "Alien",
    "Amidar",
    "Assault",
    "Asterix",
    "BankHeist",
    "BattleZone",
    "Boxing",
    "Breakout",
    "ChopperCommand",
    "CrazyClimber",
    "DemonAttack",
    "Freeway",
    "Frostbite",
    "Gopher",
    "Hero",
    "Jamesbond",
    "Kangaroo",
    "Krull",
    "KungFuMaster",
    "MsPacman",
    "Pong",
    "PrivateEye",
    "Qbert",
    "RoadRunner",
    "Seaquest",
    "UpNDown",
)
"""The benchmark's games (Kaiser et al. 2020), in alphabetical order."""

_WITHOUT_SINGLE_PLAYER_MODE = {"combat", "joust", "maze_craze", "warlords"}


@cache
def _rom_ids() -> dict[str, str]:
    """Usual name -> ale_py's name of the ROM, e.g. MsPacman -> ms_pacman."""
    spec = find_spec("ale_py")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("ale_py is not installed: pip install ale-py")
    roms = json.loads((Path(spec.origin).parent / "roms" / "md5.json").read_text())
    ids = (file.removesuffix(".bin") for file in roms)
    return {rom.title().replace("_", ""): rom for rom in sorted(ids) if rom not in _WITHOUT_SINGLE_PLAYER_MODE}


def all_games() -> tuple[str, ...]:
    """Usual names of all single-player games that ale_py knows, in alphabetical order."""
    return tuple(_rom_ids())


def rom_id(game: str) -> str:
    """ale_py's name of a game's ROM, given its usual name as :func:`resolve_game` returns it."""
    return _rom_ids()[game]


def resolve_game(name: str) -> str:
    """Returns the usual name of a game (``"boxing"`` and ``"ms_pacman"`` become ``"Boxing"`` and ``"MsPacman"``).

    Raises:
        ValueError: ale_py knows no such game; the message suggests the nearest name.
    """
    usual_names = {game.lower(): game for game in all_games()}
    key = name.lower().replace("_", "")
    if key in usual_names:
        return usual_names[key]
    near = [usual_names[match] for match in difflib.get_close_matches(key, usual_names, n=1)]
    hint = f"did you mean {near[0]}?" if near else f"the games of Atari 100k are {', '.join(ATARI_100K)}"
    raise ValueError(f'unknown game "{name}"; {hint}')


def atari_game_of(env_id: str) -> str | None:
    """The usual name of the Atari game behind one of ale_py's Gymnasium ids, such as ALE/Boxing-v5; else None."""
    match = re.fullmatch(r"ALE/(\w+?)(?:-ram)?-v\d+|(\w+?)(?:NoFrameskip|Deterministic)?-v[04]", env_id)
    try:
        return resolve_game(match[1] or match[2]) if match else None
    except ValueError:
        return None
