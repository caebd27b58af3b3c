import time

import numpy as np
import pytest

from diamond_fast.playing.loop import GameLoop

pygame = pytest.importorskip("pygame", reason="needs pygame-ce (pip install 'diamond_fast[window]')")


@pytest.fixture
def window(make_session, monkeypatch):
    """A window nobody sees, over a real game of Catch."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    from diamond_fast.playing.window import Window, _init

    session = make_session(world="real", speed=60)
    game = GameLoop(session)
    _init()
    window = Window(game, "Catch", session.source.panel)
    game.start()
    game.watch(1)
    yield window, game
    game.stop()
    pygame.quit()


def press(kind, key):
    pygame.event.post(pygame.event.Event(kind, key=key))


def until(window, condition):
    ends = time.monotonic() + 10
    while not condition():
        assert window.handle_events()
        assert time.monotonic() < ends
        time.sleep(0.005)


def test_keys_move_the_player(window):
    window, game = window
    press(pygame.KEYDOWN, pygame.K_LEFT)
    until(window, lambda: (game.view.frame[-1, 0] == (0, 255, 0)).all())
    press(pygame.KEYUP, pygame.K_LEFT)
    press(pygame.KEYDOWN, pygame.K_d)
    until(window, lambda: (game.view.frame[-1, -1] == (0, 255, 0)).all())
    press(pygame.KEYDOWN, pygame.K_p)
    until(window, lambda: game.view.paused)


def test_shortcuts(window):
    window, game = window
    press(pygame.KEYDOWN, pygame.K_n)
    until(window, lambda: game.view.step == 1)
    press(pygame.KEYDOWN, pygame.K_c)
    until(window, lambda: game.view.controller == "agent")
    press(pygame.KEYDOWN, pygame.K_h)
    until(window, lambda: game.view.world == "model")
    press(pygame.KEYDOWN, pygame.K_PLUS)
    until(window, lambda: game.view.denoising_steps == 3)


def test_the_frame_is_drawn_enlarged(window):
    window, game = window
    window.draw()
    pixels = pygame.surfarray.array3d(window.screen).swapaxes(0, 1)
    drawn = pixels[16 : 16 + 24 * 26, 16 : 16 + 24 * 26]
    np.testing.assert_array_equal(drawn, game.view.frame.repeat(26, axis=0).repeat(26, axis=1))


def test_closing_ends_it(window):
    window, _ = window
    pygame.event.post(pygame.event.Event(pygame.QUIT))
    assert not window.handle_events()


def test_without_a_display_it_says_so(monkeypatch):
    from diamond_fast.playing.window import require_display

    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(ValueError, match="--window: there is no display"):
        require_display()
