"""What a run's networks are told about actions."""

from diamond_fast.config import RunConfig
from diamond_fast.replay import Replay
from diamond_fast.replay.fitting import check_fits
from diamond_fast.runs.agents import check_actions, saved_action
from diamond_fast.runs.checkpoint import Checkpoint
from diamond_fast.spec import Action, Discrete
from diamond_fast.world_model import Agent


def find_action(
    cfg: RunConfig, of_game: Action | None, saved: Checkpoint | None, agent: Agent | None, replay: Replay
) -> Action:
    """The game's. Without a game: as ``--num-actions`` says, as the networks know, or as were recorded.

    Args:
        cfg: of the run.
        of_game: what the game says; None if there is none.
        saved: what the run goes on from.
        agent: what it starts from.
        replay: its experience, all of it where it only reads a recording.

    Raises:
        ValueError: the networks know others, or the recording does not fit.
    """
    networks = None if agent is None else agent.spec.action
    if saved is not None:
        networks = saved_action(saved)
    action = of_game or (Discrete(cfg.num_actions) if cfg.num_actions else networks)
    if cfg.static_dataset is not None:
        alone = cfg.world_model_only and cfg.memory == "none"
        least = cfg.denoiser_seq_length if alone else max(cfg.denoiser_seq_length, cfg.reward_end_seq_length)
        if cfg.upsampling > 1:
            least = max(least, cfg.upsampler_seq_length)
        action = check_fits("--static-dataset", cfg.static_dataset, replay, cfg.frame_shape, action, least)
        check_full_frames("--static-dataset", cfg.static_dataset, replay, cfg)
    assert action is not None  # since there is a game or a recording
    if networks is not None:
        check_actions("agent: it", networks, cfg, action)
    return action


def with_names(agent: Agent, cfg: RunConfig, action: Action) -> Agent:
    """The agent, told what the numbers of its actions are called: a published file does not say it."""
    if agent.spec.action == action:
        return agent
    print(f"The agent's {agent.spec.action.n} buttons are those of the recording: {action}", flush=True)
    named = Agent(cfg, action)
    named.load_state_dict(agent.state_dict())
    return named


def check_full_frames(flag: str, path: str, replay: Replay, cfg: RunConfig) -> None:
    """Raises ValueError if there is an upsampler and the recording has no full frames, or not such as it makes."""
    if cfg.upsampling == 1 or replay.full_shape == cfg.full_frame_shape:
        return
    expected = "x".join(map(str, cfg.full_frame_shape))
    have = "has frames of one size" if replay.full_shape is None else f"has {'x'.join(map(str, replay.full_shape))}"
    raise ValueError(
        f"{flag} {path}: {have}, the upsampler makes {expected} (--upsampling {cfg.upsampling} times --frame-size)"
    )
