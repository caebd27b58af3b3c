"""The published scores are whole, and DIAMOND's are those in its paper."""

from statistics import fmean

import pytest

from diamond_fast.domains.atari.games import ATARI_100K
from diamond_fast.report import as_text
from diamond_fast.reporting.comparison import compare
from diamond_fast.reporting.published import published_agents, published_aggregates, scale, scale_sources

PAPER_TABLE_1 = {  # random, human, DIAMOND
    "Alien": (227.8, 7127.7, 744.1), "Amidar": (5.8, 1719.5, 225.8), "Assault": (222.4, 742.0, 1526.4),
    "Asterix": (210.0, 8503.3, 3698.5), "BankHeist": (14.2, 753.1, 19.7), "BattleZone": (2360.0, 37187.5, 4702.0),
    "Boxing": (0.1, 12.1, 86.9), "Breakout": (1.7, 30.5, 132.5), "ChopperCommand": (811.0, 7387.8, 1369.8),
    "CrazyClimber": (10780.5, 35829.4, 99167.8), "DemonAttack": (152.1, 1971.0, 288.1), "Freeway": (0.0, 29.6, 33.3),
    "Frostbite": (65.2, 4334.7, 274.1), "Gopher": (257.6, 2412.5, 5897.9), "Hero": (1027.0, 30826.4, 5621.8),
    "Jamesbond": (29.0, 302.8, 427.4), "Kangaroo": (52.0, 3035.0, 5382.2), "Krull": (1598.0, 2665.5, 8610.1),
    "KungFuMaster": (258.5, 22736.3, 18713.6), "MsPacman": (307.3, 6951.6, 1958.2), "Pong": (-20.7, 14.6, 20.4),
    "PrivateEye": (24.9, 69571.3, 114.3), "Qbert": (163.9, 13455.0, 4499.3), "RoadRunner": (11.5, 7845.0, 20673.2),
    "Seaquest": (68.4, 42054.7, 551.2), "UpNDown": (533.4, 11693.2, 3856.3),
}  # fmt: skip


def test_every_agent_has_every_game_and_a_source():
    agents = published_agents()
    assert len({agent.name for agent in agents}) == len(agents) == 17
    for agent in agents:
        assert tuple(sorted(agent.scores)) == ATARI_100K
        assert agent.paper
        assert agent.source
        assert agent.kind in ("world model", "model-free or search")
        lengths = {len(scores) for scores in agent.scores.values()}
        assert lengths in ({1}, {5}, {100})
        assert agent.has_runs == (lengths != {1})
    assert all(scale_sources())


def test_table_1_of_the_paper():
    diamond = next(agent for agent in published_agents() if agent.name == "DIAMOND")
    for game, (random, human, score) in PAPER_TABLE_1.items():
        assert (scale().random[game], scale().human[game]) == (random, human)
        assert fmean(diamond.scores[game]) == pytest.approx(score, abs=0.0501)


def test_human_normalised():
    assert scale().normalised("Boxing", 0.1) == 0
    assert scale().normalised("Boxing", 12.1) == 1
    assert scale().normalised("Pong", -3.05) == pytest.approx(0.5)


@pytest.mark.usefixtures("few_samples")
def test_an_agent_without_scores_by_game_is_told_and_compared_with_nothing():
    (edeline,) = published_aggregates()
    assert (edeline.name, edeline.mean, edeline.iqm) == ("EDELINE", 1.87, 0.94)
    comparison = compare([])
    assert "EDELINE" not in {standing.name for standing in comparison.standings}
    last = as_text(comparison).splitlines()[-1]
    assert "EDELINE, mean 1.87, IQM 0.94 (arXiv 2502.00466" in last
    assert "No run of diamond_fast" in last
