"""Notes what steps print in a process that they share with others: the async process, and sequential mode.

There the descriptors are everybody's, so it is done at the level of `sys.stdout` and `sys.stderr`: what native code and
child processes write is not noticed.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from pfw.context import running
from pfw.printed import LOG_PIECE_BYTES, abridge


class Buffer:
    """What one attempt has printed and nobody was told of yet; threads of the step may add to it."""

    __slots__ = ("_head", "_left_out", "_lock", "_tail")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._head, self._tail, self._left_out = bytearray(), bytearray(), 0

    def add(self, text: str) -> None:
        """Adds what was printed."""
        data = text.encode("utf-8", "backslashreplace")
        with self._lock:
            room = max(0, LOG_PIECE_BYTES // 2 - len(self._head)) if not self._tail else 0
            self._head += data[:room]
            self._tail += data[room:]
            if len(self._tail) > 4 * LOG_PIECE_BYTES:
                self._left_out += len(self._tail) - LOG_PIECE_BYTES // 2
                del self._tail[: -LOG_PIECE_BYTES // 2]

    def take(self, limit: int = LOG_PIECE_BYTES) -> bytes:
        """Gives what is there, at most `limit` bytes and a note of what is left out, and forgets it."""
        if not (self._head or self._tail):
            return b""
        with self._lock:
            head, tail, left_out = bytes(self._head), bytes(self._tail), self._left_out
            self._head, self._tail, self._left_out = bytearray(), bytearray(), 0
        if not left_out and len(head) + len(tail) <= limit:
            return head + tail
        text, half = head + tail, limit // 2
        return abridge(text[:half], left_out + len(text) - 2 * half, text[-half:])


class _Tee:
    """Stands for a stream: what a step writes is noted, and written as it would have been."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> Any:
        entry = running()
        if entry is not None and entry.printed is not None:
            entry.printed.add(text)
        return self._stream.write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


_NAMES = ("stdout", "stderr")
_lock = threading.Lock()
#: How often it was begun and not ended, and the streams meanwhile.
_count = 0
_tees: dict[str, _Tee] = {}


@contextmanager
def capturing() -> Iterator[None]:
    """Within it, what steps with a Buffer in their entry print is noted there. May be entered by several threads."""
    _begin()
    try:
        yield
    finally:
        _end()


def _begin() -> None:
    global _count
    with _lock:
        _count += 1
        for name in _NAMES if _count == 1 else ():
            stream = getattr(sys, name)
            if stream is not None:
                _tees[name] = _Tee(stream)
                setattr(sys, name, _tees[name])


def _end() -> None:
    global _count
    with _lock:
        _count -= 1
        for name, tee in list(_tees.items()) if not _count else ():
            if getattr(sys, name) is tee:  # else somebody has put another one in its place
                setattr(sys, name, tee._stream)
            del _tees[name]
