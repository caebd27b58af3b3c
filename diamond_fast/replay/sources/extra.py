"""Packages that only some recordings need."""

from importlib import import_module
from typing import Any


def needed(package: str) -> Any:
    """The package. Raises ValueError that names the extra if it is not installed."""
    try:
        return import_module(package)
    except ImportError:
        raise ValueError(
            f"{package} is not installed, which reads this kind of recording; pip install 'diamond_fast[recordings]'"
        ) from None
