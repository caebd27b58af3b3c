"""What of the suite fits into the time that was asked for: the most telling row of every part first.

What a row takes is written down for one machine and scaled by how fast this one evaluates the published network, then
by how long the rows measured so far really took.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from measuring import EFFORTS, SLOW_ROUND, Effort

REFERENCE = 1 / 8
"""Seconds for which the costs below hold: of one evaluation of the paper's network for one sample, as published."""
PRIOR = 30.0
"""Seconds of rows that it takes to trust their pace as much as the measured speed."""


class Cost(NamedTuple):
    """Of one row, at the reference's speed."""

    setup: float
    """Seconds before the candidates take turns."""
    round: float
    """Evaluations of the paper's network as published that one turn of every candidate takes as long as."""


def most_telling(n: int) -> list[str]:
    """Names of rows in the order in which they are wanted. All others follow.

    Args:
        n: the batch that is measured first.
    """
    return [
        f"test_sampling[{n}-3]",
        f"test_update[denoiser-{n}]",
        f"test_step[{n}]",
        "test_epoch",
        f"test_update[reward_end-{n}]",
        f"test_update[actor_critic-{n}]",
        "test_sampling[1-3]",
        "test_sampling[8-3]",
        "test_rivals[8]",
        "test_one_thread[8]",
        "test_beside_a_busy_process",
        "test_wide[1]",
        "test_two_stages[both]",
        "test_rivals[32]",
        "test_rivals[1]",
        "test_one_thread[32]",
        "test_rollout[1]",
        "test_sampling[256-3]",
        "test_batches[19]",
        "test_collection[1]",
        "test_start_up",
        "test_checkpoint",
    ]


UPDATES = {"denoiser": 6, "reward_end": 8, "actor_critic": 7}  # evaluations an update of one sample is worth


def _sampling(batch: int, steps: int) -> Cost:
    published = batch * steps if batch * steps <= 96 else 0
    return Cost(3, published + 0.5 * batch * steps)


COSTS: dict[str, Callable[..., Cost]] = {
    "test_sampling": _sampling,
    "test_wide": lambda batch: Cost(15, 10 * batch),
    "test_ladder": lambda: Cost(4, 65),
    "test_formulations": lambda steps: Cost(10, 24 * steps),
    "test_remembered_frames": lambda network: Cost(5, 60),
    "test_cost_of_context": lambda network, context: Cost(5, 1.5),
    "test_cost_at_full_width": lambda network: Cost(5, 60),
    "test_rivals": lambda batch: Cost(130 if batch == 32 else 30, 5 * batch),
    "test_one_thread": lambda batch: Cost(3, 2.6 * batch),
    "test_beside_a_busy_process": lambda: Cost(3, 60),
    "test_update": lambda model, batch: Cost(4, 1.5 * UPDATES[model] * batch),
    "test_denoiser_over_batch": lambda batch: Cost(3, 0.5 * UPDATES["denoiser"] * batch),
    "test_reward_end_over_sequence_length": lambda length: Cost(3, 0.5 * UPDATES["reward_end"] * length / 19),
    "test_epoch": lambda: Cost(5, 350),
    "test_step": lambda num_envs: Cost(5, 6 * num_envs),
    "test_step_beside_diamonds": lambda: Cost(15, 45),
    "test_update_beside_diamonds": lambda: Cost(10, 170),
    "test_students_step": lambda num_envs: Cost(5, 2.5 * num_envs),
    "test_rollout": lambda num_envs: Cost(5, 100 * num_envs),
    "test_update_from_played_steps": lambda precision, batch: Cost(2, 3 * batch),
    "test_collection": lambda num_envs: Cost(8, 8),
    "test_batches": lambda seq_length: Cost(8, 1),
    "test_over_buffer_size": lambda num_steps: Cost(8, 1),
    "test_append": lambda: Cost(4, 1),
    "test_boxing_on_disk": lambda: Cost(20, 1),
    "test_recordings": lambda stage, batch_size, seq_length: Cost(60, 4),
    "test_waits": lambda stage: Cost(60, 8),
    "test_two_stages": lambda stage: Cost(40, {"both": 25, "denoiser": 7, "upsampler": 18}[stage]),
    "test_import": lambda: Cost(30, 60),
    "test_start_up": lambda: Cost(0, 130),
    "test_checkpoint": lambda: Cost(5, 10),
}
ELSEWHERE = Cost(0, 0)
"""Of what is skipped wherever there is a limit: kernels, on a CPU."""


def name_of(item: Any) -> str:
    """Of the benchmark, without its sizes."""
    return item.name.partition("[")[0]


def in_order(items: Iterable[Any], effort: str) -> list[Any]:
    """The most telling first."""
    wanted = list(dict.fromkeys(most_telling(8 if effort == "quick" else 32)))
    rank = {name: i for i, name in enumerate(wanted)}
    return sorted(items, key=lambda item: rank.get(item.name, len(wanted)))


def expected(cost: Cost, effort: Effort) -> float:
    """Seconds that a row takes at the reference's speed: set-up, warm-up and turns."""
    once = cost.round * REFERENCE
    if once > SLOW_ROUND:
        return cost.setup + 3 * once
    return cost.setup + max(effort.warm_up, once) + max(effort.min_rounds * once, min(effort.seconds, 10 * once))


@dataclass
class Plan:
    """Decides before every row whether it still fits.

    Args:
        seconds: that all rows may take.
        effort: how long each is measured.
        evaluation: seconds of one evaluation of the published network here.
    """

    seconds: float
    effort: str
    evaluation: float
    planned: float = 0.0
    took: float = 0.0

    def expects(self, item: Any) -> float:
        """Seconds of a benchmark, by this machine's speed and the rows so far."""
        cost = COSTS[name_of(item)](**_params(item)) if name_of(item) in COSTS else ELSEWHERE
        pace = (self.took + PRIOR) / (self.planned + PRIOR)
        return expected(cost, EFFORTS[self.effort]) * self.evaluation / REFERENCE * pace

    def measured(self, item: Any, seconds: float) -> None:
        """Learns from a row that took so long."""
        self.planned += self.expects(item) * (self.planned + PRIOR) / (self.took + PRIOR)
        self.took += seconds

    def why_not(self, item: Any, since_start: float) -> str | None:
        """Why there is no time for a benchmark that many seconds after the start; None if there is."""
        left, takes = self.seconds - since_start, self.expects(item)
        if takes <= left or (takes == 0 and left > 0):
            return None
        return f"takes about {self._rounded(takes)} here, for which {self.seconds / 60:g} minutes left no time"

    def describe(self, items: Iterable[Any], since_start: float) -> str:
        """What will be measured, if everything takes what is expected, and what not."""
        spent = since_start
        taken: list[str] = []
        left_out: list[str] = []
        for item in items:
            fits = self.why_not(item, spent) is None
            (taken if fits else left_out).append(item.name)
            spent += self.expects(item) if fits else 0
        text = f"Planned: {len(taken)} benchmarks in about {spent / 60:.1f} of {self.seconds / 60:g} minutes"
        return f"{text}; no time for {', '.join(left_out)}" if left_out else text

    @staticmethod
    def _rounded(seconds: float) -> str:
        return f"{round(seconds, -1):.0f} s" if seconds > 20 else f"{seconds:.0f} s"


def _params(item: Any) -> dict[str, Any]:
    return item.callspec.params if hasattr(item, "callspec") else {}
