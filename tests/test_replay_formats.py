"""Recordings in and out, and what is said of wrong ones."""

import numpy as np
import pytest
import torch
from replay_model import append_steps, assert_same, random_steps

from diamond_fast.replay import Replay, load_recording
from diamond_fast.replay.__main__ import main
from diamond_fast.replay.formats import write_npz

SHAPE = (2, 5, 3)


@pytest.fixture
def replay() -> Replay:
    """Ended, cut off and unfinished episodes."""
    replay = Replay(SHAPE, num_envs=2)
    random_steps(replay, np.random.default_rng(0), 30)
    replay.commit()
    return replay


def write_published(replay: Replay, folder) -> None:
    """Writes a `dataset/` folder in the form of the published code."""
    for i in range(replay.num_episodes):
        episode = replay.episode(i)
        final = {}
        if episode.final_obs is not None:
            final["final_observation"] = torch.tensor(episode.final_obs).permute(2, 0, 1).div(255).mul(2).sub(1)
        path = folder / f"{i // 100 % 10 * 100:03d}" / f"{i // 10 % 10 * 10:02d}" / f"{i % 10}" / f"{i}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(
            {
                "obs": torch.tensor(episode.obs).permute(0, 3, 1, 2),
                "act": torch.tensor(episode.act),
                "rew": torch.tensor(episode.rew),
                "end": torch.tensor(episode.end).to(torch.uint8),
                "trunc": torch.tensor(episode.trunc).to(torch.uint8),
                "info": final,
            },
            path,
        )
    torch.save({"num_episodes": replay.num_episodes}, folder / "info.pt")


def arrays_of(replay: Replay) -> dict[str, np.ndarray]:
    episodes = [replay.episode(i) for i in range(replay.num_episodes)]
    columns = [np.concatenate(column) for column in list(zip(*episodes, strict=True))[:5]]
    arrays = dict(zip(("observations", "actions", "rewards", "terminations", "truncations"), columns, strict=True))
    arrays["final_observations"] = np.stack([e.final_obs for e in episodes if e.final_obs is not None])
    arrays["episode_lengths"] = replay.lengths
    return arrays


def test_npz_there_and_back(replay, tmp_path):
    write_npz(replay, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as file:
        for name, array in arrays_of(replay).items():
            np.testing.assert_array_equal(file[name], array)
    assert_same(load_recording(tmp_path / "a.npz"), replay)


def test_npz_without_any_ended_episode(tmp_path):
    replay, no = Replay(SHAPE), np.zeros((5, 1), bool)
    append_steps(replay, np.random.default_rng(0), no, no)
    replay.commit()
    write_npz(replay, tmp_path / "a.npz")
    assert_same(load_recording(tmp_path / "a.npz"), replay)


def test_recordings_of_gymnasium(replay, tmp_path):
    """Short names, true next frames at every step, float64 rewards, no episode lengths: episodes stop at their ends."""
    arrays = arrays_of(replay)
    done = arrays["terminations"] | arrays["truncations"]
    next_observations = np.zeros_like(arrays["observations"])
    next_observations[done] = arrays["final_observations"]
    np.savez(
        tmp_path / "a.npz",
        obs=arrays["observations"],
        act=arrays["actions"].astype(np.int32),
        rew=arrays["rewards"].astype(np.float64),
        end=arrays["terminations"],
        trunc=arrays["truncations"],
        next_observations=next_observations,
    )
    loaded = load_recording(tmp_path / "a.npz")
    stops = (np.flatnonzero(done) + 1).tolist()
    stops += [len(done)] if stops[-1] < len(done) else []
    assert loaded.lengths.tolist() == np.diff([0, *stops]).tolist()
    np.testing.assert_array_equal(
        np.concatenate([loaded.episode(i).obs for i in range(loaded.num_episodes)]), arrays["observations"]
    )
    np.testing.assert_array_equal(loaded.episode(0).final_obs, arrays["final_observations"][0])


def test_published_folders(tmp_path):
    replay, rng = Replay(SHAPE), np.random.default_rng(0)
    random_steps(replay, rng, 150)
    replay.close_episodes()
    assert replay.num_episodes > 20
    write_published(replay, tmp_path)
    assert_same(load_recording(tmp_path), replay)


def test_published_folders_with_something_wrong(tmp_path):
    replay = Replay(SHAPE)
    random_steps(replay, np.random.default_rng(0), 60)
    replay.commit()
    write_published(replay, tmp_path)
    second = tmp_path / "000" / "00" / "2" / "2.pt"
    good = torch.load(second, weights_only=True)

    def expect(message: str) -> None:
        with pytest.raises(ValueError, match=message):
            load_recording(tmp_path)

    for name, value, message in [
        ("obs", good["obs"].float(), "episode 2: obs: expected uint8, got float32"),
        ("obs", good["obs"][:, 0], r"2.pt: obs: expected \[T, C, H, W\]"),
        ("obs", good["obs"][:, :, :1], "episode 2: obs: expected frames"),
        ("rew", good["rew"][:-1], r"episode 2: rew: expected \[\d+\], got \[\d+\]"),
        ("rew", good["rew"] * float("nan"), "episode 2: rew: expected finite rewards"),
        ("act", good["act"].float(), "episode 2: act: expected integers, got float32"),
        ("act", good["act"] - 9, "episode 2: act: expected 0 or more, got -"),
        ("act", good["act"][:, None].repeat(1, 2), r"2.pt: act: expected integers \[T\], or one-hot rows, got int64"),
        ("end", torch.ones_like(good["end"]), "episode 2: end: expected true at the last step only"),
        ("trunc", good["trunc"] + 2, "episode 2: trunc: expected 0 or 1"),
        ("info", {}, "episode 2: final_obs: expected one where the episode ended"),
        ("act", None, "2.pt: act: expected a tensor, got NoneType"),
    ]:
        torch.save(good | {name: value}, second)
        expect(message)
    second.write_bytes(second.read_bytes()[:50])
    expect("2.pt: damaged, or not a file of tensors")
    torch.save(object, second)  # anything that would execute code is not unpickled
    expect("2.pt: damaged, or not a file of tensors")
    second.unlink()
    expect("episode 2 is missing, but there is an episode")


def test_names_of_d4rl(replay, tmp_path):
    arrays = arrays_of(replay)
    arrays["terminals"], arrays["timeouts"] = arrays.pop("terminations"), arrays.pop("truncations")
    np.savez(tmp_path / "a.npz", **arrays)
    assert_same(load_recording(tmp_path / "a.npz"), replay)


def test_observations_with_the_last_one_of_each_episode(replay, tmp_path):
    """As Minari stores them: one more than steps. An episode without an end does not need the last one."""
    arrays = arrays_of(replay)
    episodes = [replay.episode(i) for i in range(replay.num_episodes)]
    assert any(e.final_obs is None for e in episodes)
    last = [np.full((1, *SHAPE), 9, np.uint8) if e.final_obs is None else e.final_obs[None] for e in episodes]
    frames = np.concatenate([part for e, final in zip(episodes, last, strict=True) for part in (e.obs, final)])
    finals = arrays.pop("final_observations")
    np.savez(tmp_path / "a.npz", **arrays | {"observations": frames})
    assert_same(load_recording(tmp_path / "a.npz"), replay)
    np.savez(tmp_path / "a.npz", **arrays | {"observations": frames, "final_observations": finals})
    with pytest.raises(ValueError, match=r"observations: expected 60 rows as in actions, got"):
        load_recording(tmp_path / "a.npz")


FORMS = {  # how frames are stored, and whether their first channel is all there is
    "gray": (lambda x: x[..., 0], True),
    "gray with a channel": (lambda x: x[..., :1], True),
    "channels first": (lambda x: np.moveaxis(x, -1, -3), False),
    "gray channels first": (lambda x: np.moveaxis(x[..., :1], -1, -3), True),
    "floats": (lambda x: x.astype(np.float32) / 255, False),
}


@pytest.mark.parametrize("name", FORMS)
def test_frames_of_another_form(replay, tmp_path, name):
    store, gray = FORMS[name]
    arrays = arrays_of(replay)
    for key in ("observations", "final_observations"):
        arrays[key] = store(arrays[key])
    np.savez(tmp_path / "a.npz", **arrays)
    loaded = load_recording(tmp_path / "a.npz")
    assert loaded.frame_shape == SHAPE
    for i in range(replay.num_episodes):
        pairs = [(loaded.episode(i).obs, replay.episode(i).obs)]
        if replay.episode(i).final_obs is not None:
            pairs.append((loaded.episode(i).final_obs, replay.episode(i).final_obs))
        for frames, truth in pairs:
            np.testing.assert_array_equal(frames, truth[..., :1].repeat(3, axis=-1) if gray else truth)


def test_numbers_with_a_dimension_too_many(replay, tmp_path):
    arrays = arrays_of(replay)
    columns = {name: arrays[name][:, None] for name in ("actions", "rewards", "terminations", "truncations")}
    np.savez(tmp_path / "a.npz", **arrays | columns)
    assert_same(load_recording(tmp_path / "a.npz"), replay)
    np.savez(tmp_path / "a.npz", **arrays | {"actions": np.eye(6, dtype=np.float32)[arrays["actions"]]})
    assert_same(load_recording(tmp_path / "a.npz"), replay)


def test_published_halves_are_not_mixed(tmp_path, capsys):
    """Train and test number their episodes from 0, both: one of them is named, by every command alike."""
    replay = Replay(SHAPE)
    random_steps(replay, np.random.default_rng(0), 40)
    replay.close_episodes()
    write_published(replay, tmp_path / "dataset" / "train")
    assert_same(load_recording(tmp_path / "dataset"), replay)  # only one half: no doubt
    write_published(replay, tmp_path / "dataset" / "test")
    for command in ("info", "verify", "import", "export"):
        out = [str(tmp_path / f"{command}.npz")] if command in ("import", "export") else []
        code, said = run_command(capsys, command, str(tmp_path / "dataset"), *out)
        assert code == (1 if command == "verify" else 2)
        assert "holds two recordings; name one of them" in said
        assert "dataset/train" in said
        assert "dataset/test" in said
    assert_same(load_recording(tmp_path / "dataset" / "test"), replay)
    write_published(replay, tmp_path / "mixed" / "a")
    write_published(replay, tmp_path / "mixed" / "b")
    with pytest.raises(ValueError, match="mixed: episode 0 is there twice"):
        load_recording(tmp_path / "mixed")


def test_what_info_refuses_verify_does_not_call_whole(replay, tmp_path, capsys):
    for name, value in (("actions", np.full(60, -1)), ("rewards", np.full(60, 1e39))):
        np.savez(tmp_path / "a.npz", **arrays_of(replay) | {name: value})
        assert [run_command(capsys, command, str(tmp_path / "a.npz"))[0] for command in ("info", "verify")] == [2, 1]


def run_command(capsys, *argv) -> tuple[int, str]:
    """The exit code, and all that was printed, which is one line."""
    try:
        code = main(list(argv))
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    said = captured.out + captured.err
    assert said.count("\n") == 1
    return code, said


def test_import_makes_frames_of_another_size(tmp_path, capsys):
    """A journal is resized, too; gray ones become RGB. Truth: the mean over each new pixel's area."""
    gray, no = Replay.open(tmp_path / "gray.journal", (6, 4, 1)), np.zeros((5, 1), bool)
    append_steps(gray, np.random.default_rng(0), no, np.array([[False]] * 4 + [[True]]))
    gray.commit()
    gray.close()
    assert main(["import", str(tmp_path / "gray.journal"), str(tmp_path / "out"), "--frame-size", "2"]) == 0
    episode, truth = load_recording(tmp_path / "out").episode(0), gray.episode(0)
    for frames, old in ((episode.obs, truth.obs), (episode.final_obs[None], truth.final_obs[None])):
        mean = old.astype(float).reshape(len(old), 2, 3, 2, 2, 1).mean(axis=(2, 4))
        assert frames.shape == (len(old), 2, 2, 3)
        assert np.abs(frames - mean).max() <= 0.5001
    capsys.readouterr()
    code, said = run_command(capsys, "import", str(tmp_path / "out"), str(tmp_path / "more"), "--frame-size", "0")
    assert (code, said) == (2, "--frame-size: must be at least 1, got 0\n")


def test_npz_with_something_wrong(replay, tmp_path):
    path, good = tmp_path / "a.npz", arrays_of(replay)
    for name, value, message in [
        ("observations", good["observations"][:-1], "observations: expected 60 rows as in actions, got 59"),
        ("observations", good["observations"] / 1.0, r"observations: expected uint8, or .*, got float64 from 0 to 255"),
        ("observations", good["observations"][..., :2], r"observations: expected \[T, H, W, 3\] or gray"),
        ("actions", good["actions"] - 7, "episode 0: act: expected 0 or more, got -"),
        ("actions", np.full((60, 2), 2.0), r"actions: expected integers \[T\], or one-hot rows, got float64 \[60, 2\]"),
        ("rewards", np.zeros((60, 2)), r"rewards: expected one number a step, got \[60, 2\]"),
        ("rewards", np.full(60, 1e39), "episode 0: rew: expected finite rewards that fit in float32"),
        ("final_observations", None, "final_observations: expected .* frames, got 0 .*next_observations has them"),
        ("rewards", np.float32(1), "rewards: expected one row a step"),
        ("rewards", np.full(60, np.inf), "episode 0: rew: expected finite rewards"),
        (
            "observations",
            good["observations"].astype(np.int16),
            "observations: expected uint8, or floats from 0 to 1, got int16",
        ),
        ("final_observations", good["final_observations"][1:], "final_observations: expected .* frames"),
        ("final_observations", good["final_observations"][:, :1], r"final_observations: expected uint8 \[2, 5, 3\]"),
        ("episode_lengths", good["episode_lengths"][1:], "episode_lengths: expected positive integers that sum to 60"),
        ("actions", np.array([None] * 60), "actions: damaged"),
        ("terminations", None, "terminations: missing; there are observations"),
    ]:
        np.savez(path, **{k: v for k, v in (good | {name: value}).items() if v is not None})
        with pytest.raises(ValueError, match=message):
            load_recording(path)
    np.savez_compressed(path, **good)
    content = bytearray(path.read_bytes())
    content[200] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a.npz: observations: damaged"):
        load_recording(path)
    path.write_bytes(content[:300])
    with pytest.raises(ValueError, match=r"a.npz: not a .npz file, or damaged"):
        load_recording(path)


def test_commands(replay, tmp_path, capsys):
    """Export, verify, import, info: there and back, with a sentence each."""
    journal, npz, again = tmp_path / "journal", tmp_path / "a.npz", tmp_path / "again"
    kept = Replay.open(journal, SHAPE, 2)
    random_steps(kept, np.random.default_rng(0), 30)
    kept.commit()
    kept.close()
    assert main(["export", str(journal), str(npz)]) == 0
    assert main(["import", str(npz), str(again)]) == 0
    assert_same(load_recording(again), kept)
    capsys.readouterr()

    assert main(["info", str(journal)]) == 0
    text = capsys.readouterr().out
    assert f"60 steps in {kept.num_episodes} episodes, 2 environments at a time" in text
    assert "frames: 2x5x3" in text
    assert f"episode lengths: {kept.lengths.min()} to {kept.lengths.max()}" in text

    for path, told in [(journal, "whole, 1 commit\n"), (npz, f"whole, {kept.num_episodes} episodes")]:
        assert main(["verify", str(path)]) == 0
        assert told in capsys.readouterr().out
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        assert main(["verify", str(path)]) == 1
        assert "damaged: " in capsys.readouterr().out


def test_commands_refuse_in_one_line(replay, tmp_path, capsys):
    npz = tmp_path / "a.npz"
    write_npz(replay, npz)
    for argv, message in [
        (["import", str(npz), str(npz)], "a.npz: exists already; give a new name"),
        (["info", str(tmp_path / "none")], "none: No such file or directory"),
        (["info", str(tmp_path)], "no episodes"),
        (["verify", __file__], "not a replay journal"),
    ]:
        if argv == ["info", str(tmp_path)]:
            npz.unlink()
        with pytest.raises(SystemExit) as stop:
            main(argv)
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
