import copy

import pytest
from pages.tables import headline_table, ladder_table, machines_table, not_run_table, number, stem_tables


@pytest.mark.parametrize(
    ("x", "text"), [(0.12345, "0.123"), (1.5, "1.5"), (12.345, "12.3"), (345.67, "346"), (12345.6, "12,346")]
)
def test_numbers_have_three_digits(x, text):
    assert number(x) == text


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]


def test_a_stems_table(document):
    (title, text), _ = stem_tables(document)
    assert title == "denoiser"
    header, _, line = cells(text)
    assert dict(zip(header, line, strict=True)) == {
        "batch": "32",
        "steps": "3",
        "FastDenoiser, NFE/s": "300 (290 to 310)",
        "as published, NFE/s": "12.3 (12 to 13)",
        "FastDenoiser against as published": "24.3x (22.3 to 25.8)",
        "path": "amx bfloat16",
        "floor, ms": "234",
        "share of the floor": "75%",
    }
    assert "Left out: torch.compile bf16 (no C++ compiler here) at batch 32, steps 3." in text
    assert "585 GFLOP at 2.5 TFLOP/s" in text


def test_what_is_not_beyond_noise_is_undecided(document):
    document["rows"][0]["ratios"]["as published"] = {"ratio": 1.05, "low": 0.9, "high": 1.2, "decided": False}
    assert cells(stem_tables(document)[0][1])[2][4] == "undecided (0.9 to 1.2)"


def test_a_ladder_shows_what_each_technique_gains(document):
    _, _, *lines = cells(ladder_table(document["rows"][1]))
    assert [(line[0], *line[2:]) for line in lines] == [
        ("as published", "", "1x"),
        ("+ b", "undecided", "1.05x"),
        ("+ c", "4x", "4.2x"),
    ]


def test_the_readmes_table(document):
    _, _, line = cells(headline_table(document))
    assert line == [
        "frames drawn 32 at a time, NFE/s",
        "300 (290 to 310)",
        "12.3 (12 to 13)",
        "24.3x (22.3 to 25.8)",
        "-",
        "75%",
    ]
    document["rows"] = document["rows"][1:]
    assert headline_table(document) is None


def test_machines_stand_beside_each_other(document):
    other = copy.deepcopy(document)
    other["machine"] = "1 core of Another CPU"
    other["rows"][0]["case"] = {"batch": 1, "steps": 3}
    header, _, *lines = cells(machines_table([document, other]))
    against = "times as fast as published"
    assert header == ["", "2 cores of Some(R) CPU", against, "1 core of Another CPU", against]
    measured = ["300 (290 to 310)", "24.3x (22.3 to 25.8)"]
    assert lines == [
        ["frames drawn 32 at a time, NFE/s", *measured, "-", "-"],
        ["frames drawn one at a time, NFE/s", "-", "-", *measured],
    ]
    assert machines_table([]) is None


def test_gpu_readings_stand_with_the_figures(document):
    document["rows"][0]["gpu"] = {
        "NFE per joule": 52.1,
        "watts": 650.0,
        "peak_mb": {"FastDenoiser": 812},
        "clock_mhz_before": 1980,
        "clock_mhz_after": 1755,
        "slowed_by": ["power cap"],
    }
    line = cells(stem_tables(document)[0][1])[-1]
    assert line == ["batch 32, steps 3", "52.1 NFE per joule", "650.0", "FastDenoiser 812", "1980 to 1755", "power cap"]


def test_what_was_not_run_is_listed(document):
    assert cells(not_run_table(document))[2] == ["test_edm_step", "4", "needs a CUDA device"]
    document["not_run"] = []
    assert not_run_table(document) == "Nothing that was asked for was left out."
