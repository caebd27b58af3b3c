"""Whatever was recorded: a world model is learned from it, without any game."""

from diamond_fast.config import RunConfig
from diamond_fast.domains.domain import Domain


def _checked(cfg: RunConfig) -> RunConfig:
    if cfg.static_dataset is None and cfg.domain is not None:
        raise ValueError(
            f"--static-dataset: worlds of --domain {cfg.domain} are learned from a recording; name its folder, for "
            "instance drives/train"
        )
    if cfg.static_dataset is None:
        raise ValueError(
            "--game, --env-id: exactly one of them is needed, got neither; for instance --game Boxing, or "
            "--static-dataset PATH to train from a recording alone"
        )
    return cfg


DOMAIN = Domain("recordings", settings=("num_actions",), checked=_checked)
