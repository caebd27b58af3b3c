"""Maze, a game whose rooms have to be remembered. A Gymnasium environment like any other."""

from dataclasses import replace

from diamond_fast.domains import gym, recall

ENV_ID = "diamond_fast/Maze-v0"

_RECALL = recall.DOMAIN.presets["recall"]
_PRESET = replace(
    _RECALL,
    env_id=ENV_ID,
    denoiser_update=replace(_RECALL.denoiser_update, steps_first_epoch=800),
    collection=replace(_RECALL.collection, num_steps_total=3_100),
)

DOMAIN = gym.game("maze", ENV_ID, _PRESET)
