"""What the bits of a run on a CPU depend on apart from its settings: recorded in checkpoints, compared by a resume."""

from collections.abc import Mapping

import torch

from diamond_fast.engine.choose import Path

Conditions = Mapping[str, str | int]


def conditions(path: Path) -> Conditions:
    """What this run would depend on here and now: the kind of device, threads, path, torch, instruction set."""
    return {
        "device": path.device.type,
        "threads": torch.get_num_threads(),
        "path": "AMX" if path.engine == "amx" else path.name,
        "torch": torch.__version__,
        "instruction set": torch.backends.cpu.get_cpu_capability(),
    }


def path_begun_with(before: Conditions, device: torch.device) -> str | None:
    """The name of the path that a run went on until it was saved; None if that was on another kind of device."""
    return str(before["path"]).lower() if before.get("device") == device.type and "path" in before else None


def why_not_bit_for_bit(before: Conditions, now: Conditions) -> str | None:
    """Why a run that was saved under other conditions goes on with other bits, in one line; None if it does not.

    Args:
        before: those a checkpoint recorded; older ones recorded none. On a GPU no bits were promised.
        now: the present ones.
    """
    if before.get("device") != "cpu":
        return None
    changed = [
        f"{name} {before[name]}, now {now[name]}" for name in now if name in before and before[name] != now[name]
    ]
    if not changed:
        return None
    return f"Saved with {'; '.join(changed)}: the run goes on, but not bit for bit as it would have."
