"""Why an attempt failed, in a form that always travels: text first, the exception itself only where it pickles.

The record alone, which supervisors and the coordinator may read; exceptions are `pfw.remote`'s business.
"""

from __future__ import annotations

import signal as signals
from typing import Final, NamedTuple

import msgpack

#: The step raised an exception.
FAIL_ERROR: Final = 1
#: The process that executed the step died.
FAIL_CRASHED: Final = 2
#: The worker that held the attempt was lost.
FAIL_LOST: Final = 3
#: The step's output does not pickle.
FAIL_UNPICKLABLE: Final = 4
#: A module that the step needs is missing on the worker.
FAIL_MODULE: Final = 5
#: The step was stopped because its run was cancelled.
FAIL_CANCELLED: Final = 6
#: A bug in pfw.
FAIL_INTERNAL: Final = 7
#: The step ran for longer than its timeout.
FAIL_TIMEOUT: Final = 8
#: No worker of this cluster can ever give the step what it needs.
FAIL_UNSCHEDULABLE: Final = 9
#: The step held more memory than it may.
FAIL_MEMORY: Final = 10


class Failure(NamedTuple):
    """Why an attempt did not return."""

    #: One of the FAIL_ constants.
    code: int
    #: Name of the exception's class; with its module unless that is builtins.
    type_name: str = ""
    #: `str()` of the exception, at most `remote.MESSAGE_LIMIT` characters.
    message: str = ""
    #: The formatted traceback, at most `remote.TRACEBACK_LIMIT` characters.
    traceback: str = ""
    #: The pickled exception; empty where it does not survive a pickle and back.
    exception: bytes = b""
    #: The signal that ended the process, 0 for none.
    signal: int = 0
    #: The exit code of the process, 0 where a signal ended it.
    exit_code: int = 0
    #: The last that the process printed.
    last_output: str = ""
    #: The peak of the process's memory; 0 where it is not known.
    peak_bytes: int = 0
    #: How much memory it might hold; 0 where that is not what it failed with.
    limit_bytes: int = 0

    @property
    def headline(self) -> str:
        """The type and message of the exception."""
        return f"{self.type_name}: {self.message}"

    def pack(self) -> bytes:
        """Return the failure as msgpack bytes, the payload of an outcome that is not OK."""
        packed: bytes = msgpack.packb(tuple(self), unicode_errors="surrogatepass")
        return packed

    @classmethod
    def unpack(cls, packed: bytes) -> Failure:
        """Return the failure that `pack` made these bytes of.

        Raises:
            ValueError: These bytes are anything else.
        """
        try:
            fields = msgpack.unpackb(packed, use_list=False, unicode_errors="surrogatepass")
        except Exception as error:  # msgpack documents several unrelated classes here
            raise ValueError(f"not a failure: {error}") from error
        if not isinstance(fields, tuple) or tuple(map(type, fields)) != _FIELD_TYPES:
            raise ValueError(f"not a failure: expected {len(_FIELD_TYPES)} fields of fixed types")
        if not FAIL_ERROR <= fields[0] <= FAIL_MEMORY:
            raise ValueError(f"not a failure: unknown code {fields[0]}")
        return cls(*fields)


_FIELD_TYPES: Final = (int, str, str, str, bytes, int, int, str, int, int)


def describe_crash(status: int, last_output: str = "", peak_bytes: int = 0) -> Failure:
    """Describe the death of the process that executed a step.

    Args:
        status: Its wait status, as `os.waitpid` gives it.
        last_output: The last that it printed.
        peak_bytes: The peak of its memory, 0 if it is not known.
    """
    number, exit_code = status & 0x7F, status >> 8 & 0xFF
    if number:
        message, exit_code = f"its process was killed by {_signal_name(number)}", 0
    else:
        message = f"its process ended with exit code {exit_code} before the step had returned"
    return Failure(FAIL_CRASHED, "StepCrashedError", message, "", b"", number, exit_code, last_output, peak_bytes)


def describe_timeout(timeout_s: float, last_output: str = "", payload: bytes = b"") -> Failure:
    """Describe that an attempt ran for too long.

    Args:
        timeout_s: How long it might have run.
        last_output: The last that it printed.
        payload: What the attempt returned once it was interrupted: a packed Failure says where it was.
    """
    try:
        traceback = Failure.unpack(payload).traceback
    except ValueError:  # it had to be killed, or has returned an output
        traceback = ""
    message = f"it ran for longer than its timeout of {timeout_s:g} s"
    return Failure(FAIL_TIMEOUT, "StepTimeoutError", message, traceback, last_output=last_output)


def _signal_name(number: int) -> str:
    try:
        return f"{signals.Signals(number).name} (signal {number})"
    except ValueError:
        return f"signal {number}"
