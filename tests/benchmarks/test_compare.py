import copy

from pages.compare import compare


def test_only_what_is_beyond_noise_is_told(document):
    after = copy.deepcopy(document)
    figures = after["rows"][0]["figures"]
    figures["FastDenoiser"] = {"median": 360.0, "best": 365.0, "low": 350.0, "high": 365.0, "turns": 5}
    figures["as published"]["median"] = 12.9  # within its spread
    assert compare(document, after) == [
        "denoiser | batch 32, steps 3 | FastDenoiser: 300 -> 360 NFE/s, 1.2 times as fast",
        "no change beyond noise: 4 of 5 figures",
    ]
    assert "FastDenoiser: 360 -> 300 NFE/s, slower: 0.833 times as fast" in compare(after, document)[0]


def test_times_are_better_when_shorter(document):
    row = document["rows"][0]
    row |= {"unit": "ms", "higher_is_better": False}
    after = copy.deepcopy(document)
    after["rows"][0]["figures"]["FastDenoiser"] = {"median": 150.0, "best": 1, "low": 140.0, "high": 160.0, "turns": 5}
    assert "300 -> 150 ms, 2 times as fast" in compare(document, after)[0]


def test_other_machines_and_rows_that_only_one_has_are_told(document):
    after = copy.deepcopy(document)
    after["machine"] = "other"
    after["rows"] = after["rows"][:1]
    lines = compare(document, after)
    assert lines[0] == "machine differs: 2 cores of Some(R) CPU and other"
    assert lines[-1] == "only in the first: 3 figures of denoiser, technique by technique"
