"""Options, fixtures, and the record of what was not run.

pytest benchmarks --benchmark-only                  everything this machine can do
pytest benchmarks --effort tiny                     whether every benchmark works; its figures mean nothing
"""

import re
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))  # readable twins that tests and benchmarks share

from gpu_meter import describe_gpu
from machine import measure_machine, versions
from measuring import EFFORTS, Measurement

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
CPU_MINUTES = 9.5
MOST_WANTED = ["fast_denoiser", "updates", "imagination", "replay", "collect", "startup", "checkpoint"]
"""Files in the order in which their figures are wanted, should time run out; the others follow."""


def pytest_addoption(parser):
    parser.addoption("--effort", choices=list(EFFORTS), help="how long to measure; tiny: small networks too")
    parser.addoption(
        "--minutes", type=float, default=None if ON_GPU else CPU_MINUTES, help="begin no benchmark after so many"
    )
    parser.addoption("--rivals", choices=["with", "without", "only"], default="with", help="others' compilers")
    parser.addoption("--rows", type=Path, help="append each row to this file as soon as it is there")


def effort_name(config) -> str:
    return config.getoption("--effort") or ("tiny" if config.getoption("--benchmark-disable") else "full")


def pytest_collection_modifyitems(config, items):
    """The most wanted first. To see whether a benchmark works, one size of it will do."""
    names = [f"test_{name}.py" for name in MOST_WANTED]
    items.sort(key=lambda item: names.index(item.path.name) if item.path.name in names else len(names))
    if effort_name(config) == "tiny":
        kinds = {re.sub(r"\d+", "", item.nodeid): item for item in reversed(items)}
        config.hook.pytest_deselected(items=[item for item in items if item not in kinds.values()])
        items[:] = reversed(kinds.values())


def pytest_configure(config):
    config.pluginmanager.register(Ledger(effort_name(config)))


class Ledger:
    """Adds to the rows what the machine can do, and what was not run."""

    def __init__(self, effort: str):
        self.effort = effort
        self.not_run: Counter[tuple[str, str]] = Counter()
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report):
        if report.skipped:
            reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
            self.not_run[report.location[2].partition("[")[0], reason.removeprefix("Skipped: ")] += 1
        elif report.failed:
            self.failed.append(report.nodeid)

    def pytest_benchmark_update_json(self, config, benchmarks, output_json):
        output_json["suite"] = {
            "effort": self.effort,
            "device": str(DEVICE),
            "threads": torch.get_num_threads(),
            "gpu": describe_gpu(DEVICE),
            "software": versions(),
            "rates": asdict(measure_machine(DEVICE, EFFORTS[self.effort].warm_up)),
            "not_run": [{"benchmark": b, "reason": r, "cases": n} for (b, r), n in self.not_run.items()],
            "failed": self.failed,
        }


@pytest.fixture(scope="session")
def device():
    return DEVICE


@pytest.fixture(scope="session")
def effort(pytestconfig):
    return effort_name(pytestconfig)


@pytest.fixture(scope="session")
def cfg(effort):
    """The paper's settings, or tiny ones."""
    from workloads import PAPER, TINY

    return TINY if effort == "tiny" else PAPER


@pytest.fixture(scope="module")
def replay(cfg):
    from workloads import noise_replay

    return noise_replay(cfg, 500)


@pytest.fixture(scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def machine(effort):
    return measure_machine(DEVICE, EFFORTS[effort].warm_up)


@pytest.fixture
def measure(benchmark, effort, pytestconfig):
    rivals, rows = pytestconfig.getoption("--rivals"), pytestconfig.getoption("--rows")
    return Measurement(benchmark, DEVICE, EFFORTS[effort], rivals, rows)


@pytest.fixture(scope="session", autouse=True)
def started():
    return time.monotonic()


@pytest.fixture(autouse=True)
def in_time(pytestconfig, started):
    minutes = pytestconfig.getoption("--minutes")
    if minutes is not None and time.monotonic() > started + 60 * minutes:
        pytest.skip(f"not begun within {minutes:g} minutes")


@pytest.fixture(autouse=True)
def as_published():
    """TF32 on a GPU, and the same weights and noise at every run."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.manual_seed(0)
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
