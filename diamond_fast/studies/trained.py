"""World models that were trained before, for studies that compare how frames are drawn from them. No torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from diamond_fast.settings import require
from diamond_fast.studies.settings import StudyFlags

if TYPE_CHECKING:
    import torch

    from diamond_fast.engine.imagination import Sampler
    from diamond_fast.formulations.config import StepsConfig
    from diamond_fast.replay import Replay
    from diamond_fast.runs.agents import TrainedAgent


@dataclass(frozen=True)
class OfTrained(StudyFlags):
    runs: Annotated[tuple[Path, ...], arg(metavar="DIR")] = ()
    """Folders of runs, whose newest checkpoints are compared; the folder of a study of drift stands for all of its."""

    def check(self) -> None:
        super().check()
        require(bool(self.runs), "runs", "is needed: folders of runs, or of a study of drift")


def load_all(args: OfTrained) -> "tuple[dict[str, TrainedAgent], Replay]":
    """The world models by the names of their folders, and what they are judged on.

    Raises:
        ValueError, OSError: there are none, or they do not fit together.
    """
    from diamond_fast.replay import load_recording
    from diamond_fast.replay.fitting import check_fits
    from diamond_fast.runs.agents import load_agent
    from diamond_fast.studies.data import recording_of

    found = [run for path in args.runs for run in (sorted((path / "runs").glob("*")) or [path])]
    agents = {run.name: load_agent(run) for run in found}
    require(len(agents) == len(found), "runs", "two of them have the same name")
    assert args.data is not None  # checked
    replay = load_recording(recording_of("--data", args.data))
    for name, trained in agents.items():
        cfg = trained.config
        require(not cfg.model_free, "runs", f"{name} is model-free: it has no world model")
        require(cfg.memory == "none", "runs", f"{name} has a memory (--memory), which no study carries along")
        check_fits("--data", args.data, replay, cfg.frame_shape, trained.agent.spec.action)
        for count in args.denoising_steps:
            cfg.world_model.with_denoising_steps(count)
    contexts = {trained.agent.spec.context for trained in agents.values()}
    require(len(contexts) == 1, "runs", f"they see {sorted(contexts)} past frames; compare those that see equally many")
    return agents, replay


def sampler_of(
    trained: "TrainedAgent", steps: "StepsConfig", args: StudyFlags, batch_size: int, device: "torch.device"
) -> "Sampler":
    """What draws next frames from a world model, on the engine that is asked for."""
    from diamond_fast.engine.choose import choose_path
    from diamond_fast.engine.contest import Work
    from diamond_fast.engine.world import next_frame_sampler

    denoiser = trained.agent.to(device).eval().denoiser
    work = Work.of(denoiser, steps, batch_size)
    path = choose_path(device, trained.config.precision, args.engine, work=work)
    return next_frame_sampler(denoiser, steps, path)
