"""Steps that fail, crash, or return what cannot be sent: a clear error for that step, and its neighbours go on."""

from __future__ import annotations

import pickle
import signal
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
    StepCrashedError,
    StepFailedError,
    UnknownDependencyError,
    UnpicklableError,
    Workflow,
    current,
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
    ("fn", "args", "cause"), [(steps.leave, (3,), SystemExit), (steps.interrupt, (), KeyboardInterrupt)]
)
def test_an_exit_or_interrupt_in_a_step_is_its_failure(
    cluster: LocalCluster, fn: Any, args: tuple[Any, ...], cause: type[BaseException]
) -> None:
    error = failure_of(cluster, fn, *args)
    assert type(error) is StepFailedError
    assert type(error.__cause__) is cause


def test_a_call_that_does_not_fit_its_function_is_a_failure(cluster: LocalCluster) -> None:
    assert "positional argument" in str(failure_of(cluster, steps.double, 1, 2, 3))


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


# ---------------------------------------------------------------- crashes

CRASHES = [("0", None, 0), ("3", None, 3), ("segfault", signal.SIGSEGV, None), ("kill", signal.SIGKILL, None)]


@pytest.mark.parametrize("hint", ["light_cpu", "light_io"])
@pytest.mark.parametrize(("how", "number", "code"), CRASHES)
def test_a_step_that_ends_its_process_fails_after_three_crashes(
    cluster: LocalCluster, how: str, number: int | None, code: int | None, hint: str
) -> None:
    with Workflow() as wf:
        step(steps.crash, hint=hint)(how)
        neighbours = step(steps.double, hint=hint).map(range(40))
        wf.returns(neighbours)
    found = run(wf, on=cluster, on_failure="continue", check=False)
    error = found.errors["crash"]
    assert isinstance(error, StepCrashedError)
    assert (error.signal, error.exit_code, error.attempts) == (number, code, 3)
    assert found.outputs[neighbours] == [2 * x for x in range(40)]
    assert found.metrics.failed_steps == 1
    assert {found.metrics.steps[node.id].attempts for node in neighbours.nodes} == {1}
    kinds = [event.type for event in found.events() if event.step_id == "crash"]
    assert kinds == ["Queued", "Started", "Retrying", "Started", "Retrying", "Started", "Failed"]


def test_an_async_step_that_ends_its_process_is_blamed_alone(cluster: LocalCluster, tmp_path: Path) -> None:
    with Workflow() as wf:
        step(steps.crash_async)("kill")
        step(steps.meet_async).map([str(tmp_path)] * 10, [f"with{n}" for n in range(10)], count=1)
    found = run(wf, on=cluster, on_failure="continue", check=False)
    assert list(found.errors) == ["crash_async"]
    error = found.errors["crash_async"]
    assert isinstance(error, StepCrashedError)
    assert error.signal == signal.SIGKILL


class KillsWhenRead:
    def __reduce__(self) -> Any:
        return steps.crash, ("7",)


def test_an_argument_that_kills_while_it_is_read_is_blamed(cluster: LocalCluster) -> None:
    with Workflow() as wf:
        step(steps.give).options(id="bad")(KillsWhenRead())
        step(steps.double).map(range(10))
    found = run(wf, on=cluster, on_failure="continue", check=False)
    assert list(found.errors) == ["bad"]
    error = found.errors["bad"]
    assert isinstance(error, StepCrashedError)
    assert error.exit_code == 7


def crash_once(folder: str) -> str:
    if len(list(Path(folder).iterdir())) < 2:
        steps.mark(folder, str(current().attempt))
        steps.crash("kill")
    return "alive"


def test_a_step_that_crashes_twice_may_still_succeed(cluster: LocalCluster, tmp_path: Path) -> None:
    found = run(alone(crash_once, str(tmp_path)), on=cluster)
    assert found.value == "alive"
    assert found.metrics.steps["crash_once"].attempts == 3


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
        (duplicate, DuplicateStepError, "same"), (Workflow, EmptyWorkflowError, "no steps"), (misused, GraphError, "give"),
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


def test_the_cluster_is_whole_after_all_this(cluster: LocalCluster, tmp_path: Path) -> None:
    with Workflow() as wf:
        step(steps.meet).map([str(tmp_path)] * 2, ["both0", "both1"], count=2)
        step(steps.meet, hint="light_io").map([str(tmp_path)] * 4, [f"four{n}" for n in range(4)], count=4)
        step(steps.meet_async).map([str(tmp_path)] * 9, [f"nine{n}" for n in range(9)], count=9)
    assert run(wf, on=cluster).status == "SUCCEEDED"
    assert cluster.status()["oddities"] == 0
