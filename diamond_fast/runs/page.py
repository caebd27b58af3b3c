"""A run's page, ``pictures/index.html``: what it imagines, its curves and its phases. Needs no server."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from diamond_fast.runs.durable import put_when_done
from diamond_fast.runs.folder import IMAGINED, LEARNING_CURVES, PAGE, STRIP, RunFolder
from diamond_fast.runs.metrics import read_metrics
from diamond_fast.runs.progress import duration

CURVES = (
    ("denoiser loss", "denoiser/loss"),
    ("upsampler loss", "upsampler/loss"),
    ("reward/end loss", "reward_end/loss"),
    ("policy entropy (bits)", "actor_critic/policy_entropy_bits"),
    ("return of collected games", "collect/return_mean"),
    ("return of test games", "test/return_mean"),
)
"""Label and figure; drawn if it was logged."""
LOOKS_EVERY = 5.0
"""Seconds after which an open page looks whether there is a newer one."""
VERSION = "version.js"
"""Says which page is the newest: as a script, since a page opened from a disk may read nothing else there."""
WIDTH, HEIGHT = 280, 80  # of a curve, in pixels

STYLE = """
body { margin: 2rem auto; max-width: 70rem; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif; color: #28282c;
  background: #fafaf8; }
img { max-width: 100%; image-rendering: pixelated; }
figure { display: inline-block; margin: 0 1.5rem 1rem 0; }
figcaption, .faint { color: #82828a; }
svg { border-left: 1px solid #c8c8cc; border-bottom: 1px solid #c8c8cc; overflow: visible; }
polyline { fill: none; stroke: #c2410c; stroke-width: 2; }
td { padding: 0 1rem 0 0; }
.bar { height: 0.7rem; background: #1f5fa8; }
"""


def write_page(folder: RunFolder, title: str, ended: bool = False) -> Path:
    """Write the page anew, in one step. It names pictures beside it, so the folder may be moved or sent as a whole.

    Args:
        folder: of the run; its metrics and pictures are shown as far as there are any.
        title: what is learned.
        ended: an open page looks for newer ones, unless the run has ended.

    Returns:
        the page.

    Raises:
        OSError: a file could not be read or written.
    """
    lines = read_metrics(folder.metrics_file) if folder.metrics_file.exists() else []
    folder.pictures.mkdir(exist_ok=True)
    version = str(1 + _version(folder.pictures / VERSION))
    page = folder.pictures / PAGE
    _put(page, _document(title, _body(folder, title, lines, ended), version, ended))
    _put(folder.pictures / VERSION, f"newest = {version};\n")
    return page


def _put(path: Path, text: str) -> None:
    with put_when_done(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _version(path: Path) -> int:
    """Of the newest page; 0 if there is none."""
    try:
        return int(path.read_text(encoding="utf-8").removeprefix("newest = ").removesuffix(";\n"))
    except (OSError, ValueError):
        return 0


def _document(title: str, body: str, version: str, ended: bool) -> str:
    looking = f"""<script>
setInterval(() => {{
  const script = document.createElement("script");
  script.src = "{VERSION}?" + Date.now();
  script.onload = () => {{ script.remove(); if (newest !== {version}) location.reload(); }};
  document.head.append(script);
}}, {LOOKS_EVERY * 1000:.0f});
</script>
"""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
{body}{"" if ended else looking}</body>
</html>
"""


def _body(folder: RunFolder, title: str, lines: Sequence[Mapping[str, Any]], ended: bool) -> str:
    parts = [f"<h1>{escape(title)}</h1>\n<p>{escape(_state(lines, ended))}</p>\n"]
    frames = [path.name for path in sorted(folder.pictures.glob("epoch_*.png"))[-1:]]
    for name, caption in (
        (STRIP, "imagined while training, beside what really happened"),
        (IMAGINED, "the last evaluation, moving"),
        *((name, "the last evaluation") for name in frames),
    ):
        if (path := folder.pictures / name).exists():
            source = f"{name}?{path.stat().st_mtime_ns}"  # a browser keeps pictures of the same name
            parts.append(f'<figure><img src="{source}" alt=""><figcaption>{escape(caption)}</figcaption></figure>\n')
    curves = "".join(curve(label, [line.get(name) for line in lines]) for label, name in CURVES)
    if curves:
        parts.append(f"<h2>Curves, by epoch</h2>\n{curves}")
        if (folder.pictures / LEARNING_CURVES).exists():
            parts.append(f'<p><a href="{LEARNING_CURVES}">By steps and by time, with intervals</a></p>\n')
    return "".join(parts) + _phases(lines)


def _state(lines: Sequence[Mapping[str, Any]], ended: bool) -> str:
    how = "The run has ended." if ended else "The run goes on; this page follows."
    if not lines:
        return f"No epoch is done yet. {how}"
    last = lines[-1]
    return f"{last['epoch']} epochs and {last['env_steps']} real steps in {duration(last['seconds'])}. {how}"


def curve(label: str, values: Sequence[object]) -> str:
    """A figure as a line, as SVG; nothing if it was logged less than once.

    Args:
        values: in the order of epochs; what is no finite number is left out.
    """
    found = [float(v) for v in values if isinstance(v, int | float) and math.isfinite(v)]
    if not found:
        return ""
    low, high = min(found), max(found)
    spread = (high - low) or 1.0
    last = max(len(found) - 1, 1)
    points = " ".join(f"{WIDTH * i / last:.1f},{HEIGHT * (high - value) / spread:.1f}" for i, value in enumerate(found))
    range_of = f"from {found[0]:.3g} to {found[-1]:.3g}"
    return (
        f'<figure><svg width="{WIDTH}" height="{HEIGHT}"><polyline points="{points}"/></svg>'
        f"<figcaption>{escape(label)}, {range_of}</figcaption></figure>\n"
    )


def _phases(lines: Sequence[Mapping[str, Any]]) -> str:
    """What took how long so far."""
    spent: dict[str, float] = {}
    for line in lines:
        for name, value in line.items():
            if name.endswith("/seconds") and isinstance(value, int | float):
                spent[name.removesuffix("/seconds")] = spent.get(name.removesuffix("/seconds"), 0.0) + value
    if not (total := sum(spent.values())):
        return ""
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td>{duration(seconds)}</td><td style="width: 20rem">'
        f'<div class="bar" style="width: {100 * seconds / total:.1f}%"></div></td></tr>\n'
        for name, seconds in sorted(spent.items(), key=lambda item: -item[1])
    )
    return f"<h2>Phases</h2>\n<table>\n{rows}</table>\n"
