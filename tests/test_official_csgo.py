"""The published world in two resolutions: names and shapes of csgo.pt, and files of that form."""

import json
from dataclasses import replace

import pytest
import torch
from golden_vectors import FOLDER

from diamond_fast.config import DenoiserConfig, InnerModelConfig
from diamond_fast.official import export_official, load_official
from diamond_fast.presets import PRESETS
from diamond_fast.runs.agents import load_agent
from diamond_fast.spec import MultiBinary
from diamond_fast.world_model import Agent

SHAPES = json.loads((FOLDER / "csgo_state_dict_shapes.json").read_text())["csgo.pt"]
CSGO = PRESETS["csgo"]


def small():
    """Settings of that form, with networks of a few thousand weights."""
    inner = InnerModelConfig(cond_channels=16, depths=(1,), channels=(8,), attn_depths=(0,), context_noise=True)
    return replace(
        CSGO,
        denoiser=replace(CSGO.denoiser, inner_model=inner),
        upsampler=DenoiserConfig(replace(inner, num_steps_conditioning=1), sigma_offset_noise=0.1),
    )


def test_golden_names_and_shapes_of_the_published_file():
    with torch.device("meta"):
        agent = Agent(CSGO, MultiBinary(51))
    assert {name: list(w.shape) for name, w in agent.state_dict().items()} == SHAPES
    assert len(SHAPES) == 573
    assert sum(p.numel() for p in agent.denoiser.parameters()) == 330_489_219
    assert sum(p.numel() for p in agent.upsampler.parameters()) == 51_149_187
    assert agent.upsampler.spec.frame.shape == (150, 280, 3)


def test_a_file_of_that_form_loads_one_to_one(tmp_path):
    torch.manual_seed(0)
    agent = Agent(small(), MultiBinary(51))
    export_official(agent, tmp_path / "csgo.pt")
    loaded = load_official(tmp_path / "csgo.pt", small())
    assert loaded.spec.action == MultiBinary(51)
    assert loaded.rew_end_model is loaded.actor_critic is None
    state = loaded.state_dict()
    assert state.keys() == agent.state_dict().keys()
    assert all(torch.equal(state[name], w) for name, w in agent.state_dict().items())
    with pytest.raises(ValueError, match=r"differ from the settings: denoiser\.inner_model\S+ is .*more"):
        load_official(tmp_path / "csgo.pt")  # its settings are those of preset csgo
    with pytest.raises(ValueError, match=r"csgo\.pt: its networks differ"):
        load_agent(file=tmp_path / "csgo.pt")


def test_half_a_file_is_no_published_world(tmp_path):
    agent = Agent(small(), MultiBinary(51))
    state = {name: w for name, w in agent.state_dict().items() if not name.startswith("denoiser")}
    torch.save(state, tmp_path / "csgo.pt")
    with pytest.raises(ValueError, match=r"not a published agent: it has no denoiser\.inner_model\.act_emb"):
        load_official(tmp_path / "csgo.pt")


def test_the_hub_is_asked_for_its_world(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(*place):
        raise LocalEntryNotFoundError(" ".join(place))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(ConnectionError, match=r"csgo: the Hub could not be reached; give the path"):
        load_agent(pretrained="csgo")
