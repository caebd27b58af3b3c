"""CarRacing with two actions, and the driver that drives it."""

import gymnasium
import numpy as np
import pytest

pytest.importorskip("Box2D", reason="CarRacing needs the extra driving")

from diamond_fast.domains.driving.driver import Driver, speed_shown
from diamond_fast.domains.driving.env import ENV_ID
from diamond_fast.domains.gym.adapter import GymSlot


def drive(slot, steps, seed):
    """-> frames, actions, the car's speeds and whether a wheel was on the road, at each step"""
    car_racing, driver, rng = slot._env.unwrapped, Driver(), np.random.default_rng(seed)
    frame, _ = slot.reset(seed)
    frames, acts, speeds, on_road = [], [], [], []
    for _ in range(steps):
        acts.append(driver(frame, rng))
        slot.send(acts[-1])
        frame = slot.recv().frame
        frames.append(frame)
        speeds.append(np.hypot(*car_racing.car.hull.linearVelocity))
        on_road.append(any(wheel.tiles for wheel in car_racing.car.wheels))
    return frames, np.array(acts), np.array(speeds), np.array(on_road)


def test_the_driver_stays_on_the_road_and_reads_the_speed():
    slot = GymSlot(ENV_ID, 64)
    frames, acts, speeds, on_road = drive(slot, 40, seed=1)
    assert slot._env.unwrapped.tile_visited_count > 10
    assert on_road.mean() > 0.9
    assert np.abs([speed_shown(frame) for frame in frames] - speeds).mean() < 1.5
    assert (acts.std(0) > 0.1).all()  # it does not do the same all the time
    slot.close()


def test_an_action_is_held_for_five_steps_of_car_racing():
    ours, theirs = gymnasium.make(ENV_ID), gymnasium.make("CarRacing-v3").unwrapped
    ours.reset(seed=3)
    theirs._render = lambda mode: None  # which takes long, and changes nothing
    theirs.reset(seed=3)
    for _ in range(50):
        theirs.step(None)
    for action, pedals in (((0.0, 1.0), (0, 1, 0)), ((0.5, 0.25), (0.5, 0.25, 0)), ((-1, -1), (-1, 0, 0.8))):
        frame, reward, terminated, truncated, _ = ours.step(np.array(action, np.float32))
        rewards = [theirs.step(np.array(pedals))[1] for _ in range(5)]
        assert reward == pytest.approx(sum(rewards))
        assert not terminated
        assert not truncated
        assert ours.unwrapped.car.hull.position == theirs.car.hull.position
    np.testing.assert_array_equal(frame, type(theirs)._render(theirs, "state_pixels"))


def test_steering_turns_to_its_side_and_the_brake_slows_down():
    game = gymnasium.make(ENV_ID).unwrapped
    game._render = lambda mode: None
    turned, speed = {}, {}
    for action in ((-0.4, -0.5), (-0.4, 0.5), (0.4, -0.5), (0.4, 0.5)):
        game.reset(seed=0)
        for _ in range(6):
            game.step(np.array((0.0, 1.0)))
        angle = game.car.hull.angle
        for _ in range(3):
            game.step(np.array(action))
        turned[action] = game.car.hull.angle - angle
        speed[action] = np.hypot(*game.car.hull.linearVelocity)
    for (steering, _), turn in turned.items():
        assert turn * steering < -0.01  # angles grow to the left
    for steering in (-0.4, 0.4):
        assert speed[steering, -0.5] < speed[steering, 0.5] - 5


def test_an_episode_depends_on_its_random_numbers_alone():
    driver, frame = Driver(), np.full((64, 64, 3), 103, np.uint8)
    first, other, again = (
        [driver(frame, rng).tolist() for _ in range(5)] for rng in map(np.random.default_rng, (0, 1, 0))
    )
    assert first == again
    assert first != other
