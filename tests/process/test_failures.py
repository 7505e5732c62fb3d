"""Steps that fail or return what cannot be sent, and graphs that are none: a clear error for the one who sent it."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import steps, wait_until
from pfw import (
    ConfigError,
    CycleError,
    DuplicateStepError,
    EmptyWorkflowError,
    GraphError,
    LocalCluster,
    OutputNotKeptError,
    Retry,
    RetryExhaustedError,
    Step,
    StepFailedError,
    UnknownDependencyError,
    UnpicklableError,
    Workflow,
    run,
    start,
    step,
)

give, mark = step(steps.give), step(steps.mark)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(cpu=2, io=4) as found:
        yield found


def alone(fn: Any, *args: Any, **kwargs: Any) -> Workflow:
    with Workflow() as wf:
        (fn if hasattr(fn, "options") else step(fn))(*args, **kwargs)
    return wf


def failure_of(cluster: LocalCluster, fn: Any, *args: Any) -> StepFailedError:
    with pytest.raises(StepFailedError) as caught:
        run(alone(fn, *args), on=cluster)
    return caught.value


# ---------------------------------------------------------------- exceptions


def test_an_exception_comes_with_its_traceback_and_itself(cluster: LocalCluster) -> None:
    error = failure_of(cluster, steps.fail, "really no good")
    assert (type(error), error.step, error.attempts) == (StepFailedError, "fail", 1)
    assert type(error.__cause__) is ValueError
    assert error.__cause__.args == ("really no good",)
    assert "in fail" in error.remote_traceback
    assert "steps.py" in error.remote_traceback
    assert error.remote_traceback.rstrip() in str(error)
    assert error.run.status == "FAILED"
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.step, again.run) == (str(error), "fail", None)


@pytest.mark.parametrize(("name", "text"), [("two", "TwoArguments: left/right"), ("lock", "HoldsLock: locked")])
def test_an_exception_that_does_not_travel_is_told_in_text(cluster: LocalCluster, name: str, text: str) -> None:
    error = failure_of(cluster, steps.raise_odd, name)
    assert type(error) is StepFailedError
    assert error.__cause__ is None
    assert text in str(error)
    assert "in raise_odd" in error.remote_traceback


class BadText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")


class Huge(Exception):
    pass


class EndsProcessWhenPickled(Exception):
    def __reduce__(self) -> Any:
        raise SystemExit(9)


class Sly(Exception):
    def __init__(self, n: int = 0) -> None:
        super().__init__(n)

    def __reduce__(self) -> Any:
        return int, ("not an exception",)


def raise_bad_text() -> None:
    raise BadText


def raise_huge() -> None:
    raise Huge("x" * 10_000_000)


def raise_exits() -> None:
    raise EndsProcessWhenPickled("gone")


def raise_sly() -> None:
    raise Sly(1)


def raise_chain() -> None:
    try:
        steps.fail("the first")
    except ValueError as error:
        raise LookupError("the second") from error


def raise_group() -> None:
    raise ExceptionGroup("several", [ValueError("one"), KeyError("two")])


def recurse() -> None:
    recurse()


@pytest.mark.parametrize(
    ("fn", "text"),
    [
        (raise_bad_text, "BadText"), (raise_huge, "Huge: xxx"), (raise_exits, "EndsProcessWhenPickled: gone"),
        (raise_sly, "Sly: 1"), (raise_chain, "ValueError: the first"), (raise_group, "KeyError: 'two'"),
        (recurse, "RecursionError"),
    ],
)  # fmt: skip
def test_odd_exceptions_are_failures_of_their_step_alone(cluster: LocalCluster, fn: Any, text: str) -> None:
    error = failure_of(cluster, fn)
    assert type(error) is StepFailedError
    assert text in str(error)
    assert len(str(error)) < 200_000


@pytest.mark.parametrize(
    ("fn", "args", "cause"),
    [
        (steps.leave, (3,), SystemExit), (steps.interrupt, (), KeyboardInterrupt),
        (steps.leave_async, (3,), SystemExit), (steps.interrupt_async, (), KeyboardInterrupt),
    ],
)  # fmt: skip
def test_an_exit_or_interrupt_in_a_step_is_its_failure(
    cluster: LocalCluster, fn: Any, args: tuple[Any, ...], cause: type[BaseException]
) -> None:
    error = failure_of(cluster, fn, *args)
    assert type(error) is StepFailedError
    assert type(error.__cause__) is cause


def test_a_call_that_does_not_fit_a_function_without_a_signature_is_a_failure(cluster: LocalCluster) -> None:
    assert "at least 2 arguments" in str(failure_of(cluster, getattr, 1))


# ---------------------------------------------------------------- retries


def test_a_step_is_tried_again_after_its_backoff(cluster: LocalCluster) -> None:
    policy = Retry(retries=5, backoff=0.02, factor=2.0, jitter="none")
    found = run(alone(step(steps.fail_until, retry=policy), 4, "done"), on=cluster)
    assert found.value == "done"
    known = found.metrics.steps["fail_until"]
    assert (known.attempts, found.metrics.retries) == (4, 3)
    starts = [event.timestamp for event in found.events() if event.type == "Started"]
    ends = [event.timestamp for event in found.events() if event.type == "Retrying"]
    # At least so long, by the coordinator's clock: a lower bound holds on any machine.
    for delay, ended, started in zip((0.02, 0.04, 0.08), ends, starts[1:], strict=True):
        assert started - ended >= delay * 0.99
    errors = [event.error for event in found.events() if event.type == "Retrying"]
    assert errors == [f"ConnectionError: attempt {n}" for n in (1, 2, 3)]


def test_retries_end(cluster: LocalCluster) -> None:
    with pytest.raises(RetryExhaustedError) as caught:
        run(alone(step(steps.fail_until, retry=Retry(retries=2, backoff=0.0)), 99), on=cluster)
    assert caught.value.attempts == 3
    assert str(caught.value.__cause__) == "attempt 3"


def test_only_what_the_policy_names_is_tried_again(cluster: LocalCluster) -> None:
    other = step(steps.fail, retry=Retry(retries=5, backoff=0.0, on=ConnectionError))
    given_up = step(steps.fail_until, retry=Retry(retries=5, backoff=0.0, give_up=lambda e: "2" in str(e)))
    with Workflow() as wf:
        other("x")
        given_up(99)
    found = run(wf, on=cluster, on_failure="continue", check=False)
    assert {name: error.attempts for name, error in found.errors.items()} == {"fail": 1, "fail_until": 2}


def test_the_policy_is_asked_in_the_process_of_the_step(cluster: LocalCluster, tmp_path: Path) -> None:
    def is_worth_it(error: BaseException) -> bool:
        steps.mark(str(tmp_path), "asked")
        return True

    pids = step(steps.who_until, retry=Retry(retries=2, backoff=0.0, on=is_worth_it))
    assert run(alone(pids, str(tmp_path), 3), on=cluster).value == "done"
    tried, asked = ((tmp_path / name).read_text().split() for name in ("tried", "asked"))
    assert asked == tried[:2]
    assert str(os.getpid()) not in asked


def test_a_run_that_stops_lets_running_steps_finish_and_tries_nothing_again(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.mkdir()
    hold = step(steps.hold, hint="light_io")
    with Workflow() as wf:
        waiting = step(steps.fail_until, retry=Retry(retries=50, backoff=60.0, jitter="none"))(99)
        slow = hold(str(tmp_path), "slow", "done")
        bad = step(steps.fail)("first").after(hold(str(gate), "gate"))
        never = give(1).after(slow)
        skipped = give(1).after(bad)
    found = start(wf, on=cluster, keep="all")
    wait_until(lambda: (found.states[waiting.id], found.states[slow.id]) == ("BACKOFF", "ASSIGNED"), what="the stage")
    (gate / "go").touch()
    wait_until(lambda: found.states[bad.id] == "FAILED", what="the failure")
    (tmp_path / "go").touch()
    assert found.wait(20)
    states = [found.states[node.id] for node in (waiting, slow, never, skipped)]
    assert states == ["CANCELLED", "SUCCEEDED", "CANCELLED", "SKIPPED"]
    assert (found.status, found.outputs[slow]) == ("FAILED", "done")


# ---------------------------------------------------------------- what cannot be sent


def unsendable() -> dict[str, Any]:
    lock = threading.Lock()

    def uses_lock() -> None:
        with lock:
            pass

    return {"function": alone(uses_lock), "argument": alone(steps.give, lock), "deep": alone(steps.give, [{"x": lock}])}


@pytest.mark.parametrize("mode", ["sequential", "parallel"])
@pytest.mark.parametrize("what", ["function", "argument", "deep"])
def test_what_cannot_be_sent_is_said_before_anything_runs(
    cluster: LocalCluster, tmp_path: Path, what: str, mode: str
) -> None:
    wf = unsendable()[what]
    wf.add(steps.mark, str(tmp_path), "ran")
    with pytest.raises(UnpicklableError, match="lock") as caught:
        run(wf, mode=mode, on=cluster)
    assert ("uses_lock" if what == "function" else "give") in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("fn", "text"), [(steps.generate, "generator"), (steps.give_lock, "lock")])
def test_a_result_that_cannot_be_sent_fails_its_step(cluster: LocalCluster, fn: Any, text: str) -> None:
    error = failure_of(cluster, fn)
    assert isinstance(error, UnpicklableError)
    assert text in str(error)
    assert "its output" in str(error)
    assert error.step == fn.__name__


class BreaksWhenRead:
    def __reduce__(self) -> Any:
        return steps.fail, ("broken when read",)


def test_an_argument_that_cannot_be_read_fails_its_step(cluster: LocalCluster) -> None:
    assert "broken when read" in str(failure_of(cluster, steps.give, BreaksWhenRead()))


# ---------------------------------------------------------------- graphs


def cycle() -> Workflow:
    class A(Step):
        id, dependencies = "a", ("b",)

        def execute(self, ctx: Any) -> None: ...

    class B(Step):
        id, dependencies = "b", ("a",)

        def execute(self, ctx: Any) -> None: ...

    wf = Workflow()
    wf.add(A())
    wf.add(B())
    return wf


def unknown() -> Workflow:
    with Workflow() as wf:
        give(1).after("gone")
    return wf


def duplicate() -> Workflow:
    with Workflow() as wf:
        give.options(id="same")(1)
        give.options(id="same")(2)
    return wf


def misused() -> Workflow:
    with Workflow() as wf:
        give(f"{give(1)}")
    return wf


@pytest.mark.parametrize("mode", ["sequential", "parallel", "waves"])
@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (cycle, CycleError, "a -> b -> a|b -> a -> b"), (unknown, UnknownDependencyError, "gone"),
        (duplicate, DuplicateStepError, "same"), (Workflow, EmptyWorkflowError, "no steps"),
        (misused, GraphError, "give"),
    ],
)  # fmt: skip
def test_a_graph_that_is_none_is_refused_in_every_mode(
    cluster: LocalCluster, make: Any, error: type[Exception], text: str, mode: str
) -> None:
    with pytest.raises(error, match=text):
        run(make(), mode=mode, on=cluster)


@pytest.mark.parametrize(
    "options",
    [{"mode": "serial"}, {"on_failure": "ignore"}, {"keep": "some"}, {"priority": -1}, {"priority": 1.5}, {"cpu": 0}],
)
def test_an_option_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        run(alone(steps.give, 1), **options)


@pytest.mark.parametrize("name", ["x" * 70_000, "a\udcffb"], ids=["long", "surrogate"])
def test_a_name_that_cannot_be_sent_is_refused(cluster: LocalCluster, name: str) -> None:
    def named() -> Workflow:
        wf = Workflow(name)
        wf.add(steps.give, 1)
        return wf

    with pytest.raises(ConfigError, match="name"):
        run(named(), on=cluster)
    assert run(alone(steps.give, 1), on=cluster).value == 1


@pytest.mark.parametrize("priority", [2**63, 2**70])
def test_a_priority_that_cannot_be_sent_is_refused(cluster: LocalCluster, priority: int) -> None:
    with pytest.raises(ConfigError, match="priority"):
        run(alone(steps.give, 1), on=cluster, priority=priority)
    assert run(alone(steps.give, 1), on=cluster).value == 1


def test_an_output_that_was_not_kept_says_how_to_keep_it(cluster: LocalCluster) -> None:
    with Workflow() as wf:
        step(steps.double)(give(1))
    found = run(wf, on=cluster)
    with pytest.raises(OutputNotKeptError, match="keep="):
        found.outputs["give"]
    with pytest.raises(UnknownDependencyError, match="did you mean"):
        found.outputs["gave"]


def test_several_leaves_have_no_one_value(cluster: LocalCluster) -> None:
    with Workflow() as wf:
        give(1)
        give(2)
    with pytest.raises(ValueError, match="'give', 'give#2'"):
        _ = run(wf, on=cluster).value
