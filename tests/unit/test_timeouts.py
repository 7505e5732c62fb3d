"""Steps and runs that take too long, as the lifecycle and the coordinator see them."""

from __future__ import annotations

import pytest

from helpers.coordinator_rig import CoordinatorRig, assign, row
from helpers.lives import assign as hand_out
from helpers.lives import fail, kinds, start, succeed
from helpers.samples import graph_of, spec
from pfw import messages as m
from pfw import outcome as oc
from pfw.facts import (
    ASSIGNED,
    BACKOFF,
    CANCELLED,
    ENDED_ANYWAY,
    ENDED_ITSELF,
    ENDED_NEVER_STARTED,
    FACT_CANCELLED,
    FACT_FINISHED,
    FACT_RETRYING,
    FACT_SKIPPED,
    FACT_TIMED_OUT,
    READY,
    RUN_CANCELLED,
    RUN_FAILED,
    RUN_STOPPING,
    RUN_SUCCEEDED,
    RUN_TIMED_OUT,
    SKIPPED,
    TIMED_OUT,
    unpack_end,
)
from pfw.lifecycle import RunLife
from pfw_coordinator.core import LATE_S


def time_out(life: RunLife, step: int, now: float = 1.0) -> None:
    life.on_timed_out(step, 1, now - 0.5, 0.5, b"why", now)


# -- steps -------------------------------------------------------------------------------------------------------------


def test_a_timeout_is_tried_again_like_a_failure() -> None:
    life = start(graph_of([()], specs=[spec(retries=2, backoff=1.0, timeout=0.5, retries_timeouts=1)]))
    hand_out(life)
    time_out(life, 0)
    assert list(life.states) == [BACKOFF]
    assert life.wake_at() == 2.0
    life.on_time(2.0)
    hand_out(life)
    fail(life, 0, 3.0, is_retryable=True)
    assert life.wake_at() == 5.0, "timeouts and failures have one budget"
    life.on_time(5.0)
    hand_out(life)
    time_out(life, 0, 6.0)
    assert list(life.states) == [TIMED_OUT]
    assert life.status == RUN_FAILED
    assert kinds(life)[1:] == [(FACT_RETRYING, 0), (FACT_RETRYING, 0), (FACT_TIMED_OUT, 0), (FACT_FINISHED, 0)]
    assert list(life.facts)[-2].payload == b"why"


def test_a_timeout_that_the_retry_rule_does_not_name_is_final() -> None:
    life = start(graph_of([(), (0,), ()], specs=[spec(retries=2, timeout=0.5), spec(), spec()]), on_failure="continue")
    hand_out(life)
    time_out(life, 0)
    assert list(life.states) == [TIMED_OUT, SKIPPED, ASSIGNED]
    assert kinds(life)[1:] == [(FACT_TIMED_OUT, 0), (FACT_SKIPPED, 1)]
    succeed(life, 2)
    assert life.status == RUN_FAILED


def test_after_a_cancel_a_timeout_is_a_cancel() -> None:
    life = start(graph_of([()], specs=[spec(retries=2, timeout=0.5, retries_timeouts=1)]))
    hand_out(life)
    life.cancel("enough", 1.0)
    time_out(life, 0)
    assert list(life.states) == [CANCELLED]


def test_a_step_that_comes_later_is_skipped_for_a_timeout() -> None:
    life = start(graph_of([()]), is_open=True, on_failure="continue")
    hand_out(life)
    time_out(life, 0)
    life.extend(graph_of([(0,)], first=1), 2.0)
    assert list(life.states) == [TIMED_OUT, SKIPPED]


# -- runs --------------------------------------------------------------------------------------------------------------


def test_a_run_ends_at_its_deadline_as_by_a_cancel() -> None:
    life = start(graph_of([(), (0,), ()], specs=[spec()] * 3), now=10.0, timeout_s=5.0)
    hand_out(life)
    succeed(life, 2, 11.0)
    assert life.wake_at() == 15.0
    life.on_time(14.9)
    assert life.to_stop == []
    life.on_time(15.0)
    assert life.to_stop == [0]
    assert life.status == RUN_STOPPING
    assert life.wake_at() is None
    succeed(life, 0, 15.1)
    assert list(life.states)[:2] == [CANCELLED, CANCELLED], "what comes too late does not count"
    assert life.status == RUN_TIMED_OUT
    assert kinds(life)[-3:] == [(FACT_CANCELLED, 1), (FACT_CANCELLED, 0), (FACT_FINISHED, 0)]
    assert list(life.facts)[-1].attempt == RUN_TIMED_OUT
    assert list(life.facts)[-1].payload == b"the run's timeout of 5 s is over"
    ends = [unpack_end(fact.payload) for fact in list(life.facts)[-3:-1]]
    why = "the run's timeout of 5 s is over"
    assert ends == [(ENDED_NEVER_STARTED, 0, why), (ENDED_ANYWAY, 100, why)]


def test_a_run_that_waits_ends_at_once() -> None:
    life = start(graph_of([()], specs=[spec(retries=1, backoff=30.0)]), timeout_s=5.0)
    hand_out(life)
    fail(life, 0, is_retryable=True)
    assert life.wake_at() == 5.0, "before the backoff ends"
    life.on_time(5.0)
    assert life.status == RUN_TIMED_OUT


def test_the_end_of_a_backoff_may_come_before_the_deadline() -> None:
    life = start(graph_of([()], specs=[spec(retries=1, backoff=2.0)]), timeout_s=5.0)
    hand_out(life)
    fail(life, 0, 1.0, is_retryable=True)
    assert life.wake_at() == 3.0
    life.on_time(3.0)
    assert list(life.states) == [READY]
    assert life.wake_at() == 5.0


@pytest.mark.parametrize("end", ["success", "cancel"])
def test_a_run_that_has_ended_or_ends_has_no_deadline(end: str) -> None:
    life = start(graph_of([()]), timeout_s=5.0)
    hand_out(life)
    if end == "success":
        succeed(life, 0)
    else:
        life.cancel("enough", 1.0)
    assert life.wake_at() is None
    life.on_time(6.0)
    if end == "cancel":
        life.on_stopped(0, 1, ENDED_ITSELF, 6.0)
    assert life.status == (RUN_SUCCEEDED if end == "success" else RUN_CANCELLED)


# -- the coordinator ---------------------------------------------------------------------------------------------------


@pytest.fixture
def rig() -> CoordinatorRig:
    """A coordinator with a client and a worker with one CPU slot."""
    rig = CoordinatorRig()
    rig.client()
    rig.join("a")
    return rig


def test_timeouts_go_along_with_their_attempts(rig: CoordinatorRig) -> None:
    specs = [spec(), spec(timeout=1.25), spec(timeout=0.0001)]
    rig.join("b", cpu=3)
    run = rig.submit(graph_of([(), (), ()], specs=specs), key=b"1")
    rows = [row(attempt, attempt - 1) for attempt in (1, 2, 3)]
    said = rig.turn()
    assert said["a"] == [assign(1, rows[0], runs=((1, run.id),))]
    assert said["b"] == [assign(1, *rows[1:], runs=((1, run.id),), limits=((2, 1_250, 0), (3, 1, 0)))]


def test_a_timed_out_attempt_frees_its_place(rig: CoordinatorRig) -> None:
    run = rig.submit(graph_of([()], specs=[spec(timeout=1.0)]))
    rig.turn()
    rig.outcome("a", 1, code=oc.TIMED_OUT)
    rig.turn()
    assert (list(run.life.states), run.life.status) == ([TIMED_OUT], RUN_FAILED)


def test_at_its_deadline_a_run_is_cancelled_on_its_workers(rig: CoordinatorRig) -> None:
    run = rig.submit(graph_of([(), (0,)]), timeout=0.5)
    rig.turn()
    assert rig.wake_at <= 100.5
    assert "all" not in rig.turn(100.4)
    assert rig.wake_at <= 100.5
    assert rig.turn(100.5)["all"] == [m.Cancels(0, 1, (1,))]
    rig.outcome("a", 1, code=oc.STOPPED)
    rig.turn()
    assert run.life.status == RUN_TIMED_OUT


def test_time_in_which_the_coordinator_could_not_listen_does_not_count(rig: CoordinatorRig) -> None:
    run = rig.submit(timeout=5.0)
    rig.turn()
    late = 20 * LATE_S
    assert "all" not in rig.turn(rig.wake_at + late)
    assert run.life.deadline == pytest.approx(105.0 + late)


def test_deadlines_of_runs_that_have_ended_do_not_pile_up(rig: CoordinatorRig) -> None:
    for number in range(1, 301):
        rig.submit(key=b"%d" % number, timeout=1000.0 + number)
        rig.turn()
        rig.outcome("a", number)
        rig.turn()
    last = rig.submit(key=b"last", timeout=2000.0)
    rig.turn()
    ended = [run for run in rig.core.runs.values() if run.is_over]
    for run in ended:
        rig.core._forget_run(run)
    for number in range(200):
        rig.submit(key=b"more %d" % number, timeout=1000.0)
        rig.turn()
    assert len(rig.core._backoffs) < 500
    rig.sleep(0.5)
    assert last.life.deadline in {at for at, _ in rig.core._backoffs}
