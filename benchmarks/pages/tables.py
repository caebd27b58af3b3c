"""Rows as Markdown tables. What is not beyond noise is called undecided."""

from collections.abc import Sequence

from pages.document import Document, Row

PUBLISHED = "as published"


def number(x: float) -> str:
    """Three digits, more if the integer part has more."""
    if abs(x) >= 100:
        return f"{x:,.0f}"
    return f"{x:.3g}"


def figure_cell(row: Row, name: str) -> str:
    """Median and spread of a candidate, or why there is none."""
    figure = row["figures"].get(name)
    if figure is None:
        return "-"
    return f"{number(figure['median'])} ({number(figure['low'])} to {number(figure['high'])})"


def ratio_cell(row: Row, name: str) -> str:
    """How many times faster ours is than a candidate."""
    ratio = row["ratios"].get(name)
    if ratio is None:
        return "-"
    spread = f"{number(ratio['low'])} to {number(ratio['high'])}"
    return f"{number(ratio['ratio'])}x ({spread})" if ratio["decided"] else f"undecided ({spread})"


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    cells = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def case_text(row: Row) -> str:
    return ", ".join(f"{name} {value}" for name, value in row["case"].items())


# --- one table for each stem ----------------------------------------------------------------------------------------


def stem_tables(document: Document) -> list[tuple[str, str]]:
    """Title and table of every stem, in the order of the rows."""
    stems: dict[str, list[Row]] = {}
    for row in document["rows"]:
        stems.setdefault(row["stem"], []).append(row)
    return [(stem, "\n\n".join(_stem_parts(rows))) for stem, rows in stems.items()]


def _stem_parts(rows: list[Row]) -> list[str]:
    if rows[0].get("ladder"):
        return [ladder_table(row) for row in rows]
    parts = [_figures_table(rows)]
    if "floor" in rows[0]:
        parts.append(f"Floor of the first row: {rows[0]['floor']['what']}.")
    left_out: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for left in row["left_out"].items():
            left_out.setdefault(left, []).append(case_text(row))
    if left_out:
        reasons = [f"{name} ({why}) at {'; '.join(cases)}" for (name, why), cases in left_out.items()]
        parts.append("Left out: " + ". ".join(reasons) + ".")
    if any("gpu" in row for row in rows):
        parts.append(_gpu_table(rows))
    return parts


def _figures_table(rows: list[Row]) -> str:
    cases = list(dict.fromkeys(name for row in rows for name in row["case"]))
    names = list(dict.fromkeys(name for row in rows for name in row["figures"]))
    compared = list(dict.fromkeys(name for row in rows for name in row["ratios"]))
    ours = rows[0]["ours"]
    also = list(dict.fromkeys(name for row in rows for name in row.get("also", {})))
    floors = any("floor" in row for row in rows)
    header = [
        *cases,
        *(f"{name}, {rows[0]['unit']}" for name in names),
        *(f"{ours} against {name}" for name in compared),
        *also,
        *(["floor, ms", "share of the floor"] if floors else []),
    ]
    lines = []
    for row in rows:
        line = [str(row["case"].get(name, "")) for name in cases]
        line += [figure_cell(row, name) for name in names]
        line += [ratio_cell(row, name) for name in compared]
        line += [str(row.get("also", {}).get(name, "")) for name in also]
        if floors:
            line += [number(row["floor"]["ms"]), f"{row['floor']['share']:.0%}"] if "floor" in row else ["-", "-"]
        lines.append(line)
    return markdown(header, lines)


def _gpu_table(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        gpu = row.get("gpu", {})
        per_joule = next((f"{number(v)} {k}" for k, v in gpu.items() if k.endswith("per joule")), "not measured")
        peaks = ", ".join(f"{name} {mb:,}" for name, mb in gpu.get("peak_mb", {}).items())
        clocks = f"{gpu.get('clock_mhz_before', '?')} to {gpu.get('clock_mhz_after', '?')}"
        slowed = ", ".join(gpu.get("slowed_by", ["not known"])) or "nothing"
        lines.append([case_text(row), per_joule, str(gpu.get("watts", "-")), peaks, clocks, slowed])
    memory, clocks = "peak memory beyond weights and inputs, MB", "clock before and after, MHz"
    return markdown(["case", "energy", "watts", memory, clocks, "slowed by"], lines)


def ladder_table(row: Row) -> str:
    """One line a technique, each on top of those before it."""
    lines, before, first = [], None, None
    for name, figure in row["figures"].items():
        median = figure["median"]
        first = first or median
        gain = "" if before is None else f"{number(median / before['median'])}x"
        if before is not None and not (figure["low"] > before["high"] or figure["high"] < before["low"]):
            gain = "undecided"
        lines.append([name, figure_cell(row, name), gain, f"{number(median / first)}x"])
        before = figure
    table = markdown(["technique", row["unit"], "by itself", "together"], lines)
    return f"{table}\n\n{case_text(row).capitalize()}."


# --- the README's table ---------------------------------------------------------------------------------------------

HEADLINES: list[tuple[str, dict[str, object], str]] = [
    ("denoiser", {"batch": 1, "steps": 3}, "frames drawn one at a time"),
    ("denoiser", {"batch": 32, "steps": 3}, "frames drawn 32 at a time"),
    ("denoiser", {"batch": 256, "steps": 3}, "frames drawn 256 at a time"),
    ("denoiser, wide network", {}, "frames of 30x56 from a network of 330 million parameters"),
    ("two stages", {"drawn": "both"}, "frames of 150x280 by way of 30x56, as published for Counter-Strike"),
    ("imagined step", {"episodes": 32}, "an imagined step of 32 episodes"),
    ("update", {"model": "denoiser", "batch": 32}, "an update of the denoiser, batch 32"),
    ("update", {"model": "reward_end", "batch": 32}, "an update of the reward/end model, batch 32"),
    ("update", {"model": "actor_critic", "batch": 32}, "an update of the policy, batch 32"),
    ("epoch", {}, "an epoch of the quick preset, games included"),
]


def headline_table(document: Document) -> str | None:
    """Ours against the published way and the strongest rival; None if nothing of it was measured."""
    lines = []
    for title, row in _headlines(document).items():
        others = [name for name in row["ratios"] if name != PUBLISHED]
        against = "; ".join(f"{name}: {ratio_cell(row, name)}" for name in others) or "-"
        share = f"{row['floor']['share']:.0%}" if "floor" in row else "-"
        cells = [figure_cell(row, name) for name in (row["ours"], PUBLISHED)]
        lines.append([title, *cells, ratio_cell(row, PUBLISHED), against, share])
    header = ["", "diamond_fast", PUBLISHED, "times faster", "against others", "share of the floor"]
    return markdown(header, lines) if lines else None


def machines_table(documents: Sequence[Document]) -> str | None:
    """The headlines of several machines beside each other; None if nothing of them was measured."""
    measured = {document["machine"]: _headlines(document) for document in documents}
    titles = list(dict.fromkeys(title for rows in measured.values() for title in rows))
    lines = []
    for title in titles:
        line = [title]
        for rows in measured.values():
            row = rows.get(title)
            line += ["-", "-"] if row is None else [figure_cell(row, row["ours"]), ratio_cell(row, PUBLISHED)]
        lines.append(line)
    header = ["", *(cell for machine in measured for cell in (machine, "times as fast as published"))]
    return markdown(header, lines) if lines else None


def _headlines(document: Document) -> dict[str, Row]:
    """Those of its rows that the README has, by title."""
    found = {}
    for stem, case, title in HEADLINES:
        for row in document["rows"]:
            if row["stem"] != stem or not case.items() <= row["case"].items():
                continue
            if "imagined steps" in row["case"] and row["case"]["imagined steps"] < 15:
                title += f" ({row['case']['imagined steps']} of 15 imagined steps)"
            if row["case"].get("part") == "half":
                title = f"half {title}"
            found[f"{title}, {row['unit']}"] = row
            break
    return found


def not_run_table(document: Document) -> str:
    lines = [[e["benchmark"], str(e["cases"]), e["reason"]] for e in document["not_run"]]
    return markdown(["not run", "cases", "reason"], lines) if lines else "Nothing that was asked for was left out."
