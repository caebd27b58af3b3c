"""The replay buffer: real experience in memory and on disk, and the batches drawn from it."""

from diamond_fast.replay.batch import Batch
from diamond_fast.replay.buffer import Episode, Replay
from diamond_fast.replay.journal import JournalError
from diamond_fast.replay.segments import Segments

__all__ = ["Batch", "Episode", "JournalError", "Replay", "Segments"]
