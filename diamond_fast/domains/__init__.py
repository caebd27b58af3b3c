"""The worlds there are to learn, each in a folder of its own. No torch.

A new world is a folder that defines ``DOMAIN``, and a line in ``_FOLDERS``.
"""

from importlib import import_module

from diamond_fast.config import RunConfig
from diamond_fast.domains.domain import Domain
from diamond_fast.registry import find

_FOLDERS = (
    "atari",
    "catch",
    "roll",
    "recall",
    "maze",
    "doom",
    "gym",
    "recordings",
    "csgo",
    "driving",
)

DOMAINS: dict[str, Domain] = {name: import_module(f"{__name__}.{name}").DOMAIN for name in _FOLDERS}
"""By name. Settings without --domain mean the first world that owns them."""


def domain_of(cfg: RunConfig) -> Domain:
    """The world of a run.

    Raises:
        ValueError: there is none of the name that --domain gives.
    """
    if cfg.domain is None:
        return next((domain for domain in DOMAINS.values() if domain.owns(cfg)), DOMAINS["recordings"])
    return find(DOMAINS, "--domain", cfg.domain)


def has_env(cfg: RunConfig) -> bool:
    """Whether there is a game to play, and not only a recording of one."""
    return domain_of(cfg).make_slot is not None
