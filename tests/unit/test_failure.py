"""Failures: any exception becomes one, and one becomes an error for the client."""

from __future__ import annotations

import pickle
import signal
import threading

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfw import errors, failure, remote
from pfw.failure import Failure, describe_crash
from pfw.remote import describe, to_error


class TwoArgumentError(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


class ExitingError(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)

    def __reduce__(self) -> str:
        raise SystemExit(4)


class HoldingError(Exception):
    def __init__(self) -> None:
        super().__init__("holds a lock")
        self.lock = threading.Lock()


def catch(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def recurse(depth: int) -> int:
    return recurse(depth + 1) + 1


def test_an_exception_travels_with_its_text_and_itself() -> None:
    found = describe(catch(ValueError("bad input")))
    assert (found.code, found.type_name, found.message) == (failure.FAIL_ERROR, "ValueError", "bad input")
    assert found.traceback.startswith("Traceback")
    assert found.traceback.endswith("ValueError: bad input\n")
    assert Failure.unpack(found.pack()) == found


@pytest.mark.parametrize(
    "error", [TwoArgumentError(1, "x"), ExitingError(), HoldingError()], ids=lambda e: type(e).__name__
)
def test_exceptions_that_misbehave_still_give_their_text(error: Exception) -> None:
    found = describe(catch(error))
    assert found.exception == b""
    assert type(error).__name__ in found.type_name
    assert type(error).__name__ in found.traceback
    assert to_error(found, "s", 1, 0).__cause__ is None


def test_an_exception_without_text_is_said_to_have_none() -> None:
    assert describe(catch(MuteError())).message == "<its __str__ raised an exception>"


def test_long_texts_are_cut() -> None:
    found = describe(catch(ValueError("x" * 10_000_000)))
    assert len(found.message) == remote.MESSAGE_LIMIT
    assert len(found.traceback) <= remote.TRACEBACK_LIMIT
    assert "cut here" in found.traceback
    assert found.exception == b""


def test_a_recursion_error_has_a_short_traceback() -> None:
    with pytest.raises(RecursionError) as caught:
        recurse(0)
    assert len(describe(caught.value).traceback) < 5000


def test_text_that_is_not_unicode_survives() -> None:
    found = describe(catch(ValueError("\udcff")))
    assert Failure.unpack(found.pack()) == found


@given(st.binary(max_size=50))
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a failure"):
        Failure.unpack(data)


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [1, "a", "b", "c", b"", 0],
        [0, "a", "b", "c", b"", 0, 0],
        [99, "a", "b", "c", b"", 0, 0],
        [True, "a", "b", "c", b"", 0, 0],
        [1, "a", "b", "c", "", 0, 0],
        [1, "a", "b", "c", b"", 0, 0, 0],
    ],
)
def test_other_messages_are_refused(fields: list[object]) -> None:
    with pytest.raises(ValueError, match="not a failure"):
        Failure.unpack(msgpack.packb(fields))


def test_an_error_has_the_users_exception_as_its_cause() -> None:
    error = to_error(describe(catch(ZeroDivisionError("1/0"))), "divide", 1, 0)
    assert type(error) is errors.StepFailedError
    assert (error.step, error.attempts) == ("divide", 1)
    assert type(error.__cause__) is ZeroDivisionError
    assert str(error).startswith("step 'divide' failed: ZeroDivisionError: 1/0")
    assert "Traceback (most recent call last)" in str(error)


def test_after_retries_they_are_exhausted() -> None:
    error = to_error(describe(catch(OSError("down"))), "fetch", 3, 2)
    assert type(error) is errors.RetryExhaustedError
    assert "failed after 3 attempts: OSError: down" in str(error)


def test_a_crash_says_what_was_printed_last() -> None:
    failure = Failure.unpack(describe_crash(signal.SIGKILL, "last words\n", 1 << 30).pack())
    error = to_error(failure, "native", 1, 0)
    assert isinstance(error, errors.StepCrashedError)
    assert (error.last_output, error.peak_memory) == ("last words\n", 1 << 30)
    assert str(error).endswith("killed by SIGKILL (signal 9)\n\nThe last it printed:\nlast words")
    again = pickle.loads(pickle.dumps(error))
    assert (again.last_output, again.peak_memory, str(again)) == (error.last_output, error.peak_memory, str(error))


def test_a_timeout_says_what_was_printed_last() -> None:
    where = Failure(failure.FAIL_ERROR, "E", "text", "where it was").pack()
    found = Failure.unpack(failure.describe_timeout(1.5, "last words\n", where).pack())
    error = to_error(found, "slow", 1, 0)
    assert isinstance(error, errors.StepTimeoutError)
    assert (error.last_output, error.remote_traceback) == ("last words\n", "where it was")
    assert str(error).endswith("where it was\n\nThe last it printed:\nlast words")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_who_gives_up_before_has_not_exhausted_its_retries() -> None:
    assert type(to_error(describe(catch(OSError("down"))), "fetch", 2, 2)) is errors.StepFailedError


def test_a_crash_names_its_signal() -> None:
    error = to_error(describe_crash(signal.SIGSEGV), "native", 3, 0)
    assert isinstance(error, errors.StepCrashedError)
    assert (error.signal, error.exit_code) == (signal.SIGSEGV, None)
    assert str(error) == "step 'native' crashed after 3 attempts: its process was killed by SIGSEGV (signal 11)"


def test_an_exit_names_its_code() -> None:
    error = to_error(describe_crash(0 << 8), "quiet", 1, 0)
    assert isinstance(error, errors.StepCrashedError)
    assert (error.signal, error.exit_code) == (None, 0)
    assert "ended with exit code 0 before the step had returned" in str(error)


def test_a_core_dump_and_an_unknown_signal_are_understood() -> None:
    assert describe_crash(signal.SIGABRT | 0x80).signal == signal.SIGABRT
    assert "signal 99" in describe_crash(99).message


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (failure.FAIL_LOST, errors.WorkerLostError),
        (failure.FAIL_UNPICKLABLE, errors.UnpicklableError),
        (failure.FAIL_MODULE, errors.MissingModuleError),
        (failure.FAIL_CANCELLED, errors.StepFailedError),
        (failure.FAIL_TIMEOUT, errors.StepTimeoutError),
    ],
)
def test_each_code_has_its_error(code: int, kind: type) -> None:
    assert type(to_error(Failure(code, message="why"), "s", 1, 5)) is kind


def test_our_own_bug_is_said_to_be_one() -> None:
    error = to_error(Failure(failure.FAIL_INTERNAL, message="state"), "s", 1, 0)
    assert isinstance(error.__cause__, errors.InternalError)
