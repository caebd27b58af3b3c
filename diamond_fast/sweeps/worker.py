"""One attempt at a run: the trainer as a child process, watched, and what became of it written down.

``python -m diamond_fast.sweeps.worker SWEEP NAME`` is what every engine has done somewhere. It may be killed at any
moment: its trainer is then told to stop, and whoever comes next goes on from the run's last checkpoint.
"""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from diamond_fast import control_groups
from diamond_fast.runs.folder import RunFolder
from diamond_fast.runs.signals import stop_with_parent
from diamond_fast.sweeps.attempts import Standing, epochs_done, last_line, note, standing
from diamond_fast.sweeps.folder import SweepFolder

TRAIN = (sys.executable, "-m", "diamond_fast.train")
TOLD_AGAIN = ("--device", "--logger", "--env-id")
"""Flags that a run does not keep, or takes on trust from the command line alone."""
WATCH_EVERY = 0.5
"""Seconds between looks at the trainer."""
SIGN_EVERY = 5.0
"""Seconds between signs of life, and looks at whether the sweep is cancelled: both ask a file system that all share."""
PATIENCE = 15.0
"""Seconds that a trainer has to save and leave. It takes 8 at most by itself."""


class Attempt:
    """Goes on with a run, or begins it.

    Args:
        sweep: that it belongs to.
        name: of the run.
    """

    def __init__(self, sweep: SweepFolder, name: str):
        self.sweep, self.name = replace(sweep, path=sweep.path.resolve()), name
        self._told_to_stop = False

    def run(self) -> Standing:
        """Where the run stands in the end. Does nothing if it is finished, failed, cancelled or at work elsewhere."""
        with self.sweep.only_attempt(self.name) as only:
            before = standing(self.sweep, self.name)
            if not only or before.state in ("finished", "failed") or self.sweep.cancelled_file.exists():
                return before
            self._touch()
            note(self.sweep, self.name, "start", epochs=epochs_done(self.sweep, self.name))
            with on_termination(self.tell_to_stop):
                how = self._train()
            note(self.sweep, self.name, "end", **how)
        return standing(self.sweep, self.name)

    def tell_to_stop(self) -> None:
        """The trainer is to save and leave; :meth:`run` returns once it has."""
        self._told_to_stop = True

    def _train(self) -> dict[str, str]:
        """How it ended, and why."""
        kills = memory_kills()
        if not _is_let_go(self.sweep.run(self.name)):
            return {"how": "lost", "why": "a trainer of an earlier attempt is still at work"}
        with open(self.sweep.log_file(self.name), "ab", buffering=0) as log:
            trainer = subprocess.Popen(
                self._command(),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self.sweep.where,
                start_new_session=True,  # Ctrl-C is for the sweep, which tells the trainer once
                preexec_fn=stop_with_parent,
            )
        signed = time.monotonic()
        while trainer.poll() is None:
            if time.monotonic() - signed >= SIGN_EVERY:
                signed = time.monotonic()
                self._touch()
                self._told_to_stop |= self.sweep.cancelled_file.exists()
            if self._told_to_stop:
                _end(trainer)
            else:
                time.sleep(WATCH_EVERY)
        return self._how(trainer.returncode, memory_kills() > kills)

    def _command(self) -> list[str]:
        folder, argv = self.sweep.run(self.name), list(self.sweep.planned(self.name).argv)
        if not folder.config_file.is_file():
            return [*TRAIN, *argv, "--out", str(folder.path)]
        again = [word for name in TOLD_AGAIN if name in argv for word in (name, argv[argv.index(name) + 1])]
        return [*TRAIN, "--resume", str(folder.path), *again]

    def _how(self, code: int, memory_killed: bool) -> dict[str, str]:
        if code == 0:
            return {"how": "finished"}
        said = last_line(self.sweep.log_file(self.name))
        told = self._told_to_stop or self.sweep.cancelled_file.exists()
        if told or code in (128 + signal.SIGTERM, 128 + signal.SIGINT, 128 + signal.SIGHUP):
            return {"how": "stopped", "why": said}
        if code < 0 and memory_killed:
            return {"how": "failed", "why": "out of memory: the kernel ended it, or a neighbour in its control group"}
        if code < 0:
            return {"how": "lost", "why": f"ended by {signal.Signals(-code).name}"}
        return {"how": "failed", "why": said}

    def _touch(self) -> None:
        self.sweep.alive_file(self.name).touch()


@contextmanager
def on_termination(tell: Callable[[], None]) -> Iterator[None]:
    """SIGTERM calls ``tell``; Ctrl-C is left to whoever started this. On another than the main thread: neither."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    terminate = signal.signal(signal.SIGTERM, lambda number, frame: tell())
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, terminate)
        signal.signal(signal.SIGINT, interrupt)


def _end(trainer: subprocess.Popen) -> None:
    trainer.terminate()
    try:
        trainer.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        trainer.kill()
        trainer.wait()


def _is_let_go(run: RunFolder) -> bool:
    """Whether no trainer is at work there any more. One whose worker was killed may still be saving: it has time to."""
    deadline = time.monotonic() + PATIENCE
    while run.path.exists():
        try:
            with run.lock():
                return True
        except ValueError:
            if time.monotonic() > deadline:
                return False
            time.sleep(WATCH_EVERY)
    return True


def memory_kills(root: Path = Path("/")) -> int:
    """Processes of this control group that the kernel has ended for lack of memory; 0 if nobody counts them."""
    for folder in control_groups.folders("memory", root):
        for name in ("memory.events", "memory.oom_control"):
            for entry in control_groups.text(folder / name).splitlines():
                key, _, value = entry.partition(" ")
                if key == "oom_kill":
                    return int(value)
    return 0


def main() -> None:
    folder, name = sys.argv[1:]
    Attempt(SweepFolder.open(Path(folder)), name).run()


if __name__ == "__main__":
    main()
