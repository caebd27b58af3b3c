"""What the figures stand under: the machine's own rates, its name, and the commit."""

import subprocess

import machine
import pytest
import torch

from diamond_fast.engine.cpu_program import INSTRUCTION_SETS

CPU = torch.device("cpu")


@pytest.mark.parametrize(("flops", "largest"), [(1e12, 2048), (1.5e8, 128)], ids=["fast", "no bfloat16"])
def test_sizes_grow_no_further_than_a_product_takes_long_enough(monkeypatch, flops, largest):
    """A processor without bfloat16 takes minutes for the largest product, for a rate that a small one tells as well."""
    sizes = []

    def best(call, device, seconds):
        call()
        return 2 * sizes[-1] ** 3 / flops

    monkeypatch.setattr(machine, "_best", best)
    monkeypatch.setattr(machine.torch, "mm", lambda a, b, out: sizes.append(len(a)))
    assert machine._product_rate(CPU, torch.bfloat16, 0.5) == pytest.approx(flops)
    assert sizes[-1] == largest


def test_a_commit_counts_changes_to_what_is_measured_only(tmp_path):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    code, figures = tmp_path / "setup.py", tmp_path / "benchmarks" / "results" / "a.json"
    for path in (code, figures):
        path.write_text("1")
    git("init")
    git("add", "-A")
    git("commit", "-m", "1")
    clean = machine.commit(tmp_path)
    assert (len(clean["id"]), clean["dirty"], "changes" in clean) == (40, False, False)
    figures.write_text("2")
    assert machine.commit(tmp_path) == clean
    code.write_text("2")
    dirty = machine.commit(tmp_path)
    assert (dirty["id"], dirty["dirty"]) == (clean["id"], True)
    code.write_text("3")
    assert machine.commit(tmp_path)["changes"] != dirty["changes"]


def test_without_git_there_is_no_commit(tmp_path):
    assert machine.commit(tmp_path) == {"id": None, "dirty": False}


def test_the_hardware_has_a_name():
    found = machine.hardware(CPU)
    assert found["cpu"]
    assert (found["cores"] > 0, found["gpu"]) == (True, None)


def test_processors_of_one_name_differ_by_their_instructions(monkeypatch):
    names = set()
    for used in INSTRUCTION_SETS:
        monkeypatch.setattr(machine, "instruction_set", lambda dtype, used=used: used)
        names.add(machine.hardware(CPU)["cpu"])
    assert len(names) == len(INSTRUCTION_SETS)
    monkeypatch.setattr(machine, "instruction_set", lambda dtype: None)
    bare = machine.hardware(CPU)["cpu"]
    assert all(name.startswith(f"{bare} with ") for name in names)
