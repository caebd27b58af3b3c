"""``python -m diamond_fast.record``: plays a game, at random, by a script or by hand, and keeps what happened."""

import asyncio
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from diamond_fast.cli import parse, user_errors
from diamond_fast.config import Length, PositiveInt, RunConfig, Seed
from diamond_fast.runs.output import lasting_output
from diamond_fast.settings import Limits, check_limits

if TYPE_CHECKING:  # numpy is slow to import, and --help needs none of it
    from diamond_fast.domains.gym.adapter import GymSlot
    from diamond_fast.domains.recordings.played import Player

HOST = "127.0.0.1"
PROGRAM = "python -m diamond_fast.record"


@dataclass(frozen=True)
class RecordArgs:
    """Play a Gymnasium environment and write a recording, which a world model can be trained on.

    At random:
        python -m diamond_fast.record --env CarRacing-v3 --episodes 100 --out recording --test 0.1
        python -m diamond_fast.train --static-dataset recording/train --held-out recording/test --world-model-only

    By a function of your own, in two sizes:
        python -m diamond_fast.record --env CarRacing-v3 --player my_bots:drive --full-size 96 --frame-size 32 --out two

    By hand, on a page in the browser:
        python -m diamond_fast.record --env CarRacing-v3 --player human --episodes 5 --out mine

    The same command goes on with a recording that was stopped.
    """

    env: Annotated[str, arg(metavar="ID")]
    """The environment's id, module:id, or a world that comes with this program: catch, roll, recall, maze or doom."""
    out: Annotated[Path, arg(metavar="FOLDER")]
    """This is the new folder, with the recordings train and, if --test says so, test."""
    episodes: PositiveInt = 10
    """Play so many."""
    max_steps: PositiveInt = 1_000
    """Cut an episode short after so many steps."""
    player: Annotated[str, arg(metavar="random|human|MODULE:FUNCTION")] = "random"
    """Do anything (random), what you do on a page (human), or what a function says, given frame and random numbers."""
    speed: Annotated[int, Limits(minimum=1, maximum=60)] = 15
    """Play so many steps a second by hand."""
    port: Annotated[int, Limits(minimum=0, maximum=65_535)] = 0
    """Serve the page to play on at this port; 0 takes any free one."""
    frame_size: Length | tuple[Length, Length] = 64
    """Make the frames of this height and width, in pixels."""
    full_size: Length | tuple[Length, Length] | None = None
    """Keep the frames in this larger size, too, for a second stage that draws them in it."""
    env_kwargs: Annotated[str | None, arg(metavar="JSON")] = None
    """Give the environment these arguments, such as '{"continuous": false}' for CarRacing-v3."""
    seed: Seed = 0
    """The seed fixes every random number."""
    test: Annotated[str | None, arg(metavar="FRACTION|FILE")] = None
    """Put this part of the episodes into the test half, or those that a file names, one on each line."""


@lasting_output()
def main(argv: Sequence[str] | None = None) -> int:
    args = parse(RecordArgs, argv, prog=PROGRAM)
    with user_errors():
        check_limits(args)
        record(args)
    return 0


def record(args: RecordArgs) -> None:
    import gymnasium

    from diamond_fast.domains.gym.adapter import GymSlot
    from diamond_fast.domains.recordings.played import Player, played, random_player, scripted_player
    from diamond_fast.replay.importing import Wanted, import_episodes, said
    from diamond_fast.spec import Frame

    own = f"diamond_fast/{args.env.capitalize()}-v0"
    env_id = own if own in gymnasium.registry else args.env
    arguments = RunConfig(env_id=env_id, env_kwargs=args.env_kwargs).env_arguments
    low, full = (None if size is None else Frame.of_size(size).shape[:2] for size in (args.frame_size, args.full_size))
    scripted = None if args.player in ("random", "human") else scripted_player(args.player)
    slot = GymSlot(env_id, full or low or 64, arguments)

    def keep_what(player: Player) -> None:
        source = played(slot, player, args.episodes, args.seed, args.max_steps)
        name = f"{args.env} {args.env_kwargs or ''} {args.player}, {args.episodes} x {args.max_steps}, seed {args.seed}"
        for line in said(args.out, import_episodes(source, name, args.out, Wanted(low, full, test=args.test))):
            print(line)

    try:
        if args.player == "human":
            _by_hand(args, RunConfig(env_id=env_id, env_kwargs=args.env_kwargs), slot, keep_what)
        else:
            keep_what(scripted or random_player(slot.action))
    finally:
        slot.close()


def _by_hand(args: RecordArgs, cfg: RunConfig, slot: "GymSlot", keep_what: "Callable[[Player], None]") -> None:
    try:
        from diamond_fast.playing import by_hand, server
    except ModuleNotFoundError as error:
        if error.name != "aiohttp":
            raise
        raise ValueError("--player human: needs aiohttp: pip install 'diamond_fast[play]'") from None
    from diamond_fast.playing.buttons import action_names
    from diamond_fast.playing.hands import panel_of
    from diamond_fast.spec import Discrete

    names = action_names(cfg, slot.action.n) if isinstance(slot.action, Discrete) else ()
    panel = panel_of(cfg, slot.action, None, names)
    hand = by_hand.ByHand(args.env, panel, slot.frame.shape, args.speed)
    listening = server.bind(HOST, args.port)
    try:
        asyncio.run(by_hand.play_by_hand(hand, lambda: keep_what(hand.play), listening, HOST))
    except by_hand.Stopped:
        print("Stopped: whole episodes are kept, and the same command goes on.")


if __name__ == "__main__":
    sys.exit(main())
