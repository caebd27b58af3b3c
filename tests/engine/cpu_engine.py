"""The compiled engine with one instruction set, as tests use it."""

from dataclasses import dataclass

import torch

from diamond_fast.engine.cpu_program import INSTRUCTION_SETS, CpuProgram


@dataclass(frozen=True)
class Engine:
    name: str

    @property
    def coarse(self):
        return INSTRUCTION_SETS[self.name] == torch.bfloat16

    def rounded(self, x):
        """x as it is stored, in float64."""
        return x.to(INSTRUCTION_SETS[self.name]).double()

    def tolerance(self, coarse, fine=1e-4):
        """Of a relative error: if activations are rounded to bfloat16 on the way, and if they are not."""
        return coarse if self.coarse else fine

    def assert_close(self, y, truth):
        """Of one operation: sums are off by float32's rounding, after Winograd's transforms by a few times that."""
        if self.coarse:
            torch.testing.assert_close(y.double(), truth, rtol=1e-5, atol=1e-5)
        assert ((y.double() - truth).norm() / truth.norm()).item() < 1e-5

    def program(self, walk, pieces, height, width, num_threads=1):
        return CpuProgram(walk, pieces, height, width, num_threads, on=self.name)

    def run(self, walk, x, cond=None):
        """One thread's result; a team that shares the first sample between its threads gives the same bits."""
        alone, shared = (self.program(walk, [(x.size(1), 1.0)], *x.shape[-2:], n) for n in (1, 3))
        rows = None if cond is None else alone.modulation(cond)
        y = alone([x], rows)
        assert torch.equal(shared([x[:1]], None if rows is None else rows[:1]), y[:1])
        return y
