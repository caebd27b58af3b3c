"""``python -m diamond_fast.play``: play inside the world model, in the browser or in a window."""

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import FlagCreatePairsOff, arg

from diamond_fast.agent_flags import DEMO, AgentFlags
from diamond_fast.browser import open_page
from diamond_fast.cli import parse, user_errors
from diamond_fast.config import Seed
from diamond_fast.one_line import counted
from diamond_fast.runs.output import lasting_output
from diamond_fast.settings import Limits, check_limits

if TYPE_CHECKING:  # torch is slow to import, and --help needs none of it
    from diamond_fast.playing.session import Session

PROGRAM = "python -m diamond_fast.play"
EXIT_INTERRUPTED = 130  # as shells report Ctrl-C
SLOW = 5.0  # frames a second


@dataclass(frozen=True)
class PlayArgs(AgentFlags):
    """Play inside a world model: in the browser, with keyboard or touch.

    Open a dream of Boxing, with nothing to train, fetch or install:
        python -m diamond_fast.play

    Play in the dream of a run, also while it is still training:
        python -m diamond_fast.play --run runs/Boxing-20260101-120000-seed0

    Play in that of a published agent, fetched from the Hub:
        python -m diamond_fast.play --pretrained Boxing

    Watch the agent in the real game:
        python -m diamond_fast.play --run runs/Boxing-20260101-120000-seed0 --world real --player agent
    """

    world: Literal["model", "real", "replay"] = "model"
    """Play begins in the world model, the real game, or the recorded experience."""
    player: Literal["human", "agent"] = "human"
    """You or the agent hold the controls at the beginning."""
    denoising_steps: Annotated[int | None, Limits(minimum=1, maximum=50), arg(metavar="N")] = None
    """Each imagined frame takes so many denoising steps. If it is not given, the run's number is taken."""
    horizon: Annotated[
        int | None, Limits(minimum=1, maximum=10_000), arg(help_behavior_hint="(default: 50; 500 in the demo)")
    ] = None
    """After so many imagined steps an episode is cut off and the next begins. Training uses 15."""
    seed: Seed = 0
    """The seed fixes starts, noise and the agent's actions."""
    speed: Annotated[int, Limits(minimum=1, maximum=60)] = 15
    """At most so many steps are played in a second. Atari games run at 15."""
    recordings: Annotated[Path, arg(metavar="DIR")] = Path("recordings")
    """Recorded episodes are written to this folder, each session into a folder of its own."""
    exact: FlagCreatePairsOff[bool] = False
    """This means the same as --engine readable."""
    window: FlagCreatePairsOff[bool] = False
    """Open a window on this machine's screen instead of serving a page."""
    host: str = "127.0.0.1"
    """The page is served at this address; 0.0.0.0 lets others on the network in, if they have the link."""
    port: Annotated[int, Limits(minimum=0, maximum=65_535)] = 0
    """The page is served at this port; 0 takes any free one."""


@lasting_output()
def main(argv: Sequence[str] | None = None) -> None:
    args = parse(PlayArgs, argv, prog=PROGRAM)
    nothing_else = args.run is args.checkpoint is args.pretrained is None
    if nothing_else:
        args = replace(args, pretrained=DEMO)
    if args.horizon is None:
        args = replace(args, horizon=500 if args.pretrained == DEMO else 50)
    try:
        with user_errors():
            check_limits(args)
            args.check_steps(*filter(None, (args.denoising_steps,)))
            play = _prepare_window(args) if args.window else _prepare_page(args, opens=nothing_else)
        play()
    except KeyboardInterrupt:  # before the game began: in it, Ctrl-C is the usual way to end
        raise SystemExit(EXIT_INTERRUPTED) from None


def _prepare_page(args: PlayArgs, opens: bool) -> Callable[[], None]:
    """``opens``: the page is opened in a browser, if there is one."""
    try:
        from diamond_fast.playing import server
    except ModuleNotFoundError as error:
        raise _missing(error, "aiohttp", "play") from None
    from diamond_fast.playing.loop import GameLoop
    from diamond_fast.playing.wire import describe

    listening = server.bind(args.host, args.port)
    session, frame_rate = _set_up(args)
    page = server.PlayServer(GameLoop(session), session.recorder, describe(session, frame_rate), args.host)
    print(*server.invitation(listening, page.token, args.host), sep="\n", flush=True)
    if opens:
        open_page(server.address(listening, page.token))  # it is answered as soon as the game begins
    return _then_tell(lambda: asyncio.run(server.serve(page, listening)), session)


def _prepare_window(args: PlayArgs) -> Callable[[], None]:
    try:
        from diamond_fast.playing import window
    except ModuleNotFoundError as error:
        raise _missing(error, "pygame", "window") from None
    from diamond_fast.playing.loop import GameLoop

    window.require_display()
    session, _ = _set_up(args)
    return _then_tell(lambda: window.play(GameLoop(session), session.source.title, session.source.panel), session)


def _then_tell(play: Callable[[], None], session: "Session") -> Callable[[], None]:
    """Play, and in the end say what became of the recordings."""

    def play_and_tell() -> None:
        try:
            play()
        finally:
            for line in session.recorder.summary():
                print(line, flush=True)

    return play_and_tell


def _missing(error: ModuleNotFoundError, library: str, extra: str) -> Exception:
    """What to say if the library of an extra is not installed; anything else missing is a bug."""
    return ValueError(f"needs {library}: pip install 'diamond_fast[{extra}]'") if error.name == library else error


def _set_up(args: PlayArgs) -> tuple["Session", float]:
    """The session, and the frames a second to expect."""
    from diamond_fast.devices import resolve_device
    from diamond_fast.playing.frame_rate import measure_frame_rate
    from diamond_fast.playing.recorder import Recorder, require_film_writers
    from diamond_fast.playing.session import Session
    from diamond_fast.playing.source import load_source

    require_film_writers()
    device = resolve_device(args.device)
    if args.exact:
        args = replace(args, engine="readable")
    source = load_source(args.load(), device)
    folder = args.recordings / f"{source.title}-{time.strftime('%Y%m%d-%H%M%S')}"
    recorder = Recorder(folder, source.frame_shape, args.speed, source.recorded_action)
    assert args.horizon is not None
    session = Session(
        source, recorder, args.world, args.player, args.denoising_steps, args.horizon, args.seed, args.speed
    )
    print(source.path)
    frame_rate = measure_frame_rate(source, session.denoising_steps)
    steps = counted(session.denoising_steps, "denoising step")
    print(f"{source.title} on {source.device}: {frame_rate:.1f} imagined frames a second with {steps} (measured)")
    if frame_rate < SLOW and session.denoising_steps > 1:
        print("That is slow; --denoising-steps 1 is faster, if blurrier. Real game and replay are not affected.")
    return session, frame_rate


if __name__ == "__main__":
    sys.exit(main())
