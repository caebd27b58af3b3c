"""Trained agents to look at: of a run's checkpoint, a published file, or one from the Hub."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from diamond_fast.config import RunConfig
from diamond_fast.domains.atari.games import resolve_game
from diamond_fast.official import WORLDS, find_official, load_official
from diamond_fast.recording_presets import CSGO
from diamond_fast.runs import checkpoint, demo
from diamond_fast.runs.folder import RunFolder
from diamond_fast.settings import flag
from diamond_fast.spec import Action, Discrete, action_from_json
from diamond_fast.world_model import Agent

ACTION_WEIGHT = "inner_model.act_emb.0.weight"
"""Of the denoiser: a row for each action."""
MAY_BEGIN_ANEW = ("student", "rew_end_model", "actor_critic", "memory.head", "memory.harmony")
"""Networks, and parts of them, that a run can do without: a run that starts from it can therefore bring them itself."""


@dataclass(frozen=True)
class TrainedAgent:
    """An agent on the CPU, and the settings it was trained with (of a published one: the paper's)."""

    agent: Agent
    config: RunConfig
    source: str
    """Where it comes from, for people: a folder and epoch, a file, or a game's name."""
    epoch: int | None = None
    """The run's epoch it is from; None for a published agent."""
    folder: RunFolder | None = None
    """The run's; None for a published agent."""
    weights: Path | None = None
    """File of a published world, beside which its starts may lie."""
    recording: Path | None = None
    """Of games it was not trained on, if it comes with one."""


def load_agent(
    run: Path | None = None,
    file: Path | None = None,
    pretrained: str | None = None,
    game: str | None = None,
    env_id: str | None = None,
) -> TrainedAgent:
    """The agent that exactly one of ``run``, ``file`` and ``pretrained`` names.

    Args:
        run: a run's folder, whose newest whole checkpoint is taken.
        file: a published agent's ``.pt``, or one checkpoint of a run, ``checkpoints/epoch_000012.json``.
        pretrained: a game, whose agent is fetched from the Hub; csgo, a world without one; or demo, the world that
            comes with the package.
        game: what a ``.pt`` plays; needed if its name, such as ``Boxing.pt``, does not say it.
        env_id: the run's environment; needed if its id begins with a module (``RunFolder.read_config``).

    Raises:
        ValueError: not exactly one is given, or there is no agent in it.
        OSError: a file is missing or unreadable, or the Hub could not be reached.
    """
    if sum(source is not None for source in (run, file, pretrained)) != 1:
        raise ValueError("--run, --checkpoint, --pretrained: exactly one of them is needed")
    if game is not None and file is None:
        raise ValueError("--game: only a --checkpoint needs it; the others know their game")
    if run is not None or (file is not None and file.suffix == ".json"):
        return _of_run(run, file, env_id)
    if env_id is not None:
        raise ValueError("--env-id: only a run needs it; published agents play Atari games")
    if pretrained == demo.FOLDER.name:
        agent, config = demo.load_demo()
        return TrainedAgent(agent, config, "the demo", recording=demo.FOLDER / demo.RECORDING)
    if pretrained is not None and pretrained.lower() in WORLDS:
        return _published_world(pretrained.lower())
    if pretrained is not None:
        name = resolve_game(pretrained)
        return TrainedAgent(load_official(name), RunConfig(game=name), f"the published agent for {name}")
    assert file is not None  # as one of the three is given
    if (game or file.stem).lower() in WORLDS:
        return _published_world(file)
    config = RunConfig(game=_game_of(file, game))
    return TrainedAgent(load_official(file), config, str(file))


def _published_world(source: str | Path) -> TrainedAgent:
    """A world model without a policy: a file, or what the Hub has under a name."""
    path = find_official(source)
    return TrainedAgent(load_official(path), CSGO, f"the published world {source}", weights=path)


def _of_run(run: Path | None, manifest: Path | None, env_id: str | None) -> TrainedAgent:
    """The newest whole checkpoint in a run's folder, or the one that this manifest in such a folder is of."""
    if manifest is not None and not manifest.is_file():
        raise FileNotFoundError(f"{manifest}: no such file")
    folder = RunFolder.open(run or Path(str(manifest)).resolve().parent.parent)
    config = folder.read_config(env_id)
    if env_id not in (None, config.env_id):
        raise ValueError(f"--env-id {env_id}: {folder.path} is a run of {config.env_id or config.game}")
    saved = checkpoint.load_latest(folder.checkpoints) if manifest is None else checkpoint.load(manifest)
    agent = Agent(config, saved_action(saved))
    load_weights(agent, config, saved)
    return TrainedAgent(agent, config, f"{folder.path}, epoch {saved.epoch}", saved.epoch, folder)


def agent_of_settings(source: Path, cfg: RunConfig) -> Agent:
    """An agent of these settings that begins with a run's weights. The run's other settings do not matter.

    Args:
        source: a run's folder, whose newest whole checkpoint is taken, or one checkpoint, ``epoch_000012.json``. If it
            is of a world model alone and the settings want a policy, that and the reward/end model begin anew; so does
            a student.

    Raises:
        ValueError: there is no whole checkpoint, or its networks are not those of the settings.
        OSError: a file is missing or unreadable.
    """
    if source.is_dir():
        saved = checkpoint.load_latest(RunFolder.open(source).checkpoints)
    else:
        saved = checkpoint.load(source)
    agent = Agent(cfg, saved_action(saved))
    try:
        load_weights(agent, cfg, saved, "the settings", MAY_BEGIN_ANEW)
    except ValueError as error:
        advice = "give the --preset and the settings of networks that it was trained with"
        raise ValueError(f"--init-from {source}: {error}; {advice}") from None
    return agent


def demo_of_settings(cfg: RunConfig) -> Agent:
    """An agent of these settings that begins with the world model that comes with the package, and with its policy if
    that is of these settings, too. What it lacks begins anew.

    Raises:
        ValueError: its denoiser is not of the settings.
    """
    shipped, made_with = demo.load_demo()
    for name in ("formulation", "network", "memory", "denoiser", "upsampling"):
        if (its := getattr(made_with, name)) != getattr(cfg, name):
            raise ValueError(f"--init-from demo: needs the networks of --preset demo; {flag(name)} differs from {its}")
    agent = Agent(cfg, shipped.spec.action)
    same = {name: net for name, net in shipped.named_children() if getattr(made_with, name) == getattr(cfg, name)}
    copy_weights(agent, {name: net.state_dict() for name, net in same.items()}, MAY_BEGIN_ANEW)
    return agent


def saved_action(saved: checkpoint.Checkpoint) -> Action:
    """What a run's networks can do: said by the checkpoint or, in older ones, by its weights. No environment is needed.

    Raises:
        ValueError: neither says it.
    """
    try:
        if "action" in saved.state:
            return action_from_json(saved.state["action"])
        return Discrete(saved.tensors["denoiser"][ACTION_WEIGHT].size(0))
    except (KeyError, IndexError, TypeError, ValueError):
        raise ValueError(f"the checkpoint of epoch {saved.epoch} does not say what its actions are") from None


def check_actions(who: str, known: Action, cfg: RunConfig, action: Action) -> None:
    """ValueError unless an agent knows the actions of its game."""
    if not known.covers(action):
        both_discrete = isinstance(known, Discrete) and isinstance(action, Discrete)
        knows, has = (f"{known.n} actions", action.n) if both_discrete else (known, action)
        raise ValueError(f"{who} knows {knows}, {cfg.name} has {has}")


def load_weights(
    agent: Agent,
    cfg: RunConfig,
    saved: checkpoint.Checkpoint,
    settings: str = "config.json",
    may_lack: Collection[str] = (),
) -> None:
    """Copy a checkpoint's weights into an agent of these settings, on whatever device.

    Args:
        settings: what ``cfg`` is called when the weights are of other ones.
        may_lack: networks that stay as they are if the checkpoint has none of their weights.

    Raises:
        ValueError: they are of other settings.
    """
    learned = saved.state.get("formulation", RunConfig.formulation)  # older runs had no other
    if learned != cfg.formulation:
        message = f"it was trained with --formulation {learned}, not {cfg.formulation}"
        raise ValueError(f"the checkpoint of epoch {saved.epoch} does not fit {settings}: {message}")
    try:
        copy_weights(agent, saved.tensors, may_lack)
    except ValueError as error:
        raise ValueError(f"the checkpoint of epoch {saved.epoch} does not fit {settings}: {error}") from None


def copy_weights(agent: Agent, weights: Mapping[str, Mapping[str, Tensor]], may_lack: Collection[str] = ()) -> None:
    """Copy networks' weights, by the network's name, into an agent; those of a network that it has not are left out.

    Args:
        may_lack: networks, or parts of them such as ``memory.head``, that stay as they are if there are no weights for
            them. A line says so. Weights of such a part that the agent has not are left out, too.

    Raises:
        ValueError: a network has other weights; it is named.
    """
    lacking = [name for name, _ in agent.named_children() if name in may_lack and name not in weights]
    for name, model in agent.named_children():
        if name in lacking:
            continue
        given, expected = dict(weights.get(name, {})), model.state_dict()
        for part in (part for part in may_lack if part.startswith(f"{name}.")):
            theirs, ours = (_of_part(part.partition(".")[2], own) for own in (given, expected))
            if theirs and not ours:
                given = {key: value for key, value in given.items() if key not in theirs}
            elif ours and not theirs:
                given |= ours
                lacking.append(part)
        if {key: value.shape for key, value in given.items()} != {key: v.shape for key, v in expected.items()}:
            raise ValueError(f"{name} differs")
        model.load_state_dict(given)
    if lacking:
        print(f"New, since there was nothing to start from: {', '.join(lacking)}", flush=True)


def _of_part(part: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in weights.items() if key == part or key.startswith(f"{part}.")}


def _game_of(file: Path, game: str | None) -> str:
    if game is not None:
        return resolve_game(game)
    try:
        return resolve_game(file.stem)
    except ValueError:
        raise ValueError(
            f"--game: {file.name} does not say which game the agent plays; for instance --game Boxing"
        ) from None
