"""Checkpoints that are committed by one rename, verified when read, and never executed.

On disk, per epoch, below the run's ``checkpoints/``::

    epoch_000012/            one safetensors file per group of tensors, and state.safetensors
    epoch_000012.json        the manifest: size and SHA-256 of each file, the state, its own SHA-256

The manifest is written last: until its rename the epoch does not exist, afterwards it is complete. The last three
generations stay, and reading takes an older one when the newest turns out to be damaged. Nothing else in the folder is
touched: whatever has another name or is a symbolic link is somebody else's, and so is what a newer version wrote.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from diamond_fast.runs.durable import NewerFormatError, fsync_folder, sealed, unsealed, write_durably
from diamond_fast.runs.nested import flatten, unflatten

GENERATIONS = 3
FORMAT = 1
_STATE = "state"
_MANIFEST = re.compile(r"epoch_[0-9]{6,}\.json")
_FOLDER = re.compile(r"epoch_[0-9]{6,}(\.[0-9]+)?")
_GROUP = re.compile(r"[a-z0-9_]+")

T = TypeVar("T")


@dataclass(frozen=True)
class Checkpoint:
    """What :func:`save` was given, read back. Tensors are on the CPU."""

    epoch: int
    tensors: dict[str, dict[str, Tensor]]
    state: Any


@dataclass(frozen=True)
class Snapshot:
    """An epoch's state, copied: training may go on while it is written."""

    epoch: int
    groups: dict[str, dict[str, Tensor]]
    """By file; contiguous, on the CPU."""
    tree: Any
    """The state without its tensors, as JSON."""


def snapshot(epoch: int, tensors: dict[str, dict[str, Tensor]], state: Any) -> Snapshot:
    """Copy what :func:`write` is to commit.

    Args:
        epoch: epochs finished.
        tensors: one dict of named tensors per file, such as ``{"denoiser": denoiser.state_dict()}``.
        state: everything else; any nest that :func:`diamond_fast.runs.nested.flatten` takes, so optimisers',
            random generators' and environments' states as they come.

    Raises:
        FloatingPointError: one of ``tensors`` holds NaN or infinity, which would be no checkpoint to go on from.
        TypeError: the state holds something that has no safe form.
    """
    for name in tensors:
        if not _GROUP.fullmatch(name) or name == _STATE:
            raise ValueError(f"tensors: {name!r} cannot name a file; use lower case letters, digits and _, not 'state'")
    state_tensors, tree = flatten(state)
    groups = {
        name: {key: _owned(tensor) for key, tensor in group.items()}
        for name, group in {**tensors, _STATE: state_tensors}.items()
    }
    for name in tensors:
        for key, tensor in groups[name].items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise FloatingPointError(f"{name}: weight {key} is not finite; it is not saved")
    return Snapshot(epoch, groups, tree)


def write(folder: Path, snapshot: Snapshot) -> Path:
    """Commit an epoch, then drop all but the last three.

    Args:
        folder: the run's ``checkpoints/``; created if missing.
        snapshot: of an epoch; one saved before is replaced, as atomically as it came.

    Returns:
        The folder that holds the epoch's files.

    Raises:
        OSError: the disk refused. The checkpoints committed before are untouched.
    """
    epoch = snapshot.epoch
    folder.mkdir(parents=True, exist_ok=True)
    fsync_folder(folder.parent)
    _sweep(folder)
    target = _unused(folder / _name(epoch))
    target.mkdir()
    files = {}
    try:
        for name, group in snapshot.groups.items():
            content = tensors_to_bytes(group)
            write_durably(target / f"{name}.safetensors", content)
            files[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)  # a full disk should get its space back
        raise
    fsync_folder(folder)

    manifest = {"format": FORMAT, "epoch": epoch, "folder": target.name, "files": files, "state": snapshot.tree}
    write_durably(folder / f"{_name(epoch)}.json", sealed("manifest", manifest))

    # Later epochs than this one were damaged when the run was resumed: a future that was given up.
    let_go(folder, GENERATIONS, last=epoch)
    return target


def let_go(folder: Path, generations: int, last: int | None = None) -> None:
    """Drop all but so many of the newest commits, of those up to epoch ``last`` if it is given. Raises OSError."""
    committed = [path for path in _manifests(folder) if not path.is_symlink() and not _is_newer(path)]
    current = [path for path in committed if last is None or _epoch(path) <= last]
    for path in set(committed) - set(current[-generations:]):
        path.unlink()
    fsync_folder(folder)  # manifests vanish for good before their files do: none ever points to nothing
    _sweep(folder)


def save(folder: Path, epoch: int, tensors: dict[str, dict[str, Tensor]], state: Any) -> Path:
    """:func:`snapshot` and :func:`write` in one."""
    return write(folder, snapshot(epoch, tensors, state))


def load_latest(
    folder: Path, say: Callable[[str], None] = print, use: Callable[[Checkpoint], Any] = lambda saved: saved
) -> Any:
    """Read the newest epoch whose checksums all hold.

    Args:
        folder: the run's ``checkpoints/``.
        say: is given one line for each damaged epoch that is passed over.
        use: is given what was read, and gives what to return; if it raises ValueError, for damage to what lies
            elsewhere, the epoch is passed over too.

    Raises:
        FileNotFoundError: no commit is here.
        NewerFormatError: a newer version of this program committed the newest one that is whole.
        BlockingIOError: another process holds what ``use`` needs.
        ValueError: every generation is damaged.
    """
    manifests = _manifests(folder)
    if not manifests:
        raise FileNotFoundError(f"{folder}: no checkpoint was committed here yet")
    for newest_first, manifest in enumerate(reversed(manifests), start=1):
        try:
            return use(load(manifest))
        except (NewerFormatError, BlockingIOError):  # no damage, and nothing to be mended by going back
            raise
        except (OSError, ValueError) as error:
            if newest_first < len(manifests):
                say(f"checkpoint {manifest.stem} is damaged ({error}); taking the one before")
            else:
                raise ValueError(f"{folder}: all checkpoints are damaged, the oldest: {error}") from error
    raise AssertionError("unreachable: the loop returns or raises")


def latest_epoch(folder: Path) -> int | None:
    """Epoch of the newest commit, unverified; None if there is none."""
    manifests = _manifests(folder)
    return _epoch(manifests[-1]) if manifests else None


def files_of(folder: Path, epoch: int) -> list[Path]:
    """An epoch's manifest and the files it names. Raises ValueError, OSError: it is damaged or missing."""
    manifest = folder / f"{_name(epoch)}.json"
    held = _unseal(manifest)
    return [manifest, *(folder / held["folder"] / f"{name}.safetensors" for name in held["files"])]


def uncommitted(folder: Path) -> list[Path]:
    """Folders of epochs whose manifests are not there."""
    committed = {path.stem for path in _manifests(folder)}
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in found if _FOLDER.fullmatch(path.name) and path.name.split(".")[0] not in committed)


def load(manifest_path: Path) -> Checkpoint:
    """Read one epoch, given its manifest ``epoch_000012.json``.

    Raises:
        NewerFormatError: a newer version wrote it.
        ValueError: its checksums do not all hold.
        OSError: it cannot be read.
    """
    manifest = _unseal(manifest_path)
    try:
        return _read_files(manifest_path.parent, manifest)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:  # it is whole, but says something else
        raise ValueError(f"{manifest_path.name} is no manifest: {error!r}") from error


def _read_files(folder: Path, manifest: dict[str, Any]) -> Checkpoint:
    if not _FOLDER.fullmatch(manifest["folder"]) or not all(map(_GROUP.fullmatch, manifest["files"])):
        raise ValueError(f"it names files outside of {folder.name}/")
    groups = {}
    for name, recorded in manifest["files"].items():
        path = folder / manifest["folder"] / f"{name}.safetensors"
        if not path.is_file():
            raise ValueError(f"{path.name} is missing")
        size = path.stat().st_size
        if size != recorded["bytes"]:
            raise ValueError(f"{path.name} has {size} bytes instead of {recorded['bytes']}")
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != recorded["sha256"]:
            raise ValueError(f"{path.name} differs from its checksum")
        try:
            groups[name] = tensors_from_bytes(content)
        except SafetensorError as error:
            raise ValueError(f"{path.name} is no safetensors file: {error}") from error
    state = unflatten(groups.pop(_STATE), manifest["state"])
    return Checkpoint(manifest["epoch"], groups, state)


def _unseal(path: Path) -> dict[str, Any]:
    try:
        manifest = unsealed("manifest", path)
        written = manifest["format"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path.name} is no manifest: {error!r}") from error
    if isinstance(written, int) and written > FORMAT:
        raise NewerFormatError(
            f"{path}: has format {written}, this version reads {FORMAT}; go on with the version that wrote it, or newer"
        )
    if written != FORMAT:
        raise ValueError(f"{path.name} has the unknown format {written!r}")
    return manifest


def _is_newer(manifest: Path) -> bool:
    try:
        _unseal(manifest)
    except NewerFormatError:
        return True
    except (OSError, ValueError):
        pass
    return False


def _sweep(folder: Path) -> None:
    """Remove what no manifest names: generations let go, and what an interrupted save left behind."""
    try:
        kept = {_unseal(manifest)["folder"] for manifest in _manifests(folder)}
    except (OSError, ValueError, KeyError, TypeError):
        return  # a manifest that cannot be read may own any of the folders
    for path in folder.iterdir():
        if path.is_symlink():
            continue
        if _FOLDER.fullmatch(path.name) and path.is_dir() and path.name not in kept:
            shutil.rmtree(path)
        elif path.suffix == ".partial" and _MANIFEST.fullmatch(path.stem):
            path.unlink()


def _manifests(folder: Path) -> list[Path]:
    """Oldest first."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted((path for path in found if _MANIFEST.fullmatch(path.name) and path.is_file()), key=_epoch)


def _name(epoch: int) -> str:
    return f"epoch_{epoch:06d}"


def _epoch(manifest: Path) -> int:
    return int(manifest.stem.removeprefix("epoch_"))


def _unused(path: Path) -> Path:
    """``path``, or the first of path.2, path.3, ... if an earlier save of the same epoch has it."""
    taken, number = path, 1
    while os.path.lexists(taken):
        number += 1
        taken = path.with_name(f"{path.name}.{number}")
    return taken


def _owned(tensor: Tensor) -> Tensor:
    """A contiguous copy on the CPU: safetensors refuses shared memory and channels-last strides."""
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
