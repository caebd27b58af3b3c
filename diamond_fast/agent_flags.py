"""Flags that name a trained agent and its game, for every program that shows one. Imports no torch."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from diamond_fast.config import EngineChoice, Place, PositiveFloat, with_machine_flags

if TYPE_CHECKING:
    from diamond_fast.runs.agents import TrainedAgent


@dataclass(frozen=True)
class AgentFlags:
    run: Annotated[Path | None, arg(metavar="DIR")] = None
    """The folder of a run, whose newest checkpoint is taken. --run, --checkpoint or --pretrained is needed."""
    checkpoint: Annotated[Path | None, arg(metavar="FILE")] = None
    """A published agent's .pt file, or one checkpoint of a run, such as checkpoints/epoch_000012.json."""
    pretrained: Annotated[str | None, arg(metavar="GAME")] = None
    """The published agent for this game, fetched from the Hub."""
    game: Annotated[str | None, arg(metavar="NAME")] = None
    """The game that the agent of --checkpoint plays, if the file's name does not say it."""
    env_id: Annotated[str | None, arg(metavar="ID")] = None
    """The run's environment must be given again if its id names a module (module:Id), because that imports code."""
    env_runs_in: Place | None = None
    """Where the real environment runs: in a thread, a process, or the main thread. If not given: as in the run."""
    env_timeout: Annotated[PositiveFloat | None, arg(metavar="SECONDS")] = None
    """Seconds to wait for a step of the environment. If not given: as in the run."""
    env_start_timeout: Annotated[PositiveFloat | None, arg(metavar="SECONDS")] = None
    """Seconds to wait until the environment has started. If not given: as in the run."""
    engine: Annotated[EngineChoice | None, arg(aliases=("--path",))] = None
    """How frames are imagined. auto: measured at first use on this machine, the fastest that agrees with readable.
    readable: with the networks as they are written, in float32. torch, fused, amx: see --help of diamond_fast.train.
    If not given: as in the run."""
    device: Annotated[str, arg(metavar="auto|cpu|cuda|cuda:N")] = "auto"
    """The device that the networks run on."""

    def load(self) -> "TrainedAgent":
        """The agent, on the CPU, with the flags of the machine among its settings.

        Raises:
            ValueError, OSError: as ``load_agent``.
        """
        from diamond_fast.runs.agents import load_agent

        trained = load_agent(self.run, self.checkpoint, self.pretrained, self.game, self.env_id)
        return replace(trained, config=with_machine_flags(trained.config, self))
