"""Learning, shown: policies that play the real game after training in imagination, or in the game itself."""

from dataclasses import replace

import pytest
import torch

from diamond_fast.config_checks import checked
from diamond_fast.domains.environments import make_env
from diamond_fast.engine.rollout import initial_state, rollout
from diamond_fast.envs.on_device import OnDeviceEnv
from diamond_fast.networks.actor_critic.model import ActorCritic, actor_critic_loss
from diamond_fast.presets import PRESETS
from diamond_fast.replay import Replay
from diamond_fast.runs.folder import RunFolder
from diamond_fast.training.collect import Collector
from diamond_fast.training.optim import set_learning_rate, warmed_up
from diamond_fast.training.trainer import Trainer

RANDOM_AND_PERFECT = {
    "catch": (-2.5, 5.0),  # exact: 2 of the 8 columns lie above the paddle wherever it stands, and there are 5 balls
    "roll": (-0.33, 1.0),  # see tests/domains/test_roll.py
    "recall": (0.0, 5.0),  # exact: whoever does not look at the ball is on either side of it equally often
    "maze": (0.0, 8.0),  # exact: rooms are equally often good
}


def trained_and_played(cfg, folder):
    """The result of a run's final evaluation: 100 real games."""
    torch.set_num_threads(2)
    cfg = checked(cfg)
    trainer = Trainer(cfg, RunFolder.create(folder, cfg), torch.device("cpu"))
    try:
        result = trainer.run()
    finally:
        trainer.close()
        torch.set_num_threads(1)
    assert len(result.returns) == 100
    return result


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("preset", ["catch", "roll", "recall", "maze"])
def test_a_game_is_learned_in_imagination(tmp_path, preset, seed):
    """The preset gets at least 80 % of the way from random to perfect play, on 100 real games."""
    result = trained_and_played(replace(PRESETS[preset], seed=seed), tmp_path / "run")
    random, perfect = RANDOM_AND_PERFECT[preset]
    assert result.mean >= random + 0.8 * (perfect - random)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_with_a_memory_catch_is_learned_as_well(tmp_path, seed):
    """By what docs/memory.md says: as DIAMOND, 80 % of the way from random to perfect play."""
    cfg = PRESETS["catch"]
    learner, sampler = replace(cfg.denoiser_update, lr=3e-3), replace(cfg.world_model.sampler, s_churn=2.0)
    world = replace(cfg.world_model, sampler=sampler)
    cfg = replace(cfg, memory="gru", denoiser_update=learner, world_model=world, seed=seed)
    result = trained_and_played(cfg, tmp_path / "run")
    random, perfect = RANDOM_AND_PERFECT["catch"]
    assert result.mean >= random + 0.8 * (perfect - random)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("preset", ["recall", "maze"])
def test_without_a_memory_a_game_that_needs_one_is_guessed(tmp_path, preset, seed):
    """The denoiser sees four frames, of which none tells: at most what random play gets and three standard errors.
    No return is further from random play than a perfect one."""
    result = trained_and_played(replace(PRESETS[preset], memory="none", seed=seed), tmp_path / "run")
    random, perfect = RANDOM_AND_PERFECT[preset]
    assert result.mean <= random + 3 * (perfect - random) / len(result.returns) ** 0.5


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_policy_learns_which_numbers_to_choose(seed):
    """150 updates in Roll itself: at least 80 % of the way from random (-0.33) to perfect play (1), on 200 games."""
    cfg = PRESETS["roll"]
    update = cfg.actor_critic_update
    torch.manual_seed(seed)
    env = make_env(cfg, update.batch_size, done_on_life_loss=True)
    policy, games = ActorCritic(cfg.actor_critic, cfg.spec(env.action)), OnDeviceEnv(env, torch.device("cpu"), seed)
    optimiser = torch.optim.AdamW(policy.parameters(), lr=update.lr, weight_decay=0.0)
    state = initial_state(games, policy)
    for i in range(150):
        set_learning_rate(optimiser, warmed_up(update.lr, update.lr_warmup_steps, i))
        r, state = rollout(games, policy, state, cfg.actor_critic_loss.backup_every)
        of_loss = r.logits, r.val, r.act, r.rew, r.end, r.trunc, r.val_bootstrap
        optimiser.zero_grad()
        actor_critic_loss(*of_loss, cfg.actor_critic_loss, policy.distribution).total.backward()
        optimiser.step()
    env.close()
    test = make_env(cfg, 8, done_on_life_loss=False)
    played = Collector(test, seed=1_000 + seed).collect(policy, Replay(test.frame.shape, 8, 2_000, test.action), 2_000)
    test.close()
    assert len(played.returns) == 200
    random, perfect = RANDOM_AND_PERFECT["roll"]
    assert sum(played.returns) / 200 >= random + 0.8 * (perfect - random)
