"""What an environment does wrong, told as one line that names it."""

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_WANTS_THE_MAIN_THREAD = re.compile(r"main thread|event loop|signal only works|main interpreter", re.IGNORECASE)


class EnvironmentFailedError(RuntimeError):
    """An environment raised, stopped answering, or gave something that is no frame or no reward.

    The message is one line that names the environment and says how to go on if that is known.
    """


@contextmanager
def blamed(name: str, doing: str) -> Iterator[None]:
    """Within, whatever is raised is the environment's doing.

    Args:
        name: of the environment.
        doing: what was asked of it, such as ``reset``.

    Raises:
        EnvironmentFailedError: with the error's kind, its message, and where in which file it was raised.
    """
    try:
        yield
    except EnvironmentFailedError:
        raise
    except (Exception, SystemExit) as error:  # an environment must not end the program in silence
        message = " ".join(str(error).split())
        hint = ""
        if _WANTS_THE_MAIN_THREAD.search(message):
            hint = "; --env-runs-in process (or main) gives it a main thread"
        raise EnvironmentFailedError(
            f"the environment {name} failed in {doing}: {type(error).__name__}{': ' if message else ''}{message}"
            f"{_where(error)}{hint}"
        ) from error


def _where(error: BaseException) -> str:
    """The line that raised, as far from here as the traceback goes."""
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
