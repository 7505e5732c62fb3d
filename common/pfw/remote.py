"""Exceptions over the wire: a slot describes what a step raised, a client makes an error of the description."""

from __future__ import annotations

import traceback as tracebacks
from types import TracebackType
from typing import Final

from pfw import codec
from pfw.errors import (
    InternalError,
    MemoryLimitError,
    MissingModuleError,
    RetryExhaustedError,
    StepCrashedError,
    StepFailedError,
    StepTimeoutError,
    UnpicklableError,
    UnschedulableError,
    WorkerLostError,
)
from pfw.failure import (
    FAIL_CRASHED,
    FAIL_ERROR,
    FAIL_INTERNAL,
    FAIL_LOST,
    FAIL_MEMORY,
    FAIL_MODULE,
    FAIL_TIMEOUT,
    FAIL_UNPICKLABLE,
    FAIL_UNSCHEDULABLE,
    Failure,
)

#: Longest message kept, in characters.
MESSAGE_LIMIT: Final = 10_000
#: Longest traceback kept, in characters; the middle is cut out.
TRACEBACK_LIMIT: Final = 64_000
#: Largest pickled exception that travels, in bytes; of a larger one only the text is kept.
EXCEPTION_LIMIT: Final = 1_000_000


def describe(error: BaseException, code: int = FAIL_ERROR) -> Failure:
    """Describe an exception; never raises, whatever its class does in `__str__`, `__init__` or `__reduce__`."""
    message = _text_of(error)
    return Failure(
        code,
        _type_name(type(error)),
        _cut_end(message, MESSAGE_LIMIT),
        _cut_middle(_format_traceback(error, message), TRACEBACK_LIMIT),
        _pickle_exception(error),
    )


def to_error(
    failure: Failure, step_id: str, attempts: int, retries: int, raised: BaseException | None = None
) -> StepFailedError:
    """Return the error that a client raises for a failed step.

    Args:
        failure: Why the last attempt failed.
        step_id: The id of the step, named in the message.
        attempts: How many attempts were made.
        retries: How many retries the step allowed; if there were no fewer, they are exhausted.
        raised: The user's exception itself, with its frames, where the step ran in this process.

    Returns:
        An error with the user's exception as `__cause__`, where that could travel: the same in every mode.
    """
    text = _summary(failure, step_id, attempts)
    error = _make_error(failure, text, step_id, attempts, retries)
    error.__cause__ = _cause(failure, raised)
    return error


def _make_error(failure: Failure, text: str, step_id: str, attempts: int, retries: int) -> StepFailedError:
    remote = failure.traceback
    if failure.code == FAIL_CRASHED:
        number, exit_code = failure.signal or None, None if failure.signal else failure.exit_code
        return StepCrashedError(
            text, step=step_id, attempts=attempts, remote_traceback=remote, signal=number, exit_code=exit_code,
            last_output=failure.last_output, peak_memory=failure.peak_bytes or None,
        )  # fmt: skip
    if failure.code == FAIL_MEMORY:
        sizes = {"limit": failure.limit_bytes, "peak": failure.peak_bytes}
        error: StepFailedError = MemoryLimitError(
            text, step=step_id, attempts=attempts, remote_traceback=remote, **sizes
        )
        return error
    if failure.code == FAIL_TIMEOUT:
        return StepTimeoutError(
            text, step=step_id, attempts=attempts, remote_traceback=remote, last_output=failure.last_output
        )
    kind = _ERROR_OF_CODE.get(failure.code, StepFailedError)
    if failure.code == FAIL_ERROR and 0 < retries < attempts:
        kind = RetryExhaustedError
    return kind(text, step=step_id, attempts=attempts, remote_traceback=remote)


_ERROR_OF_CODE: Final[dict[int, type[StepFailedError]]] = {
    FAIL_LOST: WorkerLostError,
    FAIL_UNPICKLABLE: UnpicklableError,
    FAIL_MODULE: MissingModuleError,
}
_VERBS: Final = {FAIL_CRASHED: "crashed", FAIL_TIMEOUT: "timed out"}


def _summary(failure: Failure, step_id: str, attempts: int) -> str:
    verb = _VERBS.get(failure.code, "failed")
    times = f" after {attempts} attempts" if attempts > 1 else ""
    reason = failure.message
    if failure.code == FAIL_ERROR:
        reason = f"{failure.type_name}: {reason}" if reason else failure.type_name
    return f"step {step_id!r} {verb}{times}: {reason}"


def _cause(failure: Failure, raised: BaseException | None) -> BaseException | None:
    if failure.code == FAIL_INTERNAL:
        return InternalError(failure.message)
    if failure.code == FAIL_UNSCHEDULABLE:
        return UnschedulableError(failure.message)
    if failure.code != FAIL_ERROR or not failure.exception:
        return None
    if raised is not None:
        return raised
    try:
        value = codec.load(failure.exception)
    except Exception:  # its class is missing here, or refuses: the text has to do
        return None
    return value if isinstance(value, BaseException) else None


def _pickle_exception(error: BaseException) -> bytes:
    try:
        pickled = codec.dump(error)
        if len(pickled) <= EXCEPTION_LIMIT and type(codec.load(pickled)) is type(error):
            return pickled
    except BaseException:  # user code runs here (__reduce__, __init__); it must not end the slot
        return b""
    return b""


def _format_traceback(error: BaseException, message: str) -> str:
    try:
        return "".join(tracebacks.format_exception(type(error), error, _user_frames(error.__traceback__)))
    except BaseException:  # as above: __notes__, __cause__ and source lookups can run user code
        return f"{_type_name(type(error))}: {message}\n"


def _user_frames(trace: TracebackType | None) -> TracebackType | None:
    """Skip our own frames at the top, unless there is nothing below them."""
    first = trace
    while first is not None and str(first.tb_frame.f_globals.get("__name__")).startswith("pfw."):
        first = first.tb_next
    return first or trace


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:
        return "<its __str__ raised an exception>"


def _type_name(kind: type) -> str:
    module = str(kind.__module__)
    return kind.__qualname__ if module in ("builtins", "__main__") else f"{module}.{kind.__qualname__}"


def _cut_end(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 4] + " ..."


def _cut_middle(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    mark = "\n... cut here ...\n"
    half = (limit - len(mark)) // 2
    return text[:half] + mark + text[-half:]
