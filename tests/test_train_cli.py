"""``python -m diamond_fast.train``: what it resolves, refuses and prints, without training."""

import re
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from refusals import one_line_refusal

from diamond_fast import train
from diamond_fast.config import RunConfig
from diamond_fast.evaluation.returns import Evaluation
from diamond_fast.presets import PRESETS
from diamond_fast.runs.folder import RunFolder
from diamond_fast.speed import MeasuredSpeed, Speed
from diamond_fast.training.finite import NonFiniteError

GIGAFLOPS = MeasuredSpeed(Speed(1e9, 1e9), Speed(1e9, 1e9))


@pytest.fixture(autouse=True)
def _in_an_empty_folder_without_cuda(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def run_main(args):
    train.main(args.split())


def refusal(capsys, args):
    """The one line that a command line is refused with."""
    return one_line_refusal(capsys, train.main, args.split())


# --- help -----------------------------------------------------------------------------------------------------------


def test_help_imports_nothing_slow():
    program = (
        "import sys\n"
        "from diamond_fast.train import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'gymnasium', 'ale_py'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "python -m diamond_fast.train --game Boxing" in done.stdout


def test_every_flag_has_a_help_text(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as stop:
        train.main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out.splitlines()
    lines = [line.strip(" │|") for line in shown]
    flags = [i for i, line in enumerate(shown) if re.match(r"\W{0,3}--\w", line)]  # texts are further to the right
    assert len(flags) > 80
    for i in flags:
        if "{" in lines[i]:  # the choices take several lines
            i += next(k for k, line in enumerate(lines[i:]) if "}" in line)
        assert re.match(r"[A-Z1]", lines[i + 1]), lines[i]


def test_help_shows_the_defaults_of_the_preset(capsys):
    shown = []
    for preset in ("atari100k", "quick"):
        with pytest.raises(SystemExit):
            train.main(["--preset", preset, "--help"])
        shown.append(capsys.readouterr().out)
    for text, steps in zip(shown, (100_000, PRESETS["quick"].collection.num_steps_total), strict=True):
        assert f"The whole run has so many real steps. (default: {steps})" in text


# --- what is resolved -----------------------------------------------------------------------------------------------


def read(args):
    return train.read_command_line(args.split())


@pytest.mark.parametrize("preset", ["atari100k", "quick"])
def test_a_preset_gives_the_defaults(preset):
    for args in (f"--game Pong --preset {preset}", f"--preset={preset} --game Pong"):
        assert read(args).config == replace(PRESETS[preset], game="Pong")


def test_flags_override_the_preset():
    config = read(
        "--preset quick --game pong --seed 7 --denoiser-update.lr 2e-4 --collection.steps-per-epoch 50 "
        "--policy-temperature 0.5 --precision bf16 --model-free --actor-critic-loss.lambda 0.9"
    ).config
    quick = PRESETS["quick"]
    assert config == replace(
        quick,
        game="Pong",
        seed=7,
        precision="bf16",
        model_free=True,
        denoiser_update=replace(quick.denoiser_update, lr=2e-4),
        collection=replace(quick.collection, steps_per_epoch=50, policy_temperature=0.5),
        actor_critic_loss=replace(quick.actor_critic_loss, lambda_=0.9),
    )


def test_auto_is_quick_without_cuda_and_the_papers_with_it(monkeypatch):
    assert read("--game Pong").config == replace(PRESETS["quick"], game="Pong")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    current = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert read("--game Pong").config == replace(PRESETS["atari100k"], game="Pong")
    assert read("--game Pong --device cuda:1").config == replace(PRESETS["atari100k"], game="Pong")
    assert current
    assert set(current) == {torch.device("cuda:1")}
    assert read("--game Pong --device cpu").config == replace(PRESETS["quick"], game="Pong")


def test_the_small_game_needs_no_further_flag():
    assert read("--preset catch").config == PRESETS["catch"]
    assert read("--domain catch").config == replace(PRESETS["catch"], domain="catch")
    assert read("--domain catch --preset quick").config.frame_size == 64


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ("", "--game, --env-id: exactly one of them is needed, got neither; for instance --game Boxing"),
        (
            "--preset driving",
            "--static-dataset: worlds of --domain driving are learned from a recording; name its folder",
        ),
        ("--game Boxng", "did you mean Boxing"),
        ("--game Pong --env-id x", "--game, --env-id: exactly one of them is needed, got both"),
        ("--gme Pong", "--gme: unknown flag; did you mean --game?"),
        ("--game Pong --precision fp8", "invalid choice 'fp8' for argument '--precision'. Expected one of ('fp32',"),
        ("--game Pong --preset paper", "invalid choice 'paper' for argument '--preset'. Expected one of ('auto',"),
        ("--game Pong --preset", "Missing value for argument '--preset'."),
        ("--game Pong --seed -1", "--seed: must be at least 0, got -1"),
        ("--game Pong --frame-size 4", "--frame-size: must be at least 16"),
        ("--game Pong --denoiser-update.batch-size 0", "--denoiser-update.batch-size: must be at least 1, got 0"),
        ("--game Pong --device cuda", "--device cuda: "),
        ("--game Pong --device tpu", "--device: expected auto, cpu, cuda or cuda:N, got 'tpu'"),
        ("--game Pong --init-from nowhere.pt", "nowhere.pt: no such file"),
        ("--resume nowhere", "--resume nowhere: no such folder"),
        ("--resume .", "--resume .: not the folder of a run"),
        ("--env-id NoSuchGame-v0", "NoSuchGame"),
        ("--game Pong --collection.num-envs 3", "--collection.num-steps-total: must be a multiple of"),
    ],
)
def test_one_line_names_the_flag_and_nothing_is_created(capsys, tmp_path, args, line):
    assert line in refusal(capsys, args)
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "lock"] == []


def test_a_cuda_device_that_is_not_there(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert refusal(capsys, "--game Pong --device cuda:3") == "--device cuda:3: this machine has cuda:0"


def test_a_cuda_device_that_cannot_be_used(capsys, monkeypatch):
    def busy(device):
        raise RuntimeError("CUDA error: all CUDA-capable devices are busy\nor unavailable")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", busy)
    assert refusal(capsys, "--game Pong --device cuda:1") == (
        "--device cuda:1: it cannot be used (CUDA error: all CUDA-capable devices are busy or unavailable); "
        "use --device cpu"
    )


def test_a_missing_dashboard_is_said_before_anything_is_created(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("diamond_fast.runs.metrics.find_spec", lambda name: None)
    line = refusal(capsys, "--game Pong --preset quick --logger wandb")
    assert line == "--logger wandb: wandb is not installed; pip install 'diamond_fast[wandb]'"
    assert list(tmp_path.iterdir()) == []


def test_an_existing_run_is_not_overwritten(capsys, tmp_path):
    RunFolder.create(tmp_path / "a", RunConfig(game="Pong"))
    line = refusal(capsys, "--game Pong --preset quick --out a")
    assert line == "a: a run is there already; continue it with --resume a"


# --- resuming -------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "a", replace(PRESETS["quick"], game="Pong", seed=3))


def test_a_resumed_run_keeps_its_settings(run):
    assert read("--resume a").config == run.read_config()
    assert read("--resume=a --game pong --seed 3 --device cpu").config == run.read_config()


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (
            "--seed 4 --denoiser-update.lr 2e-4",
            "--resume a: a run keeps its settings: --seed is 3, not 4, --denoiser-update.lr is 0.001, not 0.0002; "
            "start another one with --out",
        ),
        ("--game Boxing", "--game is Pong, not Boxing"),
        ("--preset quick", "--preset: cannot be combined with --resume"),
        ("--out b", "--out: cannot be combined with --resume"),
        ("--init-from x.pt", "--init-from: cannot be combined with --resume"),
    ],
)
def test_a_resumed_run_refuses_other_settings(capsys, run, args, line):
    assert line in refusal(capsys, f"--resume a {args}")


def test_a_module_in_a_runs_settings_is_imported_only_if_the_command_line_names_it(capsys, tmp_path, monkeypatch):
    """A folder from somebody else, with their module in it, resumed from within."""
    folder = RunFolder.create(tmp_path / "a", replace(PRESETS["catch"], env_id="strangers_game:Game-v0")).path
    (folder / "strangers_game.py").write_text("raise SystemExit('ran')")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend("")
    for more in ("", " --dry-run", " --env-id=other:Game-v0"):
        line = refusal(capsys, f"--resume .{more}")
        assert line.endswith("if you trust it, add --env-id strangers_game:Game-v0")
        assert "strangers_game" not in sys.modules
    for more in ("--env-id strangers_game:Game-v0", "--env_id=strangers_game:Game-v0"):
        assert read(f"--resume . {more}").config.env_id == "strangers_game:Game-v0"
    line = refusal(capsys, "--resume . --env-id strangers_game:Game-v0")
    assert line.startswith(
        "the environment strangers_game:Game-v0 failed in being made: SystemExit: ran (strangers_game"
    )


def test_how_to_go_on_names_the_module_too(trainers, capsys):
    run_main("--preset catch --env-id torch:NoSuchGame-v0 --out a")
    assert "Resume: python -m diamond_fast.train --resume a --env-id torch:NoSuchGame-v0" in capsys.readouterr().out


def test_a_run_in_use_is_refused(capsys, run):
    with run.lock():
        assert "in use by process" in refusal(capsys, "--resume a")


# --- running --------------------------------------------------------------------------------------------------------


class FakePath:
    """Stands in for a path; ``after`` it come others."""

    what, loses = "fused kernels", "Going on without CUDA graphs."

    def __init__(self, *flags, after=None):
        self._flags, self._after = list(flags), after

    def __str__(self):
        return "Path: as chosen"

    def slower(self):
        return self._after

    def flags(self):
        return self._flags


class FakeTrainer:
    """Stands in for the real one; ``outcome`` is returned or raised by ``run``."""

    outcome = Evaluation(np.array([1.0, 2.0]), np.array([5, 5]))
    at_work = None
    group = None
    path = FakePath()
    made: "list[FakeTrainer]"

    def __init__(self, config, folder, device, agent=None, logger="none", cuda_graphs=True, group=None):
        self.config, self.folder, self.device, self.agent, self.logger = config, folder, device, agent, logger
        self.closed = False
        self.made.append(self)

    def run(self, stop):
        with pytest.raises(ValueError, match="in use"), self.folder.lock():
            pass
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        for name in ("epoch_000002.png", "epoch_000004.png", "imagined.gif", "learning_curves.png", "index.html"):
            (self.folder.pictures / name).touch()
        return self.outcome

    def close(self):
        self.closed = True


@pytest.fixture
def trainers(monkeypatch):
    monkeypatch.setattr(FakeTrainer, "made", [], raising=False)
    monkeypatch.setattr("diamond_fast.training.trainer.Trainer", FakeTrainer)
    return FakeTrainer.made


def test_a_run_is_created_locked_closed_and_summed_up(capsys, tmp_path, trainers):
    run_main("--game Pong --preset quick --seed 5 --logger none")
    [trainer] = trainers
    assert trainer.closed
    assert trainer.device == torch.device("cpu")
    assert trainer.folder.read_config() == trainer.config == replace(PRESETS["quick"], game="Pong", seed=5)
    folder = trainer.folder.path
    assert re.fullmatch(r"runs/Pong-\d{8}-\d{6}-seed5", str(folder))
    with trainer.folder.lock():
        pass
    assert capsys.readouterr().out.splitlines() == [
        f"Pong on cpu, seed 5: {folder}",
        "Path: as chosen",
        f"Picture: {folder}/pictures/epoch_000004.png",
        f"Picture: {folder}/pictures/imagined.gif",
        f"Picture: {folder}/pictures/learning_curves.png",
        "Return: 1.5 +- 6.4 (95 % interval, 2 episodes)",
        f"Page: {folder}/pictures/index.html",
        f"Resume: python -m diamond_fast.train --resume {folder}",
    ]


def test_open_shows_the_page(trainers, monkeypatch):
    monkeypatch.setattr("diamond_fast.train.show", (shown := []).append)
    run_main("--game Pong --preset quick --out run --open")
    assert shown == [Path("run/pictures/index.html")]


def test_without_cuda_it_says_what_the_paper_would_take(capsys, trainers, monkeypatch):
    """With the engine that is asked for. What an update costs is no matter here, and takes long to count."""
    monkeypatch.setattr("diamond_fast.estimate.count_flops", lambda call: 1)
    measured = []

    def measure_speed(config, action, device):
        measured.append(config)
        return replace(GIGAFLOPS, engine="readable networks")

    monkeypatch.setattr("diamond_fast.estimate.measure_speed", measure_speed)
    monkeypatch.setattr("diamond_fast.estimate.Cost.seconds", lambda cost, speed: 1.0)
    run_main("--game Pong --out x --engine readable --precision fp32")
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("No CUDA: taking --preset quick")
    expected = "--preset atari100k) would take, on this machine with readable networks: about 14 d 3 h."
    assert first.endswith(expected)  # 1.22 million updates
    assert measured == [replace(PRESETS["atari100k"], engine="readable", precision="fp32")]


def test_resuming_uses_the_same_folder(capsys, run, trainers):
    train.main(["--resume", "a"])
    assert trainers[0].folder.path == Path("a")
    assert "Resume: python -m diamond_fast.train --resume a" in capsys.readouterr().out


class Model:
    """An update that was under way."""

    name = "actor_critic"
    cfg = RunConfig().actor_critic_update


@pytest.mark.parametrize(
    ("outcome", "at_work", "line"),
    [
        (NonFiniteError("denoiser: update 3 has loss nan"), None, "denoiser: update 3 has loss nan. Go on from"),
        (FloatingPointError("denoiser: weight w is not finite"), None, "denoiser: weight w is not finite. Go on from"),
        (OSError(28, "No space left on device", "a b/x"), None, "a b/x: No space left on device. Go on from"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
            Model,
            "out of memory on cpu: start a new run with --actor-critic-update.batch-size below 32 and, for the same "
            "gradients, --actor-critic-update.grad-acc-steps above 1, or use --precision bf16. Go on from",
        ),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: ..."),
            None,
            "out of memory on cpu: start a new run with a lower --evaluation.num-episodes or --evaluation.max-steps, "
            "for which memory is reserved, or --evaluation.num-envs. Go on from",
        ),
        (MemoryError(), None, "out of memory on cpu: "),
    ],
)
def test_a_run_that_fails_says_why_in_one_line_and_how_to_go_on(capsys, trainers, monkeypatch, outcome, at_work, line):
    monkeypatch.setattr(FakeTrainer, "outcome", outcome)
    monkeypatch.setattr(FakeTrainer, "at_work", at_work)
    with pytest.raises(SystemExit) as stop:
        train.main(["--game", "Pong", "--preset", "quick", "--out", "a b"])
    assert stop.value.code == 1
    err = capsys.readouterr().err
    assert err.startswith(line)
    assert err.endswith("python -m diamond_fast.train --resume 'a b'\n")
    assert err.count("\n") == 1
    assert trainers[0].closed


def test_too_little_memory_to_set_up_is_one_line(capsys, trainers, monkeypatch):
    def too_large(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("diamond_fast.training.trainer.Trainer", too_large)
    assert refusal(capsys, "--game Pong --preset quick").startswith("out of memory: the networks, batches or buffers")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_says_how_to_go_on(capsys, trainers, monkeypatch, number, code):
    before = signal.getsignal(number)
    monkeypatch.setattr(FakeTrainer, "run", lambda self, stop: signal.raise_signal(number))
    with pytest.raises(SystemExit) as stop:
        train.main(["--game", "Pong", "--preset", "quick", "--out", "a b"])
    assert stop.value.code == code
    line = "Stopped. Go on from the last checkpoint with: python -m diamond_fast.train --resume 'a b'\n"
    assert capsys.readouterr().err == line
    assert trainers[0].closed
    assert signal.getsignal(number) == before


def test_a_bug_keeps_its_traceback(trainers, monkeypatch):
    monkeypatch.setattr(FakeTrainer, "outcome", ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        run_main("--game Pong --preset quick")


@pytest.mark.parametrize(
    ("saves", "kept"), [(True, "what was done is saved"), (False, "the last checkpoint is gone on")]
)
def test_a_fault_of_a_fast_path_is_one_line_and_the_run_goes_on_in_a_new_process(
    capsys, trainers, monkeypatch, saves, kept
):
    started = []
    monkeypatch.setattr("os.execv", lambda program, argv: started.append((program, argv)))
    monkeypatch.setattr(FakeTrainer, "outcome", RuntimeError("operation not permitted\nwhen stream is capturing"))
    monkeypatch.setattr(FakeTrainer, "save_after_fault", lambda self: saves, raising=False)
    monkeypatch.setattr(FakeTrainer, "path", FakePath(after=FakePath("--engine", "torch", "--no-cuda-graphs")))
    run_main("--game Pong --preset quick --out x_y --device cpu --env-timeout 77")
    [(program, argv)] = started
    assert program == argv[0] == sys.executable
    assert argv[1:3] == ["-m", "diamond_fast.train"]
    asked = read(shlex.join(argv[3:]))
    assert (asked.config.engine, asked.cuda_graphs, asked.device) == ("torch", False, "cpu")
    assert (str(asked.resume), asked.config.env_timeout) == ("x_y", 77)
    err = capsys.readouterr().err
    assert err.startswith(
        f"fused kernels failed (RuntimeError: operation not permitted when stream is capturing); {kept}"
    )
    assert err.count("\n") == 1
    assert "when stream is capturing" in Path("x_y/faults.txt").read_text()
    assert trainers[0].closed


def test_several_processes_do_not_start_anew(capsys, trainers, monkeypatch):
    """It is torchrun that starts them: one line says what may help."""
    monkeypatch.setattr(FakeTrainer, "outcome", RuntimeError("an illegal\naccess"))
    monkeypatch.setattr(FakeTrainer, "group", "some")
    monkeypatch.setattr(FakeTrainer, "path", FakePath(after=FakePath("--engine", "torch", "--no-cuda-graphs")))
    with pytest.raises(SystemExit) as stop:
        run_main("--game Pong --preset quick --out x_y")
    assert stop.value.code == 1
    err = capsys.readouterr().err
    assert err.startswith(
        "fused kernels failed (RuntimeError: an illegal access); if it fails again, add --engine torch --no-cuda-graphs"
        ". Details: x_y/faults.txt. Go on from the last checkpoint with: "
    )
    assert err.count("\n") == 1
    assert "an illegal\naccess" in Path("x_y/faults.txt").read_text()
