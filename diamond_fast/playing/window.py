"""The game in a window of this machine's screen, with pygame-ce."""

import os
import sys

import numpy as np

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # read at the import: pygame greets in the terminal
import pygame

from diamond_fast.playing.commands import Command
from diamond_fast.playing.hands import Panel
from diamond_fast.playing.loop import GameLoop
from diamond_fast.playing.session import View

FRAME_WIDTH = 640  # pixels
PANEL_WIDTH = 300
MARGIN = 16
HELP_HEIGHT = 42
LINE_HEIGHT, ROW_HEIGHT = 23, 18
REDRAWS_A_SECOND = 60
BACK, INK, QUIET, LINE = (13, 15, 20), (236, 238, 244), (151, 160, 179), (91, 100, 117)
ACCENTS = {"model": (167, 139, 250), "real": (52, 211, 153), "replay": (251, 191, 36)}
WORLDS = {"model": "world model", "real": "real game", "replay": "replay"}
OVER = {"end": "the episode ended", "cut": "cut off"}
HELP = (
    "arrows, space: play    P: pause    N: single step    R: restart    E: next episode    C: you or agent    Esc: end",
    "M: world model, real game or replay    H: dream on from here    V: record    + and -: denoising steps",
)


def require_display() -> None:
    """Raises ValueError if no window can be opened."""
    if sys.platform.startswith("linux") and not any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
    ):
        raise ValueError("--window: there is no display here; leave it out to play in a browser")


def play(game: GameLoop, title: str, panel: Panel) -> None:
    """Show the game until the window is closed or Ctrl-C."""
    _init()
    try:
        window = Window(game, title, panel)
        game.start()
        game.watch(1)
        try:
            clock = pygame.time.Clock()
            while window.handle_events():
                window.draw()
                clock.tick(REDRAWS_A_SECOND)
        except KeyboardInterrupt:
            pass
        finally:
            game.stop()
    finally:
        pygame.quit()


def _init() -> None:
    """Screen and letters only: pygame.init() would look for sound cards, and complain."""
    pygame.display.init()
    pygame.font.init()


class Window:
    """Keys become commands, views become pictures."""

    def __init__(self, game: GameLoop, title: str, panel: Panel):
        self._game = game
        self._labels = panel.rows
        self._buttons = {_key(code): button.name for button in panel.buttons for code in button.codes if _is_key(code)}
        self._held: list[int] = []
        height, width = game.view.frame.shape[:2]
        self._scale = max(1, FRAME_WIDTH // width)
        self._frame_size = (width * self._scale, height * self._scale)
        pygame.display.set_caption(f"{title} - diamond_fast")
        self.screen = pygame.display.set_mode(
            (self._frame_size[0] + PANEL_WIDTH + 3 * MARGIN, self._frame_size[1] + 2 * MARGIN + HELP_HEIGHT)
        )
        self._small, self._large = pygame.font.Font(None, 21), pygame.font.Font(None, 34)

    def handle_events(self) -> bool:
        """Pass on what was pressed. False once the window is to close."""
        for event in pygame.event.get():
            if event.type == pygame.QUIT or (event.type == pygame.KEYDOWN and event.key == pygame.K_ESCAPE):
                return False
            if event.type == pygame.KEYDOWN and event.key in self._buttons:
                self._held.append(event.key)
                self._hold()
                if self._game.view.paused and self._game.view.step == 0:
                    self._game.submit(Command("pause", False))
            elif event.type == pygame.KEYUP and event.key in self._held:
                self._held.remove(event.key)
                self._hold()
            elif event.type == pygame.WINDOWFOCUSLOST:
                self._held.clear()
                self._hold()
            elif event.type == pygame.KEYDOWN and (command := self._shortcut(event.key)):
                self._game.submit(command)
        return True

    def draw(self) -> None:
        view = self._game.view
        accent = ACCENTS[view.world]
        self.screen.fill(BACK)
        picture = _surface(view.frame, self._scale)
        self.screen.blit(picture, (MARGIN, MARGIN))
        pygame.draw.rect(self.screen, accent, picture.get_rect(topleft=(MARGIN, MARGIN)).inflate(6, 6), 2, 4)
        self._draw_panel(view, accent)
        for i, line in enumerate(HELP):
            self._text(line, (MARGIN, self._frame_size[1] + MARGIN + 14 + 20 * i), QUIET, self._small)
        pygame.display.flip()

    def _draw_panel(self, view: View, accent: tuple[int, int, int]) -> None:
        x, y = self._frame_size[0] + 2 * MARGIN, MARGIN
        self._text(WORLDS[view.world], (x, y), accent, self._large)
        state = view.notice or OVER.get(view.over) or ("paused" if view.paused else "")
        who = "you play" if view.controller == "human" else "the agent plays"
        place = f"step {view.step}"
        if view.position:
            episode, step, length = view.position
            who, place = f"episode {episode}", f"step {step} of {length}"
        lines = [
            (who, INK),
            (state, accent),
            (f"{place}    {self._game.frames_per_second:.1f} a second", QUIET),
            (f"reward {view.reward:+g}    return {view.total:+g}", INK),
            (f"value {view.value:+.2f}" if view.value is not None else "", INK),
            (f"{view.denoising_steps} denoising steps, horizon {view.horizon}, seed {view.seed}", QUIET),
            ("recording" if view.recording else f"{len(view.recordings)} episodes recorded", QUIET),
        ]
        y += 40
        for text, colour in lines:
            self._text(text[:44], (x, y), colour, self._small)
            y += LINE_HEIGHT
        y += 6
        done = view.action if isinstance(view.action, tuple) else ()
        for i, share in enumerate(view.probabilities or done):
            taken = done[i] != 0 if done else i == view.action
            self._text(self._labels[i], (x, y), accent if taken else INK, self._small)
            bar = pygame.Rect(x + 145, y, int(150 * abs(share)), 11)  # to the left if it is below 0
            pygame.draw.rect(self.screen, accent if taken else LINE, bar.move(-bar.width if share < 0 else 0, 0), 0, 3)
            y += ROW_HEIGHT
        self._draw_trajectory(view, x, y + 8)

    def _draw_trajectory(self, view: View, x: int, y: int) -> None:
        frames = view.trajectory[-4:]  # as many as fit
        for i, frame in enumerate(frames):
            side = (PANEL_WIDTH - 18) // 4
            self.screen.blit(pygame.transform.scale(_surface(frame, 1), (side, side)), (x + i * (side + 6), y))

    def _hold(self) -> None:
        self._game.submit(Command("hold", list(dict.fromkeys(self._buttons[key] for key in self._held))))

    def _shortcut(self, key: int) -> Command | None:
        view = self._game.view
        worlds = list(WORLDS)
        return {
            pygame.K_p: Command("pause", not view.paused),
            pygame.K_n: Command("step"),
            pygame.K_r: Command("restart"),
            pygame.K_e: Command("next"),
            pygame.K_c: Command("controller", "agent" if view.controller == "human" else "human"),
            pygame.K_m: Command("world", worlds[(worlds.index(view.world) + 1) % len(worlds)]),
            pygame.K_h: Command("dream_from_here"),
            pygame.K_v: Command("record", not view.recording),
            pygame.K_PLUS: Command("denoising_steps", view.denoising_steps + 1),
            pygame.K_EQUALS: Command("denoising_steps", view.denoising_steps + 1),
            pygame.K_MINUS: Command("denoising_steps", view.denoising_steps - 1),
        }.get(key)

    def _text(self, text: str, place: tuple[int, int], colour: tuple[int, int, int], font: pygame.font.Font) -> None:
        self.screen.blit(font.render(text, True, colour), place)


def _is_key(code: str) -> bool:
    return not code.startswith(("Mouse", "Pad", "Axis"))


def _key(code: str) -> int:
    """The key that a browser calls so: ``KeyW``, ``Digit1``, ``ArrowUp``, ``ShiftLeft``."""
    if side := next((side for side in ("Left", "Right") if code.endswith(side) and not code.startswith("Arrow")), ""):
        return pygame.key.key_code(f"{side} {code.removesuffix(side)}".lower())
    for prefix in ("Key", "Digit", "Arrow"):
        code = code.removeprefix(prefix)
    return pygame.key.key_code(code.lower())


def _surface(frame: np.ndarray, scale: int) -> pygame.Surface:
    surface = pygame.surfarray.make_surface(frame.swapaxes(0, 1))
    return pygame.transform.scale_by(surface, scale)
