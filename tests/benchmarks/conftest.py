import copy
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

ROW = {
    "stem": "denoiser",
    "case": {"batch": 32, "steps": 3},
    "unit": "NFE/s",
    "higher_is_better": True,
    "ours": "FastDenoiser",
    "figures": {
        "FastDenoiser": {"median": 300.0, "best": 310.0, "low": 290.0, "high": 310.0, "turns": 5},
        "as published": {"median": 12.34, "best": 13.0, "low": 12.0, "high": 13.0, "turns": 5},
    },
    "ratios": {"as published": {"ratio": 24.3, "low": 22.3, "high": 25.8, "decided": True}},
    "left_out": {"torch.compile bf16": "no C++ compiler here"},
    "also": {"path": "amx bfloat16"},
    "floor": {"ms": 234.0, "what": "585 GFLOP at 2.5 TFLOP/s, a bfloat16 matrix product's rate", "share": 0.75},
    "load": 0.1,
    "threads": 2,
}
LADDER = {
    "stem": "denoiser, technique by technique",
    "case": {"batch": 8},
    "unit": "NFE/s",
    "higher_is_better": True,
    "ours": "+ c",
    "figures": {
        "as published": {"median": 10.0, "best": 10.0, "low": 9.0, "high": 11.0, "turns": 5},
        "+ b": {"median": 10.5, "best": 11.0, "low": 10.0, "high": 11.5, "turns": 5},
        "+ c": {"median": 42.0, "best": 44.0, "low": 40.0, "high": 44.0, "turns": 5},
    },
    "ratios": {},
    "left_out": {},
    "ladder": True,
    "load": 0.1,
    "threads": 2,
}
DOCUMENT = {
    "format": 1,
    "machine": "2 cores of Some(R) CPU",
    "hardware": {"cpu": "Some(R) CPU", "cores": 2, "gpu": None},
    "software": {"python": "3.11", "torch": "2.13", "CUDA": None},
    "commit": {"id": "0123456789abcdef", "dirty": False},
    "date": "2026-01-01T00:00:00",
    "effort": "full",
    "threads": 2,
    "rates": {"flops": {"float32": 2e11, "bfloat16": 2.5e12}, "copy_bytes": 7.5e9},
    "rows": [ROW, LADDER],
    "not_run": [{"benchmark": "test_edm_step", "reason": "needs a CUDA device", "cases": 4}],
    "failed": [],
}


@pytest.fixture
def document() -> dict[str, Any]:
    return copy.deepcopy(DOCUMENT)
