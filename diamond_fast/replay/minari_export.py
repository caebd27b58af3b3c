"""Recordings as datasets of Minari, for libraries that learn from those."""

from typing import Any

import numpy as np

from diamond_fast.one_line import one_line
from diamond_fast.replay.buffer import Episode, Replay
from diamond_fast.replay.sources.extra import needed
from diamond_fast.spec import Action, Discrete, MultiBinary


def export_minari(replay: Replay, dataset_id: str, action: Action) -> int:
    """Write a recording as a dataset on this machine, its frames without loss.

    An episode that was closed without an end loses its last step, whose next frame nobody knows, and counts as cut off.

    Args:
        dataset_id: NAME-vN, or with namespaces before it.
        action: of the recording.

    Returns:
        the number of steps written.

    Raises:
        ValueError: Minari is not installed or refuses, for example since there is such a dataset.
    """
    package = needed("minari")
    from gymnasium import spaces

    match action:
        case Discrete(n):
            space: spaces.Space = spaces.Discrete(n)
        case MultiBinary(n):
            space = spaces.MultiBinary(n)
        case _:
            space = spaces.Box(-float("inf"), float("inf"), action.shape, action.dtype.type)
    episodes = [replay.episode(i) for i in range(replay.num_episodes)]
    buffers = [_buffer(package, i, episode) for i, episode in enumerate(e for e in episodes if _steps(e))]
    try:
        package.create_dataset_from_buffers(
            dataset_id,
            buffers,
            observation_space=spaces.Box(0, 255, replay.frame_shape, np.uint8),
            action_space=space,
            jpeg_encoding=False,
        )
    except Exception as error:  # of many kinds, of the name, the file and the disk
        raise ValueError(f"--minari {dataset_id}: cannot be written ({one_line(error)})") from None
    return sum(map(_steps, episodes))


def _steps(episode: Episode) -> int:
    """Those whose next frame is known."""
    return len(episode.act) - (episode.final_obs is None)


def _buffer(package: Any, number: int, episode: Episode) -> Any:
    steps = _steps(episode)
    last = episode.obs[steps] if episode.final_obs is None else episode.final_obs
    trunc = episode.trunc[:steps].copy()
    trunc[-1] |= not episode.end[steps - 1]
    return package.data_collector.EpisodeBuffer(
        number,
        None,
        None,
        [*episode.obs[:steps], last],
        list(episode.act[:steps]),
        episode.rew[:steps].tolist(),
        episode.end[:steps].tolist(),
        trunc.tolist(),
        {},
    )
