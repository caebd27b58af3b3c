"""The environment behind ``diamond_fast/Doom-v0``. Importing it needs ViZDoom, which brings the game and Freedoom."""

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import DependencyNotInstalled

try:
    import vizdoom
except ImportError as error:
    raise DependencyNotInstalled("ViZDoom is missing; pip install 'diamond_fast[doom]'") from error

HEIGHT, WIDTH = 120, 160
FRAMES_PER_SECOND = vizdoom.DEFAULT_TICRATE / 3
MOST_DEGREES = 15.0
"""The player turns at most so far in a step; up and down, too."""
_TICS = 3  # of the game a step, the last of which is drawn
_STEPS_PER_MATCH = round(120 * FRAMES_PER_SECOND)
_SCENES = {"deathmatch": ("cig.wad", "map02"), "rooms": ("my_way_home.wad", "map01")}
_KEYS = ("MOVE_FORWARD", "MOVE_LEFT", "MOVE_BACKWARD", "MOVE_RIGHT")  # w, a, s, d
_GUN = ("give Shotgun", "give Shell 999", "use Shotgun")
_RULES = (
    "-host 1 -deathmatch +sv_forcerespawn 1 +sv_respawnprotect 1 +sv_spawnfarthest 1 +sv_noautoaim 1 +sv_nocrouch 1 "
    "+viz_respawn_delay 0 +viz_nocheat 0"
)


class Deathmatch(gymnasium.Env):
    """Two minutes of everyone against everyone on a small map, or alone in several rooms. 35/3 frames a second.

    Observations are uint8 [120,160,3]. An action is a dictionary: ``keys``, which are held (w, a, s, d: forward, left,
    back, right), ``clicks`` (shoot), and ``mouse_x`` and ``mouse_y``, by how many degrees the view turns to the right
    and downwards. A kill is worth 1, a death by one's own doing -1. Who dies goes on elsewhere a step later; the match
    ends with its time alone. Who is alone finds a vest in one of the rooms, which is worth 1 and the end.

    Every match is a new process: ViZDoom's bots do not repeat themselves in a second match of the same.

    Args:
        bots: opponents in a deathmatch.
        scene: ``deathmatch`` or ``rooms``.
        armed: who walks through the rooms holds a shotgun, so that a shot is seen. In a deathmatch everybody is armed.

    Raises:
        ValueError: there is no such scene.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": FRAMES_PER_SECOND}  # noqa: RUF012

    def __init__(self, bots: int = 3, render_mode: str | None = None, scene: str = "deathmatch", armed: bool = False):
        if scene not in _SCENES:
            raise ValueError(f"scene: expected one of {', '.join(_SCENES)}, got {scene}")
        self.bots, self.render_mode = bots if scene == "deathmatch" else 0, render_mode
        self._gun = _GUN if armed and scene == "rooms" else ()
        self.observation_space = spaces.Box(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        turn = spaces.Box(-MOST_DEGREES, MOST_DEGREES, (1,), np.float32)
        self.action_space = spaces.Dict(
            {
                "keys": spaces.MultiBinary(len(_KEYS)),
                "clicks": spaces.MultiBinary(1),
                "mouse_x": turn,
                "mouse_y": turn,
            }
        )
        self._folder = tempfile.TemporaryDirectory(prefix="doom-")  # the game writes its settings
        self._game = _game(Path(self._folder.name) / "settings.ini", scene)
        self._frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        self._frags = self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self._game.close()
        self._game.set_seed(int(self.np_random.integers(2**31)))
        self._game.init()
        with suppress(OSError):
            Path("_vizdoom").rmdir()  # the game makes it where the program runs, and leaves it empty
        for _ in range(self.bots):
            self._game.send_game_command("addbot")
        for command in self._gun:
            self._game.send_game_command(command)
        self._frags = self._steps = 0
        return self.render(), {}

    def step(self, action: dict[str, np.ndarray]):
        if self._game.is_player_dead():
            self._game.respawn_player()
        right, up = float(action["mouse_x"][0]) / _TICS, -float(action["mouse_y"][0]) / _TICS
        self._game.make_action([*map(float, action["keys"]), float(action["clicks"][0]), right, up], _TICS)
        self._steps += 1
        if self._game.is_episode_finished():
            return self._frame, 1.0, True, False, {}
        before, self._frags = self._frags, int(self._game.get_game_variable(vizdoom.GameVariable.FRAGCOUNT))
        return self.render(), float(self._frags - before), False, self._steps == _STEPS_PER_MATCH, {}

    def render(self) -> np.ndarray:
        if (state := self._game.get_state()) is not None:
            self._frame = np.array(state.screen_buffer)
        return self._frame

    def close(self) -> None:
        self._game.close()
        self._folder.cleanup()


def _game(settings: Path, scene: str) -> "vizdoom.DoomGame":
    game = vizdoom.DoomGame()
    game.set_doom_config_path(str(settings))
    file, level = _SCENES[scene]
    game.set_doom_scenario_path(str(Path(vizdoom.scenarios_path) / file))
    game.set_doom_map(level)
    game.set_mode(vizdoom.Mode.PLAYER)
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_window_visible(False)
    game.set_sound_enabled(False)
    game.set_render_hud(False)
    game.set_render_crosshair(False)
    game.set_episode_timeout(0)
    buttons = (*_KEYS, "ATTACK", "TURN_LEFT_RIGHT_DELTA", "LOOK_UP_DOWN_DELTA")
    game.set_available_buttons([getattr(vizdoom.Button, name) for name in buttons])
    if scene == "deathmatch":
        game.add_game_args(_RULES)
    return game
