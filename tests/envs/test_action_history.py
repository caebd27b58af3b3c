import numpy as np
import pytest

from diamond_fast.envs.action_history import ActionHistory
from diamond_fast.spec import Discrete


def test_every_seed_is_its_own():
    seeds = set()
    for base in (0, 1, 2**62):
        history = ActionHistory(5, Discrete(9))
        history.rebase(np.full(5, base))
        seeds |= {history.next_seed(env) for env in range(5) for _ in range(20)}
    assert len(seeds) == 3 * 5 * 20
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_a_state_brings_back_seeds_and_actions():
    history = ActionHistory(3, Discrete(9))
    history.rebase(np.array([7, 7, 9]))
    for env in range(3):
        history.next_seed(env)
    history.next_seed(1)
    for env, action in ((0, 4), (2, 1), (0, 5), (0, 6)):
        history.record(env, action)
    state = history.state_dict()
    seeds = [history.restart(env) for env in range(3)]

    other = ActionHistory(3, Discrete(9))
    assert [list(actions) for actions in other.load_seeds(state)] == [[4, 5, 6], [], [1]]
    assert [other.restart(env) for env in range(3)] == seeds
    assert [other.next_seed(env) for env in range(3)] == [history.next_seed(env) for env in range(3)]


def test_a_new_seed_forgets_the_actions():
    history = ActionHistory(1, Discrete(9))
    history.next_seed(0)
    history.record(0, 3)
    assert history.length(0) == 1
    history.next_seed(0)
    assert history.length(0) == 0


def test_states_that_do_not_fit_are_refused():
    state = ActionHistory(3, Discrete(9)).state_dict()
    with pytest.raises(ValueError, match=r"^state: expected base_seeds of 2 environments, got shape \(3,\)"):
        ActionHistory(2, Discrete(9)).load_seeds(state)
    with pytest.raises(ValueError, match=r"^state: 0 actions do not have the lengths \[1, 0, 0\]"):
        ActionHistory(3, Discrete(9)).load_seeds(state | {"lengths": np.array([1, 0, 0])})
