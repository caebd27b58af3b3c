"""What changed between two documents beyond noise."""

from pages.document import Document, row_key
from pages.figures import figure_from_json
from pages.tables import case_text, number


def compare(before: Document, after: Document) -> list[str]:
    """A line for every figure whose spreads have nothing in common, how many were alike, which are new or gone.

    Machines, versions and efforts that differ come first: then it may not be the code that changed.
    """
    lines = [
        f"{name} differs: {before[name]} and {after[name]}"
        for name in ("machine", "software", "effort", "threads")
        if before[name] != after[name]
    ]
    old, new = (
        {(*row_key(row), name): (row, f) for row in document["rows"] for name, f in row["figures"].items()}
        for document in (before, after)
    )
    alike = 0
    for key in old.keys() & new.keys():
        (row, a), (_, b) = old[key], new[key]
        a, b = figure_from_json(a), figure_from_json(b)
        if not a.apart_from(b):
            alike += 1
            continue
        faster = (b.median > a.median) == row["higher_is_better"]
        times = b.median / a.median if row["higher_is_better"] else a.median / b.median
        verdict = f"{number(times)} times as fast" if faster else f"slower: {number(times)} times as fast"
        what = " | ".join(part for part in (row["stem"], case_text(row), key[2]) if part)
        lines.append(f"{what}: {number(a.median)} -> {number(b.median)} {row['unit']}, {verdict}")
    lines.sort()
    lines.append(f"no change beyond noise: {alike} of {len(old.keys() & new.keys())} figures")
    for title, only in (
        ("only in the first", old.keys() - new.keys()),
        ("only in the second", new.keys() - old.keys()),
    ):
        if only:
            lines.append(f"{title}: {len(only)} figures of {', '.join(sorted({key[0] for key in only}))}")
    return lines
