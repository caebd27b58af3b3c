"""World models trained side by side: the same recording, network, updates and seeds, formulation by formulation."""

from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import torch

from diamond_fast.config import EngineChoice, RunConfig, of_kind
from diamond_fast.config_checks import checked
from diamond_fast.networks.config import NetworkConfig
from diamond_fast.presets import PRESETS
from diamond_fast.registry import FORMULATIONS, find
from diamond_fast.replay import load_recording
from diamond_fast.runs import checkpoint
from diamond_fast.runs.folder import RunFolder
from diamond_fast.runs.signals import StopSignals
from diamond_fast.studies.settings import users_input
from diamond_fast.training.trainer import Trainer

PARTS = 10
"""A run is saved so many times on its way, and whenever it is stopped."""


def run_config(
    preset: str,
    formulation: str,
    seed: int,
    updates: int,
    recordings: tuple[Path, Path],
    engine: EngineChoice,
    network: tuple[str, NetworkConfig] | None = None,
) -> RunConfig:
    """A world model alone, learned from a recording; its formulation's own settings are defaults.

    Args:
        network: name and settings of the denoiser's; None: the preset's.

    Raises:
        ValueError: there is no such preset or formulation, or the recording does not fit.
    """
    cfg = find(PRESETS, "--preset", preset)
    if formulation != cfg.formulation:
        cfg = of_kind(cfg, formulation, cfg.network)
    if network is not None:
        cfg = replace(cfg, network=network[0], denoiser=replace(cfg.denoiser, inner_model=network[1]))
    training, held_out = recordings
    height, width, _ = load_recording(training).frame_shape
    parts = min(PARTS, updates)
    each = updates // parts
    update = replace(
        cfg.denoiser_update, start_after_epochs=0, steps_first_epoch=updates - (parts - 1) * each, steps_per_epoch=each
    )
    return checked(
        replace(
            cfg,
            game=None,
            env_id=None,
            domain=None,
            env_kwargs=None,
            world_model_only=True,
            static_dataset=str(training),
            held_out=str(held_out),
            frame_size=height if height == width else (height, width),
            seed=seed,
            engine=engine,
            num_final_epochs=parts,
            denoiser_update=update,
            evaluation=replace(cfg.evaluation, every=parts),
        )
    )


def check_formulations(names: tuple[str, ...]) -> None:
    """ValueError if one is unknown or named twice."""
    for name in names:
        find(FORMULATIONS, "--formulations", name)
    if len(set(names)) < len(names):
        raise ValueError(f"--formulations {' '.join(names)}: one is named twice")


def train(cfg: RunConfig, path: Path, device: torch.device, stop: StopSignals) -> None:
    """A run in a folder of its own, from its beginning or from where it stopped. A finished one costs a second.

    Of its checkpoints the last one stays.

    Raises:
        UnfitInputError: the folder holds a run with other settings, is in use or damaged, or the recording is.
        Stopped: a signal came; what was done is saved.
    """
    with ExitStack() as stack:
        with users_input():
            folder = RunFolder.open(path) if path.exists() else RunFolder.create(path, cfg)
            held = folder.read_config()
            held = replace(held, static_dataset=cfg.static_dataset, held_out=cfg.held_out, engine=cfg.engine)
            if held != cfg:  # but for where its folder was, which may have been moved
                raise ValueError(f"{path}: holds a run with other settings; name a new folder with --out")
            stack.enter_context(folder.lock())
            trainer = Trainer(cfg, folder, device)
        with closing(trainer):
            trainer.run(stop)
        checkpoint.let_go(folder.checkpoints, generations=1)
