"""Updates of a linear model against arithmetic done by hand and by torch's plain AdamW."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from diamond_fast.config import UpdateConfig
from diamond_fast.training.finite import FiniteGuard, NonFiniteError
from diamond_fast.training.optim import load_optimizer, make_optimizer, set_learning_rate, warmed_up
from diamond_fast.training.update import Update


class Regression:
    """y = 1 at random x; a batch whose number is in ``spoilt`` has a loss that is not finite."""

    def __init__(self, model, spoilt=()):
        self.model, self.spoilt = model, spoilt
        self.generator = torch.Generator().manual_seed(0)
        self.drawn = 0

    def begin_epoch(self):
        pass

    def draw(self):
        self.drawn += 1
        scale = float("inf") if self.drawn in self.spoilt else 1.0
        return torch.randn(4, 3, generator=self.generator), torch.tensor(scale)

    def loss(self, x, scale):
        loss = (self.model(x) - 1).square().mean() * scale
        return loss, {"loss": loss.detach(), "counts": torch.tensor([1, 2])}

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def make_update(spoilt=(), **cfg):
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    cfg = UpdateConfig(**{"lr": 0.1, "lr_warmup_steps": 3, "max_grad_norm": 0.5, **cfg})
    return Update("regression", model, Regression(model, spoilt), cfg, nullcontext)


def weights(update):
    return torch.cat([p.detach().flatten() for p in update.parameters])


@pytest.mark.parametrize("grad_acc_steps", [1, 3])
def test_equals_plain_adamw_step_by_step(grad_acc_steps):
    """Warm-up, clipping, decay of weights alone, and gradients of accumulated batches added up."""
    update = make_update(grad_acc_steps=grad_acc_steps)
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    plain = torch.optim.AdamW(
        [{"params": [model.weight], "weight_decay": 0.01}, {"params": [model.bias], "weight_decay": 0.0}],
        lr=0.1,
        foreach=False,
        fused=False,
    )
    data = Regression(model)
    norms = []
    for step in range(6):
        for group in plain.param_groups:
            group["lr"] = 0.1 * min(1, step / 3)
        plain.zero_grad()
        for _ in range(grad_acc_steps):
            data.loss(*data.draw())[0].backward()
        norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
        norms.append(norm.item())
        for p in model.parameters():
            p.grad *= min(1, 0.5 / norm)
        plain.step()
        figures = update.step()
        assert figures["grad_norm"].item() == pytest.approx(norm.item(), rel=1e-5)
        torch.testing.assert_close(weights(update), torch.cat([model.weight.detach().flatten(), model.bias.detach()]))
    assert max(norms) > 0.5  # clipping had something to do


def test_train_averages_scalars_and_adds_counts():
    update, twin = make_update(), make_update()
    losses = [twin.step()["loss"].item() for _ in range(5)]
    calls = []
    figures = update.train(5, lambda: calls.append(1))
    assert len(calls) == update.num_updates == 5
    assert figures["loss"] == pytest.approx(sum(losses) / 5)
    assert figures["counts"] == [5, 10]


def test_on_a_cpu_the_first_bad_update_stops_before_the_weights_change():
    update = make_update(spoilt=(4,))
    for _ in range(3):
        update.step()
    before = weights(update)
    with pytest.raises(NonFiniteError, match="regression: update 4 has loss inf and gradient norm nan"):
        update.step()
    assert torch.equal(weights(update), before)


def test_on_a_gpu_a_bad_update_and_those_behind_it_do_nothing_and_the_epoch_ends_with_the_culprit():
    """The flag's way, taken on the CPU: nothing raises until the check."""
    update, stopped = make_update(spoilt=(4, 6)), make_update()
    update.guard.waits = False
    for _ in range(3):
        stopped.step()
    with pytest.raises(NonFiniteError, match="regression: update 4 has loss inf and gradient norm nan"):
        update.train(7, lambda: None)
    assert torch.equal(weights(update), weights(stopped))
    states = [[u.optimizer.state[p] for p in u.parameters] for u in (update, stopped)]
    for a, b in zip(*states, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in b)


def test_the_guard_goes_on_counting_after_a_check():
    guard = FiniteGuard("m", torch.device("cpu"))
    guard.waits = False
    one, nan = torch.tensor(1.0), torch.tensor(float("nan"))
    for _ in range(5):
        assert guard.watch(one, one) == 0
    guard.check()
    assert guard.watch(one, one) == 0
    assert guard.watch(one, nan) == 1
    assert guard.watch(one, one) == 1
    with pytest.raises(NonFiniteError, match="m: update 7 has loss 1 and gradient norm nan"):
        guard.check()
    assert guard.watch(one, one) == 0


def test_warm_up():
    assert [warmed_up(2.0, 4, n) for n in (0, 1, 4, 9)] == [0.0, 0.5, 2.0, 2.0]
    assert warmed_up(2.0, 0, 0) == 0.0  # as published: the first update moves nothing even without a warm-up
    assert warmed_up(2.0, 0, 1) == 2.0


def test_learning_rate_on_the_device_stays_the_same_tensor():
    model = nn.Linear(2, 1)
    rate = torch.tensor(0.1)
    optimizer = torch.optim.SGD([{"params": [model.weight], "lr": rate}, {"params": [model.bias], "lr": 0.1}])
    set_learning_rate(optimizer, 0.25)
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == optimizer.param_groups[1]["lr"] == 0.25


@pytest.mark.parametrize("layer", [nn.LSTM, nn.LSTMCell])
def test_input_weights_of_an_lstm_learn_at_a_rate_of_their_own(layer):
    """Adam's first step moves every weight by its rate, against the gradient's sign: a rate can be read off it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), layer(5, 4))
    optimizer = make_optimizer(model, 0.1, 0.01, 1e-8, lstm_input_lr_scale=0.25)
    set_learning_rate(optimizer, 0.2)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.step()
    for name, p in model.named_parameters():
        rate = 0.05 if "weight_ih" in name else 0.2
        decay = 0.01 if "weight" in name else 0.0
        torch.testing.assert_close(p.detach(), before[name] * (1 - rate * decay) - rate * p.grad.sign())


def test_without_a_rate_of_their_own_there_are_two_groups():
    """Old checkpoints hold two. A model without an LSTM has no third either."""
    assert len(make_optimizer(nn.LSTM(2, 3), 0.1, 0.01, 1e-8).param_groups) == 2
    assert len(make_optimizer(nn.Linear(2, 3), 0.1, 0.01, 1e-8, lstm_input_lr_scale=0.1).param_groups) == 2


def test_loading_keeps_this_machines_settings():
    """A checkpoint from elsewhere brings moments and counts, not the kernels it was trained with."""
    update = make_update()
    update.step()
    saved = update.optimizer.state_dict()
    for group in saved["param_groups"]:
        group.update(fused=None, foreach=True, lr=7.0)
    fresh = make_optimizer(nn.Linear(3, 1), 0.1, 0.01, 1e-8)
    load_optimizer(fresh, saved)
    assert all(group["fused"] and group["lr"] == 0.1 for group in fresh.param_groups)
    moments = [s["exp_avg"] for s in fresh.state.values()]
    assert all(
        torch.equal(a, update.optimizer.state[p]["exp_avg"]) for a, p in zip(moments, update.parameters, strict=True)
    )


def test_loaded_moments_have_the_layout_of_their_weights():
    """Otherwise the fused step pairs each weight with another one's moments."""
    torch.manual_seed(0)
    models = [nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    first, second = (make_optimizer(m, 0.1, 0.01, 1e-8) for m in models)
    x = torch.randn(2, 4, 5, 5)

    def step(model, optimizer):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()

    step(models[0], first)
    models[1].load_state_dict(models[0].state_dict())
    saved = first.state_dict()
    saved["state"] = {i: {k: v.clone().contiguous() for k, v in s.items()} for i, s in saved["state"].items()}
    load_optimizer(second, saved)
    for model, optimizer in zip(models, (first, second), strict=True):
        step(model, optimizer)
    assert torch.equal(models[0].weight, models[1].weight)
