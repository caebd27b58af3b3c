"""An audit of captured functions: a graph reads addresses, so what it reads has to stay where it was."""

from functools import partial
from types import BuiltinMethodType, FunctionType, MethodType, ModuleType

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack
from torch.utils._pytree import tree_leaves

from diamond_fast.engine.graphs import Captured


def _storage(x: Tensor) -> int:
    return x.untyped_storage()._cdata


class OutsideReads(TorchDispatchMode):
    """Inside, notes every tensor that an operation takes and none made: operations of autograd's backward pass too."""

    def __init__(self):
        super().__init__()
        self.made: list[Tensor] = []  # kept, so that no address is that of two tensors
        self.read: dict[int, tuple[Tensor, str]] = {}
        self._made_at: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for x in tree_leaves((args, kwargs)):
            if isinstance(x, Tensor) and _storage(x) not in self._made_at:
                self.read.setdefault(_storage(x), (x.detach(), f"{func}: {list(x.shape)} {x.dtype}"))
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and _storage(x) not in self.read:
                self.made.append(x)
                self._made_at.add(_storage(x))
        return out


def reachable(root: object) -> set[int]:
    """Storages of all tensors that an object, a function or a partial one holds, however deep."""
    found: set[int] = set()
    seen: set[int] = set()
    left = [root]
    while left:
        x = left.pop()
        if id(x) in seen or isinstance(x, type | ModuleType | BuiltinMethodType | str | bytes | int | float):
            continue
        seen.add(id(x))
        if isinstance(x, Tensor):
            found.add(_storage(x))
        elif isinstance(x, dict):
            left += [*x.keys(), *x.values()]
        elif isinstance(x, list | tuple | set | frozenset):
            left += x
        elif isinstance(x, MethodType):
            left += [x.__self__, x.__func__]
        elif isinstance(x, partial):
            left += [x.func, x.args, x.keywords]
        elif isinstance(x, FunctionType):
            left += [cell.cell_contents for cell in x.__closure__ or ()] + [x.__defaults__, x.__kwdefaults__]
        elif hasattr(x, "__dict__"):
            left.append(vars(x))
    return found


class Audited(Captured):
    """Is called as ever, and notes what a graph would read once it would be captured."""

    every: "list[Audited]" = []  # noqa: RUF012 # a test has its own

    def __init__(self, *args, **options):
        super().__init__(*args, **{**options, "pool": "none"})
        self.captures = 0
        self.reads: dict[int, tuple[Tensor, str]] = {}
        self.every.append(self)

    def can_capture(self, tensor):
        return not any(isinstance(mode, OutsideReads) for mode in _get_current_dispatch_mode_stack())

    def warm_up(self, graph, inputs):
        return self.function(*inputs)

    def capture(self, graph):
        self.captures += 1
        with OutsideReads() as watch:
            results = [self.function(*graph.inputs)]  # of the first replay, which has nothing to do
        self.reads |= watch.read

        def replay():
            graph.outputs = results.pop() if results else self.function(*graph.inputs)

        return replay, None

    def gone(self) -> list[str]:
        """What it read that neither the function nor a graph's inputs hold by now."""
        there = reachable((self.function, [graph.inputs for graph in self._graphs.values()]))
        return [what for at, (_, what) in self.reads.items() if at not in there]
