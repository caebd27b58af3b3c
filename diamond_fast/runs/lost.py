"""A run without a checkpoint begins anew. One that lost them must not: that would erase what is left."""

from diamond_fast.runs import checkpoint
from diamond_fast.runs.folder import RunFolder
from diamond_fast.runs.metrics import read_metrics


def check_nothing_is_lost(folder: RunFolder) -> None:
    """To be asked if no checkpoint is committed, before anything is written.

    Raises:
        ValueError: there once was one; the message names what is left.
    """
    if folder.no_checkpoint_yet.exists():
        return
    left = [f"checkpoints/{path.name}" for path in checkpoint.uncommitted(folder.checkpoints)]
    metrics, journal = folder.metrics_file, folder.journal
    lines = read_metrics(metrics) if metrics.exists() else None
    if lines:
        left.append(f"{metrics.name} up to epoch {lines[-1]['epoch']}")
    # Runs of before there was a no_checkpoint_yet have a journal and empty metrics until their first checkpoint.
    if journal.exists() and (left or lines is None):
        left.append(f"replay/journal with {journal.stat().st_size} bytes")
    if left:
        raise ValueError(
            f"{folder.path}: the manifests of its checkpoints (checkpoints/epoch_*.json) are missing, but there are "
            f"{', '.join(left)}; put the manifests back, or start a new run with --out"
        )
