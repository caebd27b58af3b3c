"""A run's card: what it is, what it scored, how it goes on. Every figure is one that the run has written down."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diamond_fast.config import RunConfig
from diamond_fast.settings import leaves

LIBRARY = "diamond_fast"


def model_card(
    cfg: RunConfig, epoch: int, metrics: Sequence[Mapping[str, Any]], repo: str, pictures: Sequence[str]
) -> str:
    """README.md of a repository on the Hub, with the front matter by which the Hub lists it.

    Args:
        epoch: of the checkpoint.
        metrics: lines of ``metrics.jsonl``; those up to ``epoch`` count.
        repo: USER/NAME.
        pictures: paths within the repository.
    """
    lines = [line for line in metrics if line["epoch"] <= epoch]
    scores = _scores(lines)
    front = {
        "license": "mit",
        "library_name": LIBRARY,
        "tags": ["reinforcement-learning", "world-model", "diffusion", LIBRARY, cfg.name],
        "model-index": [{"name": repo.rpartition("/")[2], "results": [_result(cfg.name, *score) for score in scores]}],
    }
    if not scores:
        del front["model-index"]
    yaml = "\n".join(f"{key}: {json.dumps(value)}" for key, value in front.items())  # JSON is YAML
    last = lines[-1] if lines else {}
    facts = {
        "environment": cfg.name,
        "formulation, network": f"{cfg.formulation}, {cfg.network}",
        "epoch": epoch,
        "steps of real experience": last.get("env_steps"),
        "hours of training": round(last["seconds"] / 3600, 2) if "seconds" in last else None,
    } | {f"return, {name}": text for name, text, _ in scores}
    for line in lines:  # of each loss the last
        losses = {key: value for key, value in line.items() if key.endswith("/loss") and isinstance(value, int | float)}
        facts |= {key.replace("/", ", "): f"{value:.4g}" for key, value in losses.items()}
    default = dict(_settings(RunConfig()))
    changed = [(path, value) for path, value in _settings(cfg) if path not in default or default[path] != value]
    return "\n".join(
        [
            f"---\n{yaml}\n---\n",
            f"# {cfg.name}: an agent and the world model it was trained in\n",
            "A run of diamond_fast, an implementation of [DIAMOND](https://arxiv.org/abs/2405.12399). "
            "This page was generated from its settings and metrics.\n",
            *_table(("", ""), [(key, value) for key, value in facts.items() if value is not None]),
            *(f"![{name}]({name})\n" for name in pictures),
            "```bash",
            f"python -m diamond_fast.hub pull {repo} --out runs/pulled",
            "python -m diamond_fast.play --run runs/pulled",
            "python -m diamond_fast.train --resume runs/pulled",
            "```\n",
            "Settings that differ from the paper's:\n" if changed else "All settings are the paper's.\n",
            *(
                _table(("setting", "value"), [(f"`{path}`", f"`{value}`") for path, value in changed])
                if changed
                else ()
            ),
        ]
    )


def _settings(cfg: RunConfig) -> list[tuple[str, Any]]:
    """By dotted path, but for where the run's maker keeps files."""
    private = ("static_dataset", "held_out", "init_from")
    return [(path, value) for path, _, value in leaves(cfg) if path not in private]


def _scores(lines: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, float]]:
    """(name, text, mean) of the final games, or else of the last test games."""
    for key, name in (("final_test/returns", "final test"), ("test/returns", "last test")):
        returns: list[float] = next((line[key] for line in reversed(lines) if isinstance(line.get(key), list)), [])
        if returns:
            mean, deviation = float(np.mean(returns)), float(np.std(returns))
            games = f"{len(returns)} game{'s' if len(returns) > 1 else ''}"
            return [(name, f"{mean:.2f} ± {deviation:.2f} (standard deviation, {games})", mean)]
    return []


def _result(game: str, name: str, text: str, mean: float) -> dict[str, Any]:
    return {
        "task": {"type": "reinforcement-learning", "name": "reinforcement-learning"},
        "dataset": {"name": game, "type": game},
        "metrics": [
            {"type": "mean_reward", "name": f"mean return, {name}", "value": round(mean, 4), "verified": False}
        ],
    }


def _table(head: tuple[str, str], rows: Sequence[tuple[str, Any]]) -> list[str]:
    return [f"| {head[0]} | {head[1]} |", "| --- | --- |", *(f"| {a} | {_cell(b)} |" for a, b in rows), ""]


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
