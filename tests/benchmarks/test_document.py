import copy
import json

import pytest
from pages.document import file_stem, from_pytest, merged, read, read_all


def test_from_pytests_report():
    report = {
        "machine_info": {"cpu": {"brand_raw": "Intel(R) Xeon(R) CPU", "count": 2}, "python_version": "3.11.7"},
        "commit_info": {"id": "abc", "dirty": True, "branch": "main"},
        "datetime": "2026-01-02T03:04:05",
        "benchmarks": [{"extra_info": {"row": {"stem": "x"}}}, {"extra_info": {}}],
        "suite": {
            "gpu": None,
            "software": {"torch": "2.13"},
            "effort": "full",
            "threads": 2,
            "rates": {},
            "not_run": [],
            "failed": ["test_y"],
        },
    }
    document = from_pytest(report)
    assert document["machine"] == "2 cores of Intel(R) Xeon(R) CPU"
    assert document["software"] == {"python": "3.11.7", "torch": "2.13"}
    assert document["commit"] == {"id": "abc", "dirty": True}
    assert document["rows"] == [{"stem": "x"}]  # a benchmark without a row is none of ours
    assert document["failed"] == ["test_y"]
    assert file_stem(document) == "intel-xeon-cpu-2-cores"
    report["suite"]["gpu"] = {"name": "NVIDIA H100 80GB HBM3", "driver": "570.1"}
    document = from_pytest(report)
    assert document["machine"] == "NVIDIA H100 80GB HBM3, driver 570.1, 2 cores of Intel(R) Xeon(R) CPU"
    assert file_stem(document) == "nvidia-h100-80gb-hbm3"


def test_parts_of_a_suite_join(document):
    part = copy.deepcopy(document)
    changed, new = copy.deepcopy(document["rows"][0]), copy.deepcopy(document["rows"][0])
    changed["figures"]["FastDenoiser"]["median"] = 333.0
    new["case"]["batch"] = 1
    part["rows"] = [changed, new]
    part["not_run"] = [{"benchmark": "test_edm_step", "reason": "another", "cases": 1}]
    both = merged(document, part)
    assert [(row["stem"], row["case"].get("batch")) for row in both["rows"]] == [
        ("denoiser, technique by technique", 8),
        ("denoiser", 32),
        ("denoiser", 1),
    ]
    assert both["rows"][1]["figures"]["FastDenoiser"]["median"] == 333.0
    assert both["not_run"] == part["not_run"]


@pytest.mark.parametrize("name", ["hardware", "software", "commit", "effort"])
def test_parts_that_do_not_belong_together_do_not_join(document, name):
    other = {**document, name: "other", "rows": []}
    assert merged(other, document) == document


def test_other_files_are_passed_over_or_refused(document, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(document))
    (tmp_path / "b.json").write_text("{}")
    assert read_all(tmp_path) == {"a": document}
    with pytest.raises(ValueError, match=r"b\.json: not a result of"):
        read(tmp_path / "b.json")
    (tmp_path / "c.json").write_text("[1")
    with pytest.raises(ValueError, match=r"c\.json: not a result of"):
        read(tmp_path / "c.json")
