"""Estimates against counting the real computations, and against the published figures."""

from dataclasses import replace

import pytest
import torch
from crashes.tiny_run import TINY
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diamond_fast.config import RunConfig, SamplerConfig
from diamond_fast.estimate import describe, estimate, time_needed
from diamond_fast.presets import PRESETS
from diamond_fast.runs.progress import duration
from diamond_fast.speed import MeasuredSpeed, Speed
from diamond_fast.world_model import Agent, DiffusionSampler

SMALL = replace(
    PRESETS["catch"],
    frame_size=20,
    denoiser_update=replace(PRESETS["catch"].denoiser_update, batch_size=2),
    reward_end_update=replace(PRESETS["catch"].reward_end_update, batch_size=3, grad_acc_steps=2),
    actor_critic_update=replace(PRESETS["catch"].actor_critic_update, batch_size=2),
)


def count(call):
    """FLOPs of a call on the CPU, with the fused kernels off that the counter does not know."""
    plain_kernels = sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False)
    with plain_kernels[0], plain_kernels[1], FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def test_the_papers_networks_have_the_published_size():
    costs = estimate(RunConfig(), num_actions=18).costs
    assert costs["denoiser"].parameters == pytest.approx(4.41e6, rel=0.01)
    per_frame = costs["denoiser"].training_flops / (32 * 2 * 3)  # batch, autoregressive steps, forward and backward
    assert per_frame == pytest.approx(6.09e9, rel=0.01)
    world_model = costs["actor_critic"].forward_flops / (32 * 15 * 3)  # batch, horizon, denoising steps
    assert world_model == pytest.approx(6.09e9, rel=0.05)


def test_the_papers_run_has_the_published_length():
    total = estimate(RunConfig(), num_actions=18)
    assert total.epochs == 1000  # 95 000 steps of collection in hundreds, and 50 more
    assert total.costs["denoiser"].updates == 10_000 + 999 * 400
    assert total.costs["actor_critic"].updates == 5_000 + 999 * 400
    assert total.replay_bytes == 100_000 * 64 * 64 * 3


def test_flops_are_those_of_the_real_updates():
    agent, costs = Agent(SMALL, 4), estimate(SMALL, 4).costs
    n, length = 2, SMALL.denoiser_seq_length
    obs, act = torch.rand(n, length, 3, 20, 20), torch.zeros(n, length, dtype=torch.int64)
    mask = torch.ones(n, length, dtype=torch.bool)
    real = count(lambda: agent.denoiser.loss(obs, act, mask, SMALL.sigma_distribution).backward())
    assert costs["denoiser"].training_flops == real

    n, length = 3, SMALL.reward_end_seq_length
    obs, act = torch.rand(n, length, 3, 20, 20), torch.zeros(n, length, dtype=torch.int64)
    mask = torch.ones(n, length, dtype=torch.bool)
    real = count(lambda: agent.rew_end_model.loss(obs, act, act.float(), ~mask, mask).total.backward())
    assert costs["reward_end"].training_flops == 2 * real  # two batches per update


@pytest.mark.parametrize("order", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_imagination_costs_what_a_real_rollout_does(order):
    sampler = SamplerConfig(num_steps=3, order=order)
    config = replace(SMALL, world_model=replace(SMALL.world_model, sampler=sampler, horizon=3))
    config = replace(config, actor_critic_loss=replace(config.actor_critic_loss, backup_every=6))
    agent = Agent(config, 4)
    context, act = torch.rand(2, 4, 3, 20, 20), torch.zeros(2, 4, dtype=torch.int64)
    draw = DiffusionSampler(agent.denoiser, sampler)

    def world_model():
        with torch.no_grad():
            for _ in range(6):
                frame, _ = draw.sample(context, act)
                agent.rew_end_model.predict(frame[:, None], act[:, :1], frame[:, None])
            for _ in range(2):  # each of the two episodes within a rollout starts with a burn-in
                agent.rew_end_model.predict(context[:, :-1], act[:, :-1], context[:, 1:])

    def policy():
        hx_cx = (torch.zeros(2, 64), torch.zeros(2, 64))
        total = 0.0
        for _ in range(6 + 2 * 3):
            logits, value, hx_cx = agent.actor_critic.predict_act_value(context[:, 0], hx_cx)
            total = total + logits.sum() + value.sum()
        total.backward()

    cost = estimate(config, 4).costs["actor_critic"]
    assert cost.forward_flops == pytest.approx(count(world_model), rel=1e-3)
    assert cost.training_flops == pytest.approx(count(policy), rel=0.02)


def test_memory_grows_with_the_batch_and_holds_the_optimiser():
    small = estimate(TINY, 4)
    large = estimate(replace(TINY, denoiser_update=replace(TINY.denoiser_update, batch_size=200)), 4)
    bytes_ = [x.costs["denoiser"].activation_bytes for x in (small, large)]
    assert bytes_[1] == pytest.approx(100 * bytes_[0], rel=0.01)
    assert small.model_bytes > 16 * sum(cost.parameters for cost in small.costs.values())


def test_activations_are_what_autograd_keeps():
    """One layer by hand: the first convolution keeps its input, whatever else is kept comes on top."""
    costs = estimate(SMALL, 4).costs
    frames = 3 * 19 * 2 * 3 * 20 * 20 * 4  # batch x length x (frame and next) in float32, cut to 18 steps
    assert costs["reward_end"].activation_bytes > frames * 18 / 19


def test_a_model_free_run_trains_only_the_policy():
    config = replace(SMALL, model_free=True)
    total = estimate(config, 4)
    assert list(total.costs) == ["actor_critic"]
    assert total.costs["actor_critic"].forward_flops == 0
    assert total.epochs == config.num_final_epochs


def test_a_model_that_starts_later_is_updated_less_often():
    late = replace(TINY, actor_critic_update=replace(TINY.actor_critic_update, start_after_epochs=3))
    now, then = (estimate(c, 4).costs["actor_critic"].updates for c in (TINY, late))
    update = TINY.actor_critic_update
    assert now - then == update.steps_first_epoch + 2 * update.steps_per_epoch


def test_time_follows_from_speed():
    total = estimate(SMALL, 4)
    speed = Speed(forward=1e9, training=2e9)
    by_hand = sum(c.updates * (c.forward_flops / 1e9 + c.training_flops / 2e9) for c in total.costs.values())
    assert total.seconds(speed) == pytest.approx(by_hand)


def test_the_time_needed_is_a_range_where_it_is_one():
    total = estimate(SMALL, 4)
    speed, half = Speed(1e9, 1e9), Speed(5e8, 5e8)
    seconds = total.flops / 1e9
    assert time_needed(total, MeasuredSpeed(speed, speed)) == f"about {duration(seconds)}"
    assert time_needed(total, MeasuredSpeed(half, speed)) == f"{duration(seconds)} to {duration(2 * seconds)}"
    assert time_needed(total, MeasuredSpeed(half, speed, "load 5.0 on 2 cores")) == (
        f"{duration(seconds)} if nothing else ran here, at least {duration(2 * seconds)} as busy as it is "
        "(load 5.0 on 2 cores)"
    )


def test_the_description_says_where_hours_come_from(monkeypatch):
    speed = MeasuredSpeed(Speed(2e9, 3e9), Speed(4e9, 4e9))
    monkeypatch.setattr("diamond_fast.estimate.measure_speed", lambda *_: speed)
    text = describe(SMALL, 4, torch.device("cpu"))
    assert "(from 2.0e+09 FLOP/s forward and 3.0e+09 FLOP/s in training, measured on the denoiser just now)" in text
    assert f"{estimate(SMALL, 4).costs['denoiser'].parameters:,}" in text


def test_the_description_of_a_device_on_which_nothing_runs(monkeypatch):
    def lost(*_):
        raise RuntimeError("CUDA error: no kernel image is available\nand more lines")

    monkeypatch.setattr("diamond_fast.estimate.measure_speed", lost)
    lines = describe(SMALL, 4, torch.device("cpu")).splitlines()
    assert lines[1].endswith(" -")
    assert lines[-1] == (
        "time: not measured, as the networks do not run on this device (RuntimeError: CUDA error: no kernel image is "
        "available and more lines)"
    )
