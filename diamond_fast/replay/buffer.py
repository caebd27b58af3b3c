"""The replay buffer: one writer, any number of readers, and the journal that keeps it."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import zstandard

from diamond_fast import _replay
from diamond_fast.one_line import one_line
from diamond_fast.replay import commits
from diamond_fast.replay.batch import Batch, Form
from diamond_fast.replay.checks import check_integer, checked
from diamond_fast.replay.journal import Journal, JournalError
from diamond_fast.replay.segments import Segments
from diamond_fast.spec import Action, Discrete, action_from_json

_log = logging.getLogger(__name__)
_MALFORMED = (IndexError, KeyError, MemoryError, OverflowError, TypeError, ValueError, zstandard.ZstdError)
"""What a forged journal with good checksums raises."""
_MOST_STEPS = 2**60
THREADS_FROM_DISK = 4


class Episode(NamedTuple):
    """One episode of T steps, as read-only views of the buffer."""

    obs: np.ndarray
    """uint8 [T, H, W, C]: the frames the actions were taken at."""
    act: np.ndarray
    """[T, ...] of the action's dtype and shape: int64 [T] if one of several is chosen."""
    rew: np.ndarray
    """float32 [T]."""
    end: np.ndarray
    """bool [T]."""
    trunc: np.ndarray
    """bool [T]."""
    final_obs: np.ndarray | None
    """uint8 [H, W, C], or None while the episode runs or if it was closed without an end."""
    full_obs: np.ndarray | None = None
    """uint8 [T, H, W, C]: the frames of ``obs`` in the recording's other size; None if it has none."""
    full_final_obs: np.ndarray | None = None
    """uint8 [H, W, C]: ``final_obs`` in the other size."""


class FrameFiles(NamedTuple):
    """Where the frames of a recording lie: bytes [slots, H, W, C]."""

    frames: Path
    full: Path | None = None
    """The same frames in another size."""
    full_shape: tuple[int, int, int] | None = None


class Replay:
    """Stores vector steps and draws batches of segments from them.

    An episode's index is its place in the order in which episodes became visible: an ended one at once, one still
    running at the next `commit()`. One thread writes; reading is safe from any thread meanwhile.
    """

    def __init__(
        self,
        frame_shape: Sequence[int] = (64, 64, 3),
        num_envs: int = 1,
        capacity: int = 100_000,
        action: Action | None = None,
        files: FrameFiles | None = None,
    ) -> None:
        """Makes an empty buffer in memory.

        Args:
            frame_shape: (H, W, C).
            num_envs: environments stepped together.
            capacity: steps in all, rounded up to whole vector steps. What is not used costs no memory.
            action: what is done at each step; None: int64 numbers, of how many is not known.
            files: frames stay there and are only read, those of one environment and as many as there are. See
                ``take_slots``.

        Raises:
            ValueError: an argument is not positive, or frame_shape has not three numbers.
            OSError: a file cannot be read.
        """
        shape = tuple(int(n) for n in frame_shape)
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"frame_shape: expected (height, width, channels), got {shape}")
        self.frame_shape: tuple[int, int, int] = (shape[0], shape[1], shape[2])
        self.num_envs = int(num_envs)
        self.action = action
        self._act = action or Discrete(1)  # the dtype and shape are those of any number of choices
        self.full_shape = None if files is None else files.full_shape
        """(H, W, C) of the same frames in another size, which only recordings on disk have."""
        self._on_disk = files is not None
        self._store = self._new_store(int(capacity), files)
        self._journal: Journal | None = None
        self._num_followed = 0  # records taken by catch_up
        self._mark_committed()

    def _new_store(self, capacity: int, files: FrameFiles | None) -> _replay.Store:
        frame_bytes, act_bytes = math.prod(self.frame_shape), self._act.nbytes
        if files is None:
            return _replay.Store(frame_bytes, self.num_envs, capacity, act_bytes)
        frames, full = _replay.FrameFile(str(files.frames), frame_bytes), None
        if files.full is not None and self.full_shape is not None:
            full = _replay.FrameFile(str(files.full), math.prod(self.full_shape))
        return _replay.Store(frames, full, act_bytes)

    # --- writing ---

    def take_slots(self, act: np.ndarray, rew: np.ndarray, flags: np.ndarray) -> None:
        """Takes what belongs to all frames of the files, of steps and final observations, and makes it visible.

        Args:
            act: [slots, ...] of the action's dtype and shape.
            rew: float32 [slots].
            flags: uint8 [slots], of ``_replay.END``, ``TRUNC``, ``FINAL`` and ``FIRST``.

        Raises:
            ValueError: they are not as many as the frames, or flags are not those of steps.
        """
        if not len(act) == len(rew) == len(flags) == self._store.num_slots:
            raise ValueError(f"expected {self._store.num_slots} slots as there are frames, got {len(flags)}")
        _, stored_act, stored_rew, stored_flags = self._store.slots(0, len(flags))
        stored_act[...] = np.ascontiguousarray(act, self._act.dtype).view(np.uint8).reshape(stored_act.shape)
        stored_rew[...] = rew
        stored_flags[...] = flags
        self._store.adopt(int((flags != _replay.FINAL).sum()), [len(flags)])
        self._store.close_running()

    def append(
        self,
        obs: np.ndarray,
        act: np.ndarray,
        rew: np.ndarray,
        end: np.ndarray,
        trunc: np.ndarray,
        final_obs: np.ndarray,
    ) -> None:
        """Takes one step of every environment.

        Args:
            obs: uint8 [N, H, W, C], the frames the actions were taken at.
            act: [N, ...] of the action's dtype and shape; any integers [N] if one of several is chosen.
            rew: floats [N].
            end, trunc: bool [N].
            final_obs: uint8 [N, H, W, C], the true next frames; stored if an episode ended.

        Raises:
            TypeError, ValueError: an array has the wrong dtype or shape, an action is none of the world's, or a reward
                is not finite.
            RuntimeError: the buffer is full.
        """
        steps, frames = (self.num_envs,), (self.num_envs, *self.frame_shape)
        kind = self._act.dtype.kind
        act = checked("act", act, "iu" if kind == "i" else kind, self._act.dtype, steps + self._act.shape)
        if self.action is not None and (reason := self.action.why_not(act)):
            raise ValueError(f"act: {reason}")
        self._store.append(
            checked("obs", obs, "u", np.uint8, frames),
            act.reshape(-1).view(np.uint8),
            checked("rew", rew, "f", np.float32, steps),
            checked("end", end, "b", np.bool_, steps),
            checked("trunc", trunc, "b", np.bool_, steps),
            checked("final_obs", final_obs, "u", np.uint8, frames),
        )
        self._closed = False

    def append_episode(self, episode: Episode) -> None:
        """Takes a whole episode; one that has no end is closed.

        Raises:
            ValueError: there is more than one environment, or as for `append`.
            RuntimeError: the buffer is full.
        """
        if self.num_envs != 1:
            raise ValueError(f"num_envs: whole episodes go into a buffer of one environment, not {self.num_envs}")
        final = np.zeros(self.frame_shape, np.uint8) if episode.final_obs is None else episode.final_obs
        rew, end, trunc = episode.rew.astype(np.float32), episode.end.astype(bool), episode.trunc.astype(bool)
        for t in range(len(episode.act)):
            step = slice(t, t + 1)
            self.append(episode.obs[step], episode.act[step], rew[step], end[step], trunc[step], final[None])
        self.close_episodes()

    def close_episodes(self) -> None:
        """Leaves the running episodes as they are, without an end: the next step starts new ones."""
        self._store.close_running()
        self._closed = True

    # --- reading ---

    @property
    def num_steps(self) -> int:
        """Visible steps."""
        return self._store.view().num_steps

    @property
    def num_episodes(self) -> int:
        """Visible episodes, running ones included."""
        return self._store.view().num_episodes

    @property
    def lengths(self) -> np.ndarray:
        """int64 [num_episodes]: visible steps of each episode."""
        return self._store.view().lengths()

    @property
    def reward_counts(self) -> np.ndarray:
        """int64 [3]: visible steps with a reward below, equal to and above 0."""
        return np.array(self._store.view().reward_counts)

    @property
    def end_counts(self) -> np.ndarray:
        """int64 [2]: visible steps that did not end an episode, and that did."""
        return np.array(self._store.view().end_counts)

    def episode(self, index: int) -> Episode:
        """Returns the visible part of an episode.

        Raises:
            IndexError: there is no such episode.
        """
        view = self._store.view()
        if not 0 <= index < view.num_episodes:
            raise IndexError(f"episode: {index} is not one of the {view.num_episodes} stored")
        episode = view.episode(index)
        frames, act, rew, flags = self._store.slots(episode.first_slot, episode.length + episode.has_final)
        frames = frames.reshape(-1, *self.frame_shape)
        full = self._store.full_slots(episode.first_slot, episode.length + episode.has_final)
        if full is not None and self.full_shape is not None:
            full = full.reshape(-1, *self.full_shape)
        act = act.view(self._act.dtype).reshape(-1, *self._act.shape)
        for array in (frames, act, rew):
            array.flags.writeable = False
        steps = slice(episode.length)
        return Episode(
            obs=frames[steps],
            act=act[steps],
            rew=rew[steps],
            end=(flags[steps] & _replay.END) != 0,
            trunc=(flags[steps] & _replay.TRUNC) != 0,
            final_obs=frames[-1] if episode.has_final else None,
            full_obs=None if full is None else full[steps],
            full_final_obs=full[-1] if full is not None and episode.has_final else None,
        )

    def segment(self, episode: int, start: int, stop: int) -> Batch:
        """Returns steps start .. stop - 1 of an episode as a batch of one; those outside it are padding.

        Raises:
            IndexError: there is no such episode.
            ValueError, TypeError: stop is not after start, or the arguments are no integers or too large.
        """
        if stop <= start:
            raise ValueError(f"stop: expected more than start ({start}), got {stop}")
        return self.cut([(episode, start)], stop - start)

    def cut(self, starts: Sequence[tuple[int, int]], seq_length: int, full: bool = False) -> Batch:
        """Returns the segments that begin at the given (episode, step), as one batch; ``full`` as for `segments`.

        Raises:
            IndexError: there is no such episode.
            ValueError, TypeError: there are no starts, seq_length is not positive, or the batch exceeds 64 TiB.
        """
        if not starts:
            raise ValueError("starts: expected at least one (episode, step)")
        check_integer("seq_length", seq_length, 1, 2 * _MOST_STEPS)
        for name, values in zip(("episode", "start"), zip(*starts, strict=True), strict=True):
            for value in values:
                check_integer(name, value, -_MOST_STEPS, _MOST_STEPS)
        form = self._form(len(starts), seq_length, full)
        block = torch.empty(form.layout.num_bytes, dtype=torch.uint8)
        self._store.cut_into(starts, form.layout, block.numpy())
        return Batch(block, form)

    def _form(self, batch_size: int, seq_length: int, full: bool) -> Form:
        if full and self.full_shape is None:
            raise ValueError("full: the recording has its frames in one size only")
        frame_bytes = math.prod(self.frame_shape)
        full_bytes = math.prod(self.full_shape) if full and self.full_shape is not None else 0
        layout = _replay.BatchLayout(batch_size, seq_length, frame_bytes, self._act.nbytes, full_bytes)
        return Form(layout, self.frame_shape, self._act, self.full_shape)

    def segments(
        self,
        batch_size: int,
        seq_length: int,
        sample_weights: Sequence[float] | None = None,
        beyond_end: bool = False,
        seed: int = 0,
        stream: int = 0,
        num_threads: int | None = None,
        full: bool = False,
        event_share: float = 0.0,
        first_share: float = 0.0,
    ) -> Segments:
        """Returns an endless iterator of batches, drawn as DIAMOND does.

        An episode is drawn with probability proportional to its length or, if there are at least as many episodes
        as sample_weights, from the parts (quarters, for four weights) of the episodes in order of age with these
        weights, equally within a part. Then a step t of it and an offset u < seq_length, both equally, and the
        segment is cut so that it stops at min(length, t + 1 + u), or starts at t - u with beyond_end.

        Args:
            batch_size, seq_length: B and L.
            sample_weights: weights of the parts, with sum 1; the last takes the remainder of the division.
            beyond_end: segments may reach past an episode's end, not only before its start.
            seed: below 2**64.
            stream: below 2**32; consumers with streams of their own draw independently.
            num_threads: that fill batches ahead; 0: each is filled when asked for. The batches are the same. None: 1,
                or 4 if frames are read from a disk, which serves several at once.
            full: batches have the frames in their other size, too, `Batch.full_frames`.
            event_share: in so large a share of each batch step t is drawn, by the same rules, among those that are
                rewarded or end their episode. If 4,000 tries found none, or there is none, t is any step.
            first_share: so large a share of each batch has an episode's first step as its last one, behind padding.

        Raises:
            ValueError, TypeError: an argument is out of range.
        """
        if num_threads is None:
            num_threads = THREADS_FROM_DISK if self._on_disk else 1
        for name, value, least, most in (
            ("batch_size", batch_size, 1, 2**20),
            ("seq_length", seq_length, 1, 2**20),
            ("seed", seed, 0, 2**64 - 1),
            ("stream", stream, 0, 2**32 - 1),
            ("num_threads", num_threads, 0, 64),
        ):
            check_integer(name, value, least, most)
        options = {
            "batch_size": batch_size,
            "seq_length": seq_length,
            "weights": list(sample_weights or ()),
            "beyond_end": beyond_end,
            "event_share": event_share,
            "first_share": first_share,
        }
        form = self._form(batch_size, seq_length, full)
        return Segments(self._store, form, options, seed, stream, num_threads)

    # --- on disk ---

    @classmethod
    def open(
        cls,
        path: Path | str,
        frame_shape: Sequence[int] = (64, 64, 3),
        num_envs: int = 1,
        capacity: int = 100_000,
        length: int | None = None,
        action: Action | None = None,
    ) -> Replay:
        """Opens the buffer kept in a journal, or starts one, and goes on writing to it.

        Args:
            path: the journal, a file.
            frame_shape, num_envs, capacity, action: as for `Replay`; all but capacity must be the journal's. A journal
                that names no action, as older ones, is one of any number of choices.
            length: go back to the commit that returned this; None: to the last whole one. What follows is dropped
                from the file, with a warning in the log.

        Raises:
            JournalError: not a journal, made for other frames, environments or actions, larger than capacity, or
                damaged before `length`. The file is left as it was.
            NewerFormatError: a newer version of this program wrote it.
            BlockingIOError: another process is writing to it.
            OSError: it cannot be read or written.
        """
        replay = cls(frame_shape, num_envs, capacity, action)
        meta = {"frame_shape": list(replay.frame_shape), "num_envs": replay.num_envs}
        named = {} if action is None else {"action": action.to_json()}
        journal = Journal(path) if Path(path).exists() else Journal.create(path, meta | named)
        try:
            for name, value in meta.items():
                if journal.meta.get(name) != value:
                    raise JournalError(f"{path}: made for {name} {journal.meta.get(name)}, not {value}")
            replay._agree_on_action(journal)
            if length is not None:
                journal.rewind(length)
            replay._restore(journal)
            journal.drop_tail()
        except BaseException:
            journal.close()
            raise
        replay._journal = journal
        return replay

    @classmethod
    def load(cls, path: Path | str) -> Replay:
        """Returns what a journal holds, in memory; the file is only read.

        Raises:
            JournalError: not a journal, or a damaged header. Damage after that costs the commits from there on, and
                is told in the log.
            OSError: it cannot be read.
        """
        with contextlib.closing(Journal(path, writable=False)) as journal:
            if journal.problem:
                _log.warning("%s: reading %d whole commits (%s)", path, journal.num_records, journal.problem)
            try:
                num_envs = journal.meta["num_envs"]
                check_integer("num_envs", num_envs, 1, _replay.MAX_ENVS)
                num_steps = sum(commits.num_vector_steps(record) for record in journal.records())
                capacity = max(1, num_steps * num_envs)
                replay = cls(journal.meta["frame_shape"], num_envs, capacity, _action_of(journal))
            except MemoryError as error:
                raise JournalError(f"{path}: there is no memory for as much as it says it holds") from error
            except _MALFORMED as error:
                raise JournalError(f"{path}: no program of this kind wrote it ({one_line(error)})") from error
            replay._restore(journal)
        return replay

    def catch_up(self, path: Path | str, length: int) -> None:
        """Takes what another process has committed to a journal since the last call, up to its ``length``.

        Raises:
            JournalError: as for `open`.
            OSError: it cannot be read.
        """
        with contextlib.closing(Journal(path, writable=False)) as journal:
            journal.rewind(length)
            self._restore(journal, self._num_followed)
            self._num_followed = journal.num_records

    def commit(self) -> int:
        """Makes all steps visible to readers and, if there is a journal, safe on the disk.

        Returns:
            The journal's length in bytes, for `open`; 0 without one.

        Raises:
            OSError: the journal could not be written; nothing changed, and commit() may be called again.
        """
        num_steps = self._store.num_vector_steps - self._committed_steps
        if self._journal is not None and (num_steps or self._closed):
            self._journal.append(commits.pack(self._store, self._committed, num_steps, self._closed))
        self._store.publish_running()
        self._mark_committed()
        return 0 if self._journal is None else self._journal.length

    def close(self) -> None:
        """Lets go of the journal. Steps since the last commit are not kept."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def _agree_on_action(self, journal: Journal) -> None:
        """Raises JournalError unless it has our actions. Choices agree if one of us does not say how many there are."""
        try:
            stored = _action_of(journal)
        except _MALFORMED as error:
            raise JournalError(f"{journal.path}: {one_line(error)}") from error
        either = stored or self.action
        if self.action != stored and not (isinstance(either, Discrete) and None in (self.action, stored)):
            ours, theirs = (action or "int64 numbers" for action in (self.action, stored))
            raise JournalError(f"{journal.path}: made for action {theirs}, not {ours}")
        self.action = either

    def _restore(self, journal: Journal, first: int = 0) -> None:
        for record in itertools.islice(journal.records(), first, None):
            try:
                commits.unpack(self._store, record)
            except _MALFORMED as error:
                raise JournalError(
                    f"{journal.path}: does not fit into the given capacity ({one_line(error)})"
                ) from error
        self._mark_committed()

    def _mark_committed(self) -> None:
        self._committed = [self._store.env_used(env) for env in range(self.num_envs)]
        self._committed_steps = self._store.num_vector_steps
        self._closed = False


def _action_of(journal: Journal) -> Action | None:
    return action_from_json(journal.meta["action"]) if "action" in journal.meta else None
