"""Runs as the trainer would leave them, and a bootstrap that is quick."""

from contextlib import closing
from dataclasses import replace

import pytest

from diamond_fast.config import CollectionConfig, RunConfig
from diamond_fast.reporting import statistics
from diamond_fast.runs.folder import RunFolder
from diamond_fast.runs.metrics import Metrics


@pytest.fixture
def few_samples(monkeypatch):
    monkeypatch.setattr(statistics, "MOST_SAMPLES", 40)
    monkeypatch.setattr(statistics, "FEWEST_SAMPLES", 40)


@pytest.fixture
def write_run(tmp_path):
    """Makes a run's folder: tests at epochs 10, 20, ... with these means, then a final one with ``final`` returns."""

    def write(game="Boxing", seed=0, tests=(1.0, 2.0), final=None, name=None, **settings):
        place = {"env_id": game} if "/" in game else {"game": game}
        folder = RunFolder.create(
            tmp_path / (name or f"{game.replace('/', '_')}-{seed}"), replace(RunConfig(seed=seed, **place), **settings)
        )
        with closing(Metrics(folder.metrics_file)) as metrics:
            metrics.log({"collect/episodes": 3}, epoch=0, env_steps=5_000)
            for i, value in enumerate(tests, start=1):
                metrics.log({"denoiser/loss": 0.5}, epoch=10 * i - 1, env_steps=5_900 + 1_000 * i)
                metrics.log({"test/return_mean": value}, epoch=10 * i, env_steps=6_000 + 1_000 * i)
            if final is not None:
                metrics.log({"final_test/returns": list(final)}, epoch=10 * len(tests), env_steps=100_000)
        return folder.path

    return write


@pytest.fixture
def short_collection():
    return CollectionConfig(num_steps_total=1_600)
