"""What a step finds around it in its slot's process, and is to leave to the next one as it was."""

from __future__ import annotations

import contextlib
import mmap
import os
import posix
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

from pfw_worker.streams import Streams

#: A page with this advice is empty in a forked copy of its process; mmap has no name for it.
_MADV_WIPEONFORK = 18


class _Environ(dict[bytes, bytes]):
    """The mapping inside os.environ, with a word on whether it may have changed.

    To compare it with what it was takes 0.6 µs, and 10 or more where none of it is in the processor's caches.
    """

    __slots__ = ("is_touched",)

    def __init__(self, values: Mapping[bytes, bytes]) -> None:
        super().__init__(values)
        self.is_touched = False

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


def _touching(name: str) -> Callable[..., Any]:
    method = getattr(dict, name)

    def change(self: _Environ, *args: Any, **kwargs: Any) -> Any:
        self.is_touched = True
        return method(self, *args, **kwargs)

    return change


for _name in ("__setitem__", "__delitem__", "__ior__", "clear", "pop", "popitem", "setdefault", "update"):
    setattr(_Environ, _name, _touching(_name))


class _Place:
    """The process's directory and umask. To ask the system for both takes 1.4 µs, a sixth of a no-op step."""

    __slots__ = ("_chdir", "_folder", "_set_umask", "_umask", "_under_way", "is_touched")

    def __init__(self) -> None:
        """Note them, and from now on that one of Python's functions has changed them."""
        self.is_touched, self._under_way = False, list[None]()
        self._chdir, self._set_umask = os.chdir, os.umask
        self._folder, self._umask = os.getcwdb(), os.umask(0o77)
        os.umask(self._umask)
        for name in ("chdir", "fchdir", "umask"):
            function = getattr(os, name)
            watched = self._touching(function)
            # Pickled functions name the second module.
            setattr(os, name, watched)
            setattr(posix, name, watched)
            if function in os.supports_fd:
                os.supports_fd.add(watched)

    def _touching(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def change(*args: Any, **kwargs: Any) -> Any:
            self._under_way.append(None)
            self.is_touched = True
            try:
                return function(*args, **kwargs)
            finally:
                self.is_touched = True
                self._under_way.pop()

        return change

    def restore(self) -> None:
        """Put both back, whoever has changed them; what a thread of an earlier step changes now is found next time."""
        self.is_touched = bool(self._under_way)
        self._set_umask(self._umask)
        try:
            is_there = os.getcwdb() == self._folder
        except OSError:  # either may be gone, this one as a temporary folder of the client
            is_there = False
        if not is_there:
            with contextlib.suppress(OSError):
                self._chdir(self._folder)


class Surroundings:
    """What a step may have changed in its process and the next one is to find as before.

    That is the directory, the umask, os.environ, and the streams with which it prints.
    """

    __slots__ = ("_data", "_environ", "_mark", "_place", "_streams", "_temporary", "_used", "_values")

    def __init__(self, streams: Streams, temporary: Path) -> None:
        """Note what there is; `temporary` is for the folders that `use_temporary` makes."""
        #: A byte that is 1 here and 0 in a forked copy; looking takes a fifth of asking for the process id.
        self._mark = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._mark.madvise(_MADV_WIPEONFORK)
        self._mark[0] = 1
        self._place = _Place()
        self._streams = streams
        self._temporary = temporary
        #: The name of the folder that is used.
        self._used = ""
        self._environ = os.environ
        self._values: dict[bytes, bytes] = dict(vars(os.environ)["_data"])
        self._data = vars(os.environ)["_data"] = vars(os.environb)["_data"] = _Environ(self._values)

    def use_temporary(self, name: str) -> None:
        """Have temporary files made in the folder of this name from now on, unless it cannot be made."""
        if name == self._used:
            return
        self._used, folder = name, self._temporary / name
        with contextlib.suppress(OSError):  # the disk is full, say: the next step finds the folder of the last one
            use_temporary(folder)
            self._values[b"TMPDIR"] = os.fsencode(folder)

    def restore(self) -> int:
        """Put back what was changed; return where the output ends if something was printed since the last call, else 0.

        A step that forked and came back in both ends here in the copy: only the slot itself goes on. Finding nothing
        changed takes about 1 µs.
        """
        if not self._mark[0]:
            os._exit(0)
        try:
            if (
                not (self._place.is_touched or self._data.is_touched)
                and os.environ is self._environ
                and self._streams.is_unchanged()
            ):
                return 0
        except OSError:  # descriptor 1 was closed, or is a pipe now
            pass
        if self._place.is_touched:
            self._place.restore()
        self._restore_environ()
        return self._streams.size_if_changed()

    def restore_all(self) -> None:
        """As `restore`, after a message: also what was not changed by Python's own functions."""
        self._place.restore()
        self._streams.restore()

    def restore_touched(self) -> None:
        """As `restore`, before a message: what a thread of an earlier step has changed since the last one."""
        if self._place.is_touched:
            self._place.restore()
        if self._data.is_touched:
            self._restore_environ()

    def _restore_environ(self) -> None:
        os.environ = self._environ  # noqa: B003  a step replaced the mapping itself
        # In this order: what a thread of an earlier step sets meanwhile is found after the next one.
        was_touched, self._data.is_touched = self._data.is_touched, False
        if was_touched and self._data != self._values:
            values = {os.fsdecode(key): os.fsdecode(value) for key, value in self._values.items()}
            os.environ.clear()
            os.environ.update(values)


def use_temporary(folder: Path) -> None:
    """Have temporary files made in this folder, which is made if there is none.

    Raises:
        OSError: It cannot be made.
    """
    folder.mkdir(exist_ok=True)
    os.environ["TMPDIR"] = str(folder)
    # Modules that have noted down where they go are told; those that are not loaded read the variable.
    if "tempfile" in sys.modules:
        sys.modules["tempfile"].tempdir = str(folder)  # type: ignore[attr-defined]
    if "multiprocessing.process" in sys.modules:  # its own folder was in the one before, which goes with its run
        sys.modules["multiprocessing.process"].current_process()._config.pop("tempdir", None)
