"""Opens a page in a browser that has a window."""

import webbrowser
from pathlib import PurePath

IN_TERMINAL = ("www-browser", "links", "elinks", "lynx", "w3m")
"""Browsers that would take over the terminal, in which a run goes on."""


def open_page(url: str) -> bool:
    """Whether a browser was told to open it. Where there is none with a window, nothing happens."""
    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return False
    if PurePath(str(getattr(browser, "name", ""))).name in IN_TERMINAL:
        return False
    return browser.open(url)
