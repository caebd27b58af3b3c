"""A process that trains along: it mirrors the leader's experience and does its share of every update."""

from pathlib import Path

import numpy as np
import torch

from diamond_fast.config import RunConfig
from diamond_fast.domains import domain_of
from diamond_fast.engine.choose import choose_path, set_matmul_precision
from diamond_fast.replay import Replay
from diamond_fast.spec import action_from_json
from diamond_fast.training.make_updates import make_updates
from diamond_fast.training.process_group import ProcessGroup
from diamond_fast.world_model import Agent


class Dismissed(Exception):
    """The leader stopped."""


def follow(group: ProcessGroup, cfg: RunConfig, device: torch.device) -> Agent:
    """Does what the leader says until it says no more. Returns the agent as it is then.

    Its random numbers are its own and start anew with the process; its weights are the leader's, bit for bit.

    Raises:
        ProcessLostError: the leader is gone.
        NonFiniteError: as the leader's update raises.
    """
    set_matmul_precision(cfg.precision)
    action_json, weights, states, segments_seed, journal, updates_done, leaders = group.receive()
    action = action_from_json(action_json)
    agent = Agent(cfg, action)
    agent.load_state_dict(weights)
    agent.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stubs lack it
    if cfg.static_dataset is None:
        replay = Replay(cfg.frame_shape, cfg.collection.num_envs, cfg.collection.num_steps_total, action)
    else:
        replay = domain_of(cfg).load_recording(Path(cfg.static_dataset))
    path = choose_path(device, cfg.precision, cfg.engine, graphs=False, as_before=leaders)
    updates = make_updates(cfg, agent, replay, path, segments_seed, group=group)
    for name, update in updates.items():
        update.load_state_dict(states[name])
        update.objective.begin_epoch()  # imagined episodes of its own, not the leader's
        update.objective.recover()
    torch.manual_seed(int(np.random.SeedSequence([cfg.seed, group.rank, updates_done]).generate_state(1)[0]))

    def advance() -> None:
        if not group.broadcast_flag():
            raise Dismissed

    while True:
        word, *rest = group.receive()
        if word == "collected":
            replay.catch_up(journal, *rest)
        elif word == "train":
            name, num_updates = rest
            try:
                updates[name].train(num_updates, advance)
            except Dismissed:
                return agent
        else:
            return agent
