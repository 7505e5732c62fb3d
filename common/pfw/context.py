"""What a running step can know about itself."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from pfw.cancellation import CancellationToken
from pfw.errors import ConfigError

if TYPE_CHECKING:
    from pfw.capture import Buffer

#: Numbers of steps, bytes or whatever is counted are smaller than this.
PROGRESS_LIMIT: Final = 1e300
#: Longest message of a step's progress.
MESSAGE_CHARS: Final = 200

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class StepContext:
    """The step that is running, as `current()` gives it.

    In a class step `ctx[dependency_id]` is that step's output.
    """

    __slots__ = ("attempt", "params", "run_id", "step_id", "token", "_inputs", "_tell")

    def __init__(self, run_id: str, step_id: str, attempt: int, token: CancellationToken) -> None:
        #: The run that the step is part of; empty outside a run.
        self.run_id = run_id
        #: The step's id in its workflow; empty outside a run.
        self.step_id = step_id
        #: Which try of the step this is, from 1; 0 outside a run.
        self.attempt = attempt
        #: Cancelled when the step is to stop.
        self.token = token
        #: The workflow's parameters.
        self.params: Mapping[str, Any] = _NOTHING
        self._inputs: Mapping[str, Any] = _NOTHING
        self._tell: Callable[[float, float, str], object] | None = None

    @property
    def logger(self) -> logging.Logger:
        """A logger named after the step; in a run its records, from INFO on, are part of what the step prints."""
        if not self.step_id:
            return logging.getLogger("pfw.step")
        _prepare_logging()
        return logging.getLogger(f"pfw.step.{self.step_id}")

    def check(self) -> None:
        """End the step here if it is to stop; long loops should call this.

        Raises:
            StepInterrupt: The step is to stop.
        """
        self.token.check()

    def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """Tell how far the step is: an event `Progressed`, and a line of its own below the progress bar.

        Takes about 2 µs, so that a loop may call it in each turn. What is told is the latest, a few times a second at
        most, and less often in steps that take long. Outside a run it does nothing.

        Args:
            done: How much is done, in any unit.
            total: How much there is to do, in the same unit; None where that is not known.
            message: What is being done; cut after 200 characters.

        Raises:
            ConfigError: A number is negative, infinite or none at all.
        """
        amounts = done, 0 if total is None else total
        for name, value in zip(("done", "total"), amounts, strict=True):
            if type(value) not in (int, float) or not 0 <= value < PROGRESS_LIMIT:
                raise ConfigError(f"progress: {name} is a number, 0 or more and finite, not {value!r}")
        if self._tell is not None:
            text = str(message)[:MESSAGE_CHARS].encode(errors="replace").decode()
            self._tell(float(amounts[0]), float(amounts[1]), text)

    def with_inputs(self, inputs: Mapping[str, Any]) -> StepContext:
        """Return the same context with the outputs of these steps, `{step_id: output}`, for `ctx[step_id]`."""
        copy = StepContext(self.run_id, self.step_id, self.attempt, self.token)
        copy.params, copy._inputs, copy._tell = self.params, inputs, self._tell
        return copy

    def __getitem__(self, step_id: str) -> Any:
        """Return the output of a dependency of a class step.

        Raises:
            KeyError: The step does not name this one among its dependencies.
        """
        return self._inputs[step_id]

    def __repr__(self) -> str:
        return f"StepContext(run_id={self.run_id!r}, step_id={self.step_id!r}, attempt={self.attempt})"


class Entry:
    """A step that is running. Its context is built when it first asks: most steps never do."""

    __slots__ = ("_context", "attempt", "inherited", "printed", "run_id", "sink", "step_id", "token")

    def __init__(self, run_id: str, attempt: int, printed: Buffer | None = None, sink: Sink | None = None) -> None:
        """Note what the context will say.

        Args:
            run_id: The run that the step is part of.
            attempt: Which try of the step this is, from 1.
            printed: Where what the step prints is noted, if that is done in this process.
            sink: Takes the entry and how far its step is: (done, total or 0, message).
        """
        self.run_id = run_id
        self.attempt = attempt
        #: Set by `execution` as soon as the step's call has been read.
        self.step_id = ""
        #: What the step has of its workflow, pickled (`codec.Inherited`); set by `execution` where that is something.
        self.inherited = b""
        #: What stops the step; made when it is first needed.
        self.token: CancellationToken | None = None
        self.printed = printed
        self.sink = sink
        self._context: StepContext | None = None

    def context(self) -> StepContext:
        """Return the step's context, the same one each time."""
        if self._context is None:
            self._context = StepContext(self.run_id, self.step_id, self.attempt, self.need_token())
            if self.sink is not None:
                self._context._tell = partial(self.sink, self)
            if self.inherited:
                from pfw import codec

                self._context.params = MappingProxyType(dict(codec.load_inherited(self.inherited).params))
        return self._context

    def note_raised(self, error: BaseException) -> None:
        """The step has ended with this exception. Nobody here can look at its frames, so they are not kept."""

    def need_token(self) -> CancellationToken:
        """Return the step's token, made now if there was none."""
        if self.token is None:
            token = CancellationToken()
            if self.token is None:  # else another thread, or a signal handler, has made one meanwhile
                self.token = token
        return self.token

    def is_cancelled(self) -> bool:
        """Return whether the step has been asked to stop."""
        return self.token is not None and self.token.cancelled


class Host(Protocol):
    """What runs steps in the client's process."""

    def on_raised(self, error: BaseException) -> None:
        """The running step has ended with this exception."""

    def reason_to_stop(self) -> str | None:
        """Return why steps are to stop; None if they are not."""


class LocalEntry(Entry):
    """A step that runs in the client's process, where a debugger can look at the frames of what it raises."""

    __slots__ = ("host",)

    #: What runs it.
    host: Host

    def note_raised(self, error: BaseException) -> None:
        """Hands it on."""
        self.host.on_raised(error)

    def need_token(self) -> CancellationToken:
        """Return the step's token; one that is made after the run was cancelled is cancelled too."""
        token = super().need_token()
        reason = self.host.reason_to_stop()
        if reason is not None:
            token.cancel(reason)
        return token


Sink: TypeAlias = Callable[[Entry, float, float, str], object]

#: The step of this thread or asyncio task.
_of_task: ContextVar[Entry | None] = ContextVar("pfw_step", default=None)
#: The synchronous step that began last in this process, for threads that it starts: their own context is empty.
_of_process: Entry | None = None


def running() -> Entry | None:
    """Return the step of the calling thread or task; None outside of steps."""
    return _of_task.get() or _of_process


def current() -> StepContext:
    """Return the context of the running step; outside a run an inert one, so that steps can be tested as functions.

    >>> current().attempt
    0
    """
    entry = running()
    return entry.context() if entry is not None else StepContext("", "", 0, CancellationToken())


def enter(entry: Entry) -> Token[Entry | None]:
    """Make this the running step of the calling thread and of threads started by it; undone by `leave`."""
    global _of_process
    _of_process = entry
    return _of_task.set(entry)


def leave(previous: Token[Entry | None]) -> None:
    """End what `enter` began."""
    global _of_process
    _of_process = None
    _of_task.reset(previous)


def succeed(entry: Entry) -> None:
    """As `enter`, where steps follow one another on one thread and no other step runs: `end` is called after them."""
    global _of_process
    _of_process = entry
    _of_task.set(entry)


def end() -> None:
    """No step runs on the calling thread any more, nor did one before the first `succeed`."""
    global _of_process
    _of_process = None
    _of_task.set(None)


def enter_task(entry: Entry) -> None:
    """Make this the running step of the calling asyncio task, which runs no other step."""
    _of_task.set(entry)


class _StepHandler(logging.Handler):
    """Prints what steps log, unless the user's own logging does: then it is only noted."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = f"{self.format(record)}\n"
            entry = running()
            if not logging.root.handlers:
                sys.stderr.write(text)
            elif entry is not None and entry.printed is not None:
                entry.printed.add(text)
        except Exception:  # as logging's own handlers: what goes wrong here must not end the step
            self.handleError(record)


def _prepare_logging() -> None:
    """Once in each process, when a step first logs."""
    logger = logging.getLogger("pfw.step")
    if not any(isinstance(handler, _StepHandler) for handler in logger.handlers):
        handler = _StepHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        logger.addHandler(handler)
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)


#: How often a pickled token has become a step's own: what was unpickled meanwhile belongs to that step.
tokens_given = 0


def token_here(cancelled: bool, reason: str | None) -> CancellationToken:
    """What a pickled token becomes: the token of the step that unpickles it, elsewhere a new one in the same state."""
    global tokens_given
    entry = _of_task.get()
    if entry is not None:
        tokens_given += 1
        return entry.need_token()
    token = CancellationToken()
    if cancelled:
        token.cancel(reason)
    return token
