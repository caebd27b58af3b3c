import pytest
import torch
from golden_vectors import META, SHAPES, reward_end_model, tensors
from worlds import world

from diamond_fast.config import RewardEndConfig
from diamond_fast.networks.reward_end.model import RewardEndModel, confusion_matrix


def test_parameters_match_the_published_names_and_shapes():
    assert {k: list(v.shape) for k, v in reward_end_model().state_dict().items()} == SHAPES["rew_end_small"]
    paper = RewardEndModel(RewardEndConfig(), world(18, 64))
    assert {k: list(v.shape) for k, v in paper.state_dict().items()} == SHAPES["rew_end_paper"]


def test_predict_golden():
    v, model = tensors("rew_end"), reward_end_model()
    with torch.no_grad():
        rew, end, (hx, cx) = model.predict(v["obs"][:, :-1], v["act"][:, :-1], v["obs"][:, 1:])
    for actual, name in ((rew, "logits_rew"), (end, "logits_end"), (hx, "hx"), (cx, "cx")):
        torch.testing.assert_close(actual, v[name], rtol=1e-4, atol=1e-5)


def test_state_carried_between_calls_equals_one_call():
    v, model = tensors("rew_end"), reward_end_model()
    obs, act = v["obs"], v["act"]
    with torch.no_grad():
        whole = model.predict(obs[:, :-1], act[:, :-1], obs[:, 1:])
        first = model.predict(obs[:, :2], act[:, :2], obs[:, 1:3])
        rest = model.predict(obs[:, 2:-1], act[:, 2:-1], obs[:, 3:], first[2])
    torch.testing.assert_close(torch.cat((first[0], rest[0]), dim=1), whole[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rest[2][1], whole[2][1], rtol=1e-5, atol=1e-5)


def test_loss_and_gradients_golden():
    v, model = tensors("rew_end"), reward_end_model()
    end = v["end"].bool()
    obs = v["obs"].clone()
    (row,) = end[:, :-1].any(dim=1).nonzero().flatten()
    obs[row, end[row].int().argmax() + 1] = v["final_obs"]  # stands behind the last step, as the replay stores it
    loss = model.loss(obs, v["act"], v["rew"], end, v["mask"])
    loss.total.backward()
    torch.testing.assert_close(loss.reward, v["loss_rew"], rtol=1e-4, atol=0)
    torch.testing.assert_close(loss.end, v["loss_end"], rtol=1e-4, atol=0)
    assert torch.equal(loss.confusion_reward, v["confusion_rew"])
    assert torch.equal(loss.confusion_end, v["confusion_end"])
    norms = {name: p.grad.norm().item() for name, p in model.named_parameters()}
    assert norms == pytest.approx(META["rew_end_grad_norm_by_parameter"], rel=1e-3, abs=1e-6)


def test_confusion_matrix_counts_by_hand():
    target = torch.tensor([[0, 1, 1, 0]])
    logits = torch.tensor([[[2.0, 1.0], [2.0, 1.0], [0.0, 1.0], [0.0, 9.0]]])
    mask = torch.tensor([[True, True, True, False]])
    assert confusion_matrix(logits, target, mask).tolist() == [[1, 0], [1, 1]]


@pytest.mark.parametrize("frame_size", [24, 25, 17])
def test_odd_frame_sizes(frame_size):
    cfg = RewardEndConfig(lstm_dim=8, cond_channels=8, depths=(1, 1, 1), channels=(8, 8, 8), attn_depths=(0, 0, 0))
    model = RewardEndModel(cfg, world(3, frame_size))
    obs = torch.rand(2, 4, 3, frame_size, frame_size)
    rew, end, (hx, _) = model.predict(obs[:, :-1], torch.zeros(2, 3, dtype=torch.int64), obs[:, 1:])
    assert rew.shape == (2, 3, 3)
    assert end.shape == (2, 3, 2)
    assert hx.shape == (1, 2, 8)


def test_a_loss_encodes_every_pair_of_frames_once_and_unrolls_the_memory_in_one_call():
    model = reward_end_model()
    n, length = 2, 6
    calls = {"encoder": [], "lstm": []}
    for name, seen in calls.items():
        model.get_submodule(name).register_forward_hook(lambda m, args, out, seen=seen: seen.append(args[0].shape[:-1]))
    size = META["rew_end_small"]["img_size"]
    obs, mask = torch.rand(n, length, 3, size, size), torch.ones(n, length, dtype=torch.bool)
    model.loss(obs, torch.zeros(n, length, dtype=torch.int64), torch.zeros(n, length), ~mask, mask)
    assert calls["encoder"] == [(n * (length - 1), 6, size)]
    assert calls["lstm"] == [(n, length - 1)]


def test_learning_how_often_rewards_come_leaves_the_memory_open_to_frames():
    """With the usual small hidden numbers, what the LSTM says of frames fell to a twentieth meanwhile."""
    cfg = RewardEndConfig(
        lstm_dim=32, cond_channels=8, depths=(1, 1), channels=(8, 8), attn_depths=(0, 0), reward_head="symlog-bins"
    )
    torch.manual_seed(0)
    model, dice = RewardEndModel(cfg, 2, frame_size=8), torch.Generator().manual_seed(0)
    frames, act = 0.5 + 0.4 * torch.rand(64, 2, 3, 8, 8, generator=dice), torch.zeros(8, 4, dtype=torch.long)

    def told_apart():
        with torch.no_grad():
            x = model.encoder(frames.flatten(1, 2), model.act_emb(torch.zeros(64, dtype=torch.long))).flatten(1)
            return model.lstm(x[:, None])[0].std(0).mean() / x.std(0).mean()

    before, optimiser = told_apart(), torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(50):  # rewards that frames say nothing about
        obs = 0.5 + 0.4 * torch.rand(8, 4, 3, 8, 8, generator=dice)
        rew = torch.where(torch.rand(8, 4, generator=dice) < 0.2, 3.0, -0.5)
        ends = torch.zeros(8, 4, dtype=torch.bool)
        loss = model.loss(obs, act, rew, ends, ~ends)
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
    assert loss.reward < 1.6  # knowing the frequencies alone: 1.17
    assert told_apart() / before > 0.1
