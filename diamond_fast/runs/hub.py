"""Runs on the Hugging Face Hub: pushed with a card of their figures, and pulled whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from diamond_fast.one_line import one_line
from diamond_fast.runs import checkpoint
from diamond_fast.runs.folder import RunFolder
from diamond_fast.runs.metrics import read_metrics
from diamond_fast.runs.model_card import LIBRARY, model_card

if TYPE_CHECKING:  # slow to import
    from huggingface_hub import HfApi

PARTS = ("config.json", "config.json.sha256", "metrics.jsonl", "checkpoints/*", "replay/*", "pictures/*")
"""What a run is on the Hub."""
SHOWN = {".png", ".gif"}


def push(run: Path, repo: str, private: bool = False, replay: bool = True) -> str:
    """Put a run's settings, newest whole checkpoint, metrics, pictures and experience into a repository, by one commit.

    The repository is made if it is not there. Checkpoints of earlier pushes are replaced.

    Args:
        run: the run's folder. Nobody may be training in it meanwhile.
        repo: USER/NAME.
        private: if the repository is new, only its owner sees it.
        replay: whether the real experience comes along, which imagined episodes start from and training goes on with.

    Returns:
        the commit's address.

    Raises:
        ValueError: there is no whole run, it is in use, or the name is none.
        OSError: the Hub refused or cannot be reached.
    """
    folder = RunFolder.open(run)
    with folder.lock():
        cfg = folder.read_config(folder.read_settings().get("env_id"))  # its own maker reads it
        epoch = checkpoint.load_latest(folder.checkpoints).epoch
        files = [folder.config_file, folder.config_checksum_file, folder.metrics_file]
        files += [*checkpoint.files_of(folder.checkpoints, epoch), *_below(folder.pictures)]
        files += _below(folder.replay) if replay else []
        paths = {file.relative_to(folder.path).as_posix(): file for file in files if file.is_file()}
        shown = sorted(path for path in paths if Path(path).suffix in SHOWN)
        metrics = read_metrics(folder.metrics_file) if folder.metrics_file.exists() else []
        card = model_card(cfg, epoch, metrics, repo, shown)
        with _hub(repo) as api:
            from huggingface_hub import CommitOperationAdd, CommitOperationDelete

            api.create_repo(repo, private=private, exist_ok=True)
            there = api.list_repo_files(repo)
            old = [path for path in there if path.startswith("checkpoints/") and path not in paths]
            commit = api.create_commit(
                repo,
                operations=[
                    CommitOperationAdd("README.md", card.encode()),
                    *(CommitOperationAdd(path, str(file)) for path, file in paths.items()),
                    *(CommitOperationDelete(path) for path in old),
                ],
                commit_message=f"Epoch {epoch}",
            )
            return str(commit.commit_url)


def pull(repo: str, out: Path, revision: str | None = None) -> int:
    """Fetch a run into a new folder. Nothing of it is executed.

    Args:
        repo: USER/NAME.
        out: the folder; it must not be there.
        revision: a branch, tag or commit.

    Returns:
        the epoch of its newest checkpoint.

    Raises:
        ValueError: ``out`` is there, the repository or revision is not, or it holds no whole run.
        OSError: the Hub cannot be reached, or the disk refused.
    """
    if out.exists():
        raise ValueError(f"--out {out}: is there already; name a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        fetched = Path(scratch) / out.name
        with _hub(repo) as api:
            api.snapshot_download(repo, revision=revision, local_dir=fetched, allow_patterns=list(PARTS))
        shutil.rmtree(fetched / ".cache", ignore_errors=True)  # huggingface_hub's own notes
        try:
            folder = RunFolder.open(fetched)
            folder.read_settings()
            epoch = int(checkpoint.load_latest(folder.checkpoints).epoch)
        except (ValueError, OSError) as error:
            raise ValueError(f"{repo}: holds no whole run: {str(error).replace(f'{fetched}/', '')}") from error
        for part in (folder.checkpoints, folder.replay, folder.pictures):
            part.mkdir(exist_ok=True)
        fetched.rename(out)
    return epoch


def _below(folder: Path) -> list[Path]:
    """Files, but none that links would have somebody else's pushed."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


@contextmanager
def _hub(repo: str) -> Iterator["HfApi"]:
    """Its interface; what it raises becomes a ValueError or an OSError of one line."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalTokenNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    transport = HfHubHTTPError.__bases__[0]  # errors of whichever HTTP library it is made with
    try:
        yield HfApi(library_name=LIBRARY)
    except HFValidationError as error:
        raise ValueError(f"--repo {repo}: {one_line(error)}") from None
    except RevisionNotFoundError:
        raise ValueError(f"{repo}: has no such revision") from None
    except RepositoryNotFoundError:
        raise ValueError(f"{repo}: there is no such repository, or your token may not see it") from None
    except LocalTokenNotFoundError:
        raise ValueError("the Hub wants a token: hf auth login, or the environment variable HF_TOKEN") from None
    except HfHubHTTPError as error:
        raise ConnectionError(f"the Hub refused: {one_line(error)}") from None
    except Exception as error:
        if not isinstance(error, transport):
            raise
        raise ConnectionError(f"the Hub could not be reached: {one_line(error) or type(error).__name__}") from None
