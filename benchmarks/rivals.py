"""The denoiser with its network in another engine, in float32, which has agreed with the readable one before."""

import copy
import signal
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rival_engines import ENGINES, Run, why_missing
from torch import Tensor, nn
from workloads import Frames

from diamond_fast.one_line import one_line
from diamond_fast.world_model import Denoiser

MOST = 1e-4  # relative error of the network's output
PATIENCE = 300.0  # seconds


class ForeignNetwork(nn.Module):
    """Stands in for a denoiser's network; the batch is the one that it was exported for."""

    def __init__(self, run: Run):
        super().__init__()
        self.takes = nn.Parameter(torch.empty(0))  # tells the denoiser its tensors: float32, on the CPU
        self.run = run

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.from_numpy(self.run([x.contiguous().numpy() for x in inputs]))


class Export:
    """A denoiser's network as an ONNX file.

    Args:
        denoiser: on the CPU.
        frames: of the batch size and shape that it will be run with.
        folder: for files.
    """

    def __init__(self, denoiser: Denoiser, frames: Frames, folder: Path):
        self.denoiser, self.folder, self.path = denoiser, folder, folder / "network.onnx"
        n = len(frames.obs)
        self.inputs = (torch.randn(frames.obs[:, 0].shape), torch.randn(n), frames.obs.flatten(1, 2), frames.act)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of branches on shapes, which are fixed here
            self.expected = denoiser.inner_model(*self.inputs)
            # the newer exporter needs one more package, for the same file
            torch.onnx.export(denoiser.inner_model, self.inputs, self.path, dynamo=False)

    def denoiser_in(self, engine: str, threads: int) -> Denoiser:
        """The readable denoiser around the network in an engine.

        It is tried in a child process first, since an engine that crashes takes its process along.

        Raises:
            RuntimeError: it fails, or does not agree with the readable network.
        """
        error = self._error_in_child(engine, threads)
        if not error <= MOST:
            raise RuntimeError(f"{error:.1e} away from the readable network, more than {MOST:g}")
        other = copy.deepcopy(self.denoiser)
        other.inner_model = ForeignNetwork(ENGINES[engine](self.path, threads))
        return other

    def _error_in_child(self, engine: str, threads: int) -> float:
        inputs, output = self.folder / "inputs.npz", self.folder / "output.npy"
        np.savez(inputs, *(x.numpy() for x in self.inputs))
        module = Path(__file__).with_name("rival_engines.py")
        command = [sys.executable, *map(str, (module, engine, self.path, inputs, threads, output))]
        try:
            child = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False, text=True)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"no answer within {PATIENCE:g} s") from None
        if child.returncode < 0:
            raise RuntimeError(f"its process was ended by {signal.Signals(-child.returncode).name}")
        if child.returncode:
            raise RuntimeError(one_line(child.stderr.strip().rpartition("\n")[2]))
        got = torch.from_numpy(np.load(output))
        return ((got - self.expected).abs().max() / self.expected.abs().max()).item()


def in_engines(
    denoiser: Denoiser, frames: Frames, folder: Path, engines: Sequence[str] = tuple(ENGINES)
) -> tuple[dict[str, Denoiser], dict[str, str]]:
    """Denoisers by the engine's name, and why engines are left out."""
    denoisers: dict[str, Denoiser] = {}
    left_out = {engine: reason for engine in engines if (reason := why_missing(engine))}
    wanted = [engine for engine in engines if engine not in left_out]
    export: Export | None = None
    for engine in wanted:
        try:
            export = export or Export(denoiser, frames, folder)
            denoisers[f"{engine} float32"] = export.denoiser_in(engine, torch.get_num_threads())
        except Exception as error:  # what others' engines can do is not for us to promise
            left_out[engine] = f"failed: {error}"
    return denoisers, left_out
