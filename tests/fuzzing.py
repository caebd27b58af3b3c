"""Damaged and forged files, read by a process of little memory: whatever they hold, a reader returns or says one line.

    python tests/fuzzing.py FOLDER COUNT KIND [KIND ...]

Each mutation is a pure function of its kind and number. Half of them change the bytes on disk; the others change what
lies within the checksums, as a forger would. Where the process stands is in FOLDER/progress; what it found, it prints.
"""

import hashlib
import json
import logging
import os
import random
import resource
import signal
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from replay_model import SHAPE, random_steps
from small_world import SMALL_WORLD, make_agent

from diamond_fast.official import export_official, load_official
from diamond_fast.replay import Replay, load_recording
from diamond_fast.replay import journal as journal_module
from diamond_fast.replay.formats import write_npz
from diamond_fast.replay.journal import Journal
from diamond_fast.runs import checkpoint
from diamond_fast.spec import Action, Box, MultiBinary

MEMORY = 1 << 30  # bytes of address space beyond what the process has when everything is imported
SECONDS = 60  # of computing a file

INTERESTING = (0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**26, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1)


WORDS = (
    (b"FloatStorage", b"DoubleStorage", b"BFloat16Storage", b"LongStorage", b"ByteStorage", b"BoolStorage"),
    (b"'<f4'", b"'<f2'", b"'<i8'", b"'<u8'", b"'|u1'", b"'|b1'", b"'<U4'", b"'|O'", b"'<c8'", b"[('x', '<i8')]"),
    (b'"F32"', b'"F64"', b'"BF16"', b'"U8"', b'"I64"', b'"BOOL"'),
    (b"null", b"true", b"false", b"[]", b"{}", b'""', b"1e999", b"NaN"),
)
"""For one of these, another of its kind."""


def mutated(rng: random.Random, content: bytes) -> bytes:
    """Content with one to four of the changes that break readers."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        content = rng.choice(CHANGES)(rng, content)
    return content


def changed_slice(change: Callable[[random.Random, bytes], bytes]) -> Callable[[random.Random, bytes], bytes]:
    """A change of whole contents, from that of a slice of them."""

    def change_somewhere(rng: random.Random, content: bytes) -> bytes:
        at, length = rng.randrange(len(content) + 1), rng.choice((1, 1, 2, 4, 8, 64))
        return content[:at] + change(rng, content[at : at + length]) + content[at + length :]

    return change_somewhere


def number(rng: random.Random) -> int:
    return rng.choice(INTERESTING) * rng.choice((1, 1, -1))


def truncated(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def with_number(rng: random.Random, content: bytes) -> bytes:
    """A number written in digits is replaced, as in JSON and in the headers of arrays."""
    starts = [i for i, byte in enumerate(content) if chr(byte).isdigit() and not content[i - 1 : i].isdigit()]
    if not starts:
        return content
    start = stop = rng.choice(starts)
    while content[stop : stop + 1].isdigit():
        stop += 1
    return content[:start] + str(number(rng)).encode() + content[stop:]


def with_word(rng: random.Random, content: bytes) -> bytes:
    there = [(word, kind) for kind in WORDS for word in kind if word in content]
    if not there:
        return content
    word, kind = rng.choice(there)
    places = content.split(word)
    at = rng.randrange(1, len(places))
    return word.join(places[:at]) + rng.choice(kind) + word.join(places[at:])


CHANGES = (
    changed_slice(lambda rng, cut: bytes(byte ^ 1 << rng.randrange(8) for byte in cut[:1]) + cut[1:]),
    changed_slice(lambda rng, cut: rng.randbytes(len(cut))),
    changed_slice(lambda rng, cut: bytes(len(cut))),
    changed_slice(lambda rng, cut: b""),
    changed_slice(lambda rng, cut: cut * rng.choice((2, 2, 50))),
    changed_slice(lambda rng, cut: rng.randbytes(8) + cut),
    changed_slice(lambda rng, cut: number(rng).to_bytes(9, "little", signed=True)[: len(cut)] + cut[9:]),
    changed_slice(lambda rng, cut: cut[len(cut) // 2 :] + cut[: len(cut) // 2]),
    truncated,
    with_number,
    with_word,
)


class Kind:
    """Files of one kind in a folder of its own."""

    parts: dict[str, bytes]
    """What lies within the checksums."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def build(self, parts: dict[str, bytes]) -> list[Path]:
        """Writes parts with checksums that hold, and returns the files."""

    def read(self) -> None:
        """What a user would do with the files."""


class JournalKind(Kind):
    action: Action | None = None

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.path = folder / "journal"
        replay, rng = Replay.open(self.path, SHAPE, 2, action=self.action), np.random.default_rng(0)
        for _ in range(3):
            random_steps(replay, rng, 12)
            replay.commit()
        replay.close()
        with closing(Journal(self.path, writable=False)) as journal:
            self.parts = {"header": json.dumps(journal.meta).encode()}
            self.parts |= {str(i): record.read() for i, record in enumerate(journal.records())}

    def build(self, parts):
        header, *records = parts.values()
        version = 1 if self.action is None else 2
        head = journal_module._HEADER.pack(journal_module._MAGIC, version, len(header)) + header
        self.path.write_bytes(head + journal_module._digest(head))
        try:
            with closing(Journal(self.path)) as journal:
                for record in records:
                    journal.append([record])
        except ValueError:  # a header that is refused has nothing after it
            pass
        return [self.path]

    def read(self):
        Replay.load(self.path)
        Replay.open(self.path, SHAPE, 2, capacity=1000, action=self.action).close()


class JournalOfButtons(JournalKind):
    action = MultiBinary(3)


class Npz(Kind):
    action: Action | None = None

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.path = folder / "recording.npz"
        replay = Replay((4, 4, 3), action=self.action)
        random_steps(replay, np.random.default_rng(0), 40)
        replay.commit()
        write_npz(replay, self.path)
        self.parts = unzipped(self.path)

    def build(self, parts):
        with zipfile.ZipFile(self.path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in parts.items():
                archive.writestr(name, content)
        return [self.path]

    def read(self):
        load_recording(self.path)


class NpzOfNumbers(Npz):
    action = Box(3)


class TorchFile(Kind):
    """A file of torch.save."""

    path: Path

    def build(self, parts):
        with zipfile.ZipFile(self.path, "w") as archive:
            for name, content in parts.items():
                archive.writestr(name, content)
        return [self.path]


class PublishedAgent(TorchFile):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.path = folder / "agent.pt"
        export_official(make_agent(), self.path)
        self.parts = unzipped(self.path)

    def read(self):
        load_official(self.path, SMALL_WORLD)


class PublishedEpisode(TorchFile):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.path = folder / "0.pt"
        ended = torch.tensor([0, 0, 1], dtype=torch.uint8)
        columns = {"act": torch.arange(3), "rew": torch.ones(3), "end": ended, "trunc": 0 * ended}
        final = {"final_observation": torch.zeros(1, 3, 4, 4)}
        torch.save({"obs": torch.zeros(3, 3, 4, 4, dtype=torch.uint8), **columns, "info": final}, self.path)
        self.parts = unzipped(self.path)

    def read(self):
        load_recording(self.folder)


class Checkpoint(Kind):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        torch.manual_seed(0)
        tensors = {name: {"w": torch.randn(100), "b": torch.randn(3, 2)} for name in ("denoiser", "actor_critic")}
        state = {"rng": torch.zeros(40, dtype=torch.uint8), "number": 1, "nest": [(1, 2.5), {"a": None}], "replay": 7}
        checkpoint.save(folder, 1, tensors, state)
        self.manifest = folder / "epoch_000001.json"
        self.paths = {path.stem: path for path in sorted((folder / "epoch_000001").iterdir())}
        self.parts = {name: path.read_bytes() for name, path in self.paths.items()}
        self.parts["manifest"] = self.manifest.read_bytes().split(b'"manifest": ', 1)[1][:-2]

    def build(self, parts):
        body = parts["manifest"]
        for name, path in self.paths.items():
            path.write_bytes(parts[name])
            body = body.replace(said_of(self.parts[name]), said_of(parts[name]))
        checksum = hashlib.sha256(body).hexdigest().encode()
        self.manifest.write_bytes(b'{"sha256": "' + checksum + b'",\n"manifest": ' + body + b"}\n")
        return [self.manifest, *self.paths.values()]

    def read(self):
        checkpoint.load_latest(self.folder)


KINDS: dict[str, Callable[[Path], Kind]] = {
    "journal": JournalKind,
    "journal of buttons": JournalOfButtons,
    "npz": Npz,
    "npz of numbers": NpzOfNumbers,
    "agent": PublishedAgent,
    "episode": PublishedEpisode,
    "checkpoint": Checkpoint,
}


def said_of(content: bytes) -> bytes:
    """What a manifest says of a file."""
    return f'"bytes": {len(content)}, "sha256": "{hashlib.sha256(content).hexdigest()}"'.encode()


def unzipped(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def damage(kind: Kind, name: str, number: int) -> None:
    """Puts mutation ``number`` in place."""
    rng = random.Random(f"{name} {number}")
    if rng.random() < 0.5:
        part = rng.choice(list(kind.parts))
        kind.build(kind.parts | {part: mutated(rng, kind.parts[part])})
    else:
        path = rng.choice(kind.build(kind.parts))
        path.write_bytes(mutated(rng, path.read_bytes()))


def complaint(kind: Kind) -> tuple[str, str | None]:
    """What became of reading, and what is wrong with that."""
    try:
        kind.read()
    except (ValueError, OSError) as error:
        said = str(error)
        return "refused", None if "\n" not in said and len(said) < 1000 else f"says {said[:300]!r}"
    except Exception as error:
        return "failed", f"{type(error).__name__}: {error}"
    return "read", None


def fuzz(folder: Path, names: list[str], count: int) -> Iterator[dict]:
    for name in names:
        kind = KINDS[name](folder / name)
        kind.build(kind.parts)
        kind.read()  # what is mutated is whole, and what is imported late is there
        outcomes = {"read": 0, "refused": 0, "failed": 0}
        for number in range(count):
            (folder / "progress").write_text(f"{name} {number}")
            damage(kind, name, number)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)  # ends the process
            outcome, wrong = complaint(kind)
            signal.setitimer(signal.ITIMER_PROF, 0)
            outcomes[outcome] += 1
            if wrong:
                yield {"mutation": f"{name} {number}", "wrong": wrong}
        yield {"kind": name, **outcomes}


def main(folder: str, count: str, *names: str) -> None:
    torch.set_num_threads(1)
    logging.disable()
    os.fsync = lambda fd: None  # no power is cut here
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for finding in fuzz(Path(folder), list(names), int(count)):
        print(json.dumps(finding), flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"megabytes_more": (peak - before) // 1024}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
