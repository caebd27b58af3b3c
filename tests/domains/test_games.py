import subprocess
import sys

import pytest

from diamond_fast.domains.atari.games import ATARI_100K, all_games, atari_game_of, resolve_game, rom_id


def test_the_26_games_have_roms():
    from ale_py import roms

    assert len(ATARI_100K) == len(set(ATARI_100K)) == 26
    for game in ATARI_100K:
        assert roms.get_rom_path(rom_id(game)).exists()


def test_names_are_those_of_ale_py():
    import ale_py  # noqa: F401 (registers its environments)
    import gymnasium

    registered = {
        spec.id.removeprefix("ALE/").removesuffix("-v5")
        for spec in gymnasium.registry.values()
        if spec.namespace == "ALE"
    }
    assert set(all_games()) == registered
    assert set(ATARI_100K) < registered


@pytest.mark.parametrize("name", ["MsPacman", "mspacman", "MSPACMAN", "ms_pacman"])
def test_case_and_underscores_do_not_matter(name):
    assert resolve_game(name) == "MsPacman"


def test_a_typo_is_answered_with_the_nearest_name():
    with pytest.raises(ValueError, match=r'^unknown game "Boxng"; did you mean Boxing\?$'):
        resolve_game("Boxng")
    with pytest.raises(ValueError, match=r'^unknown game "up_down"; did you mean UpNDown\?$'):
        resolve_game("up_down")
    with pytest.raises(ValueError, match=r'^unknown game "xyzzy"; the games of Atari 100k are Alien, .*UpNDown$'):
        resolve_game("xyzzy")
    with pytest.raises(ValueError, match=r'^unknown game ""; the games'):
        resolve_game("")


def test_looking_names_up_imports_nothing_heavy():
    code = (
        "import sys; from diamond_fast.domains.atari.games import resolve_game; resolve_game('pong');"
        "assert not {'torch', 'gymnasium', 'ale_py', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("env_id", "game"),
    [
        ("ALE/Boxing-v5", "Boxing"),
        ("ALE/MsPacman-ram-v5", "MsPacman"),
        ("BoxingNoFrameskip-v4", "Boxing"),
        ("PongDeterministic-v0", "Pong"),
        ("Pong-v4", "Pong"),
        ("CarRacing-v3", None),
        ("CartPole-v0", None),
        ("my_module:ALE/Boxing-v5", None),
        ("ALE/NoSuchGame-v5", None),
    ],
)
def test_ids_of_ale_py_name_the_game(env_id, game):
    assert atari_game_of(env_id) == game
