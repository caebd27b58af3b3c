"""The world model that comes with the package: its weights, its settings, a game it was not trained on, and its origin.

::

    config.json         every setting of the run that trained it; next to it its checksum
    weights.safetensors the denoiser's and the policy's, in bfloat16
    game.journal        a recorded game: imagined episodes start from it, and it is what the model is judged on
    made.json           how it was made: command, commit, updates, hours, curves

Nothing is fetched, and the real game need not be installed.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from diamond_fast.config import RunConfig
from diamond_fast.networks.actor_critic.model import ActorCritic
from diamond_fast.runs.durable import strict_json, write_durably
from diamond_fast.runs.folder import RunFolder
from diamond_fast.spec import Discrete
from diamond_fast.world_model import Agent

FOLDER = Path(__file__).parents[1] / "demo"
WEIGHTS, RECORDING, MADE = "weights.safetensors", "game.journal", "made.json"
ACTION_WEIGHT = "denoiser.inner_model.act_emb.0.weight"


def load_demo(folder: Path = FOLDER) -> tuple[Agent, RunConfig]:
    """The agent, a denoiser and a policy or a denoiser alone, in float32 on the CPU, and the denoiser's settings.

    Raises:
        ValueError: a file is damaged.
        OSError: a file is missing.
    """
    config = RunFolder.open(folder).read_config()
    path = folder / WEIGHTS
    try:
        weights = {name: value.float() for name, value in load(path.read_bytes()).items()}
        agent = Agent(config, Discrete(weights[ACTION_WEIGHT].size(0)))
        if any(name.startswith("actor_critic.") for name in weights):
            agent.actor_critic = ActorCritic(config.actor_critic, agent.spec)
        agent.load_state_dict(weights)
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise ValueError(f"{path}: does not hold the weights of {folder / 'config.json'}") from error
    return agent, config


def write_demo(folder: Path, agent: Agent, config: RunConfig, recording: Path, made: Mapping[str, Any]) -> None:
    """Write what ``load_demo`` reads to a new folder.

    Args:
        agent: a world model alone, as ``config.world_model_only`` makes one; it may have been given a policy.
        config: of its run, with the policy's settings; where its recordings lay is left out.
        recording: a journal of games.
        made: how it was made.

    Raises:
        ValueError: something is there already, or the world model is more than a denoiser.
        OSError: the disk refused something.
    """
    if not config.world_model_only or config.upsampling > 1:
        raise ValueError("only a world model alone, of one frame size, is written: --world-model-only")
    run = RunFolder.create(folder, replace(config, static_dataset=None, held_out=None, engine=RunConfig.engine))
    run.no_checkpoint_yet.unlink()
    for empty in (run.checkpoints, run.replay, run.pictures):
        empty.rmdir()
    run.lock_file.unlink()
    weights = {name: value.detach().to(torch.bfloat16).contiguous() for name, value in agent.state_dict().items()}
    write_durably(folder / WEIGHTS, save(weights))
    write_durably(folder / RECORDING, recording.read_bytes())
    write_durably(folder / MADE, (strict_json(made, indent=2) + "\n").encode())
