"""Whatever is given to a command line, a settings file or a public function: it works, or is refused in one line."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diamond_fast import train
from diamond_fast.config import (
    ActorCriticConfig,
    DenoiserConfig,
    InnerModelConfig,
    RewardEndConfig,
    RunConfig,
    SamplerConfig,
    SigmaDistributionConfig,
)
from diamond_fast.config_checks import checked
from diamond_fast.domains.catch.env import Catch  # noqa: F401 (registers it)
from diamond_fast.domains.environments import make_real_env
from diamond_fast.envs.world_model import WorldModelEnv
from diamond_fast.estimate import estimate
from diamond_fast.frames import to_float, to_uint8
from diamond_fast.replay import Replay
from diamond_fast.replay import __main__ as replay_main
from diamond_fast.settings import flag, from_json, leaves, to_json
from diamond_fast.world_model import Agent, DiffusionSampler

FAST, THOROUGH = 1, 20
EFFORT = pytest.mark.parametrize("effort", [FAST, pytest.param(THOROUGH, marks=pytest.mark.slow)])


def examples(number):
    return settings(
        max_examples=number,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


# --- command lines --------------------------------------------------------------------------------------------------

FLAGS = [flag(path) for path, _, _ in leaves(RunConfig())] + [
    *("--preset", "--out", "--resume", "--device", "--init-from", "--logger", "--dry-run", "--policy-temperature"),
    *("--", "-h1", "-x", "--no-dry-run", "---", "--denoiser", "--collection."),
]
WORDS = st.one_of(
    st.sampled_from(["Boxing", "Pong", "quick", "catch", "cpu", "1", "0", "-1", "1e400", "nan", "inf", "-inf", "1.5"]),
    st.sampled_from(
        ["", " ", "None", "True", "true", "[1]", "1,2", "a b", "\n", "\x00", "é", "💥", "..", "/", "=", "%s"]
    ),
    st.integers().map(str),
    st.floats().map(str),
    st.text(max_size=8),
)
TOKENS = st.one_of(
    st.sampled_from(FLAGS),
    st.tuples(st.sampled_from(FLAGS), WORDS).map("=".join),
    st.sampled_from(FLAGS).flatmap(lambda name: st.integers(0, len(name)).map(lambda i: name[:i] + name[i + 1 :])),
    WORDS,
)
HELP = {"-h", "--help", "--h", "--he", "--hel"}


def command_lines(tokens):
    lines = st.lists(tokens, max_size=6)
    return lines.filter(lambda line: not HELP & {token.partition("=")[0] for token in line})


def refused_in_one_line_or_fine(capsys, main, line):
    code = 0
    try:
        main(line)
    except SystemExit as stop:
        code = stop.code
    err = capsys.readouterr().err
    assert code in (0, None, 2), line
    assert len(err.splitlines()) == (1 if code == 2 else 0), (line, err)
    assert "Traceback" not in err


@pytest.mark.parametrize("number", [10, pytest.param(600, marks=pytest.mark.slow)])  # half a second each
def test_training_command_lines(capsys, tmp_path, monkeypatch, number):
    monkeypatch.chdir(tmp_path)
    for name in ("set_up", "dry_run", "train"):
        monkeypatch.setattr(train, name, lambda *args: None)

    @examples(number)
    @given(command_lines(TOKENS), st.booleans())
    def check(line, named):
        refused_in_one_line_or_fine(capsys, train.main, ["--game", "Boxing", *line] if named else line)

    check()


@EFFORT
def test_replay_command_lines(capsys, tmp_path, monkeypatch, effort):
    monkeypatch.chdir(tmp_path)
    tokens = st.one_of(st.sampled_from(["info", "verify", "export", "import", "a", "b.npz", ".", "--path"]), WORDS)

    @examples(40 * effort)
    @given(command_lines(tokens))
    def check(line):
        refused_in_one_line_or_fine(capsys, replay_main.main, line)

    check()


# --- settings files -------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.sampled_from([0, 1, 2, 3, 4, 32, 64, 2**31, 2**63, 2**200, -1]),
        st.floats(),
        st.text(max_size=5),
    ),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
PATHS = [path for path, _, _ in leaves(RunConfig())]


def with_value(data, path, value):
    first, _, rest = path.partition(".")
    return {**data, first: with_value(data[first], rest, value) if rest else value}


@EFFORT
def test_settings_files(effort):
    original = to_json(RunConfig(game="Boxing"))
    outcomes = set()

    @examples(400 * effort)
    @given(st.lists(st.tuples(st.sampled_from(PATHS), VALUES), min_size=1, max_size=3))
    def check(changes):
        data = original
        for path, value in changes:
            data = with_value(data, path, value)
        message = None
        try:
            config = checked(from_json(RunConfig(), json.loads(json.dumps(data))))
        except ValueError as error:
            message = str(error)
        outcomes.add("taken" if message is None else "refused")
        if message is not None:
            assert len(message.splitlines()) == 1, changes
            return
        with torch.device("meta"):
            Agent(config, 3)
        assert from_json(RunConfig(), to_json(config)) == config

    check()
    assert outcomes == {"refused", "taken"}


@EFFORT
def test_settings_that_are_no_settings(effort):
    @examples(200 * effort)
    @given(VALUES.filter(lambda value: value != {}))  # nothing set is everything at its default
    def check(value):
        with pytest.raises(ValueError, match=r".") as caught:
            from_json(RunConfig(), value)
        assert len(str(caught.value).splitlines()) == 1

    check()


# --- public functions -----------------------------------------------------------------------------------------------

SMALL = RunConfig(
    game="Boxing",
    frame_size=8,
    denoiser=DenoiserConfig(InnerModelConfig(cond_channels=8, depths=(1,), channels=(4,), attn_depths=(0,))),
    reward_end=RewardEndConfig(lstm_dim=4, cond_channels=4, depths=(1,), channels=(4,), attn_depths=(0,)),
    actor_critic=ActorCriticConfig(lstm_dim=4, channels=(4,), down=(1,)),
)
N, T, C, H, ACTIONS = 2, 4, 3, 8, 3
DTYPES = [torch.float32, torch.float64, torch.float16, torch.int64, torch.uint8, torch.bool, torch.complex64]
SPECIAL = [math.nan, math.inf, -math.inf, 1e30, 0.0, 1.0]


@st.composite
def tensors(draw, shape, dtype, values=(0, 1)):
    """Mostly what is right; else another shape, dtype, device, kind or value."""
    change = draw(st.sampled_from(["right"] * 4 + ["shape", "dtype", "device", "kind", "value", "empty"]))
    if change == "kind":
        return draw(st.sampled_from([None, 1, "x", np.zeros(shape), [0.0], object()]))
    if change == "shape":
        size = st.integers(0, 9)
        shape = draw(st.one_of(st.lists(size, max_size=6).map(tuple), st.permutations(shape).map(tuple)))
    if change == "empty":
        shape = (0, *shape[1:])
    if change == "dtype":
        dtype = draw(st.sampled_from(DTYPES))
    if change == "device":
        return torch.zeros(shape, dtype=dtype, device="meta")
    tensor = torch.full(shape, draw(st.integers(*values)), dtype=dtype)
    if change == "value" and dtype in (torch.float32, torch.int64):
        special = SPECIAL if dtype.is_floating_point else [-1, 10**9, -(10**9), 3]
        tensor = torch.full(shape, draw(st.sampled_from(special)), dtype=dtype)
    return tensor


def frames(*shape):
    return tensors(shape, torch.float32, (-1, 1))


def actions(*shape):
    return tensors(shape, torch.int64, (0, ACTIONS - 1))


def masks(*shape):
    return tensors(shape, torch.bool)


def named_or_fine(function, arguments):
    """ValueError or TypeError that names an argument in one line, or a result."""
    try:
        function(**arguments)
    except (ValueError, TypeError) as error:
        message = str(error)
        assert len(message.splitlines()) == 1, message
        assert message.partition(":")[0] in {*arguments, "hx_cx"}, message
        return "refused"
    return "taken"


def outcomes_of(function, arguments, number):
    outcomes = set()

    @examples(number)
    @given(st.fixed_dictionaries(arguments))
    def check(values):
        outcomes.add(named_or_fine(function, values))

    check()
    return outcomes


@pytest.fixture(scope="module")
def agent():
    torch.manual_seed(0)
    return Agent(SMALL, ACTIONS).requires_grad_(False)


@EFFORT
def test_models(agent, effort):
    denoiser, reward_end, policy = agent.denoiser, agent.rew_end_model, agent.actor_critic
    sampler = DiffusionSampler(denoiser, SamplerConfig(num_steps=1))

    def loss(obs, act, mask):
        return denoiser.loss(obs, act, mask, SigmaDistributionConfig())

    def predict(obs, act, next_obs, hx, cx):
        return reward_end.predict(obs, act, next_obs, (hx, cx))

    def act_value(obs, hx, cx):
        return policy.predict_act_value(obs, (hx, cx))

    functions = {
        denoiser.denoise: {
            "noisy_next_obs": frames(N, C, H, H),
            "sigma": tensors((N,), torch.float32, (1, 2)),
            "obs": frames(N, T * C, H, H),
            "act": actions(N, T),
        },
        loss: {"obs": frames(N, T + 2, C, H, H), "act": actions(N, T + 2), "mask": masks(N, T + 2)},
        sampler.sample: {"prev_obs": frames(N, T, C, H, H), "prev_act": actions(N, T)},
        predict: {
            "obs": frames(N, T, C, H, H),
            "act": actions(N, T),
            "next_obs": frames(N, T, C, H, H),
            "hx": frames(1, N, 4),
            "cx": frames(1, N, 4),
        },
        reward_end.loss: {
            "obs": frames(N, T, C, H, H),
            "act": actions(N, T),
            "rew": frames(N, T),
            "end": masks(N, T),
            "mask": masks(N, T),
        },
        act_value: {"obs": frames(N, C, H, H), "hx": frames(N, 4), "cx": frames(N, 4)},
    }
    for function, arguments in functions.items():
        assert outcomes_of(function, arguments, 60 * effort) == {"refused", "taken"}, function


SCALARS = st.one_of(
    st.integers(-3, 6),
    st.integers(),
    st.floats(),
    st.none(),
    st.text(max_size=3),
    st.sampled_from([2**31, 2**63, 2**64]),
)


@EFFORT
def test_frames(effort):
    @examples(100 * effort)
    @given(tensors((2, 3, H, H), torch.float32), tensors((2, H, H, 3), torch.uint8), masks(2))
    def check(obs, stored, mask):
        if isinstance(obs, torch.Tensor) and obs.dim() >= 3:
            named_or_fine(to_uint8, {"obs": obs})
        if isinstance(stored, torch.Tensor) and stored.dim() >= 3 and isinstance(mask, torch.Tensor):
            named_or_fine(to_float, {"frames": stored, "mask": mask})

    check()


def filled_replay():
    replay, no = Replay((H, H, C), capacity=100), np.zeros(1, bool)
    frame = np.zeros((1, H, H, C), np.uint8)
    for t in range(20):
        replay.append(frame, np.array([t % ACTIONS]), np.zeros(1, np.float32), np.array([t % 7 == 6]), no, frame)
    replay.commit()
    return replay


@EFFORT
def test_replay(effort):
    replay = filled_replay()

    @st.composite
    def arrays(draw, shape, dtype):
        tensor = draw(tensors(shape, dtype).filter(lambda t: not isinstance(t, torch.Tensor) or t.device.type == "cpu"))
        return tensor.numpy() if isinstance(tensor, torch.Tensor) else tensor

    steps = {
        "obs": arrays((1, H, H, C), torch.uint8),
        "act": arrays((1,), torch.int64),
        "rew": arrays((1,), torch.float32),
        "end": arrays((1,), torch.bool),
        "trunc": arrays((1,), torch.bool),
        "final_obs": arrays((1, H, H, C), torch.uint8),
    }
    draws = {
        "batch_size": SCALARS,
        "seq_length": SCALARS,
        "sample_weights": st.one_of(st.none(), st.lists(st.floats(), max_size=4), st.just((0.5, 0.5))),
        "beyond_end": st.booleans(),
        "seed": SCALARS,
        "stream": SCALARS,
        "num_threads": st.integers(-1, 2),
    }

    @examples(100 * effort)
    @given(st.fixed_dictionaries(steps))
    def append(values):
        named_or_fine(Replay((H, H, C), capacity=100).append, values)

    @examples(100 * effort)
    @given(st.fixed_dictionaries(draws))
    def segments(values):
        named_or_fine(replay.segments, values)

    append()
    segments()


@EFFORT
def test_environments(agent, effort):
    imagined = WorldModelEnv(agent, filled_replay(), num_envs=2, cfg=replace(SMALL.world_model, horizon=3))
    real = make_real_env(None, "diamond_fast/Catch-v0", num_envs=2, frame_size=8, done_on_life_loss=False)
    imagined.reset(seed=0)
    real.reset(seed=0)
    acts = st.one_of(
        st.lists(st.integers(-2, 4), max_size=4),
        st.lists(st.floats(), max_size=3),
        st.sampled_from([None, "ab", 1, [[0, 1]], [0, 2**70], np.array([0, 1], np.uint8), np.array([True, False])]),
    )

    @examples(60 * effort)
    @given(acts)
    def step(actions):
        for env in (imagined, real):
            named_or_fine(env.step, {"actions": actions})

    step()
    real.close()


def test_a_batch_of_nothing_is_refused(agent):
    obs, act = torch.zeros(0, T, C, H, H), torch.zeros(0, T, dtype=torch.int64)
    mask = torch.zeros(0, T, dtype=torch.bool)
    with pytest.raises(ValueError, match="obs: expected at least one sequence"):
        agent.rew_end_model.loss(obs, act, torch.zeros(0, T), mask, mask)


def test_estimates_of_strange_settings_come_back():
    """What --dry-run does with the smallest networks and with nothing to train."""
    config = replace(SMALL, denoiser_update=replace(SMALL.denoiser_update, steps_first_epoch=0, steps_per_epoch=0))
    assert estimate(config, 1) is not None
