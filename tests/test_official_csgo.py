"""The published world in two resolutions: names and shapes of csgo.pt, and files of that form."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from golden_vectors import FOLDER

from diamond_fast.config import DenoiserConfig, InnerModelConfig
from diamond_fast.official import export_official, load_official
from diamond_fast.presets import PRESETS
from diamond_fast.replay.buffer import Episode
from diamond_fast.replay.csgo import ACTION
from diamond_fast.replay.recording import write_recording
from diamond_fast.runs.agents import load_agent
from diamond_fast.runs.folder import RunFolder
from diamond_fast.spec import Mixed, MultiBinary
from diamond_fast.training.trainer import Trainer
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


def test_its_buttons_are_those_of_a_recording_with_as_many(tmp_path, capsys):
    """Published weights go on learning from recordings in which the same numbers have names."""
    cfg = replace(small(), precision="fp32", engine="readable", frame_size=(6, 8), upsampling=2, num_final_epochs=1)
    few = replace(cfg.denoiser_update, steps_first_epoch=1, batch_size=1, grad_acc_steps=1)
    cfg = replace(cfg, denoiser_update=few, upsampler_update=few, num_autoregressive_steps=0)
    torch.manual_seed(0)
    export_official(Agent(cfg, MultiBinary(51)), tmp_path / "csgo.pt")
    for name, action in (("csgo", ACTION), ("others", Mixed(parts=(("keys", MultiBinary(50)),)))):
        small_frames, full = (np.full((12, h, w, 3), 90, np.uint8) for h, w in ((6, 8), (12, 16)))
        rows, nothing = np.zeros((12, action.n), np.uint8), np.zeros(12, bool)
        episode = Episode(small_frames, rows, np.zeros(12, np.float32), nothing, nothing, None, full)
        write_recording(tmp_path / name, [episode], action, full_size=True)
    cfg = replace(cfg, static_dataset=str(tmp_path / "csgo"))
    agent = load_official(tmp_path / "csgo.pt", cfg)
    before = {name: w.clone() for name, w in agent.state_dict().items()}
    trainer = Trainer(cfg, RunFolder.create(tmp_path / "run", cfg), torch.device("cpu"), agent)
    try:
        assert trainer.agent.spec.action == ACTION
        assert all(torch.equal(trainer.agent.state_dict()[name], w) for name, w in before.items())
        assert "The agent's 51 buttons are those of the recording: Mixed(n=51" in capsys.readouterr().out
        trainer.updates["denoiser"].train(1, lambda: None)
    finally:
        trainer.close()
    other = replace(cfg, static_dataset=str(tmp_path / "others"))
    folder = RunFolder.create(tmp_path / "other", other)
    with pytest.raises(ValueError, match=r"its actions are Mixed\(n=50.*the networks' MultiBinary\(n=51\)"):
        Trainer(other, folder, torch.device("cpu"), agent)
