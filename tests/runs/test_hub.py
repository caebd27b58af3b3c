"""A run goes to the Hub and comes back whole, by what huggingface_hub says over HTTP to a server on this machine."""

import json
import shutil
import socket
from pathlib import Path

import pytest
import torch
from hub_server import serve

from diamond_fast import hub
from diamond_fast.runs import checkpoint
from diamond_fast.runs.agents import load_agent
from diamond_fast.runs.folder import RunFolder

OLDER_RUN = Path(__file__).parent / "fixtures" / "run_1883d4c"


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """What the server holds. A run lies at ``run``, and a picture in it."""
    constants = pytest.importorskip("huggingface_hub.constants")
    shutil.copytree(OLDER_RUN, tmp_path / "run")
    with open(tmp_path / "run" / "metrics.jsonl", "a") as metrics:
        metrics.write('{"epoch": 2, "env_steps": 100, "seconds": 720, "final_test/returns": [1, -2, 4.5]}\n')
        metrics.write('{"epoch": 9, "env_steps": 900, "seconds": 721, "final_test/returns": [99]}\n')  # not committed
    (tmp_path / "run" / "pictures").mkdir()
    (tmp_path / "run" / "pictures" / "a.png").write_bytes(b"a picture")
    (tmp_path / "secret").write_text("of somebody else")
    (tmp_path / "run" / "pictures" / "link.png").symlink_to(tmp_path / "secret")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    utils = pytest.importorskip("huggingface_hub.utils")
    utils.disable_progress_bars()
    with serve() as (address, repositories):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        yield repositories
    utils.enable_progress_bars()


def refused(capsys, *flags):
    with pytest.raises(SystemExit) as stop:
        hub.main(flags)
    err = capsys.readouterr().err
    assert (stop.value.code, err.count("\n")) == (2, 1), err
    return err.strip()


def test_a_run_comes_back_as_it_was(stored, tmp_path, capsys):
    hub.main(["push", "run", "--repo", "me/tiny"])
    assert "/me/tiny/commit/" in capsys.readouterr().out
    held = stored.commits["me/tiny"][-1]
    assert "pictures/link.png" not in held
    newest = checkpoint.latest_epoch(tmp_path / "run" / "checkpoints")
    assert stored.messages == [f"Epoch {newest}"]
    assert [path for path in held if path.endswith(".json") and "checkpoints" in path] == [
        f"checkpoints/epoch_{newest:06}.json"
    ]

    hub.main(["pull", "me/tiny", "--out", "folder/back"])
    assert "epoch" in capsys.readouterr().out
    back = tmp_path / "folder" / "back"
    for path in (path.relative_to(back) for path in back.rglob("*") if path.is_file()):
        assert (back / path).read_bytes() == (tmp_path / "run" / path).read_bytes()
    assert set(held) - {"README.md"} == {p.relative_to(back).as_posix() for p in back.rglob("*") if p.is_file()}
    before, after = (load_agent(path).agent.state_dict() for path in (tmp_path / "run", back))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not list((tmp_path / "folder").glob(".*"))

    config = RunFolder.open(back).read_config()
    assert config == RunFolder.open(tmp_path / "run").read_config()


def test_the_card_says_what_was_measured(stored, tmp_path):
    hub.main(["push", "run", "--repo", "me/tiny", "--without-replay"])
    held = stored.commits["me/tiny"][-1]
    assert not any(path.startswith("replay") for path in held)
    _, front, page = held["README.md"].decode().split("---\n", 2)
    front = {key: json.loads(value) for key, value in (line.split(": ", 1) for line in front.splitlines())}
    (result,) = front["model-index"][0]["results"]
    assert (front["library_name"], front["license"]) == ("diamond_fast", "mit")
    assert result["metrics"][0]["value"] == pytest.approx(3.5 / 3, abs=1e-4)
    assert "| return, final test | 1.17 ± 2.66 (standard deviation, 3 games) |" in page
    assert "| steps of real experience | 100 |\n| hours of training | 0.2 |" in page
    assert "| denoiser, loss | 3.324 |" in page
    assert "![pictures/a.png](pictures/a.png)" in page
    assert "hub pull me/tiny" in page


def test_a_later_push_replaces_the_checkpoint(stored, tmp_path, capsys):
    hub.main(["push", "run", "--repo", "me/tiny"])
    folder = RunFolder.open(tmp_path / "run")
    saved = checkpoint.load_latest(folder.checkpoints)
    checkpoint.save(folder.checkpoints, saved.epoch + 1, saved.tensors, saved.state)
    hub.main(["push", "run", "--repo", "me/tiny"])
    manifests = [p for p in stored.commits["me/tiny"][-1] if p.startswith("checkpoints/") and p.endswith(".json")]
    assert manifests == [f"checkpoints/epoch_{saved.epoch + 1:06}.json"]
    assert len(stored.commits["me/tiny"]) == 2


def test_what_cannot_be_is_said_in_one_line(stored, tmp_path, capsys, monkeypatch):
    assert refused(capsys, "pull", "me/none", "--out", "x").startswith("me/none: there is no such repository")
    assert refused(capsys, "pull", "me/none", "--out", "run").startswith("--out run: is there already")
    assert refused(capsys, "push", "run", "--repo", "a b").startswith("--repo a b: ")
    assert refused(capsys, "push", "nowhere", "--repo", "me/x") == "nowhere: no such folder"
    with RunFolder.open(tmp_path / "run").lock():
        assert "in use by process" in refused(capsys, "push", "run", "--repo", "me/x")

    hub.main(["push", "run", "--repo", "me/tiny"])
    assert refused(capsys, "pull", "me/tiny", "--out", "x", "--revision", "old") == "me/tiny: has no such revision"
    held = stored.commits["me/tiny"][-1]
    weights = next(path for path in held if path.endswith("denoiser.safetensors"))
    held[weights] = held[weights][:-1] + b"?"
    assert refused(capsys, "pull", "me/tiny", "--out", "x").startswith("me/tiny: holds no whole run: checkpoints: ")
    assert not (tmp_path / "x").exists()

    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "401" in refused(capsys, "push", "run", "--repo", "me/other")
    with socket.socket() as free:  # bound, but nobody listens
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
        assert refused(capsys, "push", "run", "--repo", "me/x").startswith("the Hub could not be reached: ")
