"""The status page: 4 KiB that a slot and its supervisor share, written and read without a system call.

It tells the supervisor which attempt a slot executes and since when, also when the slot has died; and the slot whom a
stop signal addresses and which runs are cancelled. Every word has one writer: the slot writes the first two and
PRINTED, the supervisor all others. A word is 8 bytes and aligned, so it is never read half-written.

Behind these words the slot writes how far its step is; a number that is odd while it writes tells readers to wait.
"""

from __future__ import annotations

import mmap
import signal
from math import inf
from struct import Struct
from typing import Final

PAGE_BYTES: Final = 4096
#: How many cancelled runs the page names; of more, the oldest are forgotten.
RING_SIZE: Final = 64

#: The signal by which the supervisor says that the page holds a stop.
STOP_SIGNAL: Final = signal.SIGURG
#: A stop that sets the context's token and no more.
STOP_TOKEN: Final = 1
#: A stop that also raises `StepInterrupt` in the step.
STOP_INTERRUPT: Final = 2
#: As STOP_INTERRUPT, because the step's timeout is over.
STOP_TIMEOUT: Final = 3
#: No stop: the step goes on, and what its slot has beside it is wanted.
STOP_UNLOAD: Final = 4

_ATTEMPT: Final = 0
_START: Final = 1
_STOP_ATTEMPT: Final = 2
_STOP_LEVEL: Final = 3
#: Counts the changes of the ring; a slot compares this word before each step.
GENERATION: Final = 4
#: Where the output file ended when the last attempt that has printed ended.
PRINTED: Final = 5
_RING: Final = 8  # RING_SIZE words, each a run number + 1; 0 is empty
#: The number of the last progress, and where it stands: attempt, done, total, length of the message, message.
_PROGRESS: Final = _RING + RING_SIZE
_PROGRESS_AT: Final = 8 * (_PROGRESS + 1)
_PROGRESS_HEAD: Final = Struct("=QddQ")
_MESSAGE_AT: Final = _PROGRESS_AT + _PROGRESS_HEAD.size
_MESSAGE_BYTES: Final = 800
_NO_PROGRESS: Final = (0, 0.0, 0.0, "")


class StatusPage:
    """One side's view of a status page. Attempt numbers are positive: 0 stands for none."""

    __slots__ = ("_map", "words")

    def __init__(self, fd: int) -> None:
        """Map the page of this file descriptor (see `host.shared_memory`), which may be closed afterwards."""
        self._map = mmap.mmap(fd, PAGE_BYTES)
        #: The page as 64-bit words; only the slot's loop uses it directly.
        self.words = memoryview(self._map).cast("Q")

    def close(self) -> None:
        """Unmap the page."""
        self.words.release()
        self._map.close()

    def begin(self, attempt: int, start_us: int) -> None:
        """Slot: an attempt starts; called before anything of it is unpickled."""
        words = self.words
        words[_ATTEMPT] = 0  # so that no reader pairs the new start with the old attempt
        words[_START] = start_us
        words[_ATTEMPT] = attempt

    def end(self) -> None:
        """Slot: nothing is executing any more."""
        self.words[_ATTEMPT] = 0

    def show_progress(self, attempt: int, done: float, total: float, message: str) -> None:
        """Slot: how far the executing attempt is. 2 µs."""
        text = message.encode(errors="replace")[:_MESSAGE_BYTES]
        number = self.words[_PROGRESS] | 1  # it is odd already where the last writer was interrupted
        self.words[_PROGRESS] = number
        _PROGRESS_HEAD.pack_into(self._map, _PROGRESS_AT, attempt, done, total, len(text))
        self._map[_MESSAGE_AT : _MESSAGE_AT + len(text)] = text
        self.words[_PROGRESS] = number + 1

    def progress(self) -> tuple[int, float, float, str]:
        """Supervisor: what `show_progress` was given last; attempt 0 where that is nothing, or is being written."""
        number = self.words[_PROGRESS]
        if not number or number % 2:
            return _NO_PROGRESS
        attempt, done, total, size = _PROGRESS_HEAD.unpack_from(self._map, _PROGRESS_AT)
        text = self._map[_MESSAGE_AT : _MESSAGE_AT + min(size, _MESSAGE_BYTES)]
        # The step could have written anything there.
        if self.words[_PROGRESS] != number or not (0 <= done < inf and 0 <= total < inf):
            return _NO_PROGRESS
        return attempt, done, total, text.decode(errors="replace")

    def printed_before(self) -> int:
        """Supervisor: where the file of the slot's output ended before the executing attempt printed."""
        return self.words[PRINTED]

    def stop_level(self) -> int:
        """Slot: how the executing attempt is asked to stop: 0 (not at all) or one of the STOP_ levels."""
        attempt = self.words[_ATTEMPT]
        return self.words[_STOP_LEVEL] if attempt and attempt == self.words[_STOP_ATTEMPT] else 0

    def cancelled_runs(self) -> frozenset[int]:
        """Slot: the runs that are cancelled; worth reading again when `words[GENERATION]` has changed."""
        return frozenset(word - 1 for word in self.words[_RING : _RING + RING_SIZE] if word)

    def executing(self) -> tuple[int, int]:
        """Supervisor: the attempt that the slot executes (0: none) and since when (µs of the monotonic clock)."""
        words = self.words
        while True:
            attempt, start_us = words[_ATTEMPT], words[_START]
            if words[_ATTEMPT] == attempt:
                return attempt, start_us

    def stop(self, attempt: int, level: int) -> None:
        """Supervisor: say what the next SIGURG means; it concerns this attempt only, and only while it executes."""
        words = self.words
        words[_STOP_ATTEMPT] = 0
        words[_STOP_LEVEL] = level
        words[_STOP_ATTEMPT] = attempt

    def cancel_run(self, run: int) -> None:
        """Supervisor: steps of this run that have not started are not to be started any more."""
        words = self.words
        generation = words[GENERATION]
        words[_RING + generation % RING_SIZE] = run + 1
        words[GENERATION] = generation + 1

    def forget_runs(self) -> None:
        """Supervisor: no run is cancelled any more (run numbers may mean other runs from now on)."""
        words = self.words
        for index in range(_RING, _RING + RING_SIZE):
            words[index] = 0
        words[GENERATION] += 1
