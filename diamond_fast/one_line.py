"""What an error says, and how many of something there are, for people."""


def one_line(error: BaseException) -> str:
    """An error's message without line breaks, at most 200 characters; its kind if it has none."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def counted(number: int, noun: str) -> str:
    """``1 game``, ``2 games``."""
    return f"{number} {noun}{'s' * (number != 1)}"
