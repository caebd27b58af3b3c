"""An append-only file of checksummed records: what is committed survives a crash, what is damaged is noticed.

    header  magic 8 | version u32 | length u32 | JSON | digest 16
    record  magic 4 | payload length u64 | digest 16 | payload, one zstd frame

Numbers are little-endian. A record's digest (BLAKE2b) covers the digest before it, its length and its payload, so a
flipped bit, a torn write and a lost, repeated or moved record all show.

In version 1 the JSON does not name an action: its actions are int64 numbers, of how many is not said. In version 3 it
names one of several parts, which version 2 does not know.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from diamond_fast.runs.durable import NewerFormatError, write_durably

_MAGIC = b"DFREPLAY"
_VERSION = 3
_HEADER = struct.Struct("<8sII")
_RECORD_MAGIC = b"RCRD"
_RECORD = struct.Struct("<4sQ16s")
_ZSTD_LEVEL = 1

_sync = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync

_log = logging.getLogger(__name__)


class JournalError(ValueError):
    """A journal cannot be used; one line says why."""


def _version(meta: dict[str, Any]) -> int:
    match meta:
        case {"action": {"kind": "mixed"}}:
            return 3
    return 2 if "action" in meta else 1


def _digest(*parts: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.digest()


def _read(fd: int, count: int, offset: int) -> bytes:
    """The bytes at offset; the system gives at most 2 GiB of them at once."""
    parts = []
    while count > 0 and (part := os.pread(fd, count, offset)):
        parts.append(part)
        count, offset = count - len(part), offset + len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


class Journal:
    """An open journal. One process at a time may write."""

    def __init__(self, path: Path | str, writable: bool = True) -> None:
        """Opens an existing journal and finds its whole records; changes nothing.

        Raises:
            JournalError: not a journal, or a damaged header.
            NewerFormatError: a newer version of this program wrote it.
            BlockingIOError: another process is writing to it.
            OSError: the file cannot be opened.
        """
        self.path = Path(path)
        self._file: BinaryIO = open(self.path, "r+b" if writable else "rb", buffering=0)  # noqa: SIM115
        try:
            if writable:
                self._lock()
            self.meta, self._ends, self._digests = self._read_header()
            self.problem = self._scan()
        except BaseException:
            self._file.close()
            raise

    @staticmethod
    def create(path: Path | str, meta: dict[str, Any]) -> Journal:
        """Makes an empty journal that says `meta` of itself, in place of what is there.

        It is of version 1 unless `meta` names an action, so that older programs read it, too.

        Raises:
            OSError: it cannot be written.
        """
        path = Path(path)
        text = json.dumps(meta).encode()
        header = _HEADER.pack(_MAGIC, _version(meta), len(text)) + text
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, header + _digest(header))
        return Journal(path)

    @property
    def length(self) -> int:
        """Bytes up to the end of the last whole record."""
        return self._ends[-1]

    @property
    def num_records(self) -> int:
        return len(self._ends) - 1

    def rewind(self, length: int) -> None:
        """Goes back to the commit after which the journal was `length` bytes long; the file is not changed yet.

        Raises:
            JournalError: no whole record ends there.
        """
        if length not in self._ends:
            reason = self.problem or "no commit ends there"
            raise JournalError(f"{self.path}: cannot go back to {length} bytes, {self.length} are whole ({reason})")
        keep = self._ends.index(length) + 1
        if keep < len(self._ends):
            self.problem = f"{len(self._ends) - keep} later commits"
        del self._ends[keep:], self._digests[keep:]

    def drop_tail(self) -> None:
        """Cuts off the file after `length` bytes and logs what that drops."""
        size = os.fstat(self._file.fileno()).st_size
        if size > self.length:
            _log.warning("%s: dropped %d bytes after %d (%s)", self.path, size - self.length, self.length, self.problem)
            os.ftruncate(self._file.fileno(), self.length)
            os.fsync(self._file.fileno())
        self.problem = None

    def records(self) -> Iterator[zstandard.ZstdDecompressionReader]:
        """Yields a reader of each record's contents, in order."""
        for start, end in zip(self._ends, self._ends[1:], strict=False):
            payload = _read(self._file.fileno(), end - start - _RECORD.size, start + _RECORD.size)
            with zstandard.ZstdDecompressor().stream_reader(payload) as reader:
                yield reader

    def append(self, parts: Iterable[bytes | memoryview]) -> None:
        """Writes one record, in pieces, and returns when it is on the disk.

        Raises:
            OSError: it could not be written (disk full); the journal is as before.
        """
        compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compressobj()
        payload = b"".join([*(compressor.compress(part) for part in parts), compressor.flush()])
        digest = _digest(self._digests[-1], struct.pack("<Q", len(payload)), payload)
        record = memoryview(_RECORD.pack(_RECORD_MAGIC, len(payload), digest) + payload)
        fd, end = self._file.fileno(), self.length
        try:
            while record:
                written = os.pwrite(fd, record, end)
                record, end = record[written:], end + written
            _sync(fd)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, self.length)
            raise OSError(error.errno, f"commit not written: {error.strerror}", str(self.path)) from error
        self._ends.append(end)
        self._digests.append(digest)

    def close(self) -> None:
        self._file.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            reason = "another process is writing to this journal"
            raise BlockingIOError(error.errno, reason, str(self.path)) from None

    def _read_header(self) -> tuple[dict[str, Any], list[int], list[bytes]]:
        fd = self._file.fileno()
        head = os.pread(fd, _HEADER.size, 0)
        if len(head) < _HEADER.size or not head.startswith(_MAGIC):
            raise JournalError(f"{self.path}: not a replay journal")
        _, version, text_length = _HEADER.unpack(head)
        text_and_digest = os.pread(fd, min(text_length, 1 << 20) + 16, _HEADER.size)
        text, digest = text_and_digest[:-16], text_and_digest[-16:]
        if len(text) != text_length or digest != _digest(head, text):
            raise JournalError(f"{self.path}: damaged header")
        if version > _VERSION:
            raise NewerFormatError(f"{self.path}: written in format {version}, this program reads up to {_VERSION}")
        try:
            meta = json.loads(text)
        except (ValueError, RecursionError):
            meta = None
        if not isinstance(meta, dict) or version != _version(meta):
            raise JournalError(f"{self.path}: damaged header")
        return meta, [_HEADER.size + text_length + 16], [digest]

    def _scan(self) -> str | None:
        """Finds the whole records; returns what is wrong with the bytes after them, if any."""
        fd, size = self._file.fileno(), os.fstat(self._file.fileno()).st_size
        while self.length < size:
            head = os.pread(fd, _RECORD.size, self.length)
            if len(head) < _RECORD.size:
                return f"commit {self.num_records} is cut short"
            magic, payload_length, digest = _RECORD.unpack(head)
            end = self.length + _RECORD.size + payload_length
            if magic != _RECORD_MAGIC:
                return f"commit {self.num_records} is damaged"
            if end > size:
                return f"commit {self.num_records} is cut short or damaged"
            payload = _read(fd, payload_length, self.length + _RECORD.size)
            if digest != _digest(self._digests[-1], struct.pack("<Q", payload_length), payload):
                return f"commit {self.num_records} is damaged"
            self._ends.append(end)
            self._digests.append(digest)
        return None
