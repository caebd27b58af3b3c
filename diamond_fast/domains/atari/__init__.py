"""Atari games, as the paper plays them."""

from dataclasses import replace

from diamond_fast.config import RunConfig
from diamond_fast.domains.atari.games import resolve_game, rom_id
from diamond_fast.domains.domain import Domain


def _checked(cfg: RunConfig) -> RunConfig:
    if cfg.game is None:
        raise ValueError("--game: --domain atari needs it; for instance --game Boxing")
    try:
        return replace(cfg, game=resolve_game(cfg.game))
    except ValueError as error:
        raise ValueError(f"--game: {error}") from None


def _make_slot(cfg: RunConfig):
    from diamond_fast.domains.atari.env import AtariSlot

    assert cfg.game is not None
    return AtariSlot(cfg.game, cfg.frame_size)


def _action_names(cfg: RunConfig) -> list[str]:
    from ale_py import ALEInterface, LoggerMode, roms

    assert cfg.game is not None
    ALEInterface.setLoggerMode(LoggerMode.Error)
    ale = ALEInterface()
    rom = roms.get_rom_path(rom_id(resolve_game(cfg.game)))
    assert rom is not None
    ale.loadROM(rom)
    return [action.name for action in ale.getMinimalActionSet()]


DOMAIN = Domain(
    "atari",
    owns=lambda cfg: cfg.game is not None,
    settings=("game",),
    checked=_checked,
    make_slot=_make_slot,
    action_names=_action_names,
)
