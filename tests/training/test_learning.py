"""Learning, shown: a policy trained only in imagination plays the real game."""

from dataclasses import replace

import pytest
import torch

from diamond_fast.config_checks import checked
from diamond_fast.presets import PRESETS
from diamond_fast.runs.folder import RunFolder
from diamond_fast.training.trainer import Trainer

RANDOM_RETURN = -2.5  # exact: 2 of the 8 columns lie above the paddle wherever it stands, and there are 5 balls
PERFECT_RETURN = 5.0


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_catch_is_learned_in_imagination(tmp_path, seed):
    """The ``catch`` preset gets at least 80 % of the way from random to perfect play, on 100 real games."""
    torch.set_num_threads(2)
    cfg = checked(replace(PRESETS["catch"], seed=seed))
    folder = RunFolder.create(tmp_path / "run", cfg)
    trainer = Trainer(cfg, folder, torch.device("cpu"))
    try:
        result = trainer.run()
    finally:
        trainer.close()
        torch.set_num_threads(1)
    assert len(result.returns) == 100
    assert result.mean >= RANDOM_RETURN + 0.8 * (PERFECT_RETURN - RANDOM_RETURN)
