"""Every command that README, the documents and the help texts show is one that the programs take."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from diamond_fast import sweep
from diamond_fast.cli import parse, parse_known
from diamond_fast.domains.environments import make_env
from diamond_fast.presets import PRESETS
from diamond_fast.study import STUDIES
from diamond_fast.train import TrainArgs, read_command_line

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
MODULES = {"replay": "replay.__main__"} | {
    name: name
    for name in ("bench", "doctor", "evaluate", "five_actions", "hub", "play", "record", "report", "sweep", "train")
}


def arguments_class(program):
    module = importlib.import_module(f"diamond_fast.{MODULES[program]}")
    return next(value for name, value in vars(module).items() if name.endswith("Args"))


def commands_in(text):
    """(program, what follows it) of each line that runs one, joined if a line ends with a backslash."""
    for line in text.replace("\\\n", " ").splitlines():
        for program, rest in [] if "`" in line else re.findall(r"-m diamond_fast\.(\w+)\b(.*)", line):
            yield program, shlex.split(rest, comments=True)


def shown_commands():
    for text in [README, *(page.read_text() for page in sorted((ROOT / "docs").glob("*.md")))]:
        for block in re.findall(r"^```(?:bash|text|console)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            yield from commands_in(block)
    for arguments in [*map(arguments_class, MODULES), *STUDIES.values()]:
        yield from commands_in(arguments.__doc__)


def flags_people_set():
    """Those of README's table, each alternative on its own."""
    section = README.partition("## What people set\n")[2].partition("\n## ")[0].replace("\\|", "/")
    for column in re.findall(r"^\| (`--.*?`.*?) \|", section, re.MULTILINE):
        for shown in re.findall(r"`(--.*?)`", column):
            name, *values = shlex.split(shown)
            for value in values[0].split("/") if len(values) == 1 and values[0].islower() else [None]:
                yield [name, *(values if value is None else [value])]


COMMANDS = [(program, list(argv)) for program, argv in dict.fromkeys((p, tuple(a)) for p, a in shown_commands())]
FLAGS = list(flags_people_set())


def read(program, argv):
    if program == "study":
        return parse(STUDIES[argv[0]], argv[1:], prog=program)
    if program == "sweep":
        return sweep.planned(*parse_known(sweep.SweepArgs, argv)) if argv[0] not in sweep.COMMANDS else None
    cls = arguments_class(program)
    return parse(cls, argv, default=TrainArgs(config=PRESETS["atari100k"]) if cls is TrainArgs else None, prog=program)


def test_they_were_found():
    assert {program for program, _ in COMMANDS} == {*MODULES, "study"}
    assert len(COMMANDS) > 25
    assert len(FLAGS) > 15


@pytest.mark.parametrize(("program", "argv"), COMMANDS, ids=str)
def test_commands(program, argv):
    """They are taken; if they name a game, it can be made as shown."""
    read(program, argv)
    if program == "train" and not {"--resume", "--static-dataset"} & set(argv):
        if "CarRacing-v3" in argv:
            pytest.importorskip("Box2D")
        make_env(read_command_line(argv).config, num_envs=1, done_on_life_loss=True).close()


@pytest.mark.parametrize("argv", FLAGS, ids=" ".join)
def test_flags(argv):
    read("train", argv)
