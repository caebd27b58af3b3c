import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from diamond_fast.config import RunConfig
from diamond_fast.domains import DOMAINS
from diamond_fast.domains.environments import make_real_env
from diamond_fast.domains.gym.adapter import GymSlot
from diamond_fast.envs.failure import EnvironmentFailedError
from diamond_fast.envs.real import RealEnv
from diamond_fast.spec import Box, Discrete, Frame, Mixed, MultiBinary


class Images(gymnasium.Env):
    """Random images of a given kind; an episode has 5 to 14 steps."""

    def __init__(self, shape=(6, 4, 3), dtype=np.uint8, actions=None, seeded=True, low=0, high=None, given=None):
        self.observation_space = spaces.Box(low, high or (255 if dtype == np.uint8 else 1), shape, dtype)
        self.given = given
        self.action_space = actions or spaces.Discrete(4)
        self.seeded = seeded

    def _obs(self):
        if self.given is not None:
            return np.full(self.observation_space.shape, self.given, self.observation_space.dtype)
        random = self.np_random if self.seeded else np.random.default_rng()
        return random.integers(0, 256, self.observation_space.shape).astype(self.observation_space.dtype)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(5, 15))
        return self._obs(), {"lives": 2}

    def step(self, action):
        assert self.action_space.contains(np.int64(action))
        self.left -= 1
        return self._obs(), float(action), self.left == 0, False, {"lives": 1 + (self.left > 3)}


gymnasium.register("Images-v0", entry_point=Images)


def slot_of(frame_size=8, **kwargs):
    gymnasium.register("ImagesHere-v0", entry_point=lambda: Images(**kwargs))
    try:
        return GymSlot("ImagesHere-v0", frame_size)
    finally:
        del gymnasium.registry["ImagesHere-v0"]


def area_average(image, size):
    """The mean over each target pixel's area, in float64, from the image repeated to a common multiple."""
    h, w = image.shape[:2]
    big = np.repeat(np.repeat(image.astype(np.float64), size, axis=0), size, axis=1)
    return big.reshape(size, h, size, w, -1).mean(axis=(1, 3))


@pytest.mark.parametrize("size", [3, 8, 5])
@pytest.mark.parametrize("shape", [(24, 24, 3), (21, 16, 1), (21, 16), (40, 9, 3)])
def test_frames_are_area_averages_in_rgb(shape, size):
    slot = slot_of(frame_size=size, shape=shape)
    frame, lives = slot.reset(seed=3)
    env = Images(shape)
    truth, _ = env.reset(seed=3)
    slot.send(2)
    step, (next_truth, *_) = slot.recv(), env.step(2)
    for got, image in ((frame, truth), (step.frame, next_truth)):
        assert (got.shape, got.dtype) == ((size, size, 3), np.uint8)
        assert np.abs(got - area_average(image, size)).max() <= 0.5001
    assert lives == 2
    assert step.reward == 2.0


def test_frames_of_the_right_size_are_not_touched():
    env = make_real_env(None, "diamond_fast/Catch-v0", 1, 24, done_on_life_loss=True)
    obs, _ = env.reset(seed=0)
    assert {tuple(pixel) for pixel in obs.reshape(-1, 3)} == {(0, 0, 0), (255, 255, 255), (0, 255, 0), (255, 0, 0)}
    env.close()


def test_actions_begin_where_the_environment_says():
    slot = slot_of(actions=spaces.Discrete(3, start=5))
    assert slot.action.n == 3
    slot.reset(seed=0)
    slot.send(2)
    assert slot.recv().reward == 7.0


def test_lost_lives_end_episodes():
    env = make_real_env(None, "Images-v0", 1, 8, done_on_life_loss=True)
    env.reset(seed=0)
    ends = np.array([(step[2][0], step[4]["game_over"][0]) for step in (env.step(np.array([0])) for _ in range(300))])
    assert ends[:, 1].sum() > 10
    assert abs(int(ends[:, 0].sum()) - 2 * int(ends[:, 1].sum())) <= 1  # one life within each game, one with it
    env.close()


@pytest.mark.parametrize("env_id", ["Images-v0", "diamond_fast/Catch-v0"])
def test_goes_on_bit_for_bit_after_loading_a_state(env_id):
    env = make_real_env(None, env_id, 3, 12, done_on_life_loss=True)
    actions = np.random.default_rng(0).integers(0, env.action.n, (200, 3))
    env.reset(seed=[4, 5, 4])
    states, steps = [], []
    for a in actions:
        states.append(env.state_dict())
        steps.append(env.step(a))
    assert max(state["lengths"].max() for state in states) < 60  # an episode's actions, not the run's
    other = make_real_env(None, env_id, 3, 12, done_on_life_loss=True)
    for t in range(1, 150, 7):
        np.testing.assert_array_equal(other.load_state_dict(states[t]), steps[t - 1][0])
        for a, step in zip(actions[t : t + 50], steps[t : t + 50], strict=True):
            again = other.step(a)
            for x, y in zip(again[:4], step[:4], strict=True):
                np.testing.assert_array_equal(x, y)
            np.testing.assert_array_equal(again[4]["final_obs"], step[4]["final_obs"])
    env.close()
    other.close()


def test_an_environment_that_does_not_repeat_itself_is_noticed():
    env = RealEnv(lambda: slot_of(seeded=False), 2, done_on_life_loss=True)
    env.reset(seed=0)
    state = env.state_dict()
    with pytest.raises(RuntimeError, match=r"environments \[0, 1\] did not come back to the same frame"):
        env.load_state_dict(state)
    env.close()


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("CarRacin-v3", r'^unknown environment "CarRacin-v3"; did you mean CarRacing-v3\?'),
        (
            "diamond_fast/Cacth-v0",
            r'^unknown environment "diamond_fast/Cacth-v0"; did you mean diamond_fast/Catch-v0\?',
        ),
        ("no_such_module:Game-v0", r'^environment "no_such_module:Game-v0" cannot be made: No module named'),
        ("CartPole-v1", r"^CartPole-v1: expected uint8 image observations .* got Box\(.*float32\)"),
        ("Pendulum-v1", r"^Pendulum-v1: expected uint8 image .*; gymnasium.wrappers.AddRenderObservation shows what"),
        ("FrozenLake-v1", r"^FrozenLake-v1: expected uint8 image observations .* got Discrete\(16\)"),
    ],
)
def test_what_cannot_be_played_is_refused(env_id, message):
    with pytest.raises(ValueError, match=message):
        make_real_env(None, env_id, 2, 64, done_on_life_loss=True)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"dtype": np.float32, "low": -1},
        {"dtype": np.float16, "high": 2},
        {"dtype": np.int64},
        {"shape": (6, 4, 2)},
        {"shape": (6,)},
        {"shape": (2, 6, 4, 3)},
    ],
)
def test_other_observations_are_refused(kwargs):
    with pytest.raises(ValueError, match=r"^ImagesHere-v0: expected uint8 image observations"):
        slot_of(**kwargs)


@pytest.mark.parametrize(
    ("kwargs", "remedy"),
    [
        ({"dtype": np.float32, "low": -1}, "gymnasium.wrappers.RescaleObservation(env, 0, 1) makes fractions"),
        ({"shape": (2, 6, 4, 3)}, "leave stacks of frames"),
        ({"shape": (6, 4, 4)}, "leave stacks of frames and transparency out"),
        ({"shape": (6,)}, "gymnasium.wrappers.AddRenderObservation shows what render() draws"),
    ],
)
def test_a_refusal_says_how_it_would_work(kwargs, remedy):
    with pytest.raises(ValueError, match=r"^ImagesHere-v0: expected uint8 image observations") as caught:
        slot_of(**kwargs)
    assert remedy in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_may_come_first(channels):
    slot = slot_of(frame_size=(9, 7), shape=(channels, 9, 7))
    image, (frame, _) = Images((channels, 9, 7)).reset(seed=2)[0], slot.reset(seed=2)
    np.testing.assert_array_equal(frame, np.repeat(image.transpose(1, 2, 0), 3 // channels, axis=2))


@pytest.mark.parametrize(("number", "byte"), [(0, 0), (254.6, 255), (12.4, 12), (255, 255)])
def test_floats_up_to_255_are_rounded_to_bytes(number, byte):
    frame, _ = slot_of(dtype=np.float32, high=255, given=number).reset(seed=0)
    assert set(frame.flat) == {byte}


class InADict(Images):
    """Beside the image, how many steps are left; or more images."""

    def __init__(self, also=None, forgets=False, **kwargs):
        super().__init__(**kwargs)
        self.forgets = forgets
        self.others = also or {"left": spaces.Box(0, 99, (1,), np.float32)}
        self.image_space = self.observation_space
        self.observation_space = spaces.Dict({**self.others, "camera": self.image_space})

    def _obs(self):
        image = self.np_random.integers(0, 256, self.image_space.shape).astype(np.uint8)
        others = {key: space.sample() for key, space in self.others.items()}
        return others if self.forgets else {**others, "camera": image}


def dict_slot(frame_size=8, **kwargs):
    gymnasium.register("DictHere-v0", entry_point=lambda: InADict(**kwargs))
    try:
        return GymSlot("DictHere-v0", frame_size)
    finally:
        del gymnasium.registry["DictHere-v0"]


def test_the_one_image_of_a_dict_is_taken():
    env, slot = InADict(shape=(8, 8, 3)), dict_slot(shape=(8, 8, 3))
    np.testing.assert_array_equal(slot.reset(seed=1)[0], env.reset(seed=1)[0]["camera"])
    slot.send(1)
    np.testing.assert_array_equal(slot.recv().frame, env.step(1)[0]["camera"])
    with pytest.raises(EnvironmentFailedError, match=r"^the environment DictHere-v0 gave dict without camera, which"):
        dict_slot(forgets=True).reset(seed=0)


def test_a_dict_of_several_images_or_none_is_refused():
    other = {"depth": spaces.Box(0, 255, (6, 4), np.uint8)}
    with pytest.raises(ValueError, match=r"^DictHere-v0: expected one image .*, got camera, depth; .*Filter"):
        dict_slot(also=other)
    with pytest.raises(ValueError, match=r"^DictHere-v0: expected uint8 image .*, got Dict\(.*AddRenderObservation"):
        dict_slot(shape=(5,))


# --- actions --------------------------------------------------------------------------------------------------------


class Echo(Images):
    """Its reward is the first number of the action it was given; all of them can be looked up."""

    def step(self, action):
        assert self.action_space.contains(action), action
        self.given_action = action
        return self._obs(), float(np.asarray(action).flat[0]), False, False, {}


def echo(space):
    env = Echo(shape=(8, 8), actions=space)
    gymnasium.register("EchoHere-v0", entry_point=lambda: env)
    try:
        slot = GymSlot("EchoHere-v0", 8)
    finally:
        del gymnasium.registry["EchoHere-v0"]
    slot.reset(seed=0)
    return env, slot


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_from_minus_1_to_1_stand_for_the_bounds(dtype):
    low, high = np.array([[-3.0, 0.0], [-1.0, 0.1]]), np.array([[5.0, 1.0], [1.0, 0.7]])
    env, slot = echo(spaces.Box(low.astype(dtype), high.astype(dtype), dtype=dtype))
    assert slot.action == Box(4)
    for ours, theirs in (
        ([-1, -1, -1, -1], low),
        ([1, 1, 1, 1], high),
        ([-9, 9, 0, 0], [[-3, 1], [0, 0.4]]),
        ([0.5, -0.5, 0.25, 0.75], [[3, 0.25], [0.25, 0.625]]),
    ):
        slot.send(np.array(ours, np.float32))
        assert slot.recv().reward == env.given_action[0, 0]
        assert env.given_action.dtype == dtype
        np.testing.assert_allclose(env.given_action, theirs, rtol=0, atol=1e-6)


def test_numbers_rest_at_the_environments_0():
    """Those of a player who touches nothing; a number that cannot change has a rest, too."""
    space = spaces.Box(np.float32([-1, 0, 2, 3]), np.float32([1, 1, 4, 3]))
    gymnasium.register("EchoHere-v0", entry_point=lambda: Echo(shape=(8, 8), actions=space))
    try:
        controls = DOMAINS["gym"].controls(RunConfig(env_id="EchoHere-v0"))
    finally:
        del gymnasium.registry["EchoHere-v0"]
    assert controls.idle.tolist() == [0, -1, -1, -1]


@pytest.mark.parametrize("shape", [5, (2, 3)])
def test_buttons(shape):
    space = spaces.MultiBinary(shape)
    env, slot = echo(space)
    assert slot.action == MultiBinary(int(np.prod(shape)))
    act = np.arange(slot.action.n, dtype=np.uint8) % 2
    slot.send(act)
    slot.recv()
    np.testing.assert_array_equal(env.given_action, act.reshape(space.shape))


def test_several_by_name():
    space = spaces.Dict(
        {"gear": spaces.Discrete(3, start=-1), "horn": spaces.MultiBinary(1), "wheel": spaces.Box(0, 4)}
    )
    env, slot = echo(space)
    assert slot.action == Mixed(parts=(("gear", Discrete(3)), ("horn", MultiBinary(1)), ("wheel", Box(1))))
    slot.send(slot.action.encode({"gear": 2, "horn": [1], "wheel": [0.5]}))
    with pytest.raises(EnvironmentFailedError):  # its reward is no number: what it was given is asked for
        slot.recv()
    assert {name: np.asarray(value).tolist() for name, value in env.given_action.items()} == {
        "gear": 1,
        "horn": [1],
        "wheel": [3.0],
    }


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Box(-np.inf, np.inf, (2,)), r"^EchoHere-v0: expected actions with bounds, got .* should say between"),
        (
            spaces.MultiDiscrete([2, 3]),
            r"^EchoHere-v0: expected actions that are Discrete, MultiBinary or a Box",
        ),
        (spaces.Box(0, 5, (2,), np.int64), r"^EchoHere-v0: expected actions that are .*TransformAction makes one"),
        (spaces.Dict({"a": spaces.Dict({"b": spaces.Discrete(2)})}), r"^EchoHere-v0: expected actions .* got Dict"),
        (spaces.Dict({"a": spaces.Text(3)}), r"^EchoHere-v0: a: expected actions that are .* got Text"),
        (spaces.Tuple([spaces.Discrete(2)]), r"^EchoHere-v0: expected actions that are .* got Tuple"),
    ],
)
def test_other_actions_are_refused(space, message):
    with pytest.raises(ValueError, match=message):
        echo(space)


def test_an_environment_of_numbers_repeats_itself():
    """Actions that were kept bring it back, bit for bit."""
    envs = [make_real_env(None, "diamond_fast/Roll-v0", 2, 24, done_on_life_loss=True) for _ in range(2)]
    actions = np.random.default_rng(0).uniform(-1.2, 1.2, (70, 2, 1)).astype(np.float32)
    envs[0].reset(seed=[7, 8])
    for act in actions[:60]:
        envs[0].step(act)
    envs[1].load_state_dict(envs[0].state_dict())
    for act in actions[60:]:
        for x, y in zip(envs[0].step(act)[:4], envs[1].step(act)[:4], strict=True):
            np.testing.assert_array_equal(x, y)
    for env in envs:
        env.close()


@pytest.mark.parametrize(("fraction", "byte"), [(0, 0), (0.5, 128), (0.4999, 127), (1, 255), (0.001, 0), (0.002, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fractions_are_rounded_to_bytes(fraction, byte, dtype):
    frame, _ = slot_of(dtype=dtype, given=fraction).reset(seed=0)
    assert frame.dtype == np.uint8
    assert set(frame.flat) == {byte}


@pytest.mark.parametrize("given", [1.5, -0.1, np.nan, np.inf])
def test_fractions_out_of_range_name_the_environment(given):
    with pytest.raises(EnvironmentFailedError, match=r"a frame of float32 .* says fractions from 0 to 1$"):
        slot_of(dtype=np.float32, given=given).reset(seed=0)


def test_frames_need_not_be_square():
    slot = slot_of(frame_size=(3, 10), shape=(12, 20, 3))
    image, (frame, _) = Images((12, 20, 3)).reset(seed=1)[0], slot.reset(seed=1)
    assert (slot.frame, frame.shape) == (Frame(3, 10), (3, 10, 3))
    mean = image.reshape(3, 4, 10, 2, 3).mean(axis=(1, 3))
    assert np.abs(frame - mean).max() <= 0.5001
