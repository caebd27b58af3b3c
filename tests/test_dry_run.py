"""``python -m diamond_fast.train --dry-run``: settings and an estimate, and nothing else."""

import re
from dataclasses import replace

import pytest
import torch

from diamond_fast import train
from diamond_fast.presets import PRESETS
from diamond_fast.speed import MeasuredSpeed, Speed

GIGAFLOPS = MeasuredSpeed(Speed(1e9, 1e9), Speed(1e9, 1e9))


@pytest.fixture(autouse=True)
def _in_an_empty_folder_without_cuda(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("diamond_fast.estimate.count_flops", lambda call: 10**9)


def run_main(args):
    train.main(args.split())


def test_a_dry_run_says_everything_and_creates_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("diamond_fast.estimate.measure_speed", lambda *_: GIGAFLOPS)
    run_main("--game boxing --preset quick --seed 9 --dry-run")
    out = capsys.readouterr().out
    for expected in ("--game Boxing\n", "--seed 9\n", "--denoiser.inner-model.channels 16 32 32\n", "Boxing on cpu\n"):
        assert expected in out
    assert re.search(r"^actor_critic +[\d,]+ +[\d,]+ +[\d.,]+ +[\d.]+$", out, re.MULTILINE)
    assert re.search(r"^time: .*, without playing the game", out, re.MULTILINE)
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_on_a_device_that_is_lost_says_so(capsys, monkeypatch):
    def lost(*_, **__):
        raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(torch.nn.Module, "to", lost)
    run_main("--preset catch --seed 9 --dry-run")
    assert (
        "time: not measured, as the networks do not run on this device (RuntimeError: CUDA" in capsys.readouterr().out
    )


def test_the_settings_of_a_dry_run_are_a_command_line(capsys, monkeypatch):
    monkeypatch.setattr("diamond_fast.estimate.measure_speed", lambda *_: GIGAFLOPS)
    run_main("--preset catch --seed 9 --dry-run")
    settings = capsys.readouterr().out.split("\n\n")[0]
    words = [word for line in settings.splitlines() if not line.endswith(" None") for word in line.split()]
    assert train.read_command_line(["--preset", "atari100k", *words]).config == replace(PRESETS["catch"], seed=9)
