"""tyro's command lines without work that it repeats at every call."""

from functools import cache
from types import SimpleNamespace

from tyro import _docstrings, _unsafe_cache


def read_sources_once() -> None:
    """For each command line tyro reads the source of every class of settings again, and if pytest is imported it makes
    a tenth of what it has cached anew, to compare: a third of its time. A class stays what it is while tests run."""
    _unsafe_cache.sys = SimpleNamespace(modules={})  # all that it asks for is whether pytest is there
    tokens = _docstrings._ClassTokenization
    tokens.make = staticmethod(cache(tokens.make))
