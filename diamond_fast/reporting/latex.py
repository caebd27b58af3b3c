"""The scores as the table of a paper."""

from diamond_fast.reporting.comparison import Comparison, Standing
from diamond_fast.reporting.published import scale

AT_MOST = 6
"""World models next to the report's subject that fit on a page."""
_ESCAPES = str.maketrans({"_": r"\_", "%": r"\%", "&": r"\&", "Δ": r"$\Delta$"})


def games_table(comparison: Comparison) -> str:
    """A ``tabular`` for booktabs: games down; random, human, the best world models by IQM and the subject across."""
    subject = comparison.standing(comparison.subject)
    rivals = [s for s in comparison.standings if s.kind == "world model" and s is not subject]
    diamond = [s for s in rivals if s.name == "DIAMOND"]
    shown = [s for s in rivals if s not in diamond][: AT_MOST - len(diamond)] + diamond + [subject]
    lines = [
        rf"\begin{{tabular}}{{l{'r' * (2 + len(shown))}}}",
        r"\toprule",
        _row("Game", "Random", "Human", *(s.name.translate(_ESCAPES) for s in shown)),
        r"\midrule",
    ]
    for game in comparison.games:
        best = max(s.mean(game) for s in shown)
        scores = (_bold(f"{s.mean(game):.1f}", s.mean(game) == best) for s in shown)
        lines.append(_row(game, f"{scale().random[game]:.1f}", f"{scale().human[game]:.1f}", *scores))
    lines.append(r"\midrule")
    most = max(s.at_human_level for s in shown)
    counts = (_bold(str(s.at_human_level), s.at_human_level == most) for s in shown)
    lines.append(_row(r"At human level ($\uparrow$)", "0", "N/A", *counts))
    lines.append(_aggregate_row(r"Mean ($\uparrow$)", "mean", shown))
    lines.append(_aggregate_row(r"IQM ($\uparrow$)", "iqm", shown))
    lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def _aggregate_row(heading: str, metric: str, shown: list[Standing]) -> str:
    best = max(s.metrics[metric].value for s in shown)
    cells = (_bold(f"{s.metrics[metric].value:.3f}", s.metrics[metric].value == best) for s in shown)
    return _row(heading, "0.000", "1.000", *cells)


def _row(*cells: str) -> str:
    return " & ".join(cells) + r" \\"


def _bold(text: str, best: bool) -> str:
    return rf"\textbf{{{text}}}" if best else text
