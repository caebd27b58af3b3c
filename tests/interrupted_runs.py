"""Runs that are killed right after a save, and gone on with."""

import torch

from diamond_fast.config_checks import checked
from diamond_fast.runs.folder import RunFolder
from diamond_fast.training.trainer import Trainer


class Killed(BaseException):
    """Stands for a signal nothing can catch."""


def go_on(cfg, path, stop_after=None):
    """Runs to the end, or up to the save of an epoch; continues what is there already. -> result, trainer."""
    cfg = checked(cfg)
    folder = RunFolder.open(path) if path.exists() else RunFolder.create(path, cfg)
    trainer = Trainer(cfg, folder, torch.device("cpu"))
    save = trainer._save

    def save_then_stop():
        save()
        if trainer.epoch == stop_after:
            raise Killed

    trainer._save = save_then_stop
    try:
        return trainer.run(), trainer
    except Killed:
        return None, trainer
    finally:
        trainer.close()
