"""Both stages of a world in two resolutions, fast, against the published numbers and the readable twin."""

import golden_vectors
import pytest
import torch
from fake_cuda import fake, fake_cuda, move_to_fake_cuda, no_host_traffic
from formulations.test_edm import assert_same_grey_levels
from golden_vectors import replay_draws, tensors
from test_upsampling import LEVELS, NEXT, UPSAMPLING, denoiser, draws, upsampler

from diamond_fast import FastDenoiser, FastTwoStage, TwoStageSampler
from diamond_fast.config import SamplerConfig
from diamond_fast.engine.cpu_program import instruction_set
from diamond_fast.engine.cpu_training import as_programs
from diamond_fast.engine.denoiser_networks import fast_sampler
from diamond_fast.engine.fused_torch import Techniques
from diamond_fast.engine.fused_training import fused
from diamond_fast.engine.graphs import Captured
from diamond_fast.engine.path import WITHOUT_TRITON
from diamond_fast.upsampling import no_actions, upsampler_loss, upsampling_input

ENGINES = ["readable", "torch"] + ["program"] * (instruction_set(torch.float32) is not None)


@pytest.fixture(scope="module")
def v():
    arrays = tensors("csgo_small")
    return {**arrays, "act_multihot": arrays["act_multihot"].to(torch.uint8)}


def two_stage(engine, **options):
    return FastTwoStage(
        denoiser(), upsampler(), NEXT, UPSAMPLING["up_heun1"], dtype=torch.float32, engine=engine, **options
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_sample_golden(v, engine):
    fast = two_stage(engine)
    drawn = fast.sample(
        v["obs"],
        v["act_multihot"],
        v["full_res"],
        randn := replay_draws([*draws(v, "next"), *draws(v, "up_heun1")]),
    )
    assert not randn.left
    assert len(drawn.small_trajectory) == NEXT.num_steps + 1
    levels = ((drawn.small - v["next_obs"]) * 127.5).abs()
    assert levels.max() < 1.01  # truncation moves a pixel by one level if rounding falls the other way
    assert (levels > 0.5).float().mean() < 0.01
    levels = ((drawn.full - v["up_heun1_sample"]) * 127.5).abs()
    assert (levels > 0.5).float().mean() < 0.02  # such a pixel shows in the 25 that it is enlarged to, and around


@pytest.mark.parametrize("engine", ENGINES)
def test_upsampling_golden(v, engine):
    fast = FastDenoiser(upsampler(), UPSAMPLING["up_euler10_churn"], dtype=torch.float32, engine=engine)
    context, act = upsampling_input(v["next_obs"], v["full_res"])
    randn = replay_draws(draws(v, "up_euler10_churn"))
    sample, _ = fast.sample(context, act, randn)
    assert not randn.left
    levels = ((sample - v["up_euler10_churn_sample"]) * 127.5).abs()
    assert levels.max() < 1.01
    assert (levels > 0.5).float().mean() < 0.01


def test_it_is_its_readable_twin_and_notices_new_weights(v):
    twin = TwoStageSampler(denoiser(), upsampler(), NEXT, UPSAMPLING["up_heun1"])
    fast = FastTwoStage(
        twin.small.denoiser, twin.full.denoiser, NEXT, UPSAMPLING["up_heun1"], dtype=torch.float32, engine="torch"
    )
    arguments = v["obs"], v["act_multihot"], v["full_res"]
    for _ in range(2):
        expected = twin.sample(*arguments, replay_draws([*draws(v, "next"), *draws(v, "up_heun1")]))
        drawn = fast.sample(*arguments, replay_draws([*draws(v, "next"), *draws(v, "up_heun1")]))
        assert ((drawn.small - expected.small).abs() > 1e-4).float().mean() < 0.01
        assert ((drawn.full - expected.full).abs() > 1e-4).float().mean() < 0.02
        for stage in (twin.small, twin.full):
            torch.nn.init.normal_(stage.denoiser.inner_model.conv_out.weight, std=0.1)


def test_noise_level_of_the_context_is_told(v):
    twin, sigma = denoiser(), torch.tensor([0.5, 2.0])
    fast = FastDenoiser(twin, dtype=torch.float32, engine="torch")
    arguments = v["next_obs"], sigma, v["obs"].flatten(1, 2), v["act_multihot"]
    expected = twin.denoise(*arguments, torch.tensor([0.1, 0.3]))
    told = fast.denoise(*arguments, torch.tensor([0.1, 0.3]))
    assert ((told - expected).abs() > 1e-4).float().mean() < 0.01
    assert ((fast.denoise(*arguments) - expected).abs() > 1e-4).float().mean() > 0.5


def test_weights_alone_say_which_stage_they_are_of(v):
    stages = {"denoiser": denoiser(), "upsampler": upsampler()}
    state = {f"{stage}.{name}": w for stage, model in stages.items() for name, w in model.state_dict().items()}
    both = FastDenoiser(state, NEXT, dtype=torch.float32, engine="torch")
    assert both.sigma_offset_noise == 0.1
    assert both._spec.action.n == 11
    sample, _ = both.sample(v["obs"], v["act_multihot"], replay_draws(draws(v, "next")))
    assert_same_grey_levels(sample, v["next_obs"])
    alone = FastDenoiser(stages["upsampler"].state_dict(), UPSAMPLING["up_heun1"], dtype=torch.float32, engine="torch")
    context, act = upsampling_input(v["next_obs"], v["full_res"])
    assert_same_grey_levels(alone.sample(context, act, replay_draws(draws(v, "up_heun1")))[0], v["up_heun1_sample"])


def test_settings_that_are_not_given_are_the_published_ones(v):
    fast = FastTwoStage(denoiser(), upsampler(), dtype=torch.float32, engine="torch")
    assert fast.small.sampler_config == NEXT
    expected = {**vars(UPSAMPLING["up_heun1"]), "order": 1}  # which with one step is the same
    assert vars(fast.full.sampler_config) == expected
    assert FastDenoiser(golden_vectors.denoiser("small"), engine="torch").sampler_config == SamplerConfig()


def test_both_stages_are_one_graph(v, monkeypatch):
    fast, called = two_stage("torch"), []
    arguments = v["obs"], v["act_multihot"], v["full_res"]
    fast.sample(*arguments)
    first, second = fast.small._fast, fast.full._fast
    first.graphs = second.graphs = True
    fast._captured = None
    monkeypatch.setattr(Captured, "__call__", lambda self, *x: called.append(self.name) or self.function(*x))
    for _ in range(2):
        fast.sample(*arguments)
    assert called == ["FastTwoStage.sample"] * 2
    drawing = fast._captured[1]
    assert fast._drawing(first.sampler, second.sampler, graphs=True) is drawing
    assert fast._drawing(second.sampler, first.sampler, graphs=True) is not drawing


@pytest.mark.parametrize("techniques", [Techniques(), Techniques(fused_convs=True)])
def test_capture_touches_nothing_of_the_host(v, techniques):
    cpu, fast = torch.device("cpu"), two_stage("torch")
    samplers = [
        fast_sampler(model.formulation, model.inner_model, cfg, cpu, torch.bfloat16, techniques, "fused")
        for model, cfg in ((denoiser(), NEXT), (upsampler(), UPSAMPLING["up_heun1"]))
    ]
    n, (h, w) = 2, (6, 11)
    noise = [
        torch.zeros(sampler.num_draws, n, 3, *size) for sampler, size in zip(samplers, ((h, w), (30, 55)), strict=True)
    ]
    inputs = [v["obs"].flatten(1, 2), v["act_multihot"], v["full_res"], *noise]
    draw = fast._drawing(*samplers, graphs=False)
    with fake_cuda():
        for sampler in samplers:
            for holder in (sampler, sampler.network):
                move_to_fake_cuda(holder)
        inputs = [fake(x) for x in inputs]
        with no_host_traffic(), torch.no_grad():
            small, full = draw(*inputs)
    assert [list(x.shape) for x in small] == [[n, 3, h, w]] * 4
    assert [list(x.shape) for x in full] == [[n, 3, 30, 55]] * 2


TRAINED = {
    "fused": lambda model: fused(model, torch.float32, WITHOUT_TRITON),
    "program": lambda model: as_programs(model, torch.float32),
}


@pytest.mark.parametrize("engine", ["fused"] + ["program"] * ("program" in ENGINES))
def test_losses_golden_with_the_gradients_of_their_twins(v, engine):
    act, full = v["train_act"].to(torch.uint8), v["train_full_res"]

    def of_denoiser(model):
        mask = torch.ones(act.shape[:2], dtype=torch.bool)
        return model.loss(v["train_obs"], act, mask, LEVELS, replay_draws(draws(v, "denoiser_loss")))

    def of_upsampler(model):
        mask, randn = torch.ones(full.shape[:2], dtype=torch.bool), replay_draws(draws(v, "upsampler_loss"))
        return upsampler_loss(model, full, v["train_obs"][:, :2], mask, LEVELS, randn)

    for model, loss_of, name in (
        (denoiser(), of_denoiser, "denoiser_loss"),
        (upsampler(), of_upsampler, "upsampler_loss"),
    ):
        loss_of(model).backward()
        expected = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        loss = loss_of(TRAINED[engine](model))
        loss.backward()
        assert loss.item() == pytest.approx(v[name].item(), rel=1e-4)
        for p, twin in zip(model.parameters(), expected, strict=True):
            assert (p.grad - twin).norm() <= 1e-2 * twin.norm() + 1e-5  # a flip of one level is later context


def test_no_frames(v):
    drawn = two_stage("torch").sample(v["obs"][:0], v["act_multihot"][:0], v["full_res"][:0])
    assert drawn.small.shape == (0, 3, 6, 11)
    assert drawn.full.shape == (0, 3, 30, 55)


def test_what_does_not_fit_is_named(v):
    fast = two_stage("torch")
    with pytest.raises(ValueError, match=r"prev_full: expected frames .* enlarged, got \[2, 1, 3, 29, 55\]"):
        fast.sample(v["obs"], v["act_multihot"], v["full_res"][..., :-1, :])
    with pytest.raises(TypeError, match=r"prev_act: expected a uint8 tensor, got torch\.int64"):
        fast.sample(v["obs"], v["act_multihot"].long(), v["full_res"])
    with pytest.raises(ValueError, match="upsampler: there is none"):
        FastTwoStage(denoiser())
    with pytest.raises(ValueError, match=r"sampler: adds noise to the context \(s_cond\)"):
        FastDenoiser.wrap(lambda *x: x[0], sigma_data=0.5, sampler=SamplerConfig(s_cond=0.1))
    with pytest.raises(ValueError, match=r"expected shape \[N, T, 0\]"):
        FastDenoiser(upsampler(), engine="torch").sample(v["full_res"].repeat(1, 2, 1, 1, 1), no_actions(2))
