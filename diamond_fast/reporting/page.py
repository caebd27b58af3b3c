"""The report as one HTML file: pictures inline, tables that sort, nothing loaded from elsewhere."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from diamond_fast.domains.atari.games import ATARI_100K
from diamond_fast.reporting.comparison import OURS, Comparison, Estimate, Standing
from diamond_fast.reporting.html import Cell, document, figure_of, table
from diamond_fast.reporting.latex import games_table
from diamond_fast.reporting.own_runs import OwnRun
from diamond_fast.reporting.published import published_agents, published_aggregates, scale, scale_sources
from diamond_fast.reporting.statistics import FEWEST_SAMPLES, MOST_SAMPLES
from diamond_fast.runs.progress import duration

CAPTIONS = {
    "aggregates": "Bars are 95 % intervals of a bootstrap that resamples the runs within each game. Circles stand for "
    "agents of which only means over runs are published: no interval can be had, and their interquartile mean is one "
    "over games instead of runs, which tends to come out higher.",
    "profiles": "How many runs, over all games, score above τ. The higher a curve, the better; shaded: 95 % intervals. "
    "Agents of which only means are published are left out. Dashed: model-free.",
    "improvement": "Probability that a run of one agent beats a run of another on the same game, a tie counting half, "
    "averaged over games; 95 % intervals. Agents of which only means are published are left out.",
    "games": "",
    "curves": "Thin: each run's test returns, over a few games and so noisy; thick: the mean over runs, as far as all "
    "have come; shaded: its 95 % interval of a bootstrap that resamples the runs. Rings: the final evaluation. Hours "
    "count training with its evaluations, without pauses.",
}
METRIC_HEADINGS = {"mean": "Mean", "median": "Median", "iqm": "IQM", "optimality_gap": "Optimality gap"}


def render(comparison: Comparison, svgs: Mapping[str, bytes]) -> str:
    """The whole page.

    Args:
        comparison: what to show.
        svgs: pictures by name, as drawn by ``figures.draw_all``.
    """
    figure = {name: figure_of(svg, "svg+xml", name, CAPTIONS[name]) for name, svg in svgs.items()}
    title = "diamond_fast on Atari 100k" if comparison.has_ours else "Atari 100k: the published agents"
    curves = f"<h2>Learning curves</h2>{figure['curves']}" if "curves" in figure else ""
    runs = f"<h2>Runs</h2>{_runs_table(comparison.runs)}{curves}" if comparison.runs else ""
    return document(
        title,
        f"""<h1>{title}</h1>
<p class="faint">Human-normalised scores: 0 is random play, 1 is a human tester.
Statistics as recommended by Agarwal et al. 2021.</p>
<ul class="remarks">{"".join(f"<li>{escape(remark)}</li>" for remark in comparison.remarks)}</ul>
{figure["aggregates"]}
<h2>Standings</h2>
<p class="note">Press a heading to sort. Bold: best point estimate of the column.</p>
{_standings_table(comparison)}
<h2>Performance profiles</h2>
{figure["profiles"]}
<h2>Probability of improvement</h2>
{figure["improvement"]}
<h2>Game by game</h2>
{figure["games"]}
<div class="switch">
<label><input type="radio" name="scale" value="raw" checked> scores</label>
<label><input type="radio" name="scale" value="normalised"> human-normalised</label>
</div>
{_games_table(comparison)}
<p class="note">Means over runs. The greener a cell, the nearer to the human's score or the further above it.</p>
<details><summary>The same as a LaTeX table (booktabs)</summary><pre>{escape(games_table(comparison))}</pre></details>
{runs}
<h2>Method</h2>
{_method()}
<h2>Sources</h2>
{_sources()}
""",
    )


def _standings_table(comparison: Comparison) -> str:
    best = {
        name: (min if name == "optimality_gap" else max)(s.metrics[name].value for s in comparison.standings)
        for name in METRIC_HEADINGS
    }
    most = max(s.at_human_level for s in comparison.standings)
    head = [
        ("Agent", "ascending"),
        ("Seeds", "descending"),
        *((heading, "ascending" if "gap" in heading else "descending") for heading in METRIC_HEADINGS.values()),
        ("Games ≥ human", "descending"),
        (f"P({comparison.subject} better)", "descending"),
    ]
    rows = []
    for s in comparison.standings:
        fewest = min(len(scores) for scores in s.scores.values()) if s.has_runs else 0
        cells = [Cell(escape(s.name), s.name), Cell(s.seeds, fewest)]
        cells += [_estimate_cell(s.metrics[name], s.metrics[name].value == best[name]) for name in METRIC_HEADINGS]
        cells.append(Cell(f"{s.at_human_level}", s.at_human_level, _best(s.at_human_level == most)))
        cells.append(_estimate_cell(s.improvement, False, digits=2) if s.improvement else Cell("–"))  # noqa: RUF001
        rows.append((_row_class(s), cells))
    return table(head, rows)


def _games_table(comparison: Comparison) -> str:
    """Games down, agents across; each cell holds the score and the human-normalised score."""
    order = sorted(comparison.standings, key=lambda s: (s.name != comparison.subject, s.name != "DIAMOND"))
    head = [("Game", "ascending"), ("Random", "descending"), ("Human", "descending")]
    rows = []
    for game in comparison.games:
        random, human = scale().random[game], scale().human[game]
        cells = [Cell(game, game), _score_cell(random, 0.0), _score_cell(human, 1.0)]
        best = max(s.mean(game) for s in order)
        cells += [_score_cell(s.mean(game), s.normalised(game), s.mean(game) == best, shaded=True) for s in order]
        rows.append(("", cells))
    head += [(s.name, "descending") for s in order]
    return table(head, rows, 'id="games"', [""] * 3 + [_row_class(s) for s in order])


def _runs_table(runs: Sequence[OwnRun]) -> str:
    head = [(name, "ascending") for name in ("Run", "Game", "Seed", "State")]
    head += [(name, "descending") for name in ("Real steps", "Training time", "Score", "Human-normalised")]
    rows = []
    for run in runs:
        at = "a world model alone" if run.settings.get("world_model_only") else "unfinished"
        state = f"finished, {run.num_final_episodes} final games" if run.finished else f"{at}, epoch {run.epochs}"
        score, normalised = Cell("none yet"), Cell("–")  # noqa: RUF001
        if run.score is not None:
            so_far = "" if run.finished else " <span class='interval'>so far</span>"
            score = Cell(_grouped(run.score) + so_far, run.score)
            if run.game in ATARI_100K:
                value = scale().normalised(run.game, run.score)
                normalised = Cell(f"{value:.3f}", value)
        cells = [
            Cell(escape(run.path.name), run.path.name, f'title="{escape(str(run.path))}"'),
            Cell(escape(run.game), run.game, 'class="text"'),
            Cell(f"{run.seed}", run.seed),
            Cell(state, state, 'class="text"'),
            Cell(_grouped(run.env_steps, 0), run.env_steps),
            Cell(duration(run.seconds), run.seconds),
            score,
            normalised,
        ]
        rows.append(("", cells))
    return table(head, rows, column_classes=["text", "text", "", "text", "", "", "", ""])


def _sources() -> str:
    random, human = scale_sources()
    rows = [("Random", "", "", random, ""), ("Human", "", "", human, "")]
    rows += [(a.name, a.kind, a.paper, a.source, a.note) for a in published_agents()]
    head = [(name, "ascending") for name in ("Agent", "Kind", "Paper", "Scores from", "Note")]
    shown = [("", [Cell(escape(text), text, 'class="wrap"') for text in texts]) for texts in rows]
    others = "".join(f"\n<p>{escape(str(agent))}</p>" for agent in published_aggregates())
    return table(head, shown, column_classes=["text"] * len(head)) + others


def _method() -> str:
    return f"""<ul>
<li>Human-normalised score of a run: (score &minus; random) / (human &minus; random), with the random and human scores
that the DIAMOND paper prints.</li>
<li>A run's score is its mean return over the final evaluation, 100 games in the paper's settings. Mean and median are
those of the games' means; the interquartile mean is that of all runs of all games without the lowest and highest
quarter; the optimality gap is how far runs fall short of 1 on average, those above counting as 1.</li>
<li>Intervals hold 95 % of {_grouped(MOST_SAMPLES, 0)} bootstrap samples, drawn among the runs of each game
({_grouped(FEWEST_SAMPLES, 0)} for agents with 100 runs of each). They say how much other seeds might differ, not other
games. They need at least two runs of each game.</li>
<li>If games have different numbers of runs, each game weighs the same.</li>
</ul>"""


def _estimate_cell(estimate: Estimate, best: bool, digits: int = 3) -> Cell:
    low_high = "" if estimate.low is None else f"[{estimate.low:.2f}, {estimate.high:.2f}]"
    shown = f"{estimate.value:.{digits}f}<span class='interval'>{low_high}</span>"
    return Cell(shown, estimate.value, _best(best))


def _best(best: bool) -> str:
    return 'class="best"' if best else ""


def _score_cell(score: float, normalised: float, best: bool = False, shaded: bool = False) -> Cell:
    shown = f"<span class='raw'>{_grouped(score)}</span><span class='normalised'>{normalised:.3f}</span>"
    attributes = f'data-normalised="{normalised}" {_best(best)}'
    if shaded:
        strength = float(np.clip(np.log2(1 + max(normalised, 0)) / 3, 0, 1))  # 0 at random, full at 7 times human
        attributes += f' style="background-color: rgba(18, 160, 104, {0.5 * strength:.3f})"'
    return Cell(shown, score, attributes)


def _grouped(value: float, digits: int = 1) -> str:
    """Thousands set apart by a narrow space, as in ``12 345.6``."""
    return f"{value:,.{digits}f}".replace(",", "\u202f")


def _row_class(standing: Standing) -> str:
    return {OURS: "ours", "DIAMOND": "diamond"}.get(standing.name, "")
