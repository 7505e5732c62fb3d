"""Errors: their texts, and what survives pickling."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import BrokenExecutor

import pytest

from pfw import errors
from pfw.errors import (
    ClusterError,
    CycleError,
    MissingModuleError,
    OutputNotKeptError,
    PfwError,
    RunCancelledError,
    StepCrashedError,
    StepFailedError,
    StepInterrupt,
    UnknownDependencyError,
    WorkerLostError,
    did_you_mean,
    members_of,
)

ALL_ERRORS = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, PfwError)]


@pytest.mark.parametrize("error_type", ALL_ERRORS, ids=lambda error_type: error_type.__name__)
def test_every_error_shows_its_message_and_survives_pickling(error_type: type[PfwError]) -> None:
    error = error_type('no "x" here')
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is error_type
    assert str(error) == str(copy) == 'no "x" here'
    assert copy.__dict__ == error.__dict__
    assert error_type.__doc__


def test_attributes_survive_pickling() -> None:
    crashed = StepCrashedError("gone", step="a", attempts=3, remote_traceback="line 1", signal=11)
    copy = pickle.loads(pickle.dumps(crashed))
    assert (copy.step, copy.attempts, copy.remote_traceback, copy.signal, copy.exit_code) == (
        "a",
        3,
        "line 1",
        11,
        None,
    )
    assert pickle.loads(pickle.dumps(CycleError("round", cycle=["a", "b"]))).cycle == ("a", "b")
    assert pickle.loads(pickle.dumps(MissingModuleError("gone", module="numpy"))).module == "numpy"
    assert pickle.loads(pickle.dumps(RunCancelledError("stop", reason="enough"))).reason == "enough"


@pytest.mark.parametrize("error_type", [StepFailedError, RunCancelledError])
def test_the_run_is_dropped_on_pickling_only(error_type: type[StepFailedError] | type[RunCancelledError]) -> None:
    error = error_type("failed", run=threading.Lock())
    assert pickle.loads(pickle.dumps(error)).run is None
    assert error.run is not None


def test_the_remote_traceback_is_part_of_the_text() -> None:
    error = StepFailedError("a failed", step="a", attempts=1, remote_traceback="File x, line 3\nZeroDivisionError\n")
    assert str(error) == "a failed\n\nTraceback where the step ran:\nFile x, line 3\nZeroDivisionError"


def test_errors_are_caught_as_the_builtin_ones() -> None:
    assert issubclass(UnknownDependencyError, KeyError)
    assert issubclass(UnknownDependencyError, ValueError)
    assert issubclass(OutputNotKeptError, KeyError)
    assert issubclass(WorkerLostError, BrokenExecutor)
    assert issubclass(MissingModuleError, ImportError)
    assert issubclass(ClusterError, ConnectionError)
    assert not issubclass(StepInterrupt, Exception)


def test_the_steps_of_a_map_are_named_instead_of_it() -> None:
    known = {"work[0]": 0, "work[1]": 1, "work[9]": 2}
    assert members_of("work", known) == "; it is a map of 2: name one, 'work[0]' to 'work[1]'"
    assert members_of("other", known) == ""


def test_did_you_mean() -> None:
    assert did_you_mean("extrct", ["load", "extract"]) == '; did you mean "extract"?'
    assert did_you_mean("zzz", ["load", "extract"]) == ""
