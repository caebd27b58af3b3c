"""From the shell's prompt to an answer, each in a process of its own.

pytest benchmarks/test_startup.py --benchmark-only
"""

import subprocess
import sys

START_UPS = {
    "--help": ["-m", "diamond_fast.train", "--help"],
    "import diamond_fast": ["-c", "import diamond_fast"],
    "--dry-run, quick preset": [
        *("-m", "diamond_fast.train", "--game", "Boxing", "--preset", "quick"),
        *("--dry-run", "--device", "cpu"),
    ],
    "python": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
}


def test_start_up(measure, effort):
    def starting(arguments):
        return lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True)

    chosen = dict(list(START_UPS.items())[: 2 if effort == "tiny" else None])
    turns = measure.take_turns({name: starting(arguments) for name, arguments in chosen.items()})
    measure.row("start-up", {}, turns, "--help")
