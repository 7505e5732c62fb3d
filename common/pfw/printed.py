"""What steps print, bounded: how often it is told, what is left out of too much, what of a run's is kept. Pure."""

from __future__ import annotations

from collections import deque
from typing import Final, Generic, TypeVar

K = TypeVar("K")

#: One piece of output on its way; of more, the beginning and the end.
LOG_PIECE_BYTES: Final = 64 << 10
#: An attempt that has printed so much is heard in shorter pieces.
CHATTY_BYTES: Final = 1 << 20
SHORT_LOG_PIECE_BYTES: Final = 4 << 10
#: Of an attempt that died or timed out so much of its last output is part of the error.
LAST_BYTES: Final = 4_000
#: What is kept of one run's output; the oldest goes first.
LOG_BYTES: Final = 16 << 20
#: What a step prints while it runs is told so often at first, and less often the longer it has printed.
PIECE_EVERY_S: Final = 0.2
PIECE_AT_LEAST_EVERY_S: Final = 2.0


class Pace:
    """How much of what an attempt prints is told at a time, and when: less, the more it prints."""

    __slots__ = ("_bytes", "_longest_s", "_since", "due")

    def __init__(self, now: float, longest_s: float = PIECE_AT_LEAST_EVERY_S) -> None:
        self._since, self._longest_s = now, longest_s
        self._bytes = 0
        #: When the next piece may be told.
        self.due = now

    @property
    def limit(self) -> int:
        """Bytes of the next piece at most."""
        return LOG_PIECE_BYTES if self._bytes < CHATTY_BYTES else SHORT_LOG_PIECE_BYTES

    def on_told(self, size: int, now: float) -> None:
        """A piece of this size was told."""
        self._bytes += size
        self.due = now + min(self._longest_s, max(PIECE_EVERY_S, (now - self._since) / 100))


def abridge(head: bytes, left_out: int, tail: bytes) -> bytes:
    """Beginning and end of what was too long, and how much is missing between them."""
    return b"%b\n[... %d bytes left out ...]\n%b" % (head, left_out, tail)


def whole(text: bytes) -> bytes:
    """The text without the beginning of a UTF-8 character at its end, so that the rest of it can follow."""
    for back in range(1, min(3, len(text)) + 1):
        byte = text[-back]
        if byte >= 0xC0:
            size = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return text[:-back] if back < size else text
        if byte < 0x80:
            break
    return text


class Window(Generic[K]):
    """Things that are kept while they are no more than so many bytes together."""

    __slots__ = ("_bytes", "_entries", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = 0
        self._entries: deque[tuple[K, int]] = deque()

    def add(self, key: K, size: int) -> list[K]:
        """Adds one; returns the oldest ones, which are over the limit now."""
        self._entries.append((key, size))
        self._bytes += size
        dropped = []
        while self._bytes > self._limit:
            old, size = self._entries.popleft()
            self._bytes -= size
            dropped.append(old)
        return dropped


class Piece:
    """A piece of output."""

    __slots__ = ("attempt", "text")

    def __init__(self, attempt: int, text: bytes) -> None:
        self.attempt = attempt
        #: Empty when it is no longer kept.
        self.text = text


class Log:
    """What the steps of one run have printed, as far as it is kept."""

    __slots__ = ("_pieces", "_window")

    def __init__(self) -> None:
        self._pieces: dict[int, list[Piece]] = {}
        self._window: Window[Piece] = Window(LOG_BYTES)

    def add(self, step: int, piece: Piece) -> None:
        """Adds the next piece of a step's output."""
        self._pieces.setdefault(step, []).append(piece)
        for old in self._window.add(piece, len(piece.text)):
            old.text = b""

    def text(self, step: int, attempt: int | None = None) -> str:
        """What the attempts of a step, or one of them, have printed."""
        pieces = [piece.text for piece in self._pieces.get(step, []) if attempt in (None, piece.attempt)]
        found = b"".join(pieces).decode("utf-8", "replace")
        return found if all(pieces) else f"[... what was printed earlier is no longer kept ...]\n{found}"
