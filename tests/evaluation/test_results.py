"""An evaluation's results in words: the figures of the JSON, and what could not be measured."""

from diamond_fast.evaluation.results import summary

CURVE = {
    "mean_absolute": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0],
    "mean_absolute_ci95": [0.25] * 7,
    "root_mean_square": [9.0] * 7,
    "root_mean_square_ci95": [9.0] * 7,
}
RESULTS = {
    "game": "Boxing",
    "agent": "runs/a, epoch 4",
    "device": "CPU, 1 threads",
    "returns": {"returns": [1.0, 2.0], "mean": 1.5, "ci95": 6.353},
    "world_model": {
        "held_out": {"source": "the games played", "episodes": 2, "steps": 1000},
        "reward_end": {
            "reward": {"precision/-1": None, "recall/-1": None, "precision/+1": 0.75, "recall/+1": 0.5},
            "end": {"precision/ends": None, "recall/ends": 0.0},
        },
        "pixel_error": {"horizon": 7, "by_denoising_steps": {"1": CURVE}, "unchanged": CURVE},
        "perceptual": {"1": {"lpips": [0.1] * 6 + [0.1239], "fid": 12.345, "fid_frames": 448}},
        "faithfulness": {
            "1": {
                "frames": 448,
                "imagined": {"appeared": 1.25, "vanished": 0.5, "changed": 3.0},
                "real": {"appeared": 1.0, "vanished": 1.0, "changed": 0.0},
                "digits_readable": 0.875,
            }
        },
        "sampling": {
            "1": [
                {"path": "plain", "frames_per_second": 12.34, "batch_size": 32},
                {"path": "amx bfloat16", "frames_per_second": 99.0, "batch_size": 32},
            ]
        },
    },
}


def test_every_figure_is_told():
    assert summary(RESULTS).splitlines() == [
        "Boxing: runs/a, epoch 4",
        "return: 1.50 +- 6.35 (95 % interval), 2 games",
        "held-out: 1000 steps in 2 episodes (the games played)",
        "reward -1: precision undefined (never predicted), recall undefined (never occurred)",
        "reward +1: precision 75.0 %, recall 50.0 %",
        "end ends: precision undefined (never predicted), recall 0.0 %",
        "pixel error after 1, 5, 7 imagined steps, in grey levels of 255:",
        "  1 denoising step: 1.00 +- 0.25, 5.00 +- 0.25, 7.00 +- 0.25",
        "  the last real frame repeated: 1.00 +- 0.25, 5.00 +- 0.25, 7.00 +- 0.25",
        "LPIPS, 1 denoising step: 0.100, 0.100, 0.124 after as many steps",
        "FID, 1 denoising step: 12.35 (448 frames)",
        "small objects, 1 denoising step: per 100 frames appeared 1.2 (really 1.0), vanished 0.5 (really 1.0), "
        "changed 3.0 (really 0.0)",
        "score, 1 denoising step: readable in 87.5 % of frames",
        "sampling, 1 denoising step: 12.3, with FastDenoiser (amx bfloat16) 99.0 frames/s in batches of 32 "
        "(CPU, 1 threads)",
    ]


def test_what_was_not_measured_is_left_out():
    only_games = {key: value for key, value in RESULTS.items() if key != "world_model"}
    assert summary(only_games).splitlines()[-1] == "return: 1.50 +- 6.35 (95 % interval), 2 games"
    single = {**only_games, "returns": {"returns": [1.0], "mean": 1.0, "ci95": None}}
    assert summary(single).splitlines()[-1] == "return: 1.00, 1 game"
    nothing_imagined = {**RESULTS["world_model"], "pixel_error": None}
    assert summary({**RESULTS, "world_model": nothing_imagined}).splitlines()[-1] == (
        "pixel error: no held-out episode is as long as context, --watched and --horizon together"
    )
    one_segment = {**CURVE, "mean_absolute_ci95": [None] * 7}
    errors = {"horizon": 1, "by_denoising_steps": {"1": one_segment}, "unchanged": one_segment}
    told = summary({**RESULTS, "world_model": {**RESULTS["world_model"], "pixel_error": errors}})
    assert "\n  1 denoising step: 1.00\n" in told
