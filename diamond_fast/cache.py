"""Where what can be computed again is kept between runs."""

import os
from pathlib import Path

CACHE = "DIAMOND_FAST_CACHE"
"""Environment variable that names another folder than ``~/.cache/diamond_fast``."""


def folder() -> Path:
    """The user's cache folder, which may not be there yet."""
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diamond_fast"
    return Path(os.environ.get(CACHE) or usual)
