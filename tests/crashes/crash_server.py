"""A process with everything imported that forks one training run per request: crashing a run is then cheap.

Reads JSON lines {folder, output, fault: [call, action, errno] or null}; answers with the run's process id and, once it
has ended, with its exit code. Where the run is stands in a file in shared memory: one byte for the phase, one that says
whether a checkpoint is being written, and from the eighth on the number of calls that could have been made to fail.
"""

import contextlib
import ctypes
import io
import json
import mmap
import os
import signal
import sys
import tempfile
from pathlib import Path

import torch
from crashed_runs import PHASES
from tiny_run import TINY

from diamond_fast import train
from diamond_fast.cli import user_errors
from diamond_fast.runs import checkpoint
from diamond_fast.runs.folder import RunFolder
from diamond_fast.runs.progress import Progress
from diamond_fast.runs.signals import stop_signals
from diamond_fast.training.evaluator import Evaluator
from diamond_fast.training.trainer import Trainer

with open(sys.argv[1], "r+b") as file:
    where = mmap.mmap(file.fileno(), 16)


def main():
    torch.set_num_threads(1)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it would be ignored
    disk = ctypes.CDLL(None) if "LD_PRELOAD" in os.environ else None
    watch_phases()
    with tempfile.TemporaryDirectory() as folder:  # what is slow the first time is done before the first fork
        rehearse(Path(folder) / "run")
    answer(ready=True)
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            run(request, disk)
        answer(pid=pid)
        _, status = os.waitpid(pid, 0)
        answer(exit_code=os.waitstatus_to_exitcode(status))


def rehearse(path):
    folder = RunFolder.create(path, TINY)
    trainer = Trainer(TINY, folder, torch.device("cpu"))
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.run()
    trainer.close()


def answer(**values):
    print(json.dumps(values), flush=True)


def run(request, disk):
    """A run from wherever it stands to its end, as the command line would do it."""
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    code = 99
    path = Path(request["folder"])
    try:
        if disk is not None and request["fault"]:
            call, action, error = request["fault"]
            disk.faulty_disk_arm(str(path).encode(), ctypes.c_long(call), action, error)
        with stop_signals() as stop:
            where[0] = PHASES.index("set up")
            stop.how_to_go_on = "the same again"
            with contextlib.ExitStack() as held:
                with user_errors():
                    folder = RunFolder.open(path) if (path / "config.json").exists() else RunFolder.create(path, TINY)
                    held.enter_context(folder.lock())
                    trainer = Trainer(folder.read_config(), folder, torch.device("cpu"))
                    held.callback(trainer.close)
                train.train(trainer, stop)
        code = 0
    except SystemExit as error:
        code = error.code
    except BaseException as error:  # a user would see a traceback
        print("TRACEBACK", type(error).__name__, error, flush=True)
    finally:
        if disk is not None:
            where[8:] = disk.faulty_disk_calls().to_bytes(8, "little")
        os._exit(code)


def watch_phases():
    phase, write = Progress.phase, checkpoint.write

    def noted_phase(self, name, total):
        where[0] = PHASES.index(name)
        return phase(self, name, total)

    def noted_write(folder, snapshot):
        where[1] = 1
        try:
            return write(folder, snapshot)
        finally:
            where[1] = 0

    Progress.phase, checkpoint.write = noted_phase, noted_write
    Evaluator.draw_learning_curves = lambda self: None  # slow, and nothing that must survive


if __name__ == "__main__":
    main()
