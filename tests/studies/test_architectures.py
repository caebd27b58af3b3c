"""The study of architectures: its networks, its numbers, that it goes on where it was stopped, and what it refuses."""

import json
import math
import shutil
import statistics
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from crashes.tiny_run import TINY
from test_drift import make_recording

from diamond_fast import study
from diamond_fast.config import InnerModelConfig
from diamond_fast.evaluation.intervals import t_quantile_975
from diamond_fast.frames import to_float, to_uint8
from diamond_fast.networks.dit.config import DiTConfig
from diamond_fast.networks.unet3d.config import UNet3DConfig
from diamond_fast.presets import PRESETS
from diamond_fast.replay import load_recording
from diamond_fast.runs.agents import load_agent
from diamond_fast.spec import Discrete, Frame, Spec
from diamond_fast.studies import equal_operations
from diamond_fast.studies.architectures_figures import summary
from diamond_fast.studies.equal_operations import FAMILIES, as_many, costs_of, operations
from diamond_fast.world_model import DiffusionSampler

FLAGS = (
    "architectures --preset tiny --networks unet unet3d --contexts 1 2 --equal-at 1 --updates 1 --train-seeds 2 "
    "--denoising-steps 1 --horizon 2 --videos 65 --batch-size 65 --engine readable --device cpu"
)


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PRESETS, "tiny", replace(TINY, precision="fp32"))
    for name in ("save_gif", "save_frame_grid", "save_learning_curves"):
        monkeypatch.setattr(f"diamond_fast.training.evaluator.{name}", lambda path, *args: path)
    monkeypatch.setattr("diamond_fast.evaluation.table8.timed", lambda call, seconds: [(1.0, 0.5)])
    return make_recording(tmp_path / "a.npz", lengths=(19, 20, 20, 20, 20))


def test_a_study_is_gone_on_with_and_right(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(equal_operations, "costs_of", cache(costs_of))  # counted once for both turns
    flags = [*FLAGS.split(), "--data", str(data), "--held-out", str(data), "--out", "study"]
    study.main([*flags, "--train-seeds", "1"])
    results = json.loads((tmp_path / "study" / "results.json").read_text())
    assert (results["train_seeds"], len(results["rows"])) == (1, 4)
    assert "one training seed: no interval" in results["remarks"][0]
    shutil.rmtree(tmp_path / "study" / "runs" / "unet3d-2frames-seed0")  # measured: nobody needs it any more
    capsys.readouterr()
    study.main(flags)
    said = capsys.readouterr().out
    assert "seed 0" not in said
    assert said.index("world model 5 of 8: unet of 1 frames, seed 1") < said.index(
        "measurement 1/1: unet-1frames-seed1"
    )
    results = json.loads((tmp_path / "study" / "results.json").read_text())
    found = [(row["network"], row["context"], row["denoising_steps"]) for row in results["rows"]]
    assert found == [("unet", 1, 1), ("unet3d", 1, 1), ("unet", 2, 1), ("unet3d", 2, 1)]
    assert [row["frames_per_second"] for row in results["rows"]] == [2.0] * 4
    page = (tmp_path / "study" / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "neither FVD nor FID" in page

    # one number, from its beginning: a context of one frame begins a frame later than one of two
    replay = load_recording(data)
    trained = load_agent(tmp_path / "study" / "runs" / "unet3d-1frames-seed1")
    assert isinstance(trained.config.denoiser.inner_model, UNet3DConfig)
    long_enough, needed = [n for n in replay.lengths if n > 4], 4
    starts = [(k % 5, int(long_enough[k % 5] - needed) * (2 * k + 1) // 130 + 1) for k in range(65)]
    frames = torch.stack([torch.from_numpy(replay.episode(e).obs[s : s + 3].copy()) for e, s in starts])
    act = torch.stack([torch.from_numpy(replay.episode(e).act[s : s + 3].copy()) for e, s in starts])
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence((0, 1)).generate_state(1)[0]))
    sampler = DiffusionSampler(trained.agent.denoiser, trained.config.world_model.with_denoising_steps(1).sampler)
    seen, errors = to_float(frames[:, :1]), []
    for k in range(2):
        noise = lambda *s, device=None: torch.randn(*s, generator=generator)  # noqa: E731
        drawn, _ = sampler.sample(seen[:, k:], act[:, k : k + 1], noise)
        seen = torch.cat((seen, drawn[:, None]), 1)
        errors.append((to_uint8(drawn).float() - frames[:, 1 + k].float()).abs().mean().item())
    assert results["rows"][1]["error"]["by_train_seed"][1] == pytest.approx(statistics.fmean(errors), rel=1e-4)


def test_means_and_intervals_against_plain_python():
    rng = np.random.default_rng(0)

    def row():
        figures = {name: rng.random() for name in ("error", "random_network_frechet", "colour_frechet")}
        figures |= {"fid": None, "fvd": None, "lpips": None, "parameters": 7}
        return figures | {"frames_per_second": rng.random(), "processor_seconds_per_frame": rng.random()}

    measured = {(name, 4, 3): [row() for _ in range(3)] for name in ("unet", "dit")}
    result = summary(measured, {("unet", 4): {"operations": 5}, ("dit", 4): {"operations": 6}})

    def half(values):
        return t_quantile_975(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))

    found, values = result["rows"][1], [m["colour_frechet"] for m in measured["dit", 4, 3]]
    assert found["colour_frechet"]["mean"] == pytest.approx(statistics.fmean(values))
    assert found["colour_frechet"]["ci95_over_train_seeds"] == pytest.approx(half(values))
    assert (found["fid"], found["operations"], found["parameters"]) == (None, 6, 7)
    assert found["frames_per_second"] == max(m["frames_per_second"] for m in measured["dit", 4, 3])
    (comparison,) = result["comparisons"]
    pairs = zip(measured["dit", 4, 3], measured["unet", 4, 3], strict=True)
    differences = [a["error"] - b["error"] for a, b in pairs]
    assert comparison["error"]["mean"] == pytest.approx(statistics.fmean(differences))
    assert comparison["error"]["ci95_over_train_seeds"] == pytest.approx(half(differences))


@pytest.mark.parametrize(
    ("shift", "said"), [(0.0, "undecided"), (0.9, "unet is nearer"), (-0.9, "dit is nearer to the real frames")]
)
def test_a_verdict_needs_the_interval(shift, said):
    row = dict.fromkeys(("fid", "fvd", "lpips", "random_network_frechet", "colour_frechet"))
    row |= {"parameters": 1, "frames_per_second": 1.0, "processor_seconds_per_frame": 1.0}
    of_unet = [row | {"error": error} for error in (5.0, 5.1, 5.2)]
    of_dit = [row | {"error": error + shift} for error in (5.1, 5.2, 5.0)]
    costs = {(name, 4): {} for name in ("unet", "dit")}
    assert said in summary({("unet", 4, 3): of_unet, ("dit", 4, 3): of_dit}, costs)["remarks"][0]


@pytest.mark.slow
@pytest.mark.parametrize("network", FAMILIES)
def test_networks_take_about_as_many_operations(network):
    """A little narrower or wider, the one that is taken would be no nearer; and it is near."""
    unet, spec = PRESETS["quick"].denoiser.inner_model, Spec(Frame(24, 24), Discrete(3), 4)
    wanted, chosen = operations(unet, spec), as_many(network, unet, spec)
    assert operations(chosen, spec) == pytest.approx(wanted, rel=0.06)
    off = [abs(operations(cfg, spec) - wanted) for cfg in _neighbours(chosen)]
    assert min(off) >= abs(operations(chosen, spec) - wanted)


def _neighbours(cfg):
    """A little narrower and a little wider: the transformer, or a convolutional network below its finest level."""
    if isinstance(cfg, DiTConfig):
        return [replace(cfg, width=cfg.width + change) for change in (-8, 8)]
    fields = [field for field in ("channels", "encoder_channels") if hasattr(cfg, field)]
    widths = [(cfg.channels[0], *(c + change for c in cfg.channels[1:])) for change in (-2, 2)]
    return [replace(cfg, **dict.fromkeys(fields, w)) for w in widths]


def test_costs_are_counted():
    """Memory against its shapes: keys and values of each position, channel and past frame, in float32."""
    cfg = replace(
        PRESETS["quick"],
        network="unet3d",
        world_model_only=True,
        frame_size=16,
        game="Boxing",
        denoiser=replace(
            PRESETS["quick"].denoiser,
            inner_model=UNet3DConfig(
                num_steps_conditioning=3, cond_channels=8, depths=(1, 1), channels=(8, 16), attn_depths=(0, 0)
            ),
        ),
    )
    costs = costs_of(cfg, Discrete(4))
    looks = [(8, 256), (16, 64), (16, 64), (8, 64), (8, 256)]  # down, down, middle, up, up
    assert costs["remembered_bytes"] == sum(3 * 2 * channels * positions * 4 for channels, positions in looks)
    assert costs["recall_operations"] < costs["operations"] / 2
    assert costs["training_bytes"] > costs["remembered_bytes"]
    unet = InnerModelConfig(cond_channels=8, depths=(1,), channels=(8,), attn_depths=(0,))
    stacked = costs_of(replace(cfg, network="unet", denoiser=replace(cfg.denoiser, inner_model=unet)), Discrete(4))
    assert (stacked["remembered_bytes"], stacked["recall_operations"]) == (0, stacked["operations"])


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ("--networks unet unet", "--networks: unet unet: one is named twice"),
        ("--networks unet dot", "--networks dot: unknown; did you mean dit?"),
        ("--contexts 2 2", "--contexts: 2 2: one is named twice"),
        ("--preset small-dit", "--preset: must be one with a U-Net, small-dit has dit"),
        ("--videos 64", "--videos: must be above 64"),
        ("--videos 90", "--videos: the held-out episodes have room for 79 of 4 frames and more"),
    ],
)
def test_one_line_says_what_is_wrong(data, capsys, changed, line):
    with pytest.raises(SystemExit) as stop:
        study.main([*FLAGS.split(), "--data", str(data), "--held-out", str(data), *changed.split()])
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert line in err
