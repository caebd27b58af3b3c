"""Flipped bits and truncations, anywhere in the files of a run or an agent: noticed, in one line, without a crash.

The journal's own are in test_replay_journal.py.
"""

import os
import random
from contextlib import closing, contextmanager

import pytest
import torch

from diamond_fast.config import (
    ActorCriticConfig,
    DenoiserConfig,
    InnerModelConfig,
    RewardEndConfig,
    RunConfig,
)
from diamond_fast.official import export_official, load_official
from diamond_fast.replay import JournalError, Replay
from diamond_fast.replay.journal import Journal
from diamond_fast.runs import checkpoint
from diamond_fast.runs.durable import sealed
from diamond_fast.runs.folder import RunFolder
from diamond_fast.runs.metrics import Metrics, read_metrics
from diamond_fast.world_model import Agent

SMALL = RunConfig(
    game="Boxing",
    frame_size=8,
    denoiser=DenoiserConfig(InnerModelConfig(cond_channels=8, depths=(1,), channels=(4,), attn_depths=(0,))),
    reward_end=RewardEndConfig(lstm_dim=4, cond_channels=4, depths=(1,), channels=(4,), attn_depths=(0,)),
    actor_critic=ActorCriticConfig(lstm_dim=4, channels=(4,), down=(1,)),
)


class Checkpoint:
    """The newest of two; damage to it must lead to the one before, with one line."""

    def __init__(self, folder):
        self.folder = folder / "checkpoints"
        for epoch in (1, 2):
            generator = torch.Generator().manual_seed(epoch)
            tensors = {name: {"w": torch.randn(20, generator=generator)} for name in ("denoiser", "actor_critic")}
            checkpoint.save(self.folder, epoch, tensors, {"rng": generator.get_state()[:40], "number": epoch})
        self.files = [self.folder / "epoch_000002.json", *sorted((self.folder / "epoch_000002").iterdir())]

    def check(self, path):
        lines = []
        assert checkpoint.load_latest(self.folder, lines.append).epoch == 1
        [line] = lines
        assert line.startswith("checkpoint epoch_000002 is damaged (")
        assert line.endswith("); taking the one before")
        assert "\n" not in line


class Config:
    def __init__(self, folder):
        self.run = RunFolder.create(folder / "run", SMALL)
        self.files = [self.run.config_file, self.run.config_checksum_file]

    def check(self, path):
        with pytest.raises(ValueError, match=r"config\.json: differs from its checksum") as caught:
            self.run.read_config()
        assert "\n" not in str(caught.value)


class PublishedAgent:
    """What no checksum covers, such as dates and padding, may change; then the weights must be the same."""

    def __init__(self, folder):
        torch.manual_seed(0)
        self.agent = Agent(SMALL, 3)
        self.files = [folder / "agent.pt"]
        export_official(self.agent, self.files[0])
        self.harmless = 0

    def check(self, path):
        message = None
        try:
            loaded = load_official(path, SMALL)
        except ValueError as error:
            message = str(error)
        if message is not None:
            assert message.startswith(f"{path}: ")
            assert "\n" not in message
            return
        self.harmless += 1
        theirs, ours = loaded.state_dict(), self.agent.state_dict()
        assert list(theirs) == list(ours)
        assert all(torch.equal(theirs[name], ours[name]) for name in ours)


@contextmanager
def damaged(path, content):
    original = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(original)


def damage(kind, folder, flips, truncations):
    rng, kept = random.Random(0), kind(folder)
    originals = {path: path.read_bytes() for path in kept.files}
    weights = [len(content) for content in originals.values()]
    for _ in range(flips):
        [path] = rng.choices(kept.files, weights)
        content = bytearray(originals[path])
        bit = rng.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
        with damaged(path, content):
            kept.check(path)
    for _ in range(truncations):
        path = rng.choice(kept.files)
        with damaged(path, originals[path][: rng.randrange(len(originals[path]))]):
            kept.check(path)
    return kept


KINDS = [Checkpoint, Config, PublishedAgent]


@pytest.fixture(autouse=True)
def _no_power_is_cut_here(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.mark.parametrize("kind", KINDS)
def test_some_damage(tmp_path, kind):
    kept = damage(kind, tmp_path, flips=200, truncations=50)
    if kind is PublishedAgent:
        assert 0 < kept.harmless < 50


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
def test_10_000_flipped_bits_and_1_000_truncations(tmp_path, kind, capsys):
    kept = damage(kind, tmp_path, flips=10_000, truncations=1_000)
    if kind is PublishedAgent:
        with capsys.disabled():
            print(f"\n{kept.harmless} of 11000 changed nothing")


def test_damaged_metrics_never_stand_in_the_way(tmp_path):
    """They decide nothing, and have no checksum: what can be read is read, the rest is dropped."""
    path, rng = tmp_path / "metrics.jsonl", random.Random(0)
    with closing(Metrics(path)) as metrics:
        for epoch in range(4):
            metrics.log({"loss": 0.5, "returns": [1.0, 2.0]}, epoch=epoch, env_steps=100)
    original = path.read_bytes()
    for _ in range(300):
        content = bytearray(original)
        for _ in range(rng.choice((1, 1, 5))):
            bit = rng.randrange(8 * len(content))
            content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        read_metrics(path)
        Metrics(path, keep_epochs=2).close()
        assert all(line["epoch"] <= 2 for line in read_metrics(path))
    for strange in (b"[" * 100_000, b'{"epoch": ' + b"9" * 5000, b'{"epoch": null, "env_steps": 1, "seconds": 1}'):
        path.write_bytes(original + strange + b"\n")
        assert len(read_metrics(path)) == 4


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({}, "no manifest"),
        ([], "no manifest"),
        ({"format": 1, "epoch": 1, "folder": "epoch_000001", "files": {"x": {}}, "state": None}, "missing"),
        ({"format": 1, "epoch": 1, "folder": "epoch_000001", "files": {}, "state": None}, "no manifest"),
        ({"format": 1, "epoch": 1, "folder": 7, "files": {"x": 1}, "state": None}, "no manifest"),
    ],
)
def test_a_forged_manifest_with_a_good_checksum_is_refused(tmp_path, manifest, message):
    checkpoint.save(tmp_path, 1, {"denoiser": {"w": torch.zeros(1)}}, {})
    (tmp_path / "epoch_000001.json").write_bytes(sealed("manifest", manifest))
    with pytest.raises(ValueError, match=message):
        checkpoint.load_latest(tmp_path)


HEADERS = [b"\xff" * 8, (2**40).to_bytes(8, "little"), (100).to_bytes(8, "little") + b"{" * 100]


@pytest.mark.parametrize("header", HEADERS)
def test_a_forged_tensor_header_is_refused(tmp_path, header):
    """With checksums that hold: whoever forges one can forge the other."""
    import hashlib

    checkpoint.save(tmp_path, 1, {"denoiser": {"w": torch.zeros(1)}}, {})
    path = tmp_path / "epoch_000001" / "denoiser.safetensors"
    path.write_bytes(header)
    files = {"denoiser": {"bytes": len(header), "sha256": hashlib.sha256(header).hexdigest()}}
    manifest = {"format": 1, "epoch": 1, "folder": "epoch_000001", "files": files, "state": None}
    (tmp_path / "epoch_000001.json").write_bytes(sealed("manifest", manifest))
    with pytest.raises(ValueError, match=r"denoiser\.safetensors is no safetensors file"):
        checkpoint.load_latest(tmp_path)


@pytest.mark.parametrize(
    ("meta", "parts"),
    [
        ({"frame_shape": [4, 4, 3], "num_envs": 10**12}, None),
        ({"frame_shape": [4, 4, 3], "num_envs": 0}, None),
        ({"frame_shape": "abc", "num_envs": 1}, None),
        ({"frame_shape": [4, 4], "num_envs": 1}, None),
        ({}, None),
        ({"frame_shape": [4, 4, 3], "num_envs": 1}, [b"\xff\xff\xff\xff"]),
        ({"frame_shape": [4, 4, 3], "num_envs": 1}, [b"\x02\x00\x00\x00{}"]),
        ({"frame_shape": [4, 4, 3], "num_envs": 1}, [b"\x02"]),
        ({"frame_shape": [4, 4, 3], "num_envs": 1}, ['{"steps": 1000000000000, "slots": [9], "closed": false}']),
        ({"frame_shape": [4, 4, 3], "num_envs": 1}, ['{"steps": 5, "slots": [1000000000], "closed": false}']),
        ({"frame_shape": [4, 4, 3], "num_envs": 1}, ['{"steps": -5, "slots": [-5], "closed": false}']),
        ({"frame_shape": [4, 4, 3], "num_envs": 1}, ['{"steps": 5, "slots": [5, 5], "closed": false}']),
        ({"frame_shape": [4, 4, 3], "num_envs": 1}, ['{"steps": "5", "slots": 5, "closed": 1}']),
        ({"frame_shape": [4, 4, 3], "num_envs": 1}, ["[" * 5000]),
        ({"frame_shape": [4, 4, 3], "num_envs": 1}, [b"\xff\xff\xff\x7f" + bytes(200_000_000)]),
    ],
)
def test_a_forged_journal_with_good_checksums_is_refused(tmp_path, meta, parts):
    journal = Journal.create(tmp_path / "journal", meta)
    if parts is not None:
        [part] = parts
        if isinstance(part, str):
            part = len(part).to_bytes(4, "little") + part.encode()
        journal.append([part])
    journal.close()
    before = resident_peak()
    with pytest.raises(JournalError) as caught:
        Replay.load(tmp_path / "journal")
    assert str(caught.value).startswith(f"{tmp_path / 'journal'}: ")
    assert "\n" not in str(caught.value)
    with pytest.raises(JournalError):
        Replay.open(tmp_path / "journal", (4, 4, 3), 1)
    assert resident_peak() - before < 100e6


def resident_peak():
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
