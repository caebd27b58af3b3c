"""Options, fixtures, and what is measured in which order and for how long.

pytest benchmarks --benchmark-only                  everything this machine can do
pytest benchmarks --effort tiny                     whether every benchmark works; its figures mean nothing
"""

import math
import re
import sys
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import pytest

from diamond_fast.openmp import share_cores

share_cores()  # as every command does
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))  # readable twins that tests and benchmarks share

from ledger import Ledger
from machine import commit, hardware, measure_machine, versions
from measuring import EFFORTS, Measurement
from pages.document import new
from plan import Plan, in_order

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
MINUTES = {"full": 9.5, "quick": 3.9}
"""On a CPU, of the ten and four that are promised; the rest is starting and writing tables."""
STARTED = time.perf_counter()


def pytest_addoption(parser):
    parser.addoption("--effort", choices=list(EFFORTS), help="how long to measure; tiny: small networks too")
    parser.addoption("--minutes", type=float, help="begin nothing that is not expected to end by then")
    parser.addoption("--rivals", choices=["with", "without", "only"], default="with", help="others' compilers")
    parser.addoption("--rows", type=Path, help="append each row to this file as soon as it is there")
    parser.addoption("--documents", type=Path, help="folder with a document for each machine, to go on with")
    parser.addoption("--again", action="store_true", help="measure what the document has already")


def effort_name(config) -> str:
    return config.getoption("--effort") or ("tiny" if config.getoption("--benchmark-disable") else "full")


def minutes(config) -> float | None:
    given = config.getoption("--minutes")
    return given if given is not None or ON_GPU else MINUTES.get(effort_name(config))


def pytest_configure(config):
    config.addinivalue_line("markers", "not_quick(reason): skipped on a CPU with --effort quick")
    effort = effort_name(config)

    def document():
        return new(
            hardware(DEVICE),
            software=versions(),
            commit=commit(Path(__file__).parents[1]),
            date=datetime.now().isoformat(timespec="seconds"),
            effort=effort,
            threads=torch.get_num_threads(),
            rates=asdict(measure_machine(DEVICE, EFFORTS[effort].warm_up)),
        )

    folder, rivals, again = (config.getoption(f"--{name}") for name in ("documents", "rivals", "again"))
    config.ledger = Ledger(folder, document, rivals, again)
    config.pluginmanager.register(config.ledger)
    config.plan = None


def pytest_collection_modifyitems(config, items):
    """The most telling first, without what is measured already. To see whether one works, one size will do."""
    effort = effort_name(config)
    chosen = in_order(items, effort)
    if effort == "tiny":
        kinds = {re.sub(r"\d+", "", item.nodeid): item for item in reversed(chosen)}
        chosen = [item for item in chosen if item in kinds.values()]
    if effort == "quick" and not ON_GPU:
        for item in chosen:
            for mark in item.iter_markers("not_quick"):
                item.add_marker(pytest.mark.skip(reason=mark.args[0]))
    if not config.option.collectonly:
        chosen = config.ledger.begin(chosen)
    left_out = set(items) - set(chosen)
    config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = chosen


def pytest_collection_finish(session):
    """The plan, made by the speed of the published network here."""
    config, limit = session.config, minutes(session.config)
    if limit is None or config.option.collectonly or effort_name(config) == "tiny":
        return
    from workloads import seconds_of_an_evaluation

    config.plan = Plan(60 * limit, effort_name(config), seconds_of_an_evaluation(DEVICE))
    planned = [item for item in session.items if not is_skipped(item)]
    print(config.plan.describe(planned, since_start()), flush=True)


def is_skipped(item) -> bool:
    marks = item.iter_markers("skipif")
    return item.get_closest_marker("skip") is not None or any(mark.args[0] for mark in marks)


def since_start() -> float:
    return time.perf_counter() - STARTED


@pytest.hookimpl(tryfirst=True)  # before fixtures, which take time
def pytest_runtest_setup(item):
    item.began = time.perf_counter()
    plan = item.config.plan
    if plan is not None and not is_skipped(item) and (reason := plan.why_not(item, since_start())):
        pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    if call.when == "call" and call.excinfo is None:
        seconds = time.perf_counter() - item.began
        measured = item.funcargs.get("measure")
        item.config.ledger.note(item.nodeid, measured.written if measured else [], seconds)
        if item.config.plan is not None:
            item.config.plan.measured(item, seconds)
    return (yield)


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


@pytest.fixture
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
    limit = minutes(pytestconfig)
    deadline = math.inf if limit is None else STARTED + 60 * limit
    return Measurement(benchmark, DEVICE, EFFORTS[effort], rivals, rows, deadline)


@pytest.fixture(autouse=True)
def as_published():
    """TF32 on a GPU, and the same weights and noise at every run."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.manual_seed(0)
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
