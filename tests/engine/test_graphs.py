"""Capturing without a GPU: a stand-in for CUDA's graphs runs the captured function again on the fixed inputs."""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch.utils._pytree import tree_leaves

from diamond_fast.engine import graphs
from diamond_fast.engine.graphs import WARM_UP_CALLS, Captured, CaptureError, Pool, own_casts


class Cuda:
    """CUDA that is none. Keeps what was captured, with the generators, pool and stream of each."""

    def __init__(self):
        self.captured = []
        self.stream_now = "current"
        self.warmed_up_on = []
        self.capturing = False

    def CUDAGraph(self):
        graph = SimpleNamespace(generators=[], replays=0)
        graph.register_generator_state = graph.generators.append

        def replay():
            graph.replays += 1
            with torch.no_grad():
                for fixed, y in zip(*map(tree_leaves, (graph.outputs, graph.function(*graph.inputs))), strict=True):
                    fixed.copy_(y)

        graph.replay = replay
        return graph

    def graph(self, graph, pool, stream, capture_error_mode):
        assert self.stream_now == stream
        assert capture_error_mode == "thread_local"
        graph.pool, graph.stream = pool, stream
        self.captured.append(graph)
        return nullcontext()

    @contextmanager
    def stream(self, stream):
        before, self.stream_now = self.stream_now, stream
        yield
        self.stream_now = before

    def Stream(self, device):
        return SimpleNamespace(wait_stream=lambda other: None, device=device)

    def current_stream(self, device):
        return SimpleNamespace(wait_stream=lambda other: None)

    def graph_pool_handle(self):
        return object()

    def is_current_stream_capturing(self):
        return self.capturing


@pytest.fixture
def cuda(monkeypatch):
    cuda = Cuda()
    others = (torch.is_autocast_enabled, torch.get_autocast_dtype, torch.clear_autocast_cache, torch.clone)
    others += (torch.inference_mode, torch.set_grad_enabled, torch.is_grad_enabled)
    stand_in = SimpleNamespace(cuda=cuda, backends=torch.backends, **{f.__name__: f for f in others})
    monkeypatch.setattr(graphs, "torch", stand_in)
    graphs.side_stream.cache_clear()
    capture, warm_up = Captured.capture, Captured.warm_up

    def noted(self, graph, inputs):
        function, self.function = self.function, lambda *args: cuda.warmed_up_on.append(cuda.stream_now) or call(*args)
        call = function
        try:
            return warm_up(self, graph, inputs)
        finally:
            self.function = function

    monkeypatch.setattr(Captured, "warm_up", noted)

    def remembered(self, graph):
        replay, outputs = capture(self, graph)
        made = cuda.captured[-1]
        made.function, made.inputs, made.outputs = self.function, graph.inputs, outputs
        return replay, outputs

    monkeypatch.setattr(Captured, "capture", remembered)
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda self: True))
    return cuda


def test_replays_with_other_inputs_give_other_outputs(cuda):
    captured = Captured("f", lambda x, y: [x + y, x * y])
    first = captured(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]))
    second = captured(torch.tensor([5.0, 6.0]), torch.tensor([7.0, 8.0]))
    assert [x.tolist() for x in first] == [[4.0, 6.0], [3.0, 8.0]]  # not overwritten by the second call
    assert [x.tolist() for x in second] == [[12.0, 14.0], [35.0, 48.0]]
    assert [graph.replays for graph in cuda.captured] == [2]


def test_the_first_calls_of_what_changes_state_are_ordinary_ones(cuda):
    """As many as warm up; a replay then does what a call would."""
    total, calls = torch.zeros(()), []

    def add(batches):
        calls.append(len(cuda.captured))
        new = total + sum(x for (x,) in batches)
        if not cuda.captured or cuda.captured[-1].replays:  # a capture does nothing
            total.copy_(new)
        return {"total": new}

    captured = Captured("sum", add, changes_state=True)
    results = [captured([(torch.tensor(float(i)),), (torch.tensor(1.0),)])["total"] for i in range(6)]
    assert [x.item() for x in results] == [1, 3, 6, 10, 15, 21]
    assert calls == [0] * WARM_UP_CALLS + [1] * (1 + 6 - WARM_UP_CALLS)


def test_cudnn_times_its_algorithms_in_warm_ups_alone(cuda):
    """Not in a capture, which may not wait for the device, nor in anyone else's code."""
    benchmark = []

    def f(x):
        benchmark.append(torch.backends.cudnn.benchmark)
        return x * 2

    Captured("f", f)(torch.ones(1))
    assert benchmark == [True] * WARM_UP_CALLS + [False] * 2  # captured, and as the stand-in replays it
    with pytest.raises(ZeroDivisionError):
        Captured("fails", lambda x: x / (1 // 0))(torch.ones(1))
    assert not torch.backends.cudnn.benchmark


def test_one_graph_alone_is_kept(cuda):
    """Each as long as nothing of another shape comes; a shape that comes again is captured again."""
    captured = Captured("f", lambda x: x * 2, max_graphs=1)
    for n in (1, 1, 2, 2, 1):
        assert captured(torch.ones(n)).tolist() == [2.0] * n
    assert [len(graph.inputs[0]) for graph in cuda.captured] == [1, 2, 1]
    assert len(captured._graphs) == 1


def test_one_graph_a_shape_and_the_oldest_goes(cuda):
    captured = Captured("f", lambda x: x * 2, max_graphs=2)
    for n in (1, 2, 1, 3, 1, 2):
        assert captured(torch.ones(n)).tolist() == [2.0] * n
    assert [len(graph.inputs[0]) for graph in cuda.captured] == [1, 2, 3, 2]
    captured(torch.ones(1, dtype=torch.float64))
    assert cuda.captured[-1].inputs[0].dtype == torch.float64


def test_graphs_have_a_stream_of_their_own_or_that_of_their_pool(cuda):
    captured = Captured("f", lambda x: x * 2)
    captured(torch.ones(1)), captured(torch.ones(2))
    pool = Pool(torch.device("cpu"))
    generator = torch.Generator()
    for name in "ab":
        Captured(name, lambda x: x, pool=pool, generators=[generator])(torch.ones(1))
    assert len({id(graph.stream) for graph in cuda.captured}) == 3
    assert {id(graph.stream) for graph in cuda.captured[2:]} == {id(pool.stream)}
    assert {id(graph.pool) for graph in cuda.captured[2:]} == {id(pool.handle)}
    assert [graph.generators for graph in cuda.captured] == [[], [], [generator], [generator]]


def test_functions_warm_up_on_one_stream_that_nothing_is_captured_on(cuda):
    """A workspace that a library makes there is none of a graph's, and no graph's is taken away with another's."""
    for name in "ab":
        captured = Captured(name, lambda x: x * 2)
        captured(torch.ones(1)), captured(torch.ones(2))
    assert len(cuda.warmed_up_on) == 4 * WARM_UP_CALLS
    assert len({id(stream) for stream in cuda.warmed_up_on}) == 1
    assert cuda.warmed_up_on[0] not in [graph.stream for graph in cuda.captured]
    assert cuda.warmed_up_on[0] != "current"


def test_captured_in_inference_mode_and_called_outside(cuda):
    """As where a frame rate is measured before a game begins."""
    captured = Captured("f", lambda x: x * 2)
    with torch.inference_mode():
        assert captured(torch.ones(2)).tolist() == [2.0, 2.0]
    with torch.no_grad():
        assert captured(torch.full((2,), 3.0)).tolist() == [6.0, 6.0]
    assert len(cuda.captured) == 1


def test_a_graph_that_the_caller_captures_takes_the_kernels(cuda):
    cuda.capturing = True
    assert Captured("f", lambda x: x * 2)(torch.ones(2)).tolist() == [2.0, 2.0]
    assert not cuda.captured


class CompilationError(Exception):
    """As Triton raises: no RuntimeError."""


@pytest.mark.parametrize("error", [RuntimeError, CompilationError])
@pytest.mark.parametrize("changes_state", [True, False])
def test_where_the_capture_fails_the_calls_go_on(cuda, monkeypatch, capsys, changes_state, error):
    """On the stream they began on, though a capture that fails leaves it behind."""

    class Failing:
        def __init__(self, *args, **kwargs):
            pass

        def __enter__(self):
            cuda.stream_now = "of the capture"

        def __exit__(self, *args):
            raise error("operation not permitted when stream is capturing\nand more lines")

    monkeypatch.setattr(cuda, "graph", Failing)

    @contextmanager
    def stream(stream):
        before = cuda.stream_now
        try:
            yield
        finally:
            cuda.stream_now = before

    monkeypatch.setattr(cuda, "stream", stream)
    seen = []
    captured = Captured("denoiser", lambda x: seen.append(x.item()) or {}, changes_state=changes_state)
    for i in range(6):
        captured(torch.tensor(i))
    assert set(seen) == set(range(6))
    assert seen[-2:] == [4, 5]
    assert cuda.stream_now == "current"
    assert capsys.readouterr().out == (
        "denoiser: not captured as a CUDA graph (operation not permitted when stream is capturing); "
        "going on without one\n"
    )


def test_where_a_capture_must_not_fail_its_failure_is_an_error(cuda, monkeypatch):
    """A training process is good for nothing more then; the function is not called again."""

    def failing(*args, **kwargs):
        raise RuntimeError("operation not permitted\nand more lines")

    monkeypatch.setattr(cuda, "graph", failing)
    calls = []
    captured = Captured("denoiser", lambda x: calls.append(x) or [x], must=True)
    with pytest.raises(CaptureError, match=r"^denoiser: not captured as a CUDA graph \(operation not permitted\)$"):
        captured(torch.ones(1))
    assert len(calls) == WARM_UP_CALLS


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


def test_a_capture_reads_no_cast_made_before_it(cuda):
    """As when a rollout is captured while autocast is on; a cast kept from before would show as old weights."""
    weight, x = torch.nn.Parameter(torch.eye(2)), torch.ones(1, 2)
    seen = []

    def function(x):
        seen.append(F.linear(x, weight)[0, 0].item())
        weight.data.fill_(2)
        return [x]

    with torch.autocast("cpu", torch.bfloat16):
        Captured("f", function)(x)
    assert seen[: WARM_UP_CALLS + 1] == [1.0] * WARM_UP_CALLS + [4.0]


def test_without_a_gpu_the_function_is_called():
    assert Captured("f", lambda x: (x + 1,))(torch.zeros(2))[0].tolist() == [1.0, 1.0]
