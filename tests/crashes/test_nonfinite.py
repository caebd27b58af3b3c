"""NaN and infinity in every loss, gradient and frame: never stored; the run says where and stops, or leaves it out."""

import math
from dataclasses import replace

import gymnasium
import pytest
import torch
from crashed_runs import final_state
from tiny_run import TINY

from diamond_fast.domains.catch.env import Catch
from diamond_fast.envs.failure import EnvironmentFailedError
from diamond_fast.frames import to_float
from diamond_fast.runs import checkpoint
from diamond_fast.runs.folder import RunFolder
from diamond_fast.runs.metrics import read_metrics
from diamond_fast.training.evaluator import Evaluator
from diamond_fast.training.trainer import Trainer

SHORT = replace(TINY, num_final_epochs=1, collection=replace(TINY.collection, num_steps_total=80))  # 2 epochs
MODELS = ("denoiser", "reward_end", "actor_critic")
STRIKE = 4  # of the run's 4 updates of each model: the last one


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch):
    monkeypatch.setattr(Evaluator, "draw_learning_curves", lambda self: None)


def train(folder, inject=lambda trainer: None, cfg=SHORT):
    run = RunFolder.open(folder) if folder.exists() else RunFolder.create(folder, cfg)
    trainer = Trainer(cfg, run, torch.device("cpu"))
    inject(trainer)
    try:
        trainer.run()
    finally:
        trainer.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluator, "draw_learning_curves", lambda self: None)
        train(folder)
    return final_state(folder)


# --- injections: one result of a kind is spoilt, that with number STRIKE ---------------------------------------------


def once(function, spoil, at=STRIKE):
    calls = 0

    def wrapped(*args, **kwargs):
        nonlocal calls
        calls += 1
        result = function(*args, **kwargs)
        return spoil(result) if calls == at else result

    return wrapped


def into_loss(trainer, model, value):
    objective = trainer.updates[model].objective
    objective.loss = once(objective.loss, lambda result: (result[0] * value, result[1]))


def into_gradient(trainer, model, value):
    """The gradient of one number of one weight; the loss is as it should be."""
    update = trainer.updates[model]

    def spoil(gradient):
        gradient = gradient.clone()
        gradient.view(-1)[-1] = value
        return gradient

    calls = {"n": 0}

    def hook(gradient):
        calls["n"] += 1
        return spoil(gradient) if update.num_updates + update.num_skipped == STRIKE - 1 else gradient

    update.parameters[-1].register_hook(hook)


def into_frame(trainer, model, value):
    """One pixel of one frame of a batch or, for the policy, of one imagined frame."""

    def spoil(frames):
        frames = frames.clone()
        frames[0, -1, ..., 0, 0] = value
        return frames

    objective = trainer.updates[model].objective
    if model == "actor_critic":

        def spoil_step(step):
            step.obs[0, :, 0, 0] = value
            return step

        steps = trainer.cfg.actor_critic_loss.backup_every
        objective.env.step = once(objective.env.step, spoil_step, at=(STRIKE - 1) * steps + 1)
    else:  # batches are bytes, which know no such value: it comes in where they become floats
        real_loss, calls = objective.loss, iter(range(1, 1000))

        def loss(*inputs):
            with pytest.MonkeyPatch.context() as patch:
                if next(calls) == STRIKE:
                    patch.setattr(objective, "to_float", lambda *frames: spoil(to_float(*frames)))
                return real_loss(*inputs)

        objective.loss = loss


INJECTIONS = (into_loss, into_gradient, into_frame)


def check_what_is_stored(folder):
    for manifest in (folder / "checkpoints").glob("epoch_*.json"):
        for group in checkpoint.load(manifest).tensors.values():
            assert all(tensor.isfinite().all() for tensor in group.values() if tensor.is_floating_point())


def check_stop(inject, model, value, folder, whole):
    with pytest.raises(FloatingPointError, match=f"{model}: update {STRIKE} has loss .* and gradient norm"):
        train(folder, lambda trainer: inject(trainer, model, value))
    check_what_is_stored(folder)
    train(folder)  # as after a bad chip was replaced
    assert final_state(folder) == whole


def check_skip(inject, model, value, folder):
    train(folder, lambda trainer: inject(trainer, model, value), replace(SHORT, on_nonfinite="skip"))
    check_what_is_stored(folder)
    skipped = {
        (line["epoch"], name): line[f"{name}/skipped_updates"]
        for line in read_metrics(folder / "metrics.jsonl")
        for name in MODELS
        if f"{name}/skipped_updates" in line
    }
    assert skipped == {(epoch, name): int((epoch, name) == (2, model)) for epoch in (1, 2) for name in MODELS}
    last = next(line for line in read_metrics(folder / "metrics.jsonl") if line["epoch"] == 2)
    assert all(math.isfinite(last[f"{name}/{figure}"]) for name in MODELS for figure in ("loss", "grad_norm"))


# Each way into each model ends one run or is skipped in one: who finds it has no part in what is done about it.
PAIRS = [(inject, model) for inject in INJECTIONS for model in MODELS]


@pytest.mark.parametrize(("inject", "model"), PAIRS[::2])
def test_nan_stops_the_run(tmp_path, whole, inject, model):
    check_stop(inject, model, math.nan, tmp_path / "run", whole)


@pytest.mark.parametrize(("inject", "model"), PAIRS[1::2])
def test_infinity_is_skipped(tmp_path, inject, model):
    check_skip(inject, model, math.inf, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize(("inject", "model"), PAIRS)
def test_either_way(tmp_path, whole, inject, model):
    check_stop(inject, model, math.nan, tmp_path / "a", whole)
    check_skip(inject, model, math.inf, tmp_path / "b")


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("inject", INJECTIONS)
def test_the_other_way_round(tmp_path, whole, inject, model):
    check_stop(inject, model, -math.inf, tmp_path / "a", whole)
    check_skip(inject, model, math.nan, tmp_path / "b")


def test_a_model_beyond_help_is_not_skipped_for_ever(tmp_path):
    def inject(trainer):
        loss = trainer.updates["denoiser"].objective.loss
        trainer.updates["denoiser"].objective.loss = lambda *inputs: (loss(*inputs)[0] * math.nan, {})

    many = replace(SHORT.denoiser_update, steps_first_epoch=100)
    cfg = replace(SHORT, on_nonfinite="skip", denoiser_update=many)
    with pytest.raises(FloatingPointError, match="was not applied, like the 19 before it in this epoch"):
        train(tmp_path / "run", inject, cfg)


def test_weights_that_overflow_are_not_stored(tmp_path):
    """Finite loss and gradients, but a step so long that the weights become infinite."""
    huge = replace(SHORT.denoiser_update, lr=3e38, lr_warmup_steps=0, steps_first_epoch=2)
    with pytest.raises(FloatingPointError, match=r"denoiser: (update|weight) .* (not finite|was not applied)"):
        train(tmp_path / "run", cfg=replace(SHORT, denoiser_update=huge))
    check_what_is_stored(tmp_path / "run")


class Poor(Catch):
    """Its third reward is not a number."""

    steps = 0

    def step(self, action):
        obs, reward, end, trunc, info = super().step(action)
        self.steps += 1
        return obs, math.nan if self.steps == 3 else reward, end, trunc, info


def test_a_reward_that_is_not_finite_names_the_environment(tmp_path, monkeypatch):
    monkeypatch.setitem(gymnasium.registry, "Poor-v0", gymnasium.envs.registration.EnvSpec("Poor-v0", Poor))
    with pytest.raises(EnvironmentFailedError, match="the environment Poor-v0 gave a reward of nan"):
        train(tmp_path / "run", cfg=replace(SHORT, env_id="Poor-v0"))
