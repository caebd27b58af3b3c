"""A trained agent's world model as an environment, which is what ``diamond_fast/WorldModel-v0`` makes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from diamond_fast.config import EngineChoice
from diamond_fast.devices import resolve_device
from diamond_fast.domains import domain_of
from diamond_fast.engine.choose import set_matmul_precision
from diamond_fast.envs.single import SingleWorldModelEnv
from diamond_fast.envs.world_model import WorldModelEnv
from diamond_fast.replay.fitting import check_fits
from diamond_fast.runs.agents import TrainedAgent, load_agent


def vector_env(
    num_envs: int = 1,
    *,
    run: str | Path | None = None,
    checkpoint: str | Path | None = None,
    pretrained: str | None = None,
    game: str | None = None,
    data: str | Path | None = None,
    horizon: int | None = None,
    denoising_steps: int | None = None,
    engine: EngineChoice | None = None,
    device: str = "auto",
    render_mode: str | None = None,
) -> WorldModelEnv:
    """What ``gymnasium.make_vec("diamond_fast/WorldModel-v0", num_envs=N, ...)`` makes.

    Args:
        num_envs: imagined episodes stepped together, all by one batch of the networks.
        run: a run's folder, of which the newest checkpoint is taken; or else
        checkpoint: a published agent's ``.pt`` file, or one checkpoint of a run; or else
        pretrained: a game, whose published agent is fetched from the Hub.
        game: what a ``.pt`` file plays, if its name does not say it.
        data: a recording that episodes start from; of a run, its own experience if this is not given.
        horizon: an episode is cut short after so many steps; as in the run if not given.
        denoising_steps: for each frame; as in the run if not given.
        engine: how networks are computed, as ``WorldModelEnv``; as in the run if not given.
        device: "auto", "cpu", "cuda" or "cuda:N".
        render_mode: "rgb_array" or None.

    Raises:
        ValueError, OSError: there is no such agent, or nothing to start from; the message says which argument.
    """
    for name, value in {"num_envs": num_envs, "horizon": horizon, "denoising_steps": denoising_steps}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}: must be at least 1, got {value}")
    file = None if checkpoint is None else Path(checkpoint)
    trained = load_agent(None if run is None else Path(run), file, pretrained, game)
    cfg, agent = trained.config, trained.agent
    if cfg.model_free:
        raise ValueError(f"run: {trained.source} is model-free and has no world model")
    world = cfg.world_model if denoising_steps is None else cfg.world_model.with_denoising_steps(denoising_steps)
    if horizon is not None:
        world = replace(world, horizon=horizon)
    path = _starts(trained, data)
    replay = domain_of(cfg).load_recording(path)
    check_fits("data:", path, replay, cfg.frame_shape, agent.spec.action)
    set_matmul_precision(cfg.precision)
    agent.to(resolve_device(device)).eval().requires_grad_(False)
    return WorldModelEnv(agent, replay, num_envs, world, render_mode, engine or cfg.engine)


def single_env(**arguments: Any) -> SingleWorldModelEnv:
    """What ``gymnasium.make("diamond_fast/WorldModel-v0", ...)`` makes. Arguments and errors as ``vector_env``."""
    return SingleWorldModelEnv(vector_env(1, **arguments))


def _starts(trained: TrainedAgent, data: str | Path | None) -> Path:
    if data is not None:
        return Path(data)
    if trained.folder is None:
        raise ValueError("data: is needed, a recording whose frames imagined episodes start from")
    return Path(trained.config.static_dataset or trained.folder.journal)
