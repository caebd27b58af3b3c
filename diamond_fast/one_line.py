"""What an error says, for people."""


def one_line(error: BaseException) -> str:
    """An error's message without line breaks, at most 200 characters; its kind if it has none."""
    return " ".join(str(error).split())[:200] or type(error).__name__
