"""What the process of a slot prints: the file behind its descriptors 1 and 2.

Every writer adds to its end, so an offset tells what was there before: the slot says after each step that has printed
where the file ended. What was read is freed while the file keeps its size. It lies in memory and has no name, so
nothing of it can be left behind.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from pfw import host
from pfw.printed import LAST_BYTES, Pace, abridge, whole
from pfw_worker.page import StatusPage

if TYPE_CHECKING:
    from pfw_worker.spawner import SlotHandle

#: Freed is what was read and lies so far behind; so much unread is not left to wait for the next piece.
FREE_BYTES: Final = 1 << 20
FLOOD_BYTES: Final = 4 << 20
#: A new file has so many bytes, and /dev/null none: so a slot notices when a step has changed its descriptors.
FIRST_BYTES: Final = 1

#: How long until outputs are looked at again: while none of them grows, while one does, while one is flooded.
QUIET_LOOK_S: Final = 0.200
LOOK_S: Final = 0.050
FLOOD_LOOK_S: Final = 0.005

_NOTHING: Final = (0, b"")


class Output:
    """The supervisor's view of one slot's output."""

    __slots__ = ("_attempt", "_fd", "_freed", "_pace", "_read", "_seen", "grown")

    def __init__(self, fd: int) -> None:
        """Take over the descriptor of a file that `open_output` made."""
        self._fd = fd
        self._read = FIRST_BYTES
        self._freed = 0
        self._attempt = 0
        self._pace = Pace(0.0)
        self._seen = FIRST_BYTES
        #: By how many bytes it had grown when it was last looked at.
        self.grown = 0

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def take_live(self, page: StatusPage, now: float) -> tuple[int, bytes]:
        """What the executing attempt has printed since this was last asked, if it is time to tell: (attempt, text)."""
        size = self._look()
        if size == self._read:
            return _NOTHING
        attempt = page.executing()[0]
        # What an earlier step has printed must be told first, as that step's: the slot's word for it is on its way.
        if page.printed_before() > self._read or page.executing()[0] != attempt:
            return _NOTHING
        if not attempt:  # a thread or a child that a step has left behind prints
            self.skip()
            return _NOTHING
        self._follow(attempt, now)
        if now < self._pace.due and size - self._read < FLOOD_BYTES:
            return _NOTHING
        return attempt, self._take(size, now, may_go_on=True)

    def take_until(self, attempt: int, end: int, now: float) -> bytes:
        """What an attempt that has ended has printed since: the file ended there when it did."""
        self._follow(attempt, now)
        return self._take(min(end, self._size()), now)

    def take_rest(self, page: StatusPage, now: float) -> bytes:
        """What is left, of the attempt in which the process died; those before it that were not told are run again."""
        self._follow(page.executing()[0], now)
        self._read = max(self._read, page.printed_before())
        return self._take(self._size(), now)

    def skip(self) -> None:
        """What was printed so far is of no single attempt."""
        self._read = self._look()
        self._free()

    def last(self, page: StatusPage) -> str:
        """The last that the executing attempt has printed."""
        size = self._size()
        start = max(page.printed_before(), FIRST_BYTES, size - LAST_BYTES)
        return os.pread(self._fd, max(0, size - start), start).decode("utf-8", "replace")

    def _look(self) -> int:
        """The size of the file now."""
        size = self._size()
        self._seen, self.grown = size, max(0, size - self._seen)
        return size

    def _size(self) -> int:
        size = os.fstat(self._fd).st_size
        if size < self._read:  # a step has truncated the file
            self._read = self._freed = 0
        return size

    def _follow(self, attempt: int, now: float) -> None:
        if attempt != self._attempt:
            self._attempt, self._pace = attempt, Pace(now)

    def _take(self, end: int, now: float, *, may_go_on: bool = False) -> bytes:
        count, limit = end - self._read, self._pace.limit
        if count <= 0:
            return b""
        if count <= limit:
            text = os.pread(self._fd, count, self._read)
            if may_go_on:
                text = whole(text)
                end = self._read + len(text)
        else:
            half = limit // 2
            head, tail = os.pread(self._fd, half, self._read), os.pread(self._fd, half, end - half)
            text = abridge(head, count - 2 * half, tail)
        self._read = end
        self._pace.on_told(len(text), now)
        self._free()
        return text

    def _free(self) -> None:
        """Gives back what was read, but for what `last` may want."""
        behind = (self._read - FREE_BYTES) // FREE_BYTES * FREE_BYTES
        if behind > self._freed:
            host.punch_hole(self._fd, self._freed, behind - self._freed)
            self._freed = behind


class Outputs:
    """When the outputs of all slots are to be looked at."""

    __slots__ = ("due",)

    def __init__(self) -> None:
        #: At the latest then, also when nothing executes: what a step has left behind may print.
        self.due = 0.0

    def read(self, slots: Iterable[SlotHandle], now: float) -> list[tuple[int, bytes]]:
        """Return (attempt, text): what executing attempts have printed. Async steps tell it themselves."""
        told, grown = [], 0
        for slot in slots:
            if slot.kind == "async":
                slot.output.skip()
            else:
                told.append(slot.output.take_live(slot.page, now))
            grown = max(grown, slot.output.grown)
        self.due = now + (FLOOD_LOOK_S if grown >= FREE_BYTES else LOOK_S if grown else QUIET_LOOK_S)
        return [(attempt, text) for attempt, text in told if text]


def open_output() -> int:
    """Make the file of a new slot; return its descriptor, which both sides share."""
    fd = host.append_file("pfw-output")
    os.write(fd, bytes(FIRST_BYTES))
    return fd
