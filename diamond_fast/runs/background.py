"""One write at a time, while training goes on, so that the training need not wait for the disk."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class BackgroundWriter:
    """Runs writes on a thread of its own; an error of one is raised where the next one, or the end, is waited for."""

    def __init__(self):
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def start(self, write: Callable[[], object]) -> None:
        """Wait for the write before, then start this one. Raises what the one before did."""
        self.wait()
        self._pending = self._thread.submit(write)

    def wait(self) -> None:
        """Until nothing is being written any more. Raises what the last write did."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """:meth:`wait`, and end the thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
