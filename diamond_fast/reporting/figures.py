"""The report's pictures. The only module of the report that needs matplotlib."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from diamond_fast.domains.atari.games import ATARI_100K
from diamond_fast.drawing import Axes, Figure, Line2D, MaxNLocator, rc_context
from diamond_fast.reporting.comparison import OURS, THRESHOLDS, Comparison, Estimate, Standing
from diamond_fast.reporting.own_runs import OwnRun, by_game
from diamond_fast.reporting.published import published_agents, scale
from diamond_fast.reporting.statistics import interval_of_mean

INK, FAINT, RULE = "#22262e", "#6b7280", "#e3e6ea"
OURS_COLOUR, DIAMOND_COLOUR = "#d6336c", "#1864ab"
KIND_COLOUR = {"world model": "#5c7c99", "model-free or search": "#a8a29e"}
PROFILE_COLOURS = (
    "#0ca678", "#e8890c", "#7048e8", "#a0522d", "#12a5c4", "#94b816", "#343a40", "#5f6b7a", "#c9a227", "#7f8fa9",
    "#b0a79f",
)  # fmt: skip
STYLE: dict[Any, Any] = {
    "font.size": 10.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#b8bec7",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "legend.frameon": False,
    "svg.hashsalt": "diamond_fast",  # the same page for the same figures
}
HUMAN: dict[str, Any] = {"color": FAINT, "lw": 1, "ls": (0, (4, 3)), "zorder": 1}
RANDOM = HUMAN | {"ls": (0, (1, 2))}
PANELS = (("mean", "Mean"), ("median", "Median"), ("iqm", "Interquartile mean"), ("optimality_gap", "Optimality gap"))


def draw_all(comparison: Comparison) -> dict[str, Figure]:
    """The pictures by name, in the order in which they are shown."""
    with rc_context(STYLE):
        figures = {
            "aggregates": aggregates(comparison),
            "profiles": profiles(comparison),
            "improvement": improvement(comparison),
            "games": games(comparison),
        }
        if any(len(run.returns) for run in comparison.runs):
            figures["curves"] = curves(comparison.runs)
    return figures


def as_png(figure: Figure) -> bytes:
    """160 pixels per inch."""
    return _saved(figure, format="png", dpi=160)


def as_svg(figure: Figure) -> bytes:
    """Text drawn as outlines, so that it looks the same everywhere."""
    return _saved(figure, format="svg", metadata={"Date": None})


def aggregates(comparison: Comparison) -> Figure:
    """Mean, median, IQM and optimality gap of every agent, with intervals if there are runs."""
    standings = comparison.standings
    figure = Figure(figsize=(11.5, 1.5 + 0.29 * len(standings)), layout="constrained")
    axes = figure.subplots(1, len(PANELS), sharey=True)
    rows = _rows(standings)
    for ax, (metric, title) in zip(axes, PANELS, strict=True):
        for standing, row in zip(standings, rows, strict=True):
            estimate, colour = standing.metrics[metric], _colour(standing)
            if estimate.low is not None:
                _bar(ax, estimate, row, colour)
            else:
                face = colour if standing.has_runs else "white"
                ax.plot(estimate.value, row, "o", ms=6, mfc=face, mec=colour, mew=1.6)
        best = "lower is better" if metric == "optimality_gap" else "higher is better"
        ax.set_title(title, loc="left")
        ax.set_xlabel(best, fontsize=9, color=FAINT)
        if metric != "optimality_gap":
            ax.axvline(1, **HUMAN)
        left, right = ax.get_xlim()
        ax.set_xlim(min(left, -0.03 * right), right)
        ax.xaxis.set_major_locator(MaxNLocator(5))
        _bare_rows(ax)
    _name_rows(axes[0], standings, rows)
    ring: dict[str, Any] = {"marker": "o", "ms": 6, "mfc": "white", "mew": 1.6}
    handles = [
        Line2D([], [], color=FAINT, lw=7, alpha=0.4, label="95 % interval, runs resampled within games"),
        Line2D([], [], color=FAINT, lw=0, **ring, label="from published means only"),
        Line2D([], [], **HUMAN, label="human"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9, labelcolor=FAINT)
    _title(figure, f"Human-normalised scores, {_over(comparison)}")
    return figure


def profiles(comparison: Comparison) -> Figure:
    """The share of runs above each score."""
    figure = Figure(figsize=(11.5, 5.2), layout="constrained")
    ax = figure.subplots()
    shown = [s for s in comparison.standings if s.profile is not None]
    others = iter(PROFILE_COLOURS)
    for standing in shown:
        stressed = standing.name in (OURS, "DIAMOND")
        colour = _colour(standing) if stressed else next(others)
        profile = standing.profile
        assert profile is not None
        front = {OURS: 4, "DIAMOND": 3}.get(standing.name, 2)
        style = "-" if standing.kind != "model-free or search" else (0, (3, 2))
        ax.plot(THRESHOLDS, profile.value, color=colour, lw=2.8 if stressed else 1.4, ls=style, label=standing.name,
                zorder=front, drawstyle="steps-post")  # fmt: skip
        if stressed and profile.low is not None and profile.high is not None:
            ax.fill_between(THRESHOLDS, profile.low, profile.high, color=colour, alpha=0.16, lw=0, step="post")
    ax.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0)), np.square))
    ax.set_xlim(0, 8)
    ax.set_ylim(0, 1.0)
    ticks = (0, 0.1, 0.25, 0.5, 1, 2, 3, 4, 6, 8)
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.axvline(1, **HUMAN)
    ax.text(0.99, 0.015, "human", color=FAINT, fontsize=9, ha="right")
    ax.set_xlabel("human-normalised score τ (square-root scale)")
    ax.set_ylabel("share of runs above τ")
    figure.legend(loc="outside right upper", fontsize=9.5)
    _title(figure, f"Share of runs above each score, {_over(comparison)}")
    return figure


def improvement(comparison: Comparison) -> Figure:
    """How probably the report's subject beats each other agent."""
    rivals = [s for s in comparison.standings if s.improvement is not None]
    figure = Figure(figsize=(11.5, 1.5 + 0.27 * len(rivals)), layout="constrained")
    ax = figure.subplots()
    colour = _colour(comparison.standing(comparison.subject))
    rows = _rows(rivals)
    for standing, row in zip(rivals, rows, strict=True):
        estimate = standing.improvement
        assert estimate is not None
        _bar(ax, estimate, row, colour)
        ax.text(1.01, row, f"{estimate.value:.2f}", va="center", fontsize=9.5, transform=ax.get_yaxis_transform())
    ax.axvline(0.5, **HUMAN)
    ax.set_xlim(0, 1)
    _bare_rows(ax)
    ax.set_xlabel(f"probability that a run of {comparison.subject} beats one of the agent on the left, mean over games")
    _name_rows(ax, rivals, rows)
    _title(figure, f"{comparison.subject} against each agent, {_over(comparison)}")
    return figure


def games(comparison: Comparison) -> Figure:
    """Every run of the subject, game by game, before the spread of the world models' means."""
    subject = comparison.standing(comparison.subject)
    diamond = comparison.standing("DIAMOND")
    rivals = [s for s in comparison.standings if s.kind == "world model" and s is not subject]
    order = sorted(comparison.games, key=subject.normalised)
    figure = Figure(figsize=(11.5, 1.6 + 0.27 * len(order)), layout="constrained")
    ax = figure.subplots()
    for row, game in enumerate(order):
        means = [s.normalised(game) for s in rivals]
        ax.plot([min(means), max(means)], [row, row], color=RULE, lw=9, solid_capstyle="round", zorder=1)
        ax.plot(means, [row] * len(means), "|", color="#8f98a5", ms=8, mew=1.2, zorder=2)
        if subject is not diamond:
            _dots(ax, diamond, game, row)
        _dots(ax, subject, game, row)
    ax.set_xscale("symlog", linthresh=0.1, linscale=0.6)
    ax.set_yticks(range(len(order)), order, color=INK)
    ax.set_ylim(-0.7, len(order) - 0.3)
    _bare_rows(ax)
    ticks = (-0.1, 0, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20)
    left, right = ax.get_xlim()
    left = min(left, 0.8 * left)
    shown = [t for t in ticks if left <= t <= right]
    ax.set_xticks(shown, [f"{t:g}" for t in shown])
    ax.xaxis.minorticks_off()
    ax.axvline(1, **HUMAN)
    ax.axvline(0, **RANDOM)
    ax.set_xlim(left, right)
    ax.set_xlabel("human-normalised score (linear below 0.1, logarithmic above); dotted: random, dashed: human")
    named = [subject] if subject is diamond else [subject, diamond]
    dot: dict[str, Any] = {"marker": "o", "ms": 7, "lw": 0, "alpha": 0.8}
    handles = [Line2D([], [], color=_colour(s), **dot, label=f"{s.name}: each run, line at the mean") for s in named]
    handles.append(Line2D([], [], color="#8f98a5", marker="|", ms=8, lw=0, label="means of the other world models"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9)
    _title(figure, f"Every run of {subject.name}, game by game")
    return figure


def curves(runs: Sequence[OwnRun]) -> Figure:
    """Test returns by real steps (left) and by hours of training (right), a row of panels per game."""
    played = {game: seeds for game, seeds in by_game(runs).items() if any(len(run.returns) for run in seeds)}
    figure = Figure(figsize=(11.5, 0.7 + 2.7 * len(played)), layout="constrained")
    axes = figure.subplots(len(played), 2, squeeze=False, sharey="row")
    for (game, seeds), (by_steps, by_hours) in zip(played.items(), axes, strict=True):
        evaluated = [run for run in seeds if len(run.returns)]
        _curve_panel(by_steps, evaluated, game, [run.steps for run in evaluated])
        _curve_panel(by_hours, evaluated, game, [run.hours for run in evaluated])
        by_steps.set_title(game, loc="left")
        by_steps.set_ylabel("test return")
    for ax, label in zip(axes[-1], ("real steps", "hours of training"), strict=True):
        ax.set_xlabel(label)
    return figure


def _curve_panel(ax: Axes, seeds: Sequence[OwnRun], game: str, xs: Sequence[np.ndarray]) -> None:
    for run, x in zip(seeds, xs, strict=True):
        ax.plot(x, run.returns, color=OURS_COLOUR, lw=1.1, alpha=0.45, marker="o", ms=4 if len(x) < 20 else 2.5, mew=0)
        if run.finished:
            ax.plot(x[-1], run.returns[-1], "o", ms=6.5, mfc="white", mec=OURS_COLOUR, mew=1.8, zorder=4)
    if len(seeds) > 1:
        start, end = max(x[0] for x in xs), min(x[-1] for x in xs)
        if start < end:
            grid = np.linspace(start, end, 200)
            each = np.stack([np.interp(grid, x, run.returns) for run, x in zip(seeds, xs, strict=True)])
            ax.fill_between(grid, *interval_of_mean(each), color=OURS_COLOUR, alpha=0.14, lw=0)
            ax.plot(grid, each.mean(0), color=OURS_COLOUR, lw=2.6)
    if game in ATARI_100K:
        _draw_references(ax, game)
    ax.set_xlim(left=0)
    ax.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k" if x >= 1000 else f"{x:g}")


def _draw_references(ax: Axes, game: str) -> None:
    """Lines at the scores of random play, of DIAMOND and of a human, unless that would flatten the curves."""
    diamond = next(agent for agent in published_agents() if agent.name == "DIAMOND")
    random, human, published = scale().random[game], scale().human[game], float(np.mean(diamond.scores[game]))
    place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "fontsize": 8.5}
    ax.axhline(random, **RANDOM)
    ax.annotate("random", (1, random), (-3, 2), ha="right", color=FAINT, **place)
    ax.axhline(published, color=DIAMOND_COLOUR, lw=1.1, ls=(0, (6, 2)), zorder=1)
    ax.annotate("DIAMOND", (0, published), (4, 2), color=DIAMOND_COLOUR, **place)
    bottom, top = ax.get_ylim()
    if human < top + 0.5 * (top - bottom):
        ax.axhline(human, **HUMAN)
        ax.annotate("human", (1, human), (-3, 2), ha="right", color=FAINT, **place)
    else:
        ax.annotate(f"human: {human:g} ↑", (1, 1), (-3, -10), xycoords="axes fraction", textcoords="offset points",
                    ha="right", color=FAINT, fontsize=8.5)  # fmt: skip


def _dots(ax: Axes, standing: Standing, game: str, row: float) -> None:
    scores = [scale().normalised(game, score) for score in standing.scores[game]]
    colour = _colour(standing)
    ax.plot(scores, [row] * len(scores), "o", color=colour, ms=5.5, mew=0, alpha=0.6, zorder=3)
    _mark(ax, standing.normalised(game), row, colour)


def _mark(ax: Axes, value: float, row: float, colour: str) -> None:
    ax.plot([value] * 2, [row - 0.31, row + 0.31], color=colour, lw=2.4, solid_capstyle="butt", zorder=4)


def _bar(ax: Axes, estimate: Estimate, row: float, colour: str) -> None:
    """A mark at the value, over its interval if there is one."""
    if estimate.low is not None and estimate.high is not None:
        ax.barh(row, estimate.high - estimate.low, 0.62, estimate.low, color=colour, alpha=0.36, lw=0)
    _mark(ax, estimate.value, row, colour)


def _bare_rows(ax: Axes) -> None:
    """Rows need neither ticks nor lines between them."""
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)


def _title(figure: Figure, text: str) -> None:
    figure.suptitle(text, x=0.01, ha="left", fontsize=13, weight="bold")


def _rows(standings: Sequence[Standing]) -> list[float]:
    """Heights from the top down, with a gap where the kind changes."""
    rows, row = [], 0.0
    for i, standing in enumerate(standings):
        if i and standing.kind != standings[i - 1].kind:
            row -= 0.5
        rows.append(row)
        row -= 1
    return rows


def _name_rows(ax: Axes, standings: Sequence[Standing], rows: Sequence[float]) -> None:
    ax.set_yticks(rows, [standing.name for standing in standings])
    ax.set_ylim(rows[-1] - 0.6, 0.6)
    for label, standing in zip(ax.get_yticklabels(), standings, strict=True):
        label.set_color(_colour(standing) if standing.name in (OURS, "DIAMOND") else INK)
        label.set_fontweight("bold" if standing.name in (OURS, "DIAMOND") else "normal")


def _colour(standing: Standing) -> str:
    return {OURS: OURS_COLOUR, "DIAMOND": DIAMOND_COLOUR}.get(standing.name) or KIND_COLOUR[standing.kind]


def _over(comparison: Comparison) -> str:
    count = len(comparison.games)
    if comparison.games == ATARI_100K:
        return "all 26 games of Atari 100k"
    return comparison.games[0] if count == 1 else f"{count} of the 26 games of Atari 100k"


def _saved(figure: Figure, **options: Any) -> bytes:
    file = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(file, facecolor="white", **options)
    return file.getvalue()
