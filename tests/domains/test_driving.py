"""CarRacing with two actions, and the driver that drives it."""

import json
from dataclasses import replace
from itertools import groupby

import gymnasium
import numpy as np
import pytest
import torch

pytest.importorskip("Box2D", reason="CarRacing needs the extra driving")

from diamond_fast.config import EvaluationConfig
from diamond_fast.config_checks import checked
from diamond_fast.domains.driving.driver import Driver, speed_shown
from diamond_fast.domains.driving.env import ENV_ID
from diamond_fast.domains.gym.adapter import GymSlot
from diamond_fast.presets import PRESETS
from diamond_fast.record import main as record_main
from diamond_fast.runs.folder import RunFolder
from diamond_fast.spec import Box
from diamond_fast.training.trainer import Trainer


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


def test_a_driver_with_lapses_holds_wheel_and_pedal_for_one_to_three_seconds():
    frame = np.full((64, 64, 3), 100, np.uint8)  # road everywhere
    driver, rng = Driver(lapses=0.2), np.random.default_rng(3)
    acts = [tuple(driver(frame, rng)) for _ in range(600)]
    held = [len(list(steps)) for _, steps in groupby(acts)]
    lapses = [n for n in held[:-1] if n > 1]  # noise makes any other two steps differ
    assert len(lapses) > 15
    assert 10 <= min(lapses) < 14
    assert 26 < max(lapses) <= 30
    assert 0.03 < (len(held) - len(lapses)) / 600 < 0.35  # in between the driver drives
    again = np.random.default_rng(3)
    assert [tuple(driver(frame, again)) for _ in range(50)] == acts[:50]  # a new episode begins with no lapse


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


def test_a_policy_is_learned_in_imagination_from_a_recorded_drive(tmp_path, monkeypatch):
    """The preset whole, with few updates: rewards of any size, and test games in CarRacing itself."""
    monkeypatch.setattr("diamond_fast.training.evaluator.save_learning_curves", lambda path, lines: path)
    record = ["--env", ENV_ID, "--player", "diamond_fast.domains.driving.driver:stray", "--max-steps", "24"]
    record += ["--frame-size", "32", "--full-size", "64"]
    assert record_main([*record, "--episodes", "2", "--out", str(tmp_path / "drives"), "--test", "0.5"]) == 0
    preset = PRESETS["car-racing"]
    few = {  # the first update of a model has a learning rate of 0
        f"{model}_update": replace(
            getattr(preset, f"{model}_update"), steps_first_epoch=1, steps_per_epoch=n, batch_size=1, lr_warmup_steps=0
        )
        for model, n in {"denoiser": 1, "reward_end": 1, "actor_critic": 2}.items()
    }
    evaluation = EvaluationConfig(every=1, num_episodes=1, num_final_episodes=2, num_envs=2, max_steps=3)
    cfg = replace(
        preset, **few, evaluation=evaluation, num_final_epochs=2, static_dataset=str(tmp_path / "drives/train")
    )
    trainer = Trainer(checked(cfg), RunFolder.create(tmp_path / "run", cfg), torch.device("cpu"))
    try:
        result = trainer.run()
    finally:
        trainer.close()
    assert result.lengths.tolist() == [3, 3]
    assert trainer.agent.spec.action == Box(2)
    assert (trainer.agent.actor_critic.actor_linear.weight != 0).any()  # they began as zeros
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert ["actor_critic/updates" in line for line in lines[:2]] == [False, True]
    assert all("test/return_mean" in line for line in lines[:2])
