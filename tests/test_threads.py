"""Threads are limited by the cores allowed, by quotas of control groups as files give them, and by OMP_NUM_THREADS."""

import os

import pytest
import torch

from diamond_fast.engine.cpu_program import CpuProgram
from diamond_fast.threads import allowed_threads, engine_threads, limit_torch


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        # version 2: the group's own quota, one above it, and none
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "300000 100000\n"}, 3),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
                "sys/fs/cgroup/a/cpu.max": "200000 50000\n",
            },
            4,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        # a container that sees its own group as the uppermost, though its path is the host's
        ({"proc/self/cgroup": "0::/docker/0123\n", "sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2),
        # version 1
        (
            {
                "proc/self/cgroup": "5:memory:/a\n4:cpu,cpuacct:/a\n",
                "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "500000\n",
                "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/memory/a/cpu.cfs_quota_us": "100000\n",
                "sys/fs/cgroup/memory/a/cpu.cfs_period_us": "100000\n",
            },
            5,
        ),
        (
            {
                "proc/self/cgroup": "1:cpu:/\n0::/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            8,
        ),
        # mounted under one name, listed under another; or under that of one controller; or beside version 1
        (
            {
                "proc/self/cgroup": "4:cpuacct,cpu:/a\n",
                "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "200000\n",
                "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpuset/a/cpu.cfs_quota_us": "100000\n",
            },
            2,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/a\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "200000\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
            },
            2,
        ),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/unified/a/cpu.max": "200000 100000\n"}, 2),
        ({"proc/self/cgroup": "garbage\n0::a\n:\n"}, 8),
        # less than a core, and files that say nothing one could use
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "\n"}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "100000 0\n"}, 8),
    ],
)
def test_control_groups(tmp_path, files, expected):
    assert allowed_threads(write(tmp_path, files)) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [("3", 3), ("2,4", 2), (" 5 ", 5), ("12", 8), ("0", 8), ("many", 8), ("", 8)]
)
def test_openmps_variable(tmp_path, monkeypatch, value, expected):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert allowed_threads(tmp_path) == expected


def test_cores_that_the_process_may_run_on(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = os.sched_getaffinity(0)
    assert allowed_threads(tmp_path) == len(before)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert allowed_threads(tmp_path) == 1
    finally:
        os.sched_setaffinity(0, before)


def test_torch_and_the_engine_keep_to_the_limit(monkeypatch):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        assert (engine_threads(), torch.get_num_threads()) == (2, 3)
        limit_torch()
        assert torch.get_num_threads() == 2
        monkeypatch.setenv("OMP_NUM_THREADS", "4")
        limit_torch()
        assert (engine_threads(), torch.get_num_threads()) == (2, 2)  # nothing is ever raised
    finally:
        torch.set_num_threads(before)


def test_programs_take_as_many_threads_as_are_allowed(monkeypatch):
    """The compiled part is asked for so many; by hand, more may be."""
    asked = []

    class Cpu:
        class Program:
            def __init__(self, num_threads, *_):
                asked.append(num_threads)
                raise InterruptedError

    conv = torch.nn.Conv2d(3, 4, 3, padding=1)
    before = torch.get_num_threads()
    import diamond_fast

    monkeypatch.setattr(diamond_fast, "_cpu", Cpu, raising=False)
    monkeypatch.setattr("diamond_fast.engine.cpu_program._library", lambda _: "")
    monkeypatch.setattr("diamond_fast.engine.cpu_program.why_not", lambda _: None)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    try:
        torch.set_num_threads(3)
        for by_hand in (None, 5):
            with pytest.raises(InterruptedError):
                CpuProgram(lambda b, v: b.conv(conv, [v]), [(3, 1.0)], 8, 8, by_hand, on="portable")
    finally:
        torch.set_num_threads(before)
    assert asked == [2, 5]
