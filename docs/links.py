"""For the site: what lies outside of docs/ is linked to where the repository is."""

import re


def on_page_markdown(markdown: str, page, config, files) -> str:
    """``](../examples/own_game.py)`` -> ``](https://.../examples/own_game.py)``; mkdocs calls it for every page."""
    return re.sub(r"\]\(\.\./([^)]+)\)", rf"]({config.repo_url.rstrip('/')}/blob/main/\1)", markdown)
