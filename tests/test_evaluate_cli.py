"""``python -m diamond_fast.evaluate``: what it writes are the figures of the functions behind it."""

import json
import resource
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import one_line_refusal
from small_world import SMALL_WORLD, make_replay

from diamond_fast import evaluate
from diamond_fast.domains.environments import make_real_env
from diamond_fast.engine.choose import Path
from diamond_fast.evaluation import measure
from diamond_fast.evaluation.compounding import ErrorCurve
from diamond_fast.evaluation.open_loop import imagine_from, pixel_errors, spread
from diamond_fast.evaluation.returns import evaluate as play
from diamond_fast.networks.recurrent.config import MemoryConfig
from diamond_fast.replay.formats import write_npz
from diamond_fast.runs import checkpoint
from diamond_fast.runs.folder import RunFolder
from diamond_fast.spec import Discrete
from diamond_fast.world_model import Agent

CFG = replace(SMALL_WORLD, env_id="diamond_fast/Catch-v0", frame_size=24)
READABLE = Path(torch.device("cpu"), torch.float32, "readable", False, "a test")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def make_run(path, cfg=CFG, num_actions=3):
    torch.manual_seed(1)
    agent = Agent(cfg, num_actions)
    torch.nn.init.normal_(agent.denoiser.inner_model.conv_out.weight, std=0.3)
    folder = RunFolder.create(path, cfg)
    tensors = {name: m.state_dict() for name, m in agent.named_children()}
    checkpoint.save(folder.checkpoints, 7, tensors, {"action": Discrete(num_actions).to_json()})
    return agent


@pytest.fixture
def no_pictures(monkeypatch):
    """They take longer to draw than all else."""
    monkeypatch.setattr("diamond_fast.evaluation.results.draw", lambda folder, results, compounding: ([], []))


def run_main(args):
    evaluate.main(args.split())


def refusal(capsys, args):
    return one_line_refusal(capsys, evaluate.main, args.split())


def test_a_module_that_only_the_run_names_is_not_imported(capsys, tmp_path, monkeypatch):
    make_run(tmp_path / "run", replace(CFG, env_id="strangers_game:Game-v0"))
    (tmp_path / "strangers_game.py").write_text("raise ValueError('it ran')")
    monkeypatch.syspath_prepend(tmp_path)
    assert refusal(capsys, "--run run").endswith("add --env-id strangers_game:Game-v0")
    assert "it ran" in refusal(capsys, "--run run --env-id strangers_game:Game-v0")


def test_help_imports_no_torch():
    program = (
        "import sys\n"
        "from diamond_fast.evaluate import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--denoising-steps" in done.stdout


def test_a_run_is_played_and_its_world_model_judged(capsys, tmp_path):
    agent = make_run(tmp_path / "run")
    run_main("--run run --episodes 10 --segments 6 --horizon 8 --denoising-steps 1 2 --noise-seeds 2 --seed 3 --out x")
    out = capsys.readouterr().out
    results = json.loads((tmp_path / "x" / "evaluation.json").read_text())
    assert (results["game"], results["epoch"], results["seed"]) == ("diamond_fast/Catch-v0", 7, 3)

    env = make_real_env(None, CFG.env_id, 8, 24, done_on_life_loss=False)
    games = play(agent.actor_critic, env, 10, seed=3)
    env.close()
    assert results["returns"]["returns"] == games.returns.tolist()
    assert results["returns"]["mean"] == games.mean
    assert f"return: {games.mean:.2f} +- {games.ci95:.2f} (95 % interval), 10 games" in out

    model = results["world_model"]
    assert model["held_out"] == {"source": "the games played", "episodes": 8, "steps": 8 * 49}
    confusion = np.array(model["reward_end"]["confusion_reward"])
    assert confusion.sum() == model["reward_end"]["steps"] == 8 * 49
    assert confusion[0].sum() + confusion[2].sum() == 8 * 5  # balls
    hits = confusion[1, 1]
    assert model["reward_end"]["reward"]["recall/0"] == hits / confusion[1].sum()
    errors = model["pixel_error"]
    assert (errors["segments"], errors["noise_seeds"], errors["horizon"]) == (6, 2, 8)
    assert list(errors["by_denoising_steps"]) == list(model["sampling"]) == ["1", "2"]
    for curve in (*errors["by_denoising_steps"].values(), errors["unchanged"]):
        assert all(len(values) == 8 and min(values) >= 0 for values in curve.values())
        assert all(np.array(curve["root_mean_square"]) >= curve["mean_absolute"])
    shown = errors["by_denoising_steps"]["2"]
    assert f"  2 denoising steps: {shown['mean_absolute'][0]:.2f} +- {shown['mean_absolute_ci95'][0]:.2f}, " in out
    assert model["perceptual"] == {n: {"lpips": None, "fid": None, "fid_frames": None} for n in ("1", "2")}
    for objects in model["faithfulness"].values():
        assert objects["frames"] == 6 * 8
        assert set(objects["imagined"]) == set(objects["real"]) == {"appeared", "vanished", "changed"}
        assert objects["real"]["appeared"] > 0  # each new ball
        assert objects["digits_readable"] is None

    pictures = {"compounding_error.png": "PNG", "strips.png": "PNG", "imagined.gif": "GIF", "objects.png": "PNG"}
    for name, kind in pictures.items():
        assert Image.open(tmp_path / "x" / name).format == kind
        assert f"Written: x/{name}" in out
    assert {path.name for path in (tmp_path / "x").iterdir()} == {"evaluation.json", *pictures}


def test_two_world_models_are_held_against_the_same_frames(capsys, tmp_path):
    cfg = replace(CFG, frame_size=8)
    make_run(tmp_path / "a", cfg, num_actions=4)
    make_run(tmp_path / "b", replace(cfg, num_autoregressive_steps=0), num_actions=4)  # the same weights
    write_npz(make_replay([40, 20]), tmp_path / "held_out.npz")
    flags = "--run a --episodes 0 --held-out held_out.npz --segments 4 --horizon 5 --denoising-steps 1 2 --out x"
    run_main(f"{flags} --beside b")
    results = json.loads((tmp_path / "x" / "evaluation.json").read_text())
    own, beside = results["world_model"], results["beside"]
    assert beside["agent"].endswith("b, epoch 7")
    assert beside["pixel_error"] == own["pixel_error"]
    assert beside["faithfulness"] == own["faithfulness"]
    out = capsys.readouterr().out
    assert out.count("small objects, 2 denoising steps: per 100 frames") == 2
    width, height = Image.open(tmp_path / "x" / "objects.png").size
    assert height > 0.5 * width  # three rows

    make_run(tmp_path / "other", cfg)
    assert "--beside: other: its actions are" in refusal(capsys, f"{flags[:-1]}y --beside other")
    assert refusal(capsys, f"{flags[:-1]}y --beside nowhere") == "--beside: there is nothing at nowhere"
    make_run(tmp_path / "free", replace(cfg, model_free=True), num_actions=4)
    assert refusal(capsys, f"{flags[:-1]}y --beside free").startswith("--beside: compares world models")
    assert not (tmp_path / "y").exists()


@pytest.mark.usefixtures("no_pictures")
def test_a_memory_watches_before_it_imagines_beside_a_model_without_one(capsys, tmp_path):
    cfg = replace(CFG, frame_size=8, env_id=None, static_dataset="held_out.npz", world_model_only=True)
    memory = MemoryConfig(channels=(4,), down=(1,), action_width=3, width=6, layers=1)
    remembering = replace(cfg, memory="gru", memory_model=memory)
    agent = make_run(tmp_path / "a", remembering, num_actions=4)
    make_run(tmp_path / "b", cfg, num_actions=4)
    replay = make_replay([40, 20])
    write_npz(replay, tmp_path / "held_out.npz")
    flags = "--episodes 0 --held-out held_out.npz --segments 4 --horizon 5 --engine readable --seed 3"
    run_main(f"--run a --beside b --watched 6 {flags} --out x")
    assert "imagined steps, behind 6 more that a memory sees, in grey levels" in capsys.readouterr().out
    results = json.loads((tmp_path / "x" / "evaluation.json").read_text())
    own, beside = results["world_model"]["pixel_error"], results["beside"]["pixel_error"]
    assert own["watched"] == beside["watched"] == 6
    assert own["unchanged"] == beside["unchanged"]  # the same frames

    starts = spread(replay.lengths, 4 + 6 + 5, 4)
    noise = int(np.random.SeedSequence((3, 1, 0)).generate_state(1)[0])
    imagining = replace(remembering, world_model=replace(cfg.world_model, horizon=5).with_denoising_steps(1))
    seen = imagine_from(agent, replay, imagining, READABLE, noise, starts, watched=6)
    expected = ErrorCurve.of(*pixel_errors(seen.real, seen.imagined)).mean_absolute
    np.testing.assert_allclose(own["by_denoising_steps"]["1"]["mean_absolute"], expected)
    first = [replay.episode(episode).obs[start + 10] for episode, start in starts]
    np.testing.assert_array_equal(seen.real[:, 0], np.stack(first))

    assert "--watched: has no use, for no world model" in refusal(capsys, f"--run b --watched 6 {flags} --out y")
    assert "--watched: has no use with --table8" in refusal(capsys, f"--run a --watched 6 --table8 {flags} --out y")


@pytest.mark.usefixtures("no_pictures")
def test_defaults_come_from_the_run(capsys, tmp_path):
    make_run(tmp_path / "run", replace(CFG, evaluation=replace(CFG.evaluation, num_final_episodes=2)))
    run_main("--run run --segments 2")
    [folder] = (tmp_path / "run" / "evaluations").iterdir()
    assert folder.name.startswith("epoch_000007-")
    results = json.loads((folder / "evaluation.json").read_text())
    assert len(results["returns"]["returns"]) == 2
    assert list(results["world_model"]["pixel_error"]["by_denoising_steps"]) == ["1"]
    assert results["world_model"]["pixel_error"]["horizon"] == 5


@pytest.mark.usefixtures("no_pictures")
def test_a_recording_alone(capsys, tmp_path):
    make_run(tmp_path / "run", SMALL_WORLD, num_actions=4)
    write_npz(make_replay([40, 20]), tmp_path / "held_out.npz")
    run_main("--run run --episodes 0 --held-out held_out.npz --segments 3 --out x")
    results = json.loads((tmp_path / "x" / "evaluation.json").read_text())
    assert "returns" not in results
    assert results["world_model"]["held_out"] == {"source": "held_out.npz", "episodes": 2, "steps": 60}
    assert results["world_model"]["reward_end"]["confusion_reward"][2] is not None
    assert np.sum(results["world_model"]["reward_end"]["confusion_reward"][2]) == 60  # a reward of 1 each step
    run_main("--run run --episodes 0 --held-out held_out.npz --segments 3 --horizon 2 --out y")
    shorter = json.loads((tmp_path / "y" / "evaluation.json").read_text())
    assert shorter["world_model"]["reward_end"] == results["world_model"]["reward_end"]  # no shorter windows


@pytest.mark.usefixtures("no_pictures")
def test_episodes_too_short_to_imagine(capsys, tmp_path):
    make_run(tmp_path / "run")
    run_main("--run run --episodes 1 --horizon 50 --out x")
    assert "no held-out episode is as long as context, --watched and --horizon together" in capsys.readouterr().out
    results = json.loads((tmp_path / "x" / "evaluation.json").read_text())
    assert results["returns"]["ci95"] is None  # of a single game
    assert results["world_model"]["pixel_error"] is None


def test_a_model_free_run_has_returns_only(capsys, tmp_path):
    make_run(tmp_path / "run", replace(CFG, model_free=True))
    run_main("--run run --episodes 2 --out x")
    assert "world_model" not in json.loads((tmp_path / "x" / "evaluation.json").read_text())
    assert "--held-out: has no use" in refusal(capsys, "--run run --held-out x")


def test_ctrl_c_is_no_traceback(capsys, monkeypatch, tmp_path):
    make_run(tmp_path / "run")
    monkeypatch.setattr(measure, "measure", lambda task: signal.raise_signal(signal.SIGINT))
    with pytest.raises(SystemExit) as stop:
        run_main("--run run --episodes 1")
    assert stop.value.code == 130
    assert capsys.readouterr().err == "Stopped.\n"


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ("", "--run, --checkpoint, --pretrained: exactly one of them is needed"),
        ("--run nowhere", "nowhere: no such folder"),
        ("--pretrained Boxng", "did you mean Boxing?"),
        ("--checkpoint nowhere.pt", "--game: nowhere.pt does not say which game the agent plays"),
        ("--checkpoint Boxing.pt", "Boxing.pt: no such file"),
        ("--run run --episodes 0", "--episodes 0: leaves nothing to measure; give a recording with --held-out"),
        ("--run run --denoising-steps 3 0", "--denoising-steps: must be at least 1, got 0"),
        ("--run run --horizon 0", "--horizon: must be at least 1, got 0"),
        ("--run run --segments many", "Error parsing --segments: invalid literal for int() with base 10: 'many'"),
        ("--run run --held-out nowhere.npz", "--held-out: there is nothing at nowhere.npz"),
        ("--run run --held-out other.npz", "--held-out other.npz: its frames are 8x8x3, the networks' 24x24x3; "),
        ("--run run --out run", "--out run: exists already; name a new folder"),
        (
            "--run run --score-region 0 0 25 9",
            "--score-region: must be top, left, bottom and right within 24 x 24 pixels",
        ),
        ("--run other", "it knows 4 actions, diamond_fast/Catch-v0 has 3"),
        ("--run run --lpips-weights nowhere.pth", "--lpips-weights"),
    ],
)
def test_one_line_says_what_is_wrong(capsys, tmp_path, args, line):
    make_run(tmp_path / "run")
    make_run(tmp_path / "other", num_actions=4)
    write_npz(make_replay([30]), tmp_path / "other.npz")
    assert line in refusal(capsys, args)
    assert not list(tmp_path.rglob("evaluation.json"))


@pytest.fixture
def largest_file():
    """Lets no file grow beyond so many bytes, as a full disk would: the system itself refuses."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(num_bytes):
        resource.setrlimit(resource.RLIMIT_FSIZE, (before[0] if num_bytes is None else num_bytes, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def fails(capsys, args):
    with pytest.raises(SystemExit) as stop:
        run_main(args)
    assert stop.value.code == 1
    return capsys.readouterr()


def test_a_full_disk_costs_no_figure_and_leaves_nothing(capsys, tmp_path, largest_file):
    make_run(tmp_path / "run")
    largest_file(100)
    said = fails(capsys, "--run run --episodes 1 --segments 2 --out x")
    largest_file(None)
    assert said.err == "x/evaluation.json: File too large\n"
    assert "return: " in said.out
    assert "pixel error after 1, 5 imagined steps" in said.out
    assert not (tmp_path / "x").exists()


def test_pictures_that_cannot_be_drawn_cost_no_figure(capsys, tmp_path, largest_file):
    make_run(tmp_path / "run")
    largest_file(12_000)
    said = fails(capsys, "--run run --episodes 1 --segments 2 --out x")
    largest_file(None)
    assert json.loads((tmp_path / "x" / "evaluation.json").read_text())["epoch"] == 7
    written = {path.name for path in (tmp_path / "x").iterdir()}
    missing = {line.partition(": not drawn: ")[0] for line in said.err.splitlines()}
    assert missing == {
        f"x/{name}" for name in ("compounding_error.png", "strips.png", "imagined.gif", "objects.png")
    } - {f"x/{name}" for name in written}
    assert missing


def test_out_of_memory_names_the_flags(capsys, monkeypatch, tmp_path):
    def no_memory(task):
        raise MemoryError

    make_run(tmp_path / "run")
    monkeypatch.setattr(measure, "measure", no_memory)
    said = fails(capsys, "--run run --episodes 1 --out x")
    assert said.err == "out of memory on cpu: take a lower --batch-size or fewer --episodes\n"
    assert not (tmp_path / "x").exists()
