"""Agents come back with the weights and settings they were written with."""

from dataclasses import replace

import pytest
import torch

from diamond_fast import train
from diamond_fast.config import RunConfig
from diamond_fast.official import export_official
from diamond_fast.presets import PRESETS
from diamond_fast.runs import agents, checkpoint
from diamond_fast.runs.agents import load_agent
from diamond_fast.runs.folder import RunFolder
from diamond_fast.spec import Discrete
from diamond_fast.world_model import Agent

CATCH = replace(PRESETS["catch"], seed=7)


def same_weights(a, b):
    weights = b.state_dict()
    return all(torch.equal(p, weights[name]) for name, p in a.state_dict().items())


def save(folder, epoch, agent, state=None):
    tensors = {name: model.state_dict() for name, model in agent.named_children()}
    checkpoint.save(folder.checkpoints, epoch, tensors, state or {})


def test_of_a_run_the_newest_checkpoint_is_taken(tmp_path):
    folder = RunFolder.create(tmp_path / "run", CATCH)
    old, new = Agent(CATCH, num_actions=3), Agent(CATCH, num_actions=3)
    save(folder, 4, old)
    save(folder, 12, new)
    loaded = load_agent(run=folder.path)
    assert same_weights(new, loaded.agent)
    assert not same_weights(old, loaded.agent)
    assert (loaded.config, loaded.epoch) == (CATCH, 12)
    assert loaded.source == f"{folder.path}, epoch 12"
    assert agents.saved_action(checkpoint.load_latest(folder.checkpoints)) == Discrete(3)


def test_another_run_begins_with_its_networks_and_settings_of_its_own(tmp_path):
    folder, old = RunFolder.create(tmp_path / "run", CATCH), Agent(CATCH, num_actions=3)
    save(folder, 4, old)
    longer = replace(CATCH, num_autoregressive_steps=3)
    for source in (folder.path, folder.checkpoints / "epoch_000004.json"):
        assert same_weights(old, train._agent_to_start_from(str(source), longer))
    wider = replace(CATCH, actor_critic=replace(CATCH.actor_critic, lstm_dim=32))
    message = "epoch 4 does not fit the settings: actor_critic differs; give the --preset"
    with pytest.raises(ValueError, match=f"--init-from {folder.path}: the checkpoint of {message}"):
        train._agent_to_start_from(str(folder.path), wider)
    with pytest.raises(ValueError, match="not the folder of a run"):
        train._agent_to_start_from(str(tmp_path), CATCH)


def test_a_policy_can_begin_anew_in_a_world_model_alone(tmp_path, capsys):
    alone = replace(CATCH, world_model_only=True)
    folder, old = RunFolder.create(tmp_path / "run", alone), Agent(alone, num_actions=3)
    save(folder, 4, old)
    torch.manual_seed(1)
    begun = train._agent_to_start_from(str(folder.path), CATCH)
    assert capsys.readouterr().out == "New, since there was nothing to start from: rew_end_model, actor_critic\n"
    assert same_weights(begun.denoiser, old.denoiser)
    torch.manual_seed(1)
    new = Agent(CATCH, num_actions=3)
    assert same_weights(begun.rew_end_model, new.rew_end_model)
    assert same_weights(begun.actor_critic, new.actor_critic)
    save(folder, 5, begun)  # the other way round, what is not needed is left out
    assert same_weights(train._agent_to_start_from(str(folder.path), alone), old)


def test_so_can_the_heads_of_a_memory(tmp_path, capsys):
    with_policy = replace(CATCH, memory="gru", memory_model=replace(CATCH.memory_model, layers=1))
    alone = replace(with_policy, world_model_only=True)
    folder, old = RunFolder.create(tmp_path / "run", alone), Agent(alone, num_actions=3)
    actions = {"action": Discrete(3).to_json()}  # no weight of the denoiser says so here
    save(folder, 4, old, actions)
    torch.manual_seed(1)
    begun = train._agent_to_start_from(str(folder.path), with_policy)
    assert capsys.readouterr().out.endswith("start from: actor_critic, memory.head, memory.harmony\n")
    kept = begun.memory.state_dict()
    assert all(torch.equal(kept[key], value) for key, value in old.memory.state_dict().items())
    torch.manual_seed(1)
    assert same_weights(begun.memory.head, Agent(with_policy, num_actions=3).memory.head)
    save(folder, 5, begun, actions)
    assert same_weights(train._agent_to_start_from(str(folder.path), alone), old)
    save(folder, 6, Agent(CATCH, num_actions=3), actions)
    with pytest.raises(ValueError, match="denoiser differs"):
        train._agent_to_start_from(str(folder.path), with_policy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("denoiser"), "does not say what its actions are"),
        (lambda tensors: tensors["denoiser"].popitem(), "does not fit config.json: denoiser differs"),
        (lambda tensors: tensors["actor_critic"].update(more=torch.ones(1)), "config.json: actor_critic differs"),
        (lambda tensors: tensors["rew_end_model"].update(dict.fromkeys(["act_emb.weight"], torch.ones(1))), "rew_end"),
        (lambda tensors: tensors.pop("actor_critic"), "config.json: actor_critic differs"),
        (lambda tensors: tensors.clear(), "does not say what its actions are"),
        (lambda tensors: tensors.update(actor_critic={}, denoiser={}), "does not say what its actions are"),
    ],
)
def test_weights_of_other_settings_are_refused(tmp_path, change, message):
    folder, agent = RunFolder.create(tmp_path / "run", CATCH), Agent(CATCH, num_actions=3)
    tensors = {name: dict(model.state_dict()) for name, model in agent.named_children()}
    change(tensors)
    checkpoint.save(folder.checkpoints, 4, tensors, {})
    with pytest.raises(ValueError, match=f"the checkpoint of epoch 4 .*{message}"):
        load_agent(run=folder.path)


def test_a_module_in_a_runs_settings_must_be_named_by_the_caller(tmp_path):
    env_id = "diamond_fast.domains.catch.env:diamond_fast/Catch-v0"
    folder = RunFolder.create(tmp_path / "run", replace(CATCH, env_id=env_id))
    save(folder, 4, Agent(CATCH, num_actions=3))
    manifest = folder.checkpoints / "epoch_000004.json"
    for source in ({"run": folder.path}, {"file": manifest}):
        with pytest.raises(ValueError, match=f"would import code.* add --env-id {env_id}"):
            load_agent(**source)
        assert load_agent(**source, env_id=env_id).epoch == 4
    other = RunFolder.create(tmp_path / "other", CATCH)
    with pytest.raises(ValueError, match=r"^--env-id a:B-v0: .* is a run of diamond_fast/Catch-v0"):
        load_agent(run=other.path, env_id="a:B-v0")
    with pytest.raises(ValueError, match=r"^--env-id: only a run needs it"):
        load_agent(pretrained="Pong", env_id="a:B-v0")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    agent = Agent(RunConfig(), num_actions=6)
    path = tmp_path_factory.mktemp("published") / "pong.pt"
    export_official(agent, path)
    return agent, path


def test_a_published_file_says_its_game_by_name(published, tmp_path):
    agent, path = published
    loaded = load_agent(file=path)
    assert same_weights(agent, loaded.agent)
    assert (loaded.config.game, loaded.epoch) == ("Pong", None)
    renamed = tmp_path / "mine.pt"
    renamed.symlink_to(path)
    assert load_agent(file=renamed, game="boxing").config.game == "Boxing"
    with pytest.raises(ValueError, match=r"^--game: mine.pt does not say which game"):
        load_agent(file=renamed)


def test_a_pretrained_agent_is_fetched_by_the_games_usual_name(monkeypatch):
    asked = []
    monkeypatch.setattr(agents, "load_official", lambda source: asked.append(source))
    assert load_agent(pretrained="ms_pacman").config.game == "MsPacman"
    assert asked == ["MsPacman"]
    with pytest.raises(ValueError, match="did you mean Boxing"):
        load_agent(pretrained="Boxng")


def test_what_names_no_agent_is_refused(tmp_path, published):
    for sources in ({}, {"run": tmp_path, "pretrained": "Pong"}):
        with pytest.raises(ValueError, match=r"^--run, --checkpoint, --pretrained: exactly one"):
            load_agent(**sources)
    with pytest.raises(ValueError, match=r"^--game: only a --checkpoint needs it"):
        load_agent(pretrained="Pong", game="Pong")
    with pytest.raises(FileNotFoundError, match="no checkpoint was committed here yet"):
        load_agent(run=RunFolder.create(tmp_path / "run", CATCH).path)
