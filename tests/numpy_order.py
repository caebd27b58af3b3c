"""DIAMOND's sampler with NumPy's random numbers, drawn in the order of the published code: for comparing runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from diamond_fast.replay.batch import Batch
from diamond_fast.replay.buffer import Replay


class NumpyOrderSegments(Iterator[Batch]):
    """The batches that the published code draws after `np.random.seed(seed)`.

    The rules are those of `Replay.segments`. Per batch, all episodes are drawn first, then all steps, then all offsets,
    from one Mersenne Twister, so batches depend on all draws before them and cannot be filled ahead.
    """

    def __init__(
        self,
        replay: Replay,
        batch_size: int,
        seq_length: int,
        sample_weights: Sequence[float] | None = None,
        beyond_end: bool = False,
        seed: int = 0,
    ) -> None:
        """Takes the arguments of `Replay.segments`; seed is below 2**32."""
        self._replay = replay
        self._batch_size = batch_size
        self._seq_length = seq_length
        self._sample_weights = sample_weights
        self._beyond_end = beyond_end
        self._random = np.random.RandomState(seed)

    def __next__(self) -> Batch:
        """Returns the next batch.

        Raises:
            RuntimeError: nothing is visible yet.
        """
        lengths = self._replay.lengths
        if len(lengths) == 0:
            raise RuntimeError("replay: nothing stored yet, or not committed")
        probabilities = self._episode_weights(lengths)
        episodes = self._random.choice(len(lengths), self._batch_size, p=probabilities / probabilities.sum())
        steps = self._random.randint(0, lengths[episodes])
        offsets = self._random.randint(0, self._seq_length, self._batch_size)
        if self._beyond_end:
            starts = steps - offsets
        else:
            starts = np.minimum(lengths[episodes], steps + 1 + offsets) - self._seq_length
        return self._replay.cut(list(zip(episodes.tolist(), starts.tolist(), strict=True)), self._seq_length)

    next = __next__

    def state_dict(self) -> dict[str, Any]:
        """Returns the generator's state, as plain numbers."""
        _, key, position, _, _ = self._random.get_state(legacy=True)
        return {"key": key.tolist(), "position": position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state_dict()`."""
        self._random.set_state(("MT19937", np.array(state["key"], np.uint32), state["position"]))

    def _episode_weights(self, lengths: np.ndarray) -> np.ndarray:
        num_episodes, weights = len(lengths), self._sample_weights
        if weights is None or num_episodes < len(weights):
            return lengths / lengths.sum()
        sizes = [num_episodes // len(weights)] * len(weights)
        sizes[-1] += num_episodes % len(weights)
        return np.repeat(np.array(weights) / sizes, sizes)
