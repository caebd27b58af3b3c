"""What was measured is kept for a user's next run: found again under the same conditions, and no others."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from small_world import SMALL_WORLD, make_agent

from diamond_fast.cache import CACHE
from diamond_fast.engine import decisions
from diamond_fast.engine.choose import candidates
from diamond_fast.engine.contest import Row, Work

ROWS = [Row("torch", 1e-6, 0.25), Row("fused", None, None, "it fails: no"), Row("readable", 0.0, 0.5)]
HERE = {"work": "some", "threads": 2}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_found_again_under_the_same_conditions_only():
    assert decisions.find(HERE) is None
    assert decisions.keep(HERE, ROWS) == ROWS
    assert decisions.find(dict(HERE)) == ROWS
    assert decisions.find({**HERE, "threads": 3}) is None
    decisions.keep({**HERE, "threads": 3}, ROWS[:1])
    assert decisions.find(HERE) == ROWS


def test_the_first_word_stands():
    decisions.keep(HERE, ROWS)
    assert decisions.keep(HERE, ROWS[:1]) == ROWS


def test_several_write_at_once():
    with ThreadPoolExecutor(8) as pool:
        kept = list(pool.map(lambda i: decisions.keep({"i": i % 4}, [Row("torch", 0.0, 1.0 + i)]), range(32)))
    assert [kept[i] for i in range(32)] == [decisions.find({"i": i % 4}) for i in range(32)]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\x00",
        b"[]",
        b"[" * 100_000,
        b'{"format": 2, "decisions": {}}',
        b'{"format": 1, "decisions": []}',
        b'{"format": 1, "decisions": {"KEY": 3}}',
        b'{"format": 1, "decisions": {"KEY": {"conditions": HERE}}}',
        b'{"format": 1, "decisions": {"KEY": {"conditions": HERE, "rows": [{"name": 3}]}}}',
        b'{"format": 1, "decisions": {"KEY": {"conditions": HERE, "rows": [{"name": "torch", "speed": 1}]}}}',
        b'{"format": 1, "decisions": {"KEY": {"conditions": {}, "rows": []}}}',
    ],
)
def test_a_file_that_makes_no_sense_is_as_good_as_none(folder, content):
    decisions.keep(HERE, ROWS)
    key = next(iter(json.loads((folder / "engines.json").read_text())["decisions"]))
    content = content.replace(b"KEY", key.encode()).replace(b"HERE", json.dumps(HERE).encode())
    (folder / "engines.json").write_bytes(content)
    assert decisions.find(HERE) is None
    assert decisions.keep(HERE, ROWS) == ROWS
    assert decisions.find(HERE) == ROWS


def test_a_folder_one_cannot_write_to_is_no_harm(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv(CACHE, str(tmp_path / "file"))
    assert decisions.keep(HERE, ROWS) == ROWS
    assert decisions.find(HERE) is None


def test_old_decisions_go(monkeypatch):
    monkeypatch.setattr(decisions, "MOST", 3)
    for i in range(5):
        decisions.keep({"i": i}, ROWS)
    assert [decisions.find({"i": i}) is not None for i in range(5)] == [False, False, True, True, True]


def test_what_a_measurement_depends_on():
    work = Work.of(make_agent().denoiser, SMALL_WORLD.world_model.sampler, 4)
    found = decisions.conditions(work, candidates(torch.device("cpu"), torch.float32, work=work))
    assert found["threads"] == torch.get_num_threads()
    assert found["torch"] == torch.__version__
    assert found["work"] == work.fingerprint()
    assert {"paths", "triton", "diamond_fast", "build", "device"} <= set(found)
    other = decisions.conditions(work, candidates(torch.device("cpu"), torch.bfloat16, work=work))
    assert other != found  # another precision


def test_an_extension_or_a_kernel_built_anew_is_measured_anew(tmp_path, monkeypatch):
    """Of the same version and size, in place; other files do not count."""
    extension, kernel = tmp_path / "_cpu.so", tmp_path / "kernels" / "norm.py"
    kernel.parent.mkdir()
    extension.write_bytes(b"first")
    kernel.write_text("x = 1")
    monkeypatch.setattr(decisions, "__file__", str(tmp_path / "engine" / "decisions.py"))
    monkeypatch.setattr(decisions.kernels, "__file__", str(kernel.parent / "__init__.py"))
    work = Work.of(make_agent().denoiser, SMALL_WORLD.world_model.sampler, 4)

    def found():
        decisions.build.cache_clear()
        return decisions.conditions(work, candidates(torch.device("cpu"), work=work))

    first = found()
    (tmp_path / "train.py").write_text("x = 1")
    assert found() == first
    extension.write_bytes(b"other")
    second = found()
    kernel.write_text("x = 2")
    third = found()
    kernel.with_suffix(".cu").write_text("float x;")
    fourth = found()
    decisions.build.cache_clear()
    assert len({conditions["build"] for conditions in (first, second, third, fourth)}) == 4


def test_on_a_gpu_the_card_and_its_driver_count_and_threads_do_not(monkeypatch):
    card = {"name": "NVIDIA H100"}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: card["name"])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(decisions, "_driver", lambda: "580.1")
    work = replace(Work.of(make_agent().denoiser, SMALL_WORLD.world_model.sampler, 4), device=torch.device("cuda:1"))
    found = decisions.conditions(work, candidates(work.device, work=work))
    assert found["device"] == "NVIDIA H100"
    assert "threads" not in found
    card["name"] = "NVIDIA L4"
    assert decisions.conditions(work, candidates(work.device, work=work)) != found
    card["name"] = "NVIDIA H100"
    monkeypatch.setattr(decisions, "_driver", lambda: "581.0")
    assert decisions.conditions(work, candidates(work.device, work=work)) != found
