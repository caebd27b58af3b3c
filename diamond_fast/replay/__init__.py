"""The replay buffer: real experience in memory and on disk, and the batches drawn from it.

The names below are imported when they are first used, so that ``python -m diamond_fast.replay --help`` is instant.
"""

from importlib import import_module

_HOME = {
    "Batch": "diamond_fast.replay.batch",
    "Episode": "diamond_fast.replay.buffer",
    "JournalError": "diamond_fast.replay.journal",
    "Replay": "diamond_fast.replay.buffer",
    "Segments": "diamond_fast.replay.segments",
    "load_recording": "diamond_fast.replay.formats",
}

__all__ = list(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'diamond_fast.replay' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
