"""Playing in a world model with a memory: carried through pauses, begun anew with every start."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from playing.conftest import TINY, untrained

from diamond_fast.engine.imagination import burn_in
from diamond_fast.networks.recurrent.config import MemoryConfig
from diamond_fast.networks.recurrent.model import LAYERS
from diamond_fast.spec import MultiBinary

MEMORY = MemoryConfig(channels=(4, 4), down=(1, 1), action_width=3, width=6, layers=1, state=2)
CFG = replace(TINY, env_id=None, static_dataset="noise", world_model_only=True, memory="mamba", memory_model=MEMORY)


def test_a_dream_remembers(make_session):
    source = untrained(CFG, MultiBinary(2))
    memory = source.agent.memory
    session, paused = (make_session(of=source, horizon=20, seed=3) for _ in "ab")
    for each in (session, paused):
        each.switch_world("replay")
        each.seek(1, 8)
        each.dream_from_here()
    context = source.replay.segment(1, 0, 9)  # all that was seen, and as much as the memory was trained on
    assert context.pixel_mask.all()
    began = memory(context.obs()[:, :-1], context.act[:, :-1], context.pixel_mask[:, :-1])[1][None]
    torch.testing.assert_close(session._world._env.state.hx, began)
    assert torch.equal(session._world._env.state.frames, context.frames[:, -4:])

    frames, state = [], began[0]
    for _ in range(3):
        obs, act = session._world._env.state.obs[:, -1], torch.zeros(1, 2, dtype=torch.uint8)
        _, state = memory.step(obs, act, state)
        session.step()
        torch.testing.assert_close(session._world._env.state.hx[0], state)
        frames.append(session.view().frame)
        paused.paused = not paused.paused  # it makes no difference when somebody looks
        paused.view()
        paused.step()
        np.testing.assert_array_equal(paused.view().frame, frames[-1])
    for step, first in ((12, 4), (1, -2)):  # it looks back on no more than that, and is padded as before
        paused.start(1, step)
        context = source.replay.segment(1, first, step + 1)
        expected, _ = burn_in(memory, context.obs(), context.act, context.pixel_mask)
        torch.testing.assert_close(paused._world._env.state.hx, expected)
        assert paused._world._env.state.frames.shape[1] == 4
    session.restart()
    torch.testing.assert_close(session._world._env.state.hx, began)
    session.step()
    np.testing.assert_array_equal(session.view().frame, frames[0])


@pytest.mark.parametrize("kind", LAYERS)
def test_every_start_begins_with_what_was_seen_before_it(make_session, kind):
    """Whoever starts an episode, nothing of the one before is remembered."""
    source = untrained(replace(CFG, memory=kind), MultiBinary(2))
    session = make_session(of=source, horizon=2, seed=3)

    def is_fresh():
        state = session._world._env.state
        began, _ = burn_in(source.agent.memory, state.obs, state.act, state.pixel_mask)
        return torch.allclose(state.hx, began, atol=1e-6)

    assert is_fresh()
    session.step()
    assert not is_fresh()
    session.step()
    assert session.over
    session.step()
    assert is_fresh()  # behind the end, the next episode
    for begin in (
        session.next_episode,
        lambda: session.start(1, 3),
        lambda: session.start_from_picture(bytes(24 * 24 * 3)),
        session.restart,
        lambda: session.set_number("seed", 5),
    ):
        session.step()
        begin()
        assert is_fresh()
    session.step()
    kept = session._world._env.state.hx.clone()
    session.set_number("denoising_steps", 3)
    assert torch.equal(session._world._env.state.hx, kept)
