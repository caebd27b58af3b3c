"""``python -m diamond_fast.hub``: pushes a run to the Hugging Face Hub, and pulls one from there."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg, subcommand

from diamond_fast.cli import parse, user_errors
from diamond_fast.runs.output import lasting_output

PROGRAM = "python -m diamond_fast.hub"


@dataclass(frozen=True)
class Push:
    """Put a run into a repository by one commit: settings, newest checkpoint, metrics, pictures, real experience, and a
    model card made of its figures. The token is that of `hf auth login`, or HF_TOKEN."""

    run: Positional[Path]
    """The run's folder; nobody may be training in it."""
    repo: Annotated[str, arg(metavar="USER/NAME")]
    """This repository is made if it is not there."""
    private: FlagCreatePairsOff[bool] = False
    """If the repository is new, only its owner sees it."""
    without_replay: FlagCreatePairsOff[bool] = False
    """Leave out the real experience: playing then collects some at random, and training cannot be resumed."""


@dataclass(frozen=True)
class Pull:
    """Fetch a run into a new folder, which play, evaluate and train --resume then take."""

    repo: Positional[str]
    """USER/NAME."""
    out: Annotated[Path, arg(metavar="DIR")]
    """This is the new folder."""
    revision: Annotated[str | None, arg(metavar="BRANCH|TAG|COMMIT")] = None
    """Take this state of the repository instead of its newest."""


@dataclass(frozen=True)
class HubArgs:
    """Share a run on the Hugging Face Hub, and fetch one.

    python -m diamond_fast.hub push runs/Boxing-20260101-120000-seed0 --repo user/boxing
    python -m diamond_fast.hub pull user/boxing --out runs/boxing
    """

    command: Annotated[
        Annotated[Push, subcommand("push")] | Annotated[Pull, subcommand("pull")],
        arg(name=""),
    ]


@lasting_output()
def main(argv: Sequence[str] | None = None) -> None:
    command = parse(HubArgs, argv, prog=PROGRAM).command
    with user_errors():
        from diamond_fast.runs import hub  # imports torch, which is slow, and --help needs none of it

        match command:
            case Push():
                print(f"Pushed: {hub.push(command.run, command.repo, command.private, not command.without_replay)}")
            case Pull():
                epoch = hub.pull(command.repo, command.out, command.revision)
                print(f"Pulled: {command.out}, epoch {epoch}; python -m diamond_fast.play --run {command.out}")


if __name__ == "__main__":
    main()
