"""Every error that pfw raises, ordered by who is at fault.

`GraphError`, `ConfigError` and their neighbours are mistakes in what was asked for; `StepFailedError` and its kin are
the step's own; `ClusterError` and its kin are the cluster's; `InternalError` is ours. All of them survive pickling with
their attributes. This module must know nothing of the rest of pfw.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from concurrent.futures import BrokenExecutor
from typing import Any


class PfwError(Exception):
    """Base of all errors of pfw: catch it to catch whatever pfw itself reports."""

    def __str__(self) -> str:
        # KeyError shows the repr of its argument; a message is to be read as it is.
        return str(self.args[0]) if len(self.args) == 1 else super().__str__()

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self._state())

    def _state(self) -> dict[str, Any]:
        """Attributes that travel when the error is pickled."""
        return self.__dict__


def _rebuild(error_type: type[PfwError], args: tuple[Any, ...], state: dict[str, Any]) -> PfwError:
    # Not through __init__, whose keyword-only parameters pickle could not give.
    error = error_type.__new__(error_type, *args)
    error.args = args  # those that are OSErrors do not take them from __new__
    error.__dict__.update(state)
    return error


# ---------------------------------------------------------------- what was asked for


class GraphError(PfwError, ValueError):
    """The workflow is put together wrongly, or a Node was used like a value; the message says what to write instead."""


class CycleError(GraphError):
    """Steps wait for each other in a circle: remove one of the dependencies that the message names.

    Attributes:
        cycle: ids of the cycle's steps, each before the one that depends on it; the first depends on the last.
    """

    def __init__(self, message: str, *, cycle: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.cycle = tuple(cycle)


class UnknownDependencyError(GraphError, KeyError):
    """A step is asked for by an id that the workflow has not: correct the id, the message gives the closest one."""


class DuplicateStepError(GraphError):
    """Two steps were given the same explicit id: change one, or leave the id out and pfw numbers them."""


class EmptyWorkflowError(GraphError):
    """The workflow has no steps: call steps inside `with Workflow() as wf:` or use `wf.add`."""


class ConfigError(PfwError, ValueError):
    """An option has a value that it cannot have; the message names the option and what it may be."""


class UnschedulableError(PfwError):
    """No worker of this cluster can ever run the step: offer what the message names, or ask for less in its hint."""


class StalledError(PfwError):
    """Nothing that is left of the run can ever start on this cluster: read the reason in the message."""


class OutputNotKeptError(PfwError, KeyError):
    """The output was freed when its last use was over: run again with the `keep=` that the message names."""


class UnknownRunError(PfwError, KeyError):
    """The coordinator knows no run of that id: `pfw runs` lists those that it knows."""


# ---------------------------------------------------------------- the step's own


class StepFailedError(PfwError):
    """A step failed. The step's own exception is `__cause__`, where it could be brought here.

    `__cause__` does not travel with pickling (as with every Python exception); `remote_traceback` does.

    Attributes:
        step: id of the step, None if it is not known yet.
        attempts: how often the step was tried.
        remote_traceback: the traceback where the step ran, part of `str(error)`.
        run: the Run, whose outputs and metrics can still be read; dropped when the error is pickled.
    """

    def __init__(
        self,
        message: str,
        *,
        step: str | None = None,
        attempts: int = 0,
        remote_traceback: str = "",
        run: Any = None,
    ) -> None:
        super().__init__(message)
        self.step = step
        self.attempts = attempts
        self.remote_traceback = remote_traceback
        self.run = run

    def __str__(self) -> str:
        message = super().__str__()
        if not self.remote_traceback:
            return message
        return f"{message}\n\nTraceback where the step ran:\n{self.remote_traceback.rstrip()}"

    def _state(self) -> dict[str, Any]:
        return {**self.__dict__, "run": None}


class RetryExhaustedError(StepFailedError):
    """A step failed at its first try and at every retry: look at `__cause__`, or allow more in `Retry`."""


class _LastOutputError(StepFailedError):
    """A step failed from outside: the last that it printed may say where it was."""

    def __init__(self, message: str, *, last_output: str = "", **attributes: Any) -> None:
        super().__init__(message, **attributes)
        self.last_output = last_output

    def __str__(self) -> str:
        message = super().__str__()
        if not self.last_output.strip():
            return message
        return f"{message}\n\nThe last it printed:\n{self.last_output.rstrip()}"


class StepTimeoutError(_LastOutputError, TimeoutError):
    """A step ran for longer than its `timeout`: see in the traceback where it was, or give it more time.

    Attributes:
        last_output: the last that the step printed, at most 4,000 bytes of it; part of `str(error)`.
    """


class StepCrashedError(_LastOutputError):
    """A step ended the process that it ran in, as often as its crash limit allows.

    Look for native code, `os._exit` or a memory killer.

    Attributes:
        signal: number of the signal that ended the process, None if it exited.
        exit_code: exit code of the process, None if a signal ended it.
        last_output: the last that the process printed, at most 4,000 bytes of it; part of `str(error)`.
        peak_memory: the peak of the process's resident memory in bytes, None if it is not known.
    """

    def __init__(
        self,
        message: str,
        *,
        signal: int | None = None,
        exit_code: int | None = None,
        peak_memory: int | None = None,
        **attributes: Any,
    ) -> None:
        super().__init__(message, **attributes)
        self.signal = signal
        self.exit_code = exit_code
        self.peak_memory = peak_memory


class MemoryLimitError(StepFailedError, MemoryError):
    """A step held more memory than it may, and its process was ended: ask for more with `Hint.memory`, or use less.

    Attributes:
        limit: how many bytes it might hold.
        peak: how many it held when that was seen.
    """

    # That of MemoryError, which Python would find first, refuses to make anything else.
    __new__ = BaseException.__new__  # type: ignore[assignment]  # typeshed has another form for `object`

    def __init__(self, message: str, *, limit: int = 0, peak: int = 0, **attributes: Any) -> None:
        super().__init__(message, **attributes)
        self.limit = limit
        self.peak = peak


class WorkerLostError(StepFailedError, BrokenExecutor):
    """The worker was lost while the step ran, as often as its budget allows: look at the worker's machine."""


class UnpicklableError(StepFailedError):
    """A function, argument or result cannot be sent to another process.

    Give the step what it needs to make the value itself (a path instead of an open file), or return plain data.
    """


class MissingModuleError(StepFailedError, ImportError):
    """A module that the step needs is not installed where it ran: install it on the workers.

    Attributes:
        module: name of the missing module, None if it is not known.
    """

    def __init__(self, message: str, *, module: str | None = None, **attributes: Any) -> None:
        super().__init__(message, **attributes)
        self.module = module


class RunCancelledError(PfwError):
    """The run was cancelled before it was complete.

    Attributes:
        reason: what was given as the reason, None if nothing was.
        receipt: the CancelReceipt, how each step ended.
        run: the Run, whose outputs and metrics can still be read; dropped when the error is pickled.
    """

    def __init__(self, message: str, *, reason: str | None = None, receipt: Any = None, run: Any = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.receipt = receipt
        self.run = run

    def _state(self) -> dict[str, Any]:
        return {**self.__dict__, "run": None}


class RunTimeoutError(RunCancelledError, TimeoutError):
    """The run was not complete within its `timeout`: give it more, or look in `.run` which steps took so long."""


# ---------------------------------------------------------------- the cluster's


class ClusterError(PfwError, ConnectionError):
    """The cluster cannot be reached or does not answer as it should: check the address and that it is up."""


class CoordinatorLostError(ClusterError):
    """The coordinator went away while the run was on, and the run with it: start the coordinator and the run again."""


class VersionMismatchError(ClusterError):
    """Client, coordinator and worker must agree on the protocol and Python's minor version: the message names both."""


class ProtocolError(ClusterError):
    """A peer sent something that is no message of pfw: check what listens or talks at the address."""


# ---------------------------------------------------------------- ours


class InternalError(PfwError):
    """A bug in pfw: please report it with the message, which holds the last transitions."""


class StepInterrupt(BaseException):
    """Raised in a running step that is to stop. Not an Exception, so that `except Exception` does not swallow it.

    Let it pass, after cleaning up: the step is ended by force when its grace is over.
    """


#: So many known names are compared at most; comparing costs microseconds each.
_NAMES_COMPARED = 5_000


def members_of(name: str, known: Container[str]) -> str:
    """Returns which steps can be named instead of the map `name`, or "" if no map of this name is known.

    >>> members_of("work", {"work[0]", "work[1]"}), members_of("other", {"work[0]"})
    ("; it is a map of 2: name one, 'work[0]' to 'work[1]'", '')
    """
    from itertools import count

    size = next(number for number in count() if f"{name}[{number}]" not in known)
    return f"; it is a map of {size:,}: name one, '{name}[0]' to '{name}[{size - 1}]'" if size else ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns `; did you mean "x"?` for the known name closest to `name`, or "" if none is close."""
    from difflib import get_close_matches
    from itertools import islice

    close = get_close_matches(name, islice(known, _NAMES_COMPARED), n=1)
    return f'; did you mean "{close[0]}"?' if close else ""
