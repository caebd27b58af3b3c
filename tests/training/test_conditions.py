"""What bits depend on is recorded, and compared where a CPU promised them."""

import torch

from diamond_fast.engine.choose import choose_path
from diamond_fast.training.conditions import conditions, path_begun_with, why_not_bit_for_bit

CPU = torch.device("cpu")


def test_what_is_recorded():
    found = conditions(choose_path(CPU, "fp32", "readable"))
    assert found["threads"] == torch.get_num_threads()
    assert found["path"] == "readable"
    assert found["torch"] == torch.__version__
    assert why_not_bit_for_bit(found, found) is None


def test_another_engine_has_another_name(monkeypatch):
    monkeypatch.setattr("diamond_fast.engine.cpu_program.why_unavailable", lambda: None)
    assert conditions(choose_path(CPU))["path"] == "AMX"
    monkeypatch.setattr("diamond_fast.engine.cpu_program.why_unavailable", lambda: "no AMX")
    monkeypatch.setattr("diamond_fast.engine.cpu_program.instruction_set", lambda dtype: "avx2")
    assert conditions(choose_path(CPU))["path"] == "program avx2"
    monkeypatch.setattr("diamond_fast.engine.cpu_program.instruction_set", lambda dtype: None)
    assert conditions(choose_path(CPU))["path"] == "readable"


def test_only_what_both_know_is_compared_and_a_gpu_promised_nothing():
    now = conditions(choose_path(CPU, "fp32"))
    assert why_not_bit_for_bit({}, now) is None
    assert why_not_bit_for_bit({"device": "cpu", "new in later versions": 1}, now) is None
    assert why_not_bit_for_bit({**now, "device": "cuda", "threads": 99}, now) is None
    assert why_not_bit_for_bit({**now, "torch": "1.0"}, now) == (
        f"Saved with torch 1.0, now {torch.__version__}: the run goes on, but not bit for bit as it would have."
    )
    assert "device cpu, now cuda" in why_not_bit_for_bit(now, {**now, "device": "cuda"})


def test_what_a_run_goes_on_with():
    for name in ("readable", "torch float32", "fused"):
        assert path_begun_with({"device": "cpu", "path": name}, CPU) == name
    assert path_begun_with({"device": "cpu", "path": "AMX"}, CPU) == "amx"
    assert path_begun_with({"device": "cuda", "path": "fused"}, CPU) is None  # another machine
    assert path_begun_with({}, CPU) is None  # the first runs recorded nothing
