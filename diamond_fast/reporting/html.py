"""Pages as one HTML file: pictures inline, tables that sort, nothing loaded from elsewhere."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files


def document(title: str, body: str) -> str:
    """A whole page around HTML."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{_asset("page.css")}</style>
</head>
<body>
<main>
{body}</main>
<script>
{_asset("page.js")}</script>
</body>
</html>
"""


@dataclass(frozen=True)
class Cell:
    """A table's cell: what it shows, as HTML, and what it is sorted by."""

    html: str
    value: float | str | None = None
    attributes: str = ""


def table(
    head: Sequence[tuple[str, str]],
    rows: Sequence[tuple[str, Sequence[Cell]]],
    attributes: str = "",
    column_classes: Sequence[str] | None = None,
) -> str:
    """A sortable table. ``head``: (heading, order at the first press); ``rows``: (class, cells), the first the name."""
    classes = column_classes or [""] * len(head)
    headings = "".join(
        f'<th scope="col" class="{css}" data-first="{first}"><button type="button">{escape(name)}</button></th>'
        for (name, first), css in zip(head, classes, strict=True)
    )
    lines = []
    for css, (name, *cells) in rows:
        first = f'<th scope="row" data-value="{_value(name)}" {name.attributes}>{name.html}</th>'
        others = "".join(f'<td data-value="{_value(c)}" {c.attributes}>{c.html}</td>' for c in cells)
        lines.append(f'<tr class="{css}">{first}{others}</tr>')
    body = "\n".join(lines)
    return (
        f'<div class="scroll"><table class="sortable" {attributes}><thead><tr>{headings}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _value(cell: Cell) -> str:
    return "" if cell.value is None else escape(str(cell.value))


def figure_of(picture: bytes, kind: str, name: str, caption: str = "") -> str:
    """A picture inline.

    Args:
        kind: ``png`` or ``svg+xml``.
        name: what stands in its place if it cannot be shown.
        caption: under it, as HTML.
    """
    under = f"<figcaption>{caption}</figcaption>" if caption else ""
    source = f"data:image/{kind};base64,{b64encode(picture).decode()}"
    return f'<figure><img src="{source}" alt="{name}">{under}</figure>'


def _asset(name: str) -> str:
    return (files("diamond_fast.reporting") / name).read_text(encoding="utf-8")
