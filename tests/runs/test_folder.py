"""The run folder: settings come back exactly, nobody's run is overwritten, two processes cannot share one."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from diamond_fast.config import CollectionConfig, RunConfig
from diamond_fast.runs.folder import RunFolder

CONFIG = replace(
    RunConfig(game="Boxing", seed=3),
    collection=CollectionConfig(sample_weights=(0.25, 0.75), epsilon=0.1 + 0.2),
)


def write_with_checksum(run, content):
    """As a person would who changes the settings on purpose."""
    run.config_file.write_bytes(content)
    done = subprocess.run(["sha256sum", "config.json"], cwd=run.path, capture_output=True, check=True)
    run.config_checksum_file.write_bytes(done.stdout)


def test_a_new_run(tmp_path):
    run = RunFolder.create(tmp_path / "runs" / "a", CONFIG)
    assert RunFolder.open(run.path) == run
    assert run.read_config() == CONFIG
    assert math.isinf(run.read_config().world_model.sampler.s_tmax)
    for folder in (run.checkpoints, run.replay, run.pictures):
        assert folder.is_dir()

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    json.loads(run.config_file.read_text(), parse_constant=refuse)


def test_an_empty_folder_may_become_a_run(tmp_path):
    assert RunFolder.create(tmp_path, CONFIG).read_config() == CONFIG


def test_an_existing_run_is_never_overwritten(tmp_path):
    RunFolder.create(tmp_path, CONFIG)
    with pytest.raises(ValueError, match="a run is there already; continue it with --resume"):
        RunFolder.create(tmp_path, RunConfig(game="Pong"))
    assert RunFolder.open(tmp_path).read_config() == CONFIG


def test_a_creation_that_was_cut_short_is_no_hindrance(tmp_path, monkeypatch):
    def killed(path, content):
        path.with_name(path.name + ".partial").write_bytes(content[:5])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("diamond_fast.runs.folder.write_durably", killed)
        with pytest.raises(KeyboardInterrupt):
            RunFolder.create(tmp_path, CONFIG)
    assert RunFolder.create(tmp_path, CONFIG).read_config() == CONFIG


def test_other_peoples_files_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match="not empty"):
        RunFolder.create(tmp_path, CONFIG)
    for path in (tmp_path / "thesis.tex", tmp_path / "thesis.tex" / "below"):
        with pytest.raises(ValueError, match="is a file, or lies below one"):
            RunFolder.create(path, CONFIG)
    assert (tmp_path / "thesis.tex").read_text() == "x"


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        RunFolder.open(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="not the folder of a run"):
        RunFolder.open(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("seed"), "seed: setting is missing"),
        (lambda d: d["collection"].pop("epsilon"), "collection.epsilon: setting is missing"),
        (
            lambda d: d["denoiser_update"].update(learning_rate=1),
            "denoiser_update.learning_rate: unknown setting",
        ),
        (lambda d: d.update(sead=1), "sead: unknown setting; did you mean seed?"),
        (lambda d: d.update(seed="one"), "seed: expected int, got 'one'"),
        (lambda d: d.update(seed=True), "seed: expected int, got True"),
        (lambda d: d.update(precision="fp8"), "precision: expected fp32 or tf32 or bf16, got 'fp8'"),
        (lambda d: d.update(collection=[]), r"collection: expected an object, got \[\]"),
        (lambda d: d["denoiser"]["inner_model"].update(depths=[1, 2.5]), "denoiser.inner_model.depths: expected int"),
    ],
)
def test_a_changed_config_is_named_by_its_setting(tmp_path, change, message):
    run = RunFolder.create(tmp_path, CONFIG)
    data = json.loads(run.config_file.read_text())
    change(data)
    write_with_checksum(run, json.dumps(data).encode())
    with pytest.raises(ValueError, match=f"config.json: {message}"):
        run.read_config()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_damaged_config_is_one_clear_line(tmp_path, content):
    run = RunFolder.create(tmp_path, CONFIG)
    write_with_checksum(run, content)
    with pytest.raises(ValueError, match=r"config\.json: ") as caught:
        run.read_config()
    assert "\n" not in str(caught.value)


def test_a_second_process_is_refused_with_the_first_ones_id(tmp_path):
    run = RunFolder.create(tmp_path, CONFIG)
    program = (
        "import sys; from pathlib import Path; from diamond_fast.runs.folder import RunFolder\n"
        "with RunFolder.open(Path(sys.argv[1])).lock(): print('locked', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(ValueError, match=f"in use by process {holder.pid}"), run.lock():
            pass
    finally:
        holder.kill()
        holder.communicate()
    with run.lock():  # a killed holder holds nothing
        assert run.lock_file.read_text() == f"{os.getpid()}\n"


def test_the_lock_is_let_go(tmp_path):
    run = RunFolder.create(tmp_path, CONFIG)
    for _ in range(2):
        with run.lock(), pytest.raises(ValueError, match=f"process {os.getpid()}"), run.lock():
            pass
