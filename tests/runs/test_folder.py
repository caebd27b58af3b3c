"""The run folder: settings come back exactly, nobody's run is overwritten, two processes cannot share one."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from functools import reduce
from operator import getitem
from pathlib import Path

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


def test_the_engine_of_a_run_from_before_it_was_called_so(tmp_path):
    run = RunFolder.create(tmp_path, CONFIG)
    settings = json.loads(run.config_file.read_text())
    assert settings.pop("engine") == "auto"
    write_with_checksum(run, json.dumps({**settings, "path": "readable"}).encode())
    assert run.read_config() == replace(CONFIG, engine="readable")


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
        (
            lambda d: d["denoiser_update"].update(learning_rate=1),
            "denoiser_update.learning_rate: unknown setting; it is misspelt or of a newer version",
        ),
        (
            lambda d: d.update(sead=1),
            r"sead: unknown setting; it is misspelt \(did you mean seed\?\) or of a newer version",
        ),
        (lambda d: d.update(format=2), "has format 2, this version reads 1; a newer one may read it"),
        (lambda d: d.update(format="1"), "has format '1', this version reads 1"),
        (lambda d: d.update(seed=-1), "--seed: must be at least 0, got -1"),
        (lambda d: d["denoiser_update"].update(lr=float("nan")), "--denoiser-update.lr: must be a finite number"),
        (lambda d: d["denoiser_update"].update(lr=10**400), "denoiser_update.lr: expected float, got 1000"),
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


AS_1883D4C = json.loads((Path(__file__).parent / "fixtures" / "config_1883d4c.json").read_text())
"""CONFIG as that commit wrote it."""


def paths_of(data, prefix=()):
    for key, value in data.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from paths_of(value, (*prefix, key))


def with_setting(config, path, value):
    first, *rest = path
    return replace(config, **{first: with_setting(getattr(config, first), rest, value) if rest else value})


def test_a_setting_that_an_older_run_lacks_takes_its_default(tmp_path):
    """Each in turn, and each group of them, at every level."""
    run = RunFolder.create(tmp_path, CONFIG)
    write_with_checksum(run, json.dumps(AS_1883D4C).encode())
    assert run.read_config() == CONFIG
    run.config_checksum_file.unlink()  # the first runs had none
    paths = [path for path in paths_of(AS_1883D4C) if path != ("game",)]
    assert len(paths) > 80
    for path in paths:
        data = json.loads(json.dumps(AS_1883D4C))
        *parents, name = path
        del reduce(getitem, parents, data)[name]
        run.config_file.write_text(json.dumps(data))
        assert run.read_config() == with_setting(CONFIG, path, reduce(getattr, path, RunConfig())), path


def test_a_config_with_a_format_needs_its_checksum(tmp_path):
    run = RunFolder.create(tmp_path, CONFIG)
    assert json.loads(run.config_file.read_text())["format"] == 1
    run.config_checksum_file.unlink()
    with pytest.raises(ValueError, match=r"config\.json: its checksum, config\.json\.sha256, is missing"):
        run.read_config()


def test_a_module_is_imported_only_where_it_is_named_here(tmp_path):
    env_id = "evil:Game-v0"
    run = RunFolder.create(tmp_path, replace(CONFIG, game=None, env_id=env_id))
    for named in (None, "good:Game-v0", "Game-v0"):
        with pytest.raises(ValueError, match=r"config\.json: its env_id, evil:Game-v0, .*add --env-id evil:Game-v0$"):
            run.read_config(named)
    assert run.read_config(env_id).env_id == env_id


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b"[" * 900 + b"]" * 900])
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


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path):
    """In a folder made by somebody else, it may point to a file of the user's."""
    run = RunFolder.create(tmp_path / "run", CONFIG)
    (tmp_path / "thesis.tex").write_text("x")
    run.lock_file.unlink()
    run.lock_file.symlink_to(tmp_path / "thesis.tex")
    with pytest.raises(OSError, match="symbolic links"), run.lock():
        pass
    assert (tmp_path / "thesis.tex").read_text() == "x"


def test_a_picture_goes_to_a_fresh_file(tmp_path):
    run = RunFolder.create(tmp_path / "run", CONFIG)
    run.pictures.rmdir()
    run.new_picture("a.png").write_text("drawn")
    assert (run.pictures / "a.png").read_text() == "drawn"
    (tmp_path / "thesis.tex").write_text("x")
    (run.pictures / "b.png").symlink_to(tmp_path / "thesis.tex")
    run.new_picture("b.png").write_text("drawn")
    assert (tmp_path / "thesis.tex").read_text() == "x"
