"""Recordings of other programs, as episodes: the published `dataset/` folders and .npz files.

A .npz recording holds T steps of one episode after another, under Gymnasium's and Minari's names, ours, or D4RL's:

    observations (obs)              uint8 [T, H, W, 3], or what `conversion` makes into it
    actions (act)                   integers [T], one-hot rows [T, n], or others that `conversion` knows
    rewards (rew)                   numbers [T]
    terminations (end, terminals)   bool [T]
    truncations (trunc, timeouts)   bool [T]
    final_observations              frames [E, ...], one for each ended episode, or
    next_observations               frames [T, ...], the true frame after each step, or
                                    observations with one frame more in each episode, its last: [T + episodes, ...]
    episode_lengths                 integers, optional: where episodes stop that have no end
    action_kind                     "multi_binary" or "box" in ASCII, optional: the actions are uint8 or float32 [T, n]
                                    and stay so, whatever their values look like; or JSON with the parts of mixed ones
    num_actions                     integer [1], optional: how many actions there are to choose from
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diamond_fast.area import AreaResize
from diamond_fast.frames import to_uint8
from diamond_fast.replay.buffer import Episode, Replay
from diamond_fast.replay.conversion import action_of, frame_conversion, one_a_step, repeat_gray, stored_actions
from diamond_fast.replay.npz import array_names, open_npz, read_array
from diamond_fast.replay.recording import HALVES, load, recording_in
from diamond_fast.runs.durable import parse_json, strict_json
from diamond_fast.spec import Action, Discrete, Frame, Mixed, action_from_json
from diamond_fast.torch_file import load_torch_file

_SHORT_NAMES = {
    "observations": "obs",
    "actions": "act",
    "rewards": "rew",
    "terminations": "end",
    "truncations": "trunc",
}
_D4RL_NAMES = {"terminations": "terminals", "truncations": "timeouts"}


def load_recording(path: Path | str) -> Replay:
    """Returns what a journal, a .npz recording or a published `dataset/` folder holds, in memory, or an imported
    recording, whose frames stay on the disk.

    Raises:
        ValueError: it is none of these, or damaged; the message names the first wrong array.
        OSError: it cannot be read.
    """
    path = Path(path)
    if folder := recording_in(path):
        return load(folder)
    if not path.is_dir() and path.suffix != ".npz":
        return Replay.load(path)
    arrays = {} if path.is_dir() else _load_arrays(path)
    mixed = _mixed(path, arrays)
    episodes: list[Episode] = []
    for episode in _cut(path, arrays) if arrays else _read_published(path):
        check_episode(f"{path}: episode {len(episodes)}", episode, episodes[0] if episodes else episode, mixed)
        episodes.append(episode)
    if not episodes:
        raise ValueError(f"{path}: no episodes")
    first, capacity = episodes[0], sum(len(episode.act) for episode in episodes)
    action = mixed or action_of(first.act) or _choices(path, arrays)
    replay = Replay(first.obs.shape[1:], capacity=capacity, action=action)
    for episode in episodes:
        replay.append_episode(episode)
    return replay


def with_frame_size(episode: Episode, size: int | tuple[int, int] | None) -> Episode:
    """The episode with RGB frames of this height and width, by area averaging; None: of its own."""
    old = episode.obs.shape[1:3]
    resize = AreaResize(old, old if size is None else Frame.of_size(size).shape[:2])
    obs = np.concatenate([resize(repeat_gray(episode.obs[t : t + 64])) for t in range(0, len(episode.obs), 64)])
    final = None if episode.final_obs is None else resize(repeat_gray(episode.final_obs))
    return episode._replace(obs=obs, final_obs=final)


def write_npz(replay: Replay, path: Path | str) -> None:
    """Writes all visible episodes as a .npz recording, one at a time, compressed.

    Raises:
        ValueError: nothing is stored.
        OSError: it cannot be written.
    """
    if replay.num_episodes == 0:
        raise ValueError("replay: nothing stored yet, or not committed")
    episodes, steps = range(replay.num_episodes), replay.num_steps
    num_ended = sum(replay.episode(i).final_obs is not None for i in episodes)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, short in _SHORT_NAMES.items():
            parts = (getattr(replay.episode(i), short) for i in episodes)
            _write_array(archive, name, steps, parts)
        match replay.action:
            case Discrete(n):
                _write_array(archive, "num_actions", 1, [np.array([n])])
            case Action(kind=kind) as action:
                said = strict_json(action.to_json()) if isinstance(action, Mixed) else kind
                _write_array(archive, "action_kind", len(said.encode()), [np.frombuffer(said.encode(), np.uint8)])
        finals = (final[None] for i in episodes if (final := replay.episode(i).final_obs) is not None)
        _write_array(archive, "final_observations", num_ended, finals, like=replay.episode(0).obs)
        _write_array(archive, "episode_lengths", len(episodes), [replay.lengths])


def _write_array(
    archive: zipfile.ZipFile, name: str, length: int, parts: Iterable[np.ndarray], like: np.ndarray | None = None
) -> None:
    """Adds an array, the concatenation of parts; `like` has its dtype and shape if there may be none."""
    parts = iter(parts)
    first = next(parts, None)
    like = first if like is None else like
    assert like is not None
    header = {"descr": like.dtype.str, "fortran_order": False, "shape": (length, *like.shape[1:])}
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in () if first is None else (first, *parts):
            file.write(np.ascontiguousarray(part).data)


def _cut(path: Path, arrays: dict[str, np.ndarray]) -> Iterator[Episode]:
    """The episodes in the arrays of a .npz file."""
    arrays["actions"] = _actions(path, arrays)
    for name in ("rewards", "terminations", "truncations"):
        arrays[name] = one_a_step(arrays[name])
        _check_rows(path, name, arrays)
        if arrays[name].ndim != 1:
            raise ValueError(f"{path}: {name}: expected one number a step, got {list(arrays[name].shape)}")
    done = arrays["terminations"].astype(bool) | arrays["truncations"].astype(bool)
    stops = _stops(path, done, arrays.get("episode_lengths"))
    convert = frame_conversion(f"{path}: observations", arrays["observations"])
    more = int(_holds_last_frames(path, arrays, len(stops)))  # observations in each episode
    finals = {} if more else _finals(path, done, arrays)
    start = 0
    for number, stop in enumerate(stops):
        first = start + more * number
        obs, length = arrays["observations"][first : first + stop - start + more], stop - start
        final = obs[length] if more and done[stop - 1] else finals.get(stop - 1)
        act, rew, end, trunc = (arrays[name][start:stop] for name in _SHORT_NAMES if name != "observations")
        final = None if final is None else convert(final[None])[0]
        yield Episode(convert(obs[:length]), act, rew, end, trunc, final)
        start = stop


def _actions(path: Path, arrays: dict[str, np.ndarray]) -> np.ndarray:
    stored, kind = arrays["actions"], arrays.get("action_kind")
    if kind is None:
        return stored_actions(f"{path}: actions", stored)
    mixed = _mixed(path, arrays)
    action = mixed or action_of(stored)
    named = action is not None and (mixed is not None or kind.tobytes() == action.kind.encode())
    if action is None or not named or (stored.dtype, stored.shape[1:]) != (action.dtype, action.shape):
        raise ValueError(f"{path}: action_kind: is not that of actions {stored.dtype} {list(stored.shape)}")
    return stored


def _mixed(path: Path, arrays: dict[str, np.ndarray]) -> Mixed | None:
    """The action with its parts, if they are said."""
    kind = arrays.get("action_kind")
    if kind is None or not (said := kind.tobytes()).startswith(b"{"):
        return None
    try:
        action = action_from_json(parse_json(said))
    except ValueError as error:
        raise ValueError(f"{path}: action_kind: {error}") from None
    return action if isinstance(action, Mixed) else None


def _check_rows(path: Path, name: str, arrays: dict[str, np.ndarray], other: str = "") -> None:
    if len(arrays[name]) != len(arrays["actions"]):
        raise ValueError(
            f"{path}: {name}: expected {len(arrays['actions'])} rows as in actions{other}, got {len(arrays[name])}"
        )


def _holds_last_frames(path: Path, arrays: dict[str, np.ndarray], num_episodes: int) -> bool:
    """Whether the observations have one frame more than steps in each episode, as Minari's."""
    apart = {"final_observations", "next_observations"} & set(arrays)
    with_last = len(arrays["actions"]) + num_episodes
    if len(arrays["observations"]) == with_last and not apart:
        return True
    _check_rows(path, "observations", arrays, "" if apart else f" (or {with_last}, with the last of each episode)")
    return False


def _choices(path: Path, arrays: dict[str, np.ndarray]) -> Action | None:
    """Numbers from 0 to num_actions - 1; None if their number is not said."""
    said = arrays.get("num_actions")
    if said is None:
        return None
    most = arrays["actions"].max()
    if said.dtype.kind not in "iu" or said.shape != (1,) or not most < said[0] < 2**63:
        raise ValueError(f"{path}: num_actions: expected one integer above {most}, got {said.tolist()}")
    return Discrete(int(said[0]))


def _load_arrays(path: Path) -> dict[str, np.ndarray]:
    arrays = {}
    with open_npz(path) as archive:
        present = array_names(archive)
        for name, short in _SHORT_NAMES.items():
            names = (name, short, _D4RL_NAMES.get(name, name))
            stored = next((each for each in names if each in present), None)
            if stored is None:
                raise ValueError(f"{path}: {name}: missing; there are {', '.join(present)}")
            arrays[name] = read_array(archive, stored)
        for name in ("final_observations", "next_observations", "episode_lengths", "action_kind", "num_actions"):
            if name in present:
                arrays[name] = read_array(archive, name)
    return arrays


def _stops(path: Path, done: np.ndarray, lengths: np.ndarray | None) -> list[int]:
    """Where each episode stops: after its end, or where `lengths` say."""
    if lengths is None:
        stops = (np.flatnonzero(done) + 1).tolist()
        return stops if not len(done) or done[-1] else [*stops, len(done)]
    integers = lengths.dtype.kind in "iu" and lengths.ndim == 1
    if not integers or (lengths < 1).any() or (lengths > len(done)).any() or lengths.sum() != len(done):
        raise ValueError(f"{path}: episode_lengths: expected positive integers that sum to {len(done)}")
    return lengths.cumsum().tolist()


def _finals(path: Path, done: np.ndarray, arrays: dict[str, np.ndarray]) -> dict[int, np.ndarray]:
    """The final observation of each step that ended an episode."""
    ended = np.flatnonzero(done).tolist()
    rows: Sequence[int]
    if "next_observations" in arrays and "final_observations" not in arrays:
        name, rows, expected = "next_observations", ended, len(done)
    else:
        name, rows, expected = "final_observations", range(len(ended)), len(ended)
    frames = arrays.get(name, np.empty((0,)))
    if len(frames) != expected:
        hint = "" if name in arrays else " (of the frames after the last steps; next_observations has them, too)"
        raise ValueError(f"{path}: {name}: expected {expected} frames, got {len(frames)}{hint}")
    obs = arrays["observations"]
    if len(frames) and (frames.dtype, frames.shape[1:]) != (obs.dtype, obs.shape[1:]):
        raise ValueError(
            f"{path}: {name}: expected {obs.dtype} {list(obs.shape[1:])} as observations, "
            f"got {frames.dtype} {list(frames.shape[1:])}"
        )
    return {step: frames[row] for step, row in zip(ended, rows, strict=True)}


def _read_published(folder: Path) -> Iterator[Episode]:
    """Episodes of the published code, one .pt file each, numbered from 0 in nested folders."""
    halves = [folder / name for name in HALVES]
    if all(half.is_dir() for half in halves):
        raise ValueError(f"{folder}: holds two recordings; name one of them, {halves[0]} or {halves[1]}")
    for file in published_files(folder):
        yield published_episode(file)


def published_files(folder: Path) -> list[Path]:
    """The files of episodes 0, 1, ... Raises ValueError if one is missing or there twice."""
    files: dict[int, Path] = {}
    for file in sorted(folder.rglob("*.pt")):
        if file.stem.isdecimal() and (other := files.setdefault(int(file.stem), file)) != file:
            raise ValueError(f"{folder}: episode {int(file.stem)} is there twice, {other} and {file}")
    for i in range(len(files)):
        if i not in files:
            raise ValueError(f"{folder}: episode {i} is missing, but there is an episode {max(files)}")
    return [files[i] for i in range(len(files))]


def published_episode(file: Path) -> Episode:
    """
    Raises:
        ValueError: the file is damaged, or not of this kind; it may still not be whole (``check_episode``).
        OSError: it cannot be read.
    """
    stored = load_torch_file(file)
    if not isinstance(stored, dict):
        raise ValueError(f"{file}: expected a dictionary of arrays, got {type(stored).__name__}")
    columns = {name: _numbers(f"{file}: {name}", stored.get(name)) for name in _SHORT_NAMES.values()}
    if columns["obs"].ndim != 4:
        raise ValueError(f"{file}: obs: expected [T, C, H, W], got {list(columns['obs'].shape)}")
    return Episode(
        obs=repeat_gray(columns["obs"].transpose(0, 2, 3, 1)),
        act=stored_actions(f"{file}: act", columns["act"]),
        rew=one_a_step(columns["rew"]),
        end=one_a_step(columns["end"]),
        trunc=one_a_step(columns["trunc"]),
        final_obs=_published_final(f"{file}: info", stored.get("info")),
    )


def _numbers(where: str, value: Any) -> np.ndarray:
    if not isinstance(value, torch.Tensor):
        raise ValueError(f"{where}: expected a tensor, got {type(value).__name__}")
    if value.dim() == 0 or value.dtype == torch.bfloat16:  # which NumPy does not know
        raise ValueError(f"{where}: expected one row a step, got {value.dtype} {list(value.shape)}")
    return value.numpy()


def _published_final(where: str, info: Any) -> np.ndarray | None:
    """The final observation: kept in the models' range, unlike the other frames."""
    if not isinstance(info, dict | None):
        raise ValueError(f"{where}: expected a dictionary, got {type(info).__name__}")
    final = (info or {}).get("final_observation")
    if final is None:
        return None
    frame = isinstance(final, torch.Tensor) and final.is_floating_point() and final.dim() >= 3
    if not frame or final.numel() != final.shape[-3:].numel() or not final.isfinite().all():
        raise ValueError(f"{where}: final_observation: expected one frame [1, C, H, W] of finite floats")
    return repeat_gray(to_uint8(final.float().reshape(final.shape[-3:])).numpy())


def check_episode(where: str, episode: Episode, first: Episode, mixed: Mixed | None = None) -> None:
    """Raises ValueError with the name of the first array that is wrong. Frames and actions are to be as the first's.

    Args:
        mixed: what the actions are, if they are of several parts.
    """

    def expect(right: bool, name: str, expected: object, got: object) -> None:
        if not right:
            raise ValueError(f"{where}: {name}: expected {expected}, got {got}")

    action = action_of(episode.act)
    expect(action is not None or episode.act.ndim == 1, "act", "one action a step", list(episode.act.shape))
    length, obs = len(episode.act), episode.obs
    expect(length > 0, "act", "at least one step", "none")
    expect(obs.dtype == np.uint8, "obs", "uint8", obs.dtype)
    expect(obs.ndim == 4 and len(obs) == length, "obs", f"[{length}, H, W, C]", list(obs.shape))
    expect(obs.size > 0, "obs", "frames of at least one pixel", list(obs.shape))
    shape, wanted = first.obs.shape[1:], action_of(first.act)
    expect(obs.shape[1:] == shape, "obs", f"frames {shape} as before", obs.shape[1:])
    expect(action == wanted, "act", f"{wanted or 'integers'} as before", action or "integers")
    if action is None:
        expect(episode.act.dtype.kind in "iu", "act", "integers", episode.act.dtype)
        expect(bool((episode.act >= 0).all()), "act", "0 or more", episode.act.min())
        expect(int(episode.act.max()) < 2**63, "act", "less than 2**63", episode.act.max())
    elif reason := (mixed or action).why_not(episode.act):
        raise ValueError(f"{where}: act: {reason}")
    for name, kinds in (("rew", "fiu"), ("end", "biu"), ("trunc", "biu")):
        array = getattr(episode, name)
        expect(array.shape == (length,), name, f"[{length}]", list(array.shape))
        expect(array.dtype.kind in kinds, name, {"fiu": "numbers", "biu": "bool"}[kinds], array.dtype)
    with np.errstate(over="ignore"):
        finite = np.isfinite(episode.rew.astype(np.float32)).all()
    expect(bool(finite), "rew", "finite rewards that fit in float32", "nan, infinity or more")
    for name in ("end", "trunc"):
        array = getattr(episode, name)
        expect(bool(np.isin(array, (0, 1)).all()), name, "0 or 1", array.max())
        expect(not array[:-1].any(), name, "true at the last step only", "an earlier one")
    ended, final = bool(episode.end[-1] or episode.trunc[-1]), episode.final_obs
    expect(
        ended == (final is not None), "final_obs", "one where the episode ended" if ended else "none", final is not None
    )
    if final is not None:
        expect(final.dtype == np.uint8, "final_obs", "uint8", final.dtype)
        expect(final.shape == obs.shape[1:], "final_obs", list(obs.shape[1:]), list(final.shape))
