"""A kernel that fails, for whatever reason, leaves torch's operations, on every path."""

import pytest
import torch

from diamond_fast.engine import lstm
from diamond_fast.kernels.lstm_unroll import lstm_unroll


@pytest.fixture
def inputs():
    g = torch.Generator().manual_seed(0)
    weight, gates, hx, cx = (torch.randn(*shape, generator=g) for shape in ((12, 3), (2, 4, 12), (2, 3), (2, 3)))
    return weight, gates, lstm.Memory(hx, cx)


@pytest.fixture(autouse=True)
def _there_is_a_kernel(monkeypatch):
    monkeypatch.setattr(lstm, "_kernel_works", True)
    monkeypatch.setattr(lstm, "use_triton", lambda impl, tensor: True)


def test_it_is_tried_once_and_one_line_says_so(inputs, monkeypatch, capsys):
    expected = lstm.unroll(*inputs)
    attempts = []

    def broken(*arguments, impl="auto"):
        attempts.append(impl)
        if impl == "auto":
            raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")
        return lstm_unroll(*arguments, impl=impl)

    monkeypatch.setattr(lstm, "lstm_unroll", broken)
    for _ in range(2):
        (hx, cx), hidden = lstm.unroll(*inputs)
        for found, truth in zip((hx, cx, hidden), (*expected[0], expected[1]), strict=True):
            assert torch.equal(found, truth)
    assert attempts == ["auto", "torch", "torch"]
    assert capsys.readouterr().out == (
        "LSTM: going on with torch's operations, which are slower (Failed to find C compiler. Please specify via CC)\n"
    )


def test_arguments_that_do_not_fit_are_still_refused(inputs):
    weight, gates, memory = inputs
    with pytest.raises(ValueError, match="weight_hh: expected shape"):
        lstm.unroll(weight[:, :2], gates, memory)
