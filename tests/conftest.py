import gc
import os
import signal
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

# Before torch is imported, here and in the programs that tests start: networks this small gain nothing from more
# threads, and lose much if cores are shared.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Which engine is fastest here and now is no business of tests but those of the measuring itself.
os.environ.setdefault("DIAMOND_FAST_MEASURE", "0")

import pytest
import torch

# What a script starts in the background ignores Ctrl-C, and so do the programs that tests start; some have to hear it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

sys.path.insert(0, str(Path(__file__).parent))  # tests share golden_vectors.py

torch.set_num_threads(1)

if not torch.cuda.is_available():
    # Triton's kernels then run in its interpreter. It has to be said before anything imports Triton.
    os.environ.setdefault("TRITON_INTERPRET", "1")
if os.environ.get("TRITON_INTERPRET") == "1" and find_spec("triton"):
    from interpreter import patch_the_language_once

    patch_the_language_once()

with suppress(ImportError, AttributeError):  # of another version of tyro, which then takes its time
    from quick_parsing import read_sources_once

    read_sources_once()

MOST_WORKERS = 8  # each takes about a gigabyte


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config) -> int:
    """What ``-n auto`` means."""
    return max(1, min(MOST_WORKERS, len(os.sched_getaffinity(0))))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A file's tests run in one process, which makes what they share once; those that crash runs share their server.
    Marks of groups would say the same, but xdist 3.8 reads none of them under pytest 9.2."""
    if config.getvalue("dist") not in ("load", "loadgroup"):
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = Path(nodeid.partition("::")[0])
            return str(path.parent if path.parent.name == "crashes" else path)

    return ByFile(config, log)


def pytest_collection_finish(session) -> None:
    """What is there by now stays: the garbage collector need not look at it after every test."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session) -> None:
    gc.unfreeze()
