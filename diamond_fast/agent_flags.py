"""Flags that name a trained agent and its game, for every program that shows one. Imports no torch."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import FlagCreatePairsOff, arg

from diamond_fast.config import EngineChoice, Place, PositiveFloat, with_machine_flags
from diamond_fast.settings import require

if TYPE_CHECKING:
    from diamond_fast.runs.agents import TrainedAgent

DEMO = "demo"
"""What --pretrained and --init-from call the world model that comes with the package."""


@dataclass(frozen=True)
class AgentFlags:
    run: Annotated[Path | None, arg(metavar="DIR")] = None
    """Take the newest checkpoint in this folder of a run. --run, --checkpoint or --pretrained is needed."""
    checkpoint: Annotated[Path | None, arg(metavar="FILE")] = None
    """Take this published agent's .pt file, or one checkpoint of a run, such as checkpoints/epoch_000012.json."""
    pretrained: Annotated[str | None, arg(metavar="GAME")] = None
    """Take the published agent for this game, which is fetched from the Hub; or demo, the world model that comes with
    the package."""
    game: Annotated[str | None, arg(metavar="NAME")] = None
    """The agent of --checkpoint plays this game, if the file's name does not say it."""
    env_id: Annotated[str | None, arg(metavar="ID")] = None
    """The run's environment must be given again if its id names a module (module:Id), because that imports code."""
    student: FlagCreatePairsOff[bool] = False
    """Frames are drawn in one step by the run's student of its denoiser (train --world-model.student)."""
    env_runs_in: Place | None = None
    """The real environment runs in a thread, a process, or the main thread. If it is not given, it is as in the run."""
    env_timeout: Annotated[PositiveFloat | None, arg(metavar="SECONDS")] = None
    """A step of the environment may take so many seconds. If it is not given, it is as in the run."""
    env_start_timeout: Annotated[PositiveFloat | None, arg(metavar="SECONDS")] = None
    """The environment's start may take so many seconds. If it is not given, it is as in the run."""
    engine: Annotated[EngineChoice | None, arg(aliases=("--path",))] = None
    """Frames are imagined with the engine that is fastest on this machine, measured at first use, of those that agree
    with readable (auto), or with the networks as they are written, in float32 (readable); --help of diamond_fast.train
    says what the others are. If it is not given, it is as in the run."""
    device: Annotated[str, arg(metavar="auto|cpu|cuda|cuda:N")] = "auto"
    """The networks run on this device."""

    def load(self) -> "TrainedAgent":
        """The agent, on the CPU, with the flags of the machine among its settings. Its denoiser is what draws frames.

        Raises:
            ValueError, OSError: as ``load_agent``; or there is no student.
        """
        from diamond_fast.engine.world import with_student
        from diamond_fast.runs.agents import load_agent

        trained = load_agent(self.run, self.checkpoint, self.pretrained, self.game, self.env_id)
        config = with_machine_flags(trained.config, self)
        if not self.student:
            return replace(trained, config=replace(config, world_model=replace(config.world_model, student=False)))
        there = trained.agent.student is not None
        require(there, "student", f"{trained.source} has none; --world-model.student trains one")
        agent, world_model = with_student(trained.agent, config.world_model)
        config = replace(config, world_model=world_model)
        return replace(trained, agent=agent, config=config, source=f"{trained.source}, its student")

    def check_steps(self, *counts: int) -> None:
        """ValueError if a student is asked for other steps than its one."""
        wrong = [count for count in counts if self.student and count != 1]
        require(not wrong, "denoising_steps", f"must be 1 with --student, got {' '.join(map(str, wrong))}")
