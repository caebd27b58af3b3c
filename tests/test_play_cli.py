"""``python -m diamond_fast.play``: what it asks for, refuses and prints."""

import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from types import SimpleNamespace

import pytest
from refusals import one_line_refusal

from diamond_fast.config import (
    ActorCriticConfig,
    DenoiserConfig,
    InnerModelConfig,
    RewardEndConfig,
    RunConfig,
    SamplerConfig,
    WorldModelConfig,
)
from diamond_fast.play import _then_tell, main

PLAY = [sys.executable, "-m", "diamond_fast.play"]


@pytest.fixture
def run(tmp_path):
    from diamond_fast.replay import Replay
    from diamond_fast.runs import checkpoint
    from diamond_fast.runs.folder import RunFolder
    from diamond_fast.world_model import Agent

    cfg = RunConfig(
        env_id="diamond_fast/Catch-v0",
        frame_size=24,
        denoiser=DenoiserConfig(InnerModelConfig(cond_channels=8, depths=(1,), channels=(8,), attn_depths=(0,))),
        reward_end=RewardEndConfig(lstm_dim=8, cond_channels=8, depths=(1, 1), channels=(8, 8), attn_depths=(0, 0)),
        actor_critic=ActorCriticConfig(lstm_dim=8, channels=(8, 8), down=(1, 1)),
        world_model=WorldModelConfig(SamplerConfig(num_steps=1)),
    )
    folder = RunFolder.create(tmp_path / "run", cfg)
    Replay.open(folder.replay / "journal", (24, 24, 3)).close()
    agent = Agent(cfg, num_actions=3)
    checkpoint.save(folder.checkpoints, 1, {name: model.state_dict() for name, model in agent.named_children()}, {})
    return folder.path


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--game", "Boxing"], "--game: only a --checkpoint needs it"),
        (["--run", "a", "--pretrained", "Boxing"], "exactly one of them is needed"),
        (["--run", "a", "--game", "Boxing"], "--game: only a --checkpoint needs it"),
        (["--run", "nowhere"], "nowhere: no such folder"),
        (["--checkpoint", "nowhere/Boxing.pt"], "nowhere/Boxing.pt: no such file"),
        (["--checkpoint", "nowhere/epoch_000001.json"], "nowhere/epoch_000001.json: no such file"),
        (["--pretrained", "Boxng"], "did you mean Boxing?"),
        (["--run", "a", "--denoising-steps", "0"], "--denoising-steps: must be at least 1, got 0"),
        (["--run", "a", "--horizon", "0"], "--horizon: must be at least 1, got 0"),
        (["--run", "a", "--port", "70000"], "--port: must be at most 65535, got 70000"),
        (["--run", "a", "--host", "no.such.name.invalid"], "--host no.such.name.invalid"),
        (["--run", "a", "--player", "cat"], "invalid choice 'cat' for argument '--player'. Expected one of ('human',"),
    ],
)
def test_wrong_input_is_one_line(args, message, capsys):
    assert message in one_line_refusal(capsys, main, args)


def test_a_module_that_only_the_run_names_is_not_imported(tmp_path, capsys):
    from diamond_fast.runs.folder import RunFolder

    RunFolder.create(tmp_path / "run", RunConfig(env_id="strangers_game:Game-v0"))
    with pytest.raises(SystemExit) as stopped:
        main(["--run", str(tmp_path / "run")])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.endswith("add --env-id strangers_game:Game-v0\n")


def test_a_missing_library_is_one_line(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    monkeypatch.delitem(sys.modules, "diamond_fast.playing.server", raising=False)
    monkeypatch.delattr("diamond_fast.playing.server", raising=False)
    with pytest.raises(SystemExit) as stopped:
        main(["--run", str(run)])
    assert stopped.value.code == 2
    assert "needs aiohttp: pip install 'diamond_fast[play]'" in capsys.readouterr().err


def test_help_is_instant_and_imports_no_torch():
    code = "import sys; from diamond_fast.play import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "sys.exit('torch' in sys.modules or 'aiohttp' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0
    assert "--pretrained" in result.stdout


def test_it_serves_until_interrupted(run, tmp_path):
    process = subprocess.Popen(
        [*PLAY, "--run", str(run), "--recordings", str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    try:
        assert process.stdout.readline().startswith("Path: ")
        assert re.match(r"Catch-v0 on \w+: [\d.]+ imagined frames a second with 1 denoising step \(measured\)\n",
                        process.stdout.readline())  # fmt: skip
        link = re.fullmatch(r"Play at (http://127\.0\.0\.1:\d+/[\w-]{24}/)\n", process.stdout.readline())[1]
        with urllib.request.urlopen(link, timeout=10) as answer:
            assert b"diamond_fast" in answer.read()
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(link[:-2] + "/", timeout=10)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert "Traceback" not in process.stdout.read()
    finally:
        process.kill()
        process.stdout.close()
    assert list(tmp_path.glob("Catch*")) == []  # nothing was recorded


def test_in_the_end_it_tells_what_became_of_the_recordings(capsys):
    def interrupted():
        raise KeyboardInterrupt

    session = SimpleNamespace(recorder=SimpleNamespace(summary=lambda: ["Recorded: x: 1 of 2 episodes", "the reason"]))
    with pytest.raises(KeyboardInterrupt):
        _then_tell(interrupted, session)()
    assert capsys.readouterr().out == "Recorded: x: 1 of 2 episodes\nthe reason\n"
