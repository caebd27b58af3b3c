"""FastDenoiser in place of the published sampler, in the published environment, whose denoiser goes on learning."""

import copy
import io
import pickle
from functools import cache

import pytest
import torch
from golden_vectors import denoiser, reward_end_model
from published_environment import ACTIONS, CONTEXT, SAMPLER_SETTINGS, SIZE, PublishedDenoiser, PublishedEnvironment
from torch import nn

from diamond_fast import FastDenoiser
from diamond_fast.config import SamplerConfig
from diamond_fast.engine.given_weights import Watch
from diamond_fast.world_model import DiffusionSampler

LEVEL = 2 / 255
ONE_STEP = SamplerConfig(num_steps=1)
EXACT = {"sampler": ONE_STEP, "dtype": torch.float32}
WRAPPED = {"sampler": ONE_STEP, "sigma_data": 0.5, "quantised": True}
GOLDEN = cache(denoiser)


def make_twin():
    """A denoiser of its own for every test."""
    return copy.deepcopy(GOLDEN("small"))


def inputs(n=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    obs = torch.randint(256, (n, CONTEXT, 3, SIZE, SIZE), generator=generator) / 255 * 2 - 1
    return obs, torch.randint(ACTIONS, (n, CONTEXT), generator=generator)


def drawn(sampler, obs, act):
    torch.manual_seed(7)
    return sampler.sample(obs, act)[0]


def assert_same_frames(y, truth):
    """Truncation moves a pixel by one level where rounding falls the other way."""
    off = (y - truth).abs() / LEVEL
    assert off.max() < 1.01
    assert (off > 0.01).float().mean() < 0.02


def fast_sampler(given, settings):
    return FastDenoiser(given, settings, dtype=torch.float32)


def readable_sampler(twin, settings):
    return DiffusionSampler(twin, SamplerConfig(num_steps=settings.num_steps_denoising))


def play(environment, twin, compiled=None):
    """Frames, rewards and ends of 4 steps; behind the second one the denoiser learns."""
    if compiled:
        torch._dynamo.reset()
        environment.predict_next_obs = torch.compile(environment.predict_next_obs, **compiled)
        if "mode" in compiled:  # as published; takes long
            environment.predict_rew_end = torch.compile(environment.predict_rew_end, **compiled)
    actions = torch.Generator().manual_seed(3)
    optimiser = torch.optim.SGD(twin.parameters(), lr=0.1)
    torch.manual_seed(0)
    assert environment.reset().device.type == "cpu"
    frames, results = [], []
    for t in range(4):
        next_obs, rew, end = environment.step(torch.randint(ACTIONS, (environment.num_envs,), generator=actions))
        frames.append(next_obs.clone())
        results.append(torch.stack((rew, end.float())))
        if t == 1:
            for p in twin.parameters():
                p.grad = torch.sign(p.detach())
            optimiser.step()
    return torch.stack(frames), torch.stack(results)


@pytest.fixture(scope="module")
def published():
    """As the readable sampler draws it."""
    twin, reward_end = make_twin(), reward_end_model()
    return play(PublishedEnvironment(readable_sampler, twin, reward_end), twin)


WAYS = [
    (None, PublishedDenoiser),
    (None, None),
    ({"backend": "aot_eager"}, PublishedDenoiser),
    pytest.param({"mode": "reduce-overhead"}, PublishedDenoiser, marks=pytest.mark.slow),  # as published
]


@pytest.mark.parametrize(("compiled", "kind"), WAYS, ids=str)
def test_in_the_published_environment(published, compiled, kind):
    """Its first sample is drawn in compiled code, if there is any."""
    twin, reward_end = make_twin(), reward_end_model()
    given = twin if kind is None else kind(twin)
    environment = PublishedEnvironment(fast_sampler, given, reward_end)
    assert environment.sampler.denoiser is given
    frames, results = play(environment, twin, compiled)
    truth, true_results = published
    off = (frames - truth).abs() / LEVEL
    assert off[0].max() < 1.01
    assert (off > 0.01).float().mean(dim=(1, 2, 3, 4)).max() < 0.02  # frames that one level was flipped in follow
    assert torch.equal(results, true_results)
    assert (truth[1] - truth[2]).abs().mean() > 10 * (frames - truth).abs().mean()


def test_a_step_that_is_compiled_as_a_whole():
    twin = make_twin()
    obs, act = inputs()
    fast = fast_sampler(twin, SAMPLER_SETTINGS)

    def step(obs, act):
        next_obs, trajectory = fast.sample(obs, act)
        return next_obs * 2, fast.denoise(trajectory[0], 0.5, obs.flatten(1, 2), act) * 2

    compiled = torch.compile(step, backend="eager")
    for _ in range(2):
        torch.manual_seed(7)
        y, denoised = compiled(obs, act)
        truth = readable_sampler(twin, SAMPLER_SETTINGS)
        assert_same_frames(y / 2, drawn(truth, obs, act))
        assert denoised.shape == y.shape


# --- weights that change ----------------------------------------------------------------------------------------------


def sgd(module, **options):
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    torch.optim.SGD(module.parameters(), lr=0.1, **options).step()


def adamw(module, **options):
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    torch.optim.AdamW(module.parameters(), lr=0.1, **options).step()


def average(module):
    with torch.inference_mode():
        for p in module.parameters():
            p.mul_(0.9)


def other_state(module):
    return {name: value * 0.8 for name, value in module.state_dict().items()}


def swap_data(module):
    for p in module.parameters():
        p.data = p.data * 0.9


def new_parameter(module):
    head = module.inner_model.conv_out
    head.weight = nn.Parameter(head.weight.detach() * 0.5)


CHANGES = {
    "SGD": sgd,
    "SGD, foreach": lambda m: sgd(m, foreach=True),
    "AdamW, one by one": lambda m: adamw(m, foreach=False),
    "AdamW, foreach": lambda m: adamw(m, foreach=True),
    "AdamW, fused": lambda m: adamw(m, fused=True),
    "in inference mode": average,
    "load_state_dict": lambda m: m.load_state_dict(other_state(m)),
    "load_state_dict, assigned": lambda m: m.load_state_dict(other_state(m), assign=True),
    "to": lambda m: m.to(torch.bfloat16).to(torch.float32),
    "other data": swap_data,
    "another parameter": new_parameter,
    "a buffer": lambda m: m.inner_model.noise_emb.weight.mul_(1.5),
}


# A published denoiser is watched like ours: what is written in place, assigned and replaced shows that it is.
OFTEN = ("SGD, foreach", "load_state_dict, assigned", "another parameter")


@pytest.mark.parametrize(
    ("change", "foreign"),
    [(change, False) for change in CHANGES]
    + [pytest.param(change, True, marks=[] if change in OFTEN else pytest.mark.slow) for change in CHANGES],
)
def test_weights_are_taken_as_they_are(change, foreign):
    """Against a FastDenoiser made when they had changed."""
    obs, act = inputs(n=1)
    given = PublishedDenoiser(make_twin()) if foreign else make_twin()
    fast = FastDenoiser(given, **EXACT)
    before = drawn(fast, obs, act)
    assert torch.equal(drawn(fast, obs, act), before)
    CHANGES[change](given)
    after = drawn(fast, obs, act)
    assert torch.equal(after, drawn(FastDenoiser(given, **EXACT), obs, act))
    assert not torch.equal(after, before)


def test_what_leaves_no_trace_needs_a_refresh():
    obs, act = inputs(n=1)
    twin = make_twin()
    fast = FastDenoiser(twin, **EXACT)
    before = drawn(fast, obs, act)
    for p in twin.parameters():
        p.data.mul_(1.2)
    assert torch.equal(drawn(fast, obs, act), before)
    fast.refresh()
    assert torch.equal(drawn(fast, obs, act), drawn(FastDenoiser(twin, **EXACT), obs, act))


def test_a_watch_knows_writes_from_moves():
    layer = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    watch = Watch(layer)
    assert watch.look() == (False, False)
    with torch.no_grad():
        layer[0].bias.add_(1)
    assert watch.look() == (True, False)
    layer[1].running_mean = torch.zeros(2)
    assert watch.look()[1]
    assert watch.look() == (False, False)


def test_a_watch_sees_the_steps_of_a_compiled_fused_optimiser():
    layer = nn.Linear(2, 2)
    watch = Watch(layer)
    for p in layer.parameters():
        p.grad = torch.ones_like(p)
    optimiser = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)
    step = torch.compile(lambda: optimiser.step(), backend="eager")
    for _ in range(3):
        step()
        assert watch.look() == (True, False)
        assert watch.look() == (False, False)


def test_a_graph_around_a_wrapped_network_is_dropped_where_its_weights_move():
    """It reads them where they lie; what is written there it sees."""
    twin = make_twin()
    obs, act = inputs(n=1)
    fast = FastDenoiser.wrap(twin.inner_model, sigma_offset_noise=0.3, **WRAPPED)
    drawn(fast, obs, act)
    graphs = fast._fast
    sgd(twin)
    assert_same_frames(drawn(fast, obs, act), drawn(DiffusionSampler(twin, ONE_STEP), obs, act))
    assert fast._fast is graphs
    swap_data(twin)
    assert_same_frames(drawn(fast, obs, act), drawn(DiffusionSampler(twin, ONE_STEP), obs, act))
    assert fast._fast is not graphs


# --- surroundings -----------------------------------------------------------------------------------------------------


def test_a_first_sample_in_inference_mode():
    """Copies of weights made there could not be written again."""
    twin, (obs, act) = make_twin(), inputs(n=1)
    fast = FastDenoiser(twin, **EXACT)
    with torch.inference_mode():
        inside = drawn(fast, obs, act)
    sgd(twin)
    outside = drawn(fast, obs, act)
    assert torch.equal(outside, drawn(FastDenoiser(twin, **EXACT), obs, act))
    assert not torch.equal(inside, outside)


def test_weights_made_in_inference_mode():
    with torch.inference_mode():
        twin = make_twin()
        obs, act = inputs(n=1)
    fast = FastDenoiser(twin, **EXACT)
    truth = drawn(FastDenoiser(make_twin(), **EXACT), obs, act)
    assert torch.equal(drawn(fast, obs, act), truth)
    with torch.inference_mode():
        twin.inner_model.conv_out.weight.mul_(2)  # counts no versions
    assert torch.equal(drawn(fast, obs, act), truth)
    fast.refresh()
    assert not torch.equal(drawn(fast, obs, act), truth)


def test_autocast_around_it_changes_nothing():
    twin, (obs, act) = make_twin(), inputs(n=1)
    fast = FastDenoiser(twin, **EXACT)
    truth = drawn(fast, obs, act)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(drawn(fast, obs, act), truth)
        assert torch.equal(drawn(FastDenoiser(twin, **EXACT), obs, act), truth)


# --- what it is given -------------------------------------------------------------------------------------------------


def test_it_holds_the_denoisers_own_weights_once():
    for given in (make_twin(), PublishedDenoiser(make_twin())):
        fast = FastDenoiser(given)
        assert [id(p) for p in fast.parameters()] == [id(p) for p in given.parameters()]
        assert set(fast.state_dict()) == set(given.state_dict())
        both = nn.ModuleList([given, fast])
        assert len(list(both.parameters())) == len(list(given.parameters()))
        fast.to(torch.float64)
        assert {p.dtype for p in given.parameters()} == {torch.float64}
    assert FastDenoiser(given.state_dict()).denoiser.device == torch.device("cpu")
    assert FastDenoiser.wrap(nn.Linear(2, 2), sigma_data=0.5).denoiser.device == torch.device("cpu")


@pytest.mark.parametrize("copied", ["pickle", "deepcopy", "torch.save"])
@pytest.mark.parametrize("given", ["denoiser", "published", "wrapped"])
def test_copies_of_one_that_has_drawn(given, copied):
    twin, (obs, act) = make_twin(), inputs(n=1)
    if given == "wrapped":
        fast = FastDenoiser.wrap(twin.inner_model, sigma_offset_noise=0.3, **WRAPPED)
    else:
        fast = FastDenoiser(twin if given == "denoiser" else PublishedDenoiser(twin), **EXACT)
    truth = drawn(fast, obs, act)
    if copied == "pickle":
        twin_of_fast = pickle.loads(pickle.dumps(fast))
    elif copied == "deepcopy":
        twin_of_fast = copy.deepcopy(fast)
    else:
        torch.save(fast, file := io.BytesIO())
        file.seek(0)
        twin_of_fast = torch.load(file, weights_only=False)
    assert torch.equal(drawn(twin_of_fast, obs, act), truth)
    for p in twin_of_fast.denoiser.parameters():  # a copy's denoiser is its own
        p.detach().zero_()
    assert not torch.equal(drawn(twin_of_fast, obs, act), truth)
    assert torch.equal(drawn(fast, obs, act), truth)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_frames_and_actions_of_other_dtypes(dtype):
    """The published sampler draws float32 noise, which makes float32 of all it is added to."""
    twin, (obs, act) = make_twin(), inputs(n=1)
    fast = FastDenoiser(twin, **EXACT)
    frames = obs.to(dtype)
    y = drawn(fast, frames, act.int())
    assert y.dtype == torch.float32
    assert_same_frames(y, drawn(DiffusionSampler(twin, ONE_STEP), frames.float(), act))
    sigma = torch.tensor([0.5], dtype=dtype)
    denoised = fast.denoise(frames[:, -1], sigma, frames.flatten(1, 2), act.int())
    assert_same_frames(denoised, twin.denoise(frames[:, -1].float(), sigma.float(), frames.float().flatten(1, 2), act))


def test_no_sample_at_all():
    fast = FastDenoiser(make_twin(), SamplerConfig(num_steps=2))
    obs, act = inputs(n=0)
    y, trajectory = fast.sample(obs, act)
    assert [x.shape for x in (y, *trajectory)] == [(0, 3, SIZE, SIZE)] * 4
    assert fast.denoise(obs[:, -1], torch.ones(0), obs.flatten(1, 2), act).shape == (0, 3, SIZE, SIZE)


class Wrapper(nn.Module):
    """As DistributedDataParallel holds its module."""

    def __init__(self, module):
        super().__init__()
        self.module = module


def wrappings(twin):
    """The same weights in the ways they are met."""
    state = twin.state_dict()
    yield {f"module.{name}": value for name, value in state.items()}
    yield {f"_orig_mod.{name}": value for name, value in state.items()}
    yield {f"module._orig_mod.denoiser.{name}": value for name, value in state.items()} | {"module.x": torch.ones(1)}
    yield {name.replace("inner_model.", "inner_model._orig_mod."): value for name, value in state.items()}
    yield {name.replace("unet.", "unet.module."): value for name, value in state.items()}
    yield {name.removeprefix("inner_model."): value for name, value in state.items()}
    yield Wrapper(twin)
    yield torch.compile(twin)
    yield Wrapper(torch.compile(PublishedDenoiser(twin)))
    compiled = copy.deepcopy(twin)
    compiled.inner_model.unet = torch.compile(compiled.inner_model.unet)
    yield compiled
    yield twin.inner_model
    yield nn.ModuleDict({"rew_end_model": reward_end_model(), "denoiser": twin})


def test_wrapped_in_any_way():
    twin, (obs, act) = make_twin(), inputs(n=1)
    truth = drawn(DiffusionSampler(twin, ONE_STEP), obs, act)
    for given in wrappings(twin):
        fast = FastDenoiser(given, **EXACT)
        assert_same_frames(drawn(fast, obs, act), truth)
        assert fast.denoiser.device == torch.device("cpu")
        if isinstance(given, nn.Module):
            with torch.no_grad():
                for p in given.parameters():
                    p.mul_(1.1)
            assert not torch.equal(drawn(fast, obs, act), truth)
            with torch.no_grad():
                for p in given.parameters():
                    p.div_(1.1)


@pytest.mark.parametrize("prefix", ["", "inner_model.", "denoiser.inner_model.", "module.inner_model."])
def test_a_file_with_nothing_but_a_denoiser(tmp_path, prefix):
    twin, (obs, act) = make_twin(), inputs(n=1)
    torch.save({f"{prefix}{name}": value for name, value in twin.inner_model.state_dict().items()}, tmp_path / "d.pt")
    fast = FastDenoiser.from_pretrained(tmp_path / "d.pt", **EXACT)
    assert_same_frames(drawn(fast, obs, act), drawn(DiffusionSampler(twin, ONE_STEP), obs, act))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weights": torch.zeros(2)}, "these are not a denoiser's weights"),
        (
            {"noise_emb.weight": torch.zeros(1, 8), "conv_in.weight": torch.zeros(8, 15, 3, 3)},
            "not those of this U-Net",
        ),
        ({"epoch": 3}, "expected names of weights and tensors"),
    ],
)
def test_files_without_a_denoiser(tmp_path, content, message):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=rf"x\.pt: .*{message}"):
        FastDenoiser.from_pretrained(tmp_path / "x.pt")
