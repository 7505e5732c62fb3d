"""What attempts have printed: pieces that are to be told, and the end of it where the attempt may time out. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from pfw.messages import Printed
from pfw.printed import LAST_BYTES
from pfw.wire import parts


class Pieces:
    """Those of all attempts of a worker. Messages of them are numbered, so that one that comes twice counts once."""

    __slots__ = ("_ends", "_number", "rows")

    def __init__(self) -> None:
        #: (attempt, text) of what was not told yet.
        self.rows: list[tuple[int, bytes]] = []
        self._number = 0
        #: {attempt: the last that it printed}
        self._ends: dict[int, bytes] = {}

    def add(self, attempt: int, text: bytes, *, keeps_end: bool) -> None:
        """An attempt has printed this since it was last told; its end is kept for `end` if somebody may ask."""
        self.rows.append((attempt, text))
        if keeps_end:
            self._ends[attempt] = (self._ends.get(attempt, b"") + text)[-LAST_BYTES:]

    def end(self, attempt: int) -> str:
        """The last that an attempt has printed, at most LAST_BYTES of it."""
        return self._ends.get(attempt, b"").decode("utf-8", "replace")

    def take(self) -> Iterator[Printed]:
        """Messages of all that was not told yet."""
        rows, self.rows = self.rows, []
        for part in parts(rows, [len(text) for _, text in rows]):
            self._number += 1
            yield Printed(self._number, tuple(part))

    def clear(self) -> None:
        """Nobody wants to hear any of it."""
        self.rows = []
        self._ends.clear()

    def keep(self, attempts: Collection[int]) -> None:
        """Forgets the ends of all other attempts: they have ended."""
        for attempt in self._ends.keys() - attempts:
            del self._ends[attempt]
