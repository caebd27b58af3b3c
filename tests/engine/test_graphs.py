"""Recording without a GPU: a stand-in for CUDA's graphs runs the recorded function again on the fixed inputs."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from diamond_fast.engine import graphs
from diamond_fast.engine.graphs import WARM_UPS, Recorded, own_casts


class Graph:
    """Replays what was recorded: the function, its fixed inputs, its fixed outputs."""

    def __init__(self):
        self.replays = 0

    def replay(self):
        self.replays += 1
        with torch.no_grad():
            for fixed, y in zip(self.recording.outputs, self.recording.function(*self.recording.inputs), strict=True):
                fixed.copy_(y)


@pytest.fixture
def recordings(monkeypatch):
    """CUDA that is none; lists the recordings made."""
    made = []
    stream = SimpleNamespace(wait_stream=lambda other: None)
    cuda = SimpleNamespace(
        device=lambda device: nullcontext(),
        current_stream=lambda: stream,
        Stream=lambda: stream,
        stream=lambda s: nullcontext(),
        CUDAGraph=Graph,
        graph=lambda graph, pool, capture_error_mode: nullcontext(),
        graph_pool_handle=lambda: (0, 1),
        is_current_stream_capturing=lambda: False,
    )
    autocast = (torch.is_autocast_enabled, torch.get_autocast_dtype, torch.clear_autocast_cache)
    monkeypatch.setattr(graphs, "torch", SimpleNamespace(cuda=cuda, **{f.__name__: f for f in autocast}))

    class Recording(graphs.Recording):
        def __init__(self, function, inputs, pool):
            super().__init__(function, inputs, pool)
            self.function = function
            self.graph.recording = self
            made.append(self)

    monkeypatch.setattr(graphs, "Recording", Recording)
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda self: True))
    return made


def test_replays_with_other_inputs_give_other_outputs(recordings):
    calls = []

    def function(x, y):
        calls.append(1)
        return [x + y, x * y]

    recorded = Recorded(function)
    first = recorded(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]))
    second = recorded(torch.tensor([5.0, 6.0]), torch.tensor([7.0, 8.0]))
    assert [x.tolist() for x in first] == [[4.0, 6.0], [3.0, 8.0]]  # not overwritten by the second call
    assert [x.tolist() for x in second] == [[12.0, 14.0], [35.0, 48.0]]
    assert len(recordings) == 1
    assert recordings[0].graph.replays == 2


def test_one_recording_a_shape_and_the_oldest_goes(recordings):
    recorded = Recorded(lambda x: [x * 2], max_recordings=2)
    for n in (1, 2, 1, 3, 1, 2):
        assert recorded(torch.ones(n))[0].tolist() == [2.0] * n
    assert [len(r.inputs[0]) for r in recordings] == [1, 2, 3, 2]
    recorded(torch.ones(1, dtype=torch.float64))
    assert recordings[-1].inputs[0].dtype == torch.float64


def test_a_graph_that_the_caller_captures_takes_the_kernels(recordings, monkeypatch):
    monkeypatch.setattr(graphs.torch.cuda, "is_current_stream_capturing", lambda: True)
    assert Recorded(lambda x: [x * 2])(torch.ones(2))[0].tolist() == [2.0, 2.0]
    assert not recordings


def test_around_a_capture_autocast_forgets_its_casts():
    weight, x = torch.nn.Parameter(torch.eye(2)), torch.ones(1, 2)

    def product():
        return F.linear(x, weight)[0, 0].item()

    with torch.autocast("cpu", torch.bfloat16):
        assert product() == 1
        weight.data.fill_(2)
        assert product() == 1  # with the cast it keeps
        with own_casts():
            assert product() == 4
        weight.data.fill_(3)
        assert product() == 6


def test_a_recording_reads_no_cast_made_before_it(recordings):
    weight, x = torch.nn.Parameter(torch.eye(2)), torch.ones(1, 2)
    seen = []

    def function(x):
        seen.append(F.linear(x, weight)[0, 0].item())
        weight.data.fill_(2)
        return [x]

    with torch.autocast("cpu", torch.bfloat16):
        Recorded(function)(x)
    assert seen[: WARM_UPS + 1] == [1.0] * WARM_UPS + [4.0]


def test_without_a_gpu_the_function_is_called():
    assert Recorded(lambda x: (x + 1,))(torch.zeros(2))[0].tolist() == [1.0, 1.0]
