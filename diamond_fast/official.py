"""Published checkpoints: load them 1:1, and write our own agents in the same form.

A published agent is one flat state dict with the keys ``denoiser.*``, ``rew_end_model.*`` and ``actor_critic.*``. The
denoiser's network is called after what it predicts. The published world of Counter-Strike, ``csgo.pt``, has
``denoiser.*`` and ``upsampler.*`` instead.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from diamond_fast.config import RunConfig
from diamond_fast.domains.atari.games import resolve_game
from diamond_fast.formulations.config import DDPMConfig, DenoiserConfig, DiffusionConfig
from diamond_fast.recording_presets import CSGO
from diamond_fast.spec import MultiBinary
from diamond_fast.torch_file import load_torch_file
from diamond_fast.world_model import Agent

HUB_REPO = "eloialonso/diamond"
NUM_ACTIONS_KEY = "actor_critic.actor_linear.weight"
TWO_STAGES = "upsampler.inner_model."
"""What the names of the upsampler's weights begin with."""
ACTION_WEIGHT = "denoiser.inner_model.act_emb.0.weight"
WORLDS = {"csgo": "csgo/model/csgo.pt"}
"""Published worlds without a policy, and where they are on the Hub."""
MOST_ACTIONS = 10_000
OWN_NAME = "denoiser.inner_model."
PUBLISHED_NAMES: dict[type[DiffusionConfig], str] = {DenoiserConfig: OWN_NAME, DDPMConfig: "denoiser.noise_model."}
"""What the names of the denoiser's weights begin with, by formulation. A file says its formulation by them."""


def load_official(source: str | Path, cfg: RunConfig | None = None) -> Agent:
    """An agent with published weights.

    Args:
        source: path of a published agent's ``.pt`` file, or an Atari game's name, or ``csgo``, to fetch it from the
            Hub.
        cfg: the networks' settings; if None the paper's, or those of preset csgo if the file has an upsampler. The
            file's shapes decide the number of actions.

    Raises:
        FileNotFoundError: there is no such file, and ``source`` is not a game's name.
        ConnectionError: the Hub could not be reached.
        ValueError: the file is not a published agent, or its formulation or networks differ from ``cfg``.
    """
    path = find_official(source)
    state = read_official(path)
    two_stages = any(name.startswith(TWO_STAGES) for name in state)
    cfg = cfg or (CSGO if two_stages else RunConfig())
    state = _with_own_names(path, state, cfg)
    num_actions = state[ACTION_WEIGHT if two_stages else NUM_ACTIONS_KEY].size(0)
    action = MultiBinary(num_actions) if two_stages else num_actions
    with torch.device("meta"):  # networks of other settings may be large
        expected = _of_published(Agent(cfg, action).state_dict())
    wrong = [
        f"{name} is missing" if name not in state else f"{name} is {list(state[name].shape)}, not {list(p.shape)}"
        for name, p in expected.items()
        if name not in state or state[name].shape != p.shape
    ] + [f"{name} is unknown" for name in state if name not in expected]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise ValueError(f"{path}: its networks differ from the settings: {wrong[0]}{more}")
    agent = Agent(cfg, action)
    agent.load_state_dict(state, strict=False)  # nothing but a student's are missing: that follows in training
    return agent


def export_official(agent: Agent, path: str | Path) -> None:
    """Writes an agent in the published form, so that the published code loads it. A student is left out."""
    published = PUBLISHED_NAMES.get(type(agent.denoiser.cfg), OWN_NAME)
    state = {name: p.detach().cpu().contiguous() for name, p in _of_published(agent.state_dict()).items()}
    torch.save({name.replace(OWN_NAME, published, 1): p for name, p in state.items()}, path)


def _of_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those weights of an agent that published ones have too."""
    return {name: p for name, p in state.items() if not name.startswith("student.")}


def _with_own_names(path: Path, state: Mapping[str, Tensor], cfg: RunConfig) -> dict[str, Tensor]:
    """The weights under our names. Raises ValueError if the denoiser is of another formulation."""
    published = PUBLISHED_NAMES.get(type(cfg.denoiser), OWN_NAME)
    others = [
        name for name in PUBLISHED_NAMES.values() if name != published and any(key.startswith(name) for key in state)
    ]
    if others:
        raise ValueError(f"{path}: holds weights {others[0]}*, which are not those of --formulation {cfg.formulation}")
    return {name.replace(published, OWN_NAME, 1): p for name, p in state.items()}


def find_official(source: str | Path) -> Path:
    """The file behind a path or a game's name (fetched from the Hub, or from its cache). Raises as load_official."""
    path = Path(source)
    if path.is_file():
        return path
    if path.suffix or len(path.parts) > 1:
        raise FileNotFoundError(f"{source}: no such file")
    if (game := str(source).lower()) in WORLDS:
        place = WORLDS[game]
    else:
        try:
            game = resolve_game(str(source))
        except ValueError as error:
            raise FileNotFoundError(f"{source}: neither a file nor a game ({error})") from None
        place = f"atari_100k/models/{game}.pt"
    from huggingface_hub import hf_hub_download  # slow to import, and seldom needed
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(HUB_REPO, place))
    except LocalEntryNotFoundError:
        raise ConnectionError(f"{game}: the Hub could not be reached; give the path of a downloaded .pt file") from None
    except EntryNotFoundError:
        raise FileNotFoundError(f"{game}: no agent is published for this game") from None


def read_official(path: Path) -> Mapping[str, Tensor]:
    """The state dict in a published file. Runs no code from it. Raises ValueError if it is something else."""
    try:
        state = read_weights(path)
    except ValueError as error:
        raise ValueError(f"{error}: not a published agent") from None
    key = ACTION_WEIGHT if any(name.startswith(TWO_STAGES) for name in state) else NUM_ACTIONS_KEY
    if key not in state:
        raise ValueError(f"{path}: not a published agent: it has no {key}")
    rows = state[key]
    if rows.dim() != 2 or not 1 <= rows.size(0) <= MOST_ACTIONS:  # networks are made for as many
        raise ValueError(
            f"{path}: not a published agent: {key} is {list(rows.shape)}, not a row for each of up to "
            f"{MOST_ACTIONS} actions"
        )
    return state


def read_weights(path: Path) -> Mapping[str, Tensor]:
    """The state dict in a file of weights. Runs no code from it. Raises ValueError if it is something else."""
    state = load_torch_file(path)
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path}: expected names of weights and tensors")
    for name, weight in state.items():
        if not weight.isfinite().all():
            raise ValueError(f"{path}: {name} holds NaN or infinity")
    return state
