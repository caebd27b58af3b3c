import pickle

import pytest
import torch
from golden_vectors import SHAPES, golden_weight

from diamond_fast.config import (
    ActorCriticConfig,
    DenoiserConfig,
    InnerModelConfig,
    RewardEndConfig,
    RunConfig,
)
from diamond_fast.official import NUM_ACTIONS_KEY, export_official, load_official
from diamond_fast.world_model import Agent

SMALL = RunConfig(
    frame_size=16,
    denoiser=DenoiserConfig(InnerModelConfig(cond_channels=16, depths=(1,), channels=(8,), attn_depths=(0,))),
    reward_end=RewardEndConfig(lstm_dim=8, cond_channels=8, depths=(1,), channels=(8,), attn_depths=(0,)),
    actor_critic=ActorCriticConfig(lstm_dim=8, channels=(8,), down=(1,)),
)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file of the published form and the paper's sizes, with known weights and 18 actions."""
    names = {"denoiser": "denoiser_paper", "rew_end_model": "rew_end_paper", "actor_critic": "actor_critic_paper"}
    state = {
        f"{prefix}.{name}": torch.from_numpy(golden_weight(name, tuple(shape)))
        for prefix, key in names.items()
        for name, shape in SHAPES[key].items()
    }
    path = tmp_path_factory.mktemp("published") / "Boxing.pt"
    torch.save(state, path)
    return path, state


def test_published_agent_loads_one_to_one(published):
    path, state = published
    agent = load_official(path)
    assert agent.actor_critic.num_actions == 18
    loaded = agent.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


def test_export_and_load_round_trip(tmp_path):
    torch.manual_seed(0)
    agent = Agent(SMALL, num_actions=7)
    export_official(agent, tmp_path / "agent.pt")
    loaded = load_official(tmp_path / "agent.pt", SMALL)
    assert loaded.actor_critic.num_actions == 7
    assert all(torch.equal(a, b) for a, b in zip(agent.parameters(), loaded.parameters(), strict=True))


def test_other_networks_are_named(published):
    with pytest.raises(ValueError, match=r"differ from the settings: denoiser\.inner_model\S+ is .*more"):
        load_official(published[0], SMALL)


@pytest.mark.parametrize("shape", [(), (5,), (0, 8), (10**12, 0), (20_000, 1), (4, 8, 1)])
def test_numbers_of_actions_that_no_game_has(tmp_path, shape):
    torch.save({NUM_ACTIONS_KEY: torch.zeros(shape)}, tmp_path / "agent.pt")
    with pytest.raises(ValueError, match=r"not a published agent: actor_critic\.actor_linear\.weight is \["):
        load_official(tmp_path / "agent.pt", SMALL)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 broken zip"])
def test_files_that_are_no_checkpoint(tmp_path, content):
    path = tmp_path / "wrong.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not a published agent"):
        load_official(path)


def test_a_truncated_file(tmp_path, published):
    path = tmp_path / "half.pt"
    path.write_bytes(published[0].read_bytes()[:100_000])
    with pytest.raises(ValueError, match="not a published agent"):
        load_official(path)


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], {"weights": torch.zeros(2)}])
def test_other_torch_files(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="not a published agent"):
        load_official(tmp_path / "other.pt")


def test_code_in_a_file_does_not_run(tmp_path):
    marker = tmp_path / "ran"

    class Malicious:
        def __reduce__(self):
            return marker.touch, ()

    (tmp_path / "bad.pt").write_bytes(pickle.dumps(Malicious()))
    torch.save({"actor_critic.actor_linear.weight": Malicious()}, tmp_path / "bad2.pt")
    for name in ("bad.pt", "bad2.pt"):
        with pytest.raises(ValueError, match="not a published agent"):
            load_official(tmp_path / name)
    assert not marker.exists()


@pytest.mark.parametrize(("source", "message"), [("none/Boxing.pt", "no such file"), ("Boxng", "did you mean Boxing")])
def test_what_is_not_there(source, message):
    with pytest.raises(FileNotFoundError, match=message):
        load_official(source)


def test_no_network_is_said(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(*args):
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(ConnectionError, match=r"Boxing: the Hub could not be reached; give the path"):
        load_official("boxing")
