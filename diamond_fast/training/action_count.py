"""How many actions a run's networks know."""

from diamond_fast.config import RunConfig
from diamond_fast.replay import Replay
from diamond_fast.replay.fitting import check_fits
from diamond_fast.runs.agents import check_actions, num_actions_of
from diamond_fast.runs.checkpoint import Checkpoint
from diamond_fast.spec import Discrete
from diamond_fast.world_model import Agent


def count_actions(
    cfg: RunConfig, of_game: int | None, saved: Checkpoint | None, agent: Agent | None, replay: Replay
) -> int:
    """As many as the game has. Without a game: as ``--num-actions`` says, as the networks know, or as were recorded.

    Args:
        cfg: of the run.
        of_game: what the game says; None if there is none.
        saved: what the run goes on from.
        agent: what it starts from.
        replay: its experience, all of it if it only reads a recording.

    Raises:
        ValueError: the networks know another number, or the recording does not fit.
    """
    networks = None if agent is None else agent.actor_critic.num_actions
    if saved is not None:
        networks = num_actions_of(saved)
    count = of_game or cfg.num_actions or networks
    if cfg.static_dataset is not None:
        least = max(cfg.denoiser_seq_length, cfg.reward_end_seq_length)
        known = None if count is None else Discrete(count)
        action = check_fits("--static-dataset", cfg.static_dataset, replay, cfg.frame_shape, known, least)
        if not isinstance(action, Discrete):
            where = f"--static-dataset {cfg.static_dataset}"
            raise ValueError(f"{where}: its actions are {action}, the networks take numbers")
        count = action.n
    assert count is not None  # since there is a game or a recording
    if networks is not None:
        check_actions("agent: it", networks, cfg, count)
    return count
