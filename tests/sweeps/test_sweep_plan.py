import pytest

from diamond_fast.sweeps.plan import plan

BOXING, PONG = ("Boxing", ("--game", "Boxing")), ("Pong", ("--game", "Pong"))


def test_every_game_with_every_combination_and_seed():
    grid = [("world-model.sampler.num-steps", "1", "3"), ("--engine", "readable")]
    runs = plan([BOXING, PONG], grid, range(2), ["--preset", "quick"])
    assert [run.name for run in runs] == [
        f"{game}-num-steps={steps},engine=readable-seed{seed}"
        for seed in (0, 1)
        for steps in (1, 3)
        for game in ("Boxing", "Pong")
    ]
    assert runs[3].variant == "num-steps=3,engine=readable"
    assert runs[3].argv == (
        *("--game", "Pong", "--preset", "quick"),
        *("--world-model.sampler.num-steps", "3", "--engine", "readable", "--seed", "0"),
    )


def test_without_a_grid_the_name_is_the_game_and_the_seed():
    assert [run.name for run in plan([BOXING], [], range(3), [])] == ["Boxing-seed0", "Boxing-seed1", "Boxing-seed2"]


def test_settings_that_end_alike_are_told_apart():
    (run,) = plan([BOXING], [("denoiser-update.lr", "1e-3"), ("reward-end-update.lr", "1e-4")], [0], [])
    assert run.variant == "denoiser-update.lr=1e-3,reward-end-update.lr=1e-4"


def test_names_are_those_of_folders():
    (run,) = plan([("my/Env v0", ())], [("static-dataset", "/data/a b.npz")], [0], [])
    assert run.name == "my_Env_v0-static-dataset=_data_a_b.npz-seed0"


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ([("a",)], "--grid a: needs values behind the setting's name, such as --grid a 1 3"),
        ([("a", "1"), ("a", "2")], "--grid: names a setting twice; give all its values behind one"),
        ([("a", "1", "1")], "--games, --grid: name something twice"),
    ],
)
def test_what_is_no_grid(grid, message):
    with pytest.raises(ValueError, match="grid") as caught:
        plan([BOXING], grid, [0], [])
    assert str(caught.value) == message
