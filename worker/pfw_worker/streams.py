"""A slot's descriptors 1 and 2 and the streams on them: one file, and whether a step has added to it."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import signal
import sys
from typing import Final

_FDS: Final = (1, 2)
#: Marks the open file for output, so that its descriptors can be told from others: asking for the mark takes 0.3 µs,
#: os.fstat 1.2. The kernel keeps it as the signal that tells of input, which is sent only where somebody asks for it.
_MARK: Final = signal.SIGRTMAX - 1


class _Stream(io.TextIOWrapper):
    """Writes at once, so that what was printed is there when the slot dies; what a step does cannot close it."""

    def __init__(self, fd: int) -> None:
        raw = io.FileIO(fd, "w", closefd=False)
        super().__init__(raw, "utf-8", "backslashreplace", write_through=True)

    def close(self) -> None:
        """Not at all: the next step prints here as well."""


class Streams:
    """What steps print with."""

    __slots__ = ("_file", "_identity", "_size", "_streams")

    def __init__(self) -> None:
        """Take the file that descriptor 1 is now."""
        self._file = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 3)
        with contextlib.suppress(OSError):  # then it is only slower
            fcntl.fcntl(1, fcntl.F_SETSIG, _MARK)
        self._identity = self._identify(self._file)
        self._size = os.lseek(self._file, 0, os.SEEK_END)
        self._streams = _Stream(1), _Stream(2)
        sys.__stdout__, sys.__stderr__ = self._streams  # type: ignore[misc]
        self.restore()

    def restore(self) -> None:
        """Put back what an earlier step has closed or put in the place of streams and descriptors; 0.8 µs."""
        try:
            is_same = fcntl.fcntl(1, fcntl.F_GETSIG) == fcntl.fcntl(2, fcntl.F_GETSIG) == _MARK
        except OSError:  # one of them was closed
            is_same = False
        for fd in () if is_same else _FDS:
            if self._identify(fd) != self._identity:
                os.dup2(self._file, fd)
        sys.stdout, sys.stderr = self._streams

    def is_unchanged(self) -> bool:
        """Return whether nothing was printed, closed or put in the place of something.

        Raises:
            OSError: Descriptor 1 was closed, or is a pipe now.
        """
        is_same = sys.stdout is self._streams[0] and sys.stderr is self._streams[1]
        return is_same and os.lseek(1, 0, os.SEEK_END) == self._size

    def size_if_changed(self) -> int:
        """Return where the file ends if something was printed since this was last asked, else 0."""
        self.restore()
        size, before = os.lseek(self._file, 0, os.SEEK_END), self._size
        self._size = size
        return size if size != before else 0

    def _identify(self, fd: int) -> tuple[int, int] | None:
        try:
            found = os.fstat(fd)
        except OSError:
            return None
        return found.st_dev, found.st_ino
