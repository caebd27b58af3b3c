"""What a commit adds to a buffer, as the contents of a journal's record.

    length u32 | JSON {steps, slots, closed} | per environment: flags u8, act, rew f32 and frames of its new slots

`steps` counts vector steps, `slots` the new slots per environment; `closed` says that running episodes were closed
after these steps. The arrays are the buffer's own memory: written from it and read into it without a copy between.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator

import numpy as np
from zstandard import ZstdDecompressionReader

from diamond_fast import _replay

_LENGTH = struct.Struct("<I")
_LONGEST_HEAD = 1 << 20


def pack(store: _replay.Store, committed: list[int], num_steps: int, closed: bool) -> Iterator[bytes | memoryview]:
    """Yields the pieces of a record.

    Args:
        committed: slots per environment that earlier records hold.
        num_steps: vector steps since then.
        closed: running episodes were closed.
    """
    slots = [store.env_used(env) - before for env, before in enumerate(committed)]
    head = json.dumps({"steps": num_steps, "slots": slots, "closed": closed}).encode()
    yield _LENGTH.pack(len(head)) + head
    for env, (first, count) in enumerate(zip(committed, slots, strict=True)):
        yield from _slot_memory(store, env, first, count)


def unpack(store: _replay.Store, record: ZstdDecompressionReader) -> None:
    """Adds a record to the store and makes it visible, as the commit did.

    Raises:
        ValueError, IndexError: it does not fit into the store.
    """
    head = _read_head(record)
    for env, count in enumerate(head["slots"]):
        flags, *rest = _slot_memory(store, env, store.env_used(env), count)
        _read_into(record, flags)
        store.check_flags(env, head["steps"], count)  # before the memory is taken that they speak for
        for memory in rest:
            _read_into(record, memory)
    if record.read(1):
        raise ValueError("a commit is longer than its head says")
    store.adopt(head["steps"], head["slots"])
    store.publish_running()
    if head["closed"]:
        store.close_running()


def num_vector_steps(record: ZstdDecompressionReader) -> int:
    """Returns how many vector steps a record adds."""
    return _read_head(record)["steps"]


def _slot_memory(store: _replay.Store, env: int, first: int, count: int) -> list[memoryview]:
    frames, act, rew, flags = store.slots(store.env_start(env) + first, count)
    return [memoryview(array.reshape(-1).view(np.uint8)) for array in (flags, act, rew, frames)]


def _read_head(record: ZstdDecompressionReader) -> dict:
    """Checks it, too: a forged record may have a good checksum."""
    prefix = record.read(_LENGTH.size)
    (length,) = _LENGTH.unpack(prefix) if len(prefix) == _LENGTH.size else (0,)
    try:
        head = json.loads(record.read(min(length, _LONGEST_HEAD)))
    except RecursionError:
        head = None
    match head:
        case {"steps": int(steps), "slots": [*slots], "closed": bool()}:
            if steps >= 0 and all(isinstance(count, int) and count >= 0 for count in slots):
                return head
    raise ValueError("a commit's head is malformed")


def _read_into(record: ZstdDecompressionReader, memory: memoryview) -> None:
    while memory:
        count = record.readinto(memory)
        if count == 0:
            raise ValueError("a commit ends early")
        memory = memory[count:]
