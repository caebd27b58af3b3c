"""What a run goes on from: its newest whole checkpoint, and the experience that belongs to it."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from diamond_fast.config import RunConfig
from diamond_fast.domains import domain_of
from diamond_fast.replay import Replay
from diamond_fast.runs import checkpoint
from diamond_fast.runs.checkpoint import Checkpoint
from diamond_fast.runs.folder import RunFolder
from diamond_fast.runs.lost import check_nothing_is_lost
from diamond_fast.spec import Action


def upgraded(state: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's state as this version writes it, from that of any earlier one.

    The first ones were only saved between epochs, where no update was under way and no start was in store.
    """
    updates = {}
    for name, update in state["updates"].items():
        update = {"done": 0, "num_skipped": 0, "totals": {}, **update}
        env = update["objective"].get("env", {})
        if "contexts" in env:
            starts = {"contexts": env["contexts"], "drawn": None}
            update["objective"] = {**update["objective"], "env": {"state": env["state"], "initial_states": starts}}
        updates[name] = update
    return {"figures": {}, "conditions": {}, **state, "updates": updates}


def load_progress(folder: RunFolder, cfg: RunConfig, action: Action | None) -> tuple[Checkpoint | None, Replay]:
    """The newest checkpoint that is whole together with its experience, or with a recording the run only reads.

    Args:
        folder, cfg: of the run.
        action: what is done in its game; None if there is none.

    Returns:
        None and an empty buffer if nothing is committed yet: the run begins, or begins anew.

    Raises:
        ValueError: no checkpoint is whole, one is of a newer version, or there were some that are lost; or the
            experience is damaged or does not belong to this run. Nothing is changed.
        OSError: something cannot be read or written.
    """
    resumes = checkpoint.latest_epoch(folder.checkpoints) is not None
    if not resumes:
        check_nothing_is_lost(folder)
    if cfg.static_dataset is not None:
        saved = checkpoint.load_latest(folder.checkpoints, use=_upgraded) if resumes else None
        return saved, domain_of(cfg).load_recording(Path(cfg.static_dataset))
    if not resumes:
        return None, _begin_replay(folder, cfg, action)
    return checkpoint.load_latest(folder.checkpoints, use=partial(_with_replay, folder, cfg, action))


def _begin_replay(folder: RunFolder, cfg: RunConfig, action: Action | None) -> Replay:
    folder.replay.mkdir(exist_ok=True)
    folder.journal.unlink(missing_ok=True)  # of a run that was stopped before its first checkpoint
    c = cfg.collection
    return Replay.open(folder.journal, cfg.frame_shape, c.num_envs, c.num_steps_total, action=action)


def _with_replay(
    folder: RunFolder, cfg: RunConfig, action: Action | None, saved: Checkpoint
) -> tuple[Checkpoint, Replay]:
    """The run's own experience as it was at the checkpoint."""
    saved = _upgraded(saved)
    if not folder.journal.exists():
        raise ValueError(f"{folder.journal} is missing")
    c, length = cfg.collection, saved.state["replay"]
    return saved, Replay.open(folder.journal, cfg.frame_shape, c.num_envs, c.num_steps_total, length, action)


def _upgraded(saved: Checkpoint) -> Checkpoint:
    try:
        return replace(saved, state=upgraded(saved.state))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"its state is not that of a run: {error!r}") from error
