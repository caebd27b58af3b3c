"""Matplotlib for pictures that go into files: figures without pyplot, so no backend, display or window takes part.

Everything here that draws imports matplotlib from this module.
"""

import os
import sys
from contextlib import suppress


def _import_matplotlib() -> None:
    """Import matplotlib whatever backend ``MPLBACKEND`` names.

    A program started from a notebook inherits the notebook's, which need not be installed for this Python: then even
    importing matplotlib fails. A backend that is installed stays chosen, for others in this process.
    """
    if "matplotlib" in sys.modules:
        return
    named = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if named is not None:
            os.environ["MPLBACKEND"] = named
    if named is not None:
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = named


_import_matplotlib()

from matplotlib import rc_context  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402
from matplotlib.ticker import MaxNLocator, NullFormatter  # noqa: E402

__all__ = ["Axes", "Figure", "Line2D", "MaxNLocator", "NullFormatter", "Rectangle", "rc_context"]
