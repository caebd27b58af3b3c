import copy
import json
from pathlib import Path

import pytest
from pages.document import add, file_stem, going_on, has, new, read, read_all, write


def test_a_new_document(document):
    settings = {name: document[name] for name in ("software", "commit", "date", "effort", "threads", "rates")}
    document = new({"cpu": "Intel(R) Xeon(R) CPU", "cores": 2, "gpu": None}, **settings)
    assert document.items() >= settings.items()
    assert document["machine"] == "2 cores of Intel(R) Xeon(R) CPU"
    assert (document["rows"], document["not_run"], document["failed"]) == ([], [], [])
    assert file_stem(document) == "intel-xeon-cpu-2-cores"
    gpu = {"name": "NVIDIA H100 80GB HBM3", "driver": "570.1"}
    document = new({"cpu": "Intel(R) Xeon(R) CPU", "cores": 2, "gpu": gpu}, **settings)
    assert document["machine"] == "NVIDIA H100 80GB HBM3, driver 570.1, 2 cores of Intel(R) Xeon(R) CPU"
    assert file_stem(document) == "nvidia-h100-80gb-hbm3"


def test_a_row_takes_the_place_of_an_earlier_one_of_its_case(document):
    changed, another = copy.deepcopy(document["rows"][0]), copy.deepcopy(document["rows"][0])
    changed["figures"]["FastDenoiser"]["median"] = 333.0
    another["case"]["batch"] = 1
    add(document, changed)
    add(document, another)
    assert [(row["stem"], row["case"].get("batch")) for row in document["rows"]] == [
        ("denoiser, technique by technique", 8),
        ("denoiser", 32),
        ("denoiser", 1),
    ]
    assert document["rows"][1]["figures"]["FastDenoiser"]["median"] == 333.0


def test_rows_of_the_same_settings_are_kept(document):
    later = {**copy.deepcopy(document), "rows": [], "not_run": [], "date": "2026-01-02T00:00:00"}
    both = going_on(document, later)
    assert (both["rows"], both["not_run"]) == (document["rows"], document["not_run"])
    assert both["date"] == later["date"]
    assert going_on(None, later) == later


@pytest.mark.parametrize("name", ["hardware", "software", "commit", "effort", "threads"])
def test_rows_of_other_settings_are_not_kept(document, name):
    later = {**document, name: "other", "rows": []}
    assert going_on(document, later) == later


@pytest.mark.parametrize(("measured", "wanted", "kept"), [("with", "only", True), ("without", "with", False)])
def test_a_row_without_rivals_is_measured_again_with_them(document, measured, wanted, kept):
    document["rows"][0] |= {"benchmark": "fast_denoiser::test_sampling[32-3]", "rivals": measured}
    assert has(document, "fast_denoiser::test_sampling[32-3]", wanted) == kept
    assert has(document, "fast_denoiser::test_sampling[32-3]", "without")
    assert not has(document, "fast_denoiser::test_sampling[1-3]", "without")


def test_a_document_is_never_half_written(document, tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write(document, path)
    before = path.read_text()
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("killed")))
    with pytest.raises(OSError, match="killed"):
        write({**document, "rows": []}, path)
    assert path.read_text() == before
    assert read_all(tmp_path) == {"a": document}


def test_other_files_are_passed_over_or_refused(document, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(document))
    (tmp_path / "b.json").write_text("{}")
    assert read_all(tmp_path) == {"a": document}
    with pytest.raises(ValueError, match=r"b\.json: not a result of"):
        read(tmp_path / "b.json")
    (tmp_path / "c.json").write_text("[1")
    with pytest.raises(ValueError, match=r"c\.json: not a result of"):
        read(tmp_path / "c.json")
