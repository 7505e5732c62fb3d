"""Who can be told of the events of a run: functions, the console, a file. They do not know where events come from."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from json.encoder import encode_basestring_ascii as quote
from typing import IO, TYPE_CHECKING, Any, ClassVar, TextIO, TypeAlias

from pfw.errors import ConfigError

if TYPE_CHECKING:
    from pfw.events import Event

#: The names that `progress=` knows, and what the path of a file of events ends in.
BAR, CONSOLE, SUFFIX = "bar", "console", ".jsonl"
#: Types of events of which one may stand for several steps.
COUNTED = ("Queued", "Started")
#: Lines that are put together before they are written: memory that was just used is faster than fresh memory.
LINES_AT_ONCE = 512


class Tracker:
    """Is told of the events of runs, in order. Make a subclass that has `on_event`, or `on_events`.

    All calls come from one thread for each run, never from that of the run itself. One that raises gets no more calls.
    """

    #: How long the end of a run waits for a tracker that is behind, s.
    patience_s: ClassVar[float] = 5.0

    def open(self) -> None:
        """A run is about to begin; called before anything of it is done.

        Raises:
            ConfigError: The tracker cannot do its work, and the run is not to begin.
        """

    def on_events(self, events: Sequence[Event]) -> None:
        """The next events, all that there are at this time."""
        for event in events:
            self.on_event(event)

    def on_event(self, event: Event) -> None:
        """One event."""

    def close(self) -> None:
        """All events of the run were told."""


Listener: TypeAlias = Callable[["Event"], object]
#: What can be given as `progress`.
Progress: TypeAlias = (
    "Tracker | Listener | str | os.PathLike[str] | Iterable[Tracker | Listener | str | os.PathLike[str]]"
)


class CallbackProgress(Tracker):
    """Calls a function with each event."""

    def __init__(self, function: Listener) -> None:
        """Makes one.

        Raises:
            ConfigError: It is no function.
        """
        if not callable(function):
            raise ConfigError(f"a CallbackProgress takes a function, not {function!r}")
        self._function = function

    def on_events(self, events: Sequence[Event]) -> None:
        """Calls it."""
        for event in events:
            self._function(event)


class ConsoleProgress(Tracker):
    """Writes a line for each event, as `[WORKFLOW] Failed: parse[3] - ValueError: no number`; none for `Queued`."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """Makes one that writes to this stream; None: to the error stream."""
        self._stream = stream

    def on_events(self, events: Sequence[Event]) -> None:
        """Writes their lines."""
        stream = self._stream or sys.stderr
        stream.write("".join([f"[WORKFLOW] {describe(event)}\n" for event in events if event.type != "Queued"]))
        stream.flush()


class FileProgress(Tracker):
    """Writes the events to a file, each as a line of JSON.

    A line has `type` (lower case), `step_id`, `timestamp` (s since 1970), `message`, where something went wrong
    `error`, and what else there is of `run_id attempt worker duration steps`.
    """

    #: What is in the file is to be all that happened.
    patience_s: ClassVar[float] = 60.0

    def __init__(self, path: str | os.PathLike[str], append: bool = False) -> None:
        """Makes one.

        Args:
            path: The file. The first run begins it anew, further ones of this tracker go on with it.
            append: Whether also the first run goes on with it.
        """
        self.path = os.fspath(path)
        self._append = append
        self._file: IO[bytes] | None = None
        self._runs = 0
        # One tracker may serve several runs at a time.
        self._lock = threading.Lock()

    def open(self) -> None:
        """Opens the file.

        Raises:
            ConfigError: It cannot be written.
        """
        with self._lock:
            if self._file is None:
                try:
                    self._file = open(self.path, "ab" if self._append else "wb", buffering=0)  # noqa: SIM115
                except OSError as error:
                    raise ConfigError(f"events cannot be written to {self.path!r}: {error.strerror}") from error
            self._append = True
            self._runs += 1

    def on_events(self, events: Sequence[Event]) -> None:
        """Writes their lines, which are in the file when this returns."""
        self.on_lines(list(map(to_line, events)))

    def on_lines(self, lines: Sequence[str]) -> None:
        """As `on_events`, of events that are lines already."""
        with self._lock:
            for first in range(0, len(lines), LINES_AT_ONCE):
                self._write("".join(lines[first : first + LINES_AT_ONCE]).encode())

    def _write(self, text: bytes) -> None:
        written = 0
        while self._file is not None and written < len(text):
            try:
                written += self._file.write(text[written:])
            except OSError as error:
                raise OSError(error.errno, error.strerror, self.path) from None

    def close(self) -> None:
        """Closes the file, unless another run still writes to it."""
        with self._lock:
            self._runs -= 1
            if not self._runs and self._file is not None:
                self._file.close()
                self._file = None


def takes_lines(tracker: Tracker) -> bool:
    """Whether it does with events nothing but write `to_line` of them, so that there need be no events."""
    return isinstance(tracker, FileProgress) and type(tracker).on_events is FileProgress.on_events


def describe(event: Event) -> str:
    """What happened, as `Failed: parse[3] - ValueError: no number`."""
    subject = event.step_id
    if subject is None:  # a step's id may be empty
        subject = f"{event.steps:,} steps" if event.type in COUNTED else event.run_id
    detail = event.error or event.message
    if event.done is not None:
        amount = f"{event.done:,.15g}" if event.total is None else f"{event.done:,.15g} of {event.total:,.15g}"
        detail = f"{amount}, {detail}" if detail else amount
    return f"{event.type}: {subject} - {detail}" if detail else f"{event.type}: {subject}"


def to_line(event: Event) -> str:
    """The event as a line of JSON, its end included."""
    run_id, step_id, timestamp, attempt, worker, duration, error, _, steps, done, total = event
    more = f',"error":{quote(error)}' if error else ""
    if attempt:
        more += f',"attempt":{attempt},"worker":{quote(worker)}'
    if duration is not None:
        more += f',"duration":{duration:.6f}'
    if done is not None:
        more += f',"done":{done!r},"total":{"null" if total is None else repr(total)}'
    if step_id is None:
        more += f',"steps":{steps}'
    return (
        f'{{"type":"{event.type.lower()}","step_id":{quote(step_id or "")},"timestamp":{timestamp:.6f},'
        f'"run_id":{quote(run_id)},"message":{quote(describe(event))}{more}}}\n'
    )


# ---------------------------------------------------------------- what was given as `progress`


def trackers_of(label: str, progress: Any) -> tuple[Tracker, ...]:
    """The trackers that are meant.

    Args:
        label: What to call it in an error.
        progress: A function, "bar", "console", a path that ends in .jsonl, a tracker, several of them, or None.

    Raises:
        ConfigError: It is anything else.
    """
    if progress is None:
        return ()
    if isinstance(progress, Iterable) and not isinstance(progress, str | Tracker):
        return tuple(_tracker_of(label, one) for one in progress)
    return (_tracker_of(label, progress),)


def _tracker_of(label: str, given: Any) -> Tracker:
    if isinstance(given, type) and issubclass(given, Tracker):
        raise ConfigError(f"{label}: make a tracker, as {given.__name__}(), and do not give the class itself")
    if isinstance(given, Tracker):
        return given
    if given == CONSOLE:
        return ConsoleProgress()
    if given == BAR:
        from pfw.bar import BarProgress

        return BarProgress()
    if isinstance(given, str | os.PathLike) and str(given).endswith(SUFFIX):
        return FileProgress(given)
    if callable(given):
        return CallbackProgress(given)
    raise ConfigError(
        f"{label} is a function that takes an event, {BAR!r}, {CONSOLE!r}, a path that ends in {SUFFIX!r}, a tracker, "
        f"or a list of them, not {given!r}"
    )
