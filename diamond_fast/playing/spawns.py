"""Where play in the published world of Counter-Strike begins: folders of a few frames in both sizes, and actions.

Each holds ``low_res.npy`` uint8 [T,3,h,w], ``full_res.npy`` uint8 [T,3,H,W], ``act.npy`` uint8 [T,n] and perhaps
``next_act.npy`` uint8 [T',n]: what was done afterwards.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from diamond_fast.config import RunConfig
from diamond_fast.official import HUB_REPO
from diamond_fast.replay import Replay, load_recording
from diamond_fast.replay.buffer import Episode
from diamond_fast.replay.recording import write_recording
from diamond_fast.spec import Action

NUM_PUBLISHED = 7
_FILES = ("low_res.npy", "full_res.npy", "act.npy")
_FOLLOWING = "next_act.npy"


def load_spawns(weights: Path, cfg: RunConfig, action: Action) -> tuple[Replay, dict[int, np.ndarray]]:
    """The starts that lie beside a file of weights as on the Hub (``../spawn``), or else those that are there;
    and by number, the actions that follow.

    Raises:
        ValueError: an array is not of that kind and shape; the message names the file.
        ConnectionError: there are none here, and the Hub could not be reached.
    """
    folder = weights.resolve().parent.parent / "spawn"
    spawns = sorted(path for path in folder.glob("*") if (path / _FILES[0]).is_file()) or _fetched(folder)
    episodes = [_read(spawn, cfg, action) for spawn in spawns]
    with TemporaryDirectory() as temporary:  # the frames of an opened recording stay
        write_recording(Path(temporary) / "spawns", episodes, action, full_size=True)
        replay = load_recording(Path(temporary) / "spawns")
    return replay, {i: _following(spawn / _FOLLOWING, action) for i, spawn in enumerate(spawns)}


def _fetched(folder: Path) -> list[Path]:
    from huggingface_hub import hf_hub_download  # slow to import, and seldom needed
    from huggingface_hub.errors import LocalEntryNotFoundError

    spawns = []
    try:
        for number in range(NUM_PUBLISHED):
            files = [Path(hf_hub_download(HUB_REPO, f"csgo/spawn/{number}/{name}")) for name in (*_FILES, _FOLLOWING)]
            spawns.append(files[0].parent)
        return spawns
    except LocalEntryNotFoundError:
        raise ConnectionError(f"csgo: no starts in {folder}, and the Hub could not be reached") from None


def _read(spawn: Path, cfg: RunConfig, action: Action) -> Episode:
    small, full, act = (_array(spawn / name) for name in _FILES)
    shapes = zip(_FILES, (small, full, act), (cfg.frame_shape, cfg.full_frame_shape, action.shape), strict=True)
    for name, array, shape in shapes:
        height_last = shape[2:] + shape[:2]  # frames are stored channels first
        expected = (len(act), *height_last)
        if array.dtype != np.uint8 or array.shape != expected:
            raise ValueError(f"{spawn / name}: expected uint8 {list(expected)}, got {array.dtype} {list(array.shape)}")
    if len(act) < cfg.denoiser.inner_model.num_steps_conditioning:
        raise ValueError(f"{spawn}: has {len(act)} frames, fewer than the model looks back")
    never = np.zeros(len(act), bool)
    small, full = (frames.transpose(0, 2, 3, 1) for frames in (small, full))
    return Episode(small, act, np.zeros(len(act), np.float32), never, never, None, full)


def _following(path: Path, action: Action) -> np.ndarray:
    """[T',n] of the action's dtype."""
    if not path.is_file():
        return np.zeros((0, *action.shape), action.dtype)
    acts = _array(path)
    if reason := action.why_not(acts):
        raise ValueError(f"{path}: {reason}")
    return acts.astype(action.dtype)


def _array(path: Path) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: no .npy file ({error})") from None
    if array.ndim == 0:
        raise ValueError(f"{path}: expected an array of several steps")
    return array
