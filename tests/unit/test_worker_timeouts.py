"""The worker's core and steps that run for too long."""

from __future__ import annotations

import pytest

from helpers.columns import AssignRow, columns_of
from helpers.worker_rig import WorkerRig, outcome, row
from pfw import messages as m
from pfw import outcome as oc
from pfw.facts import UNMEASURED, Cost
from pfw.failure import FAIL_ERROR, FAIL_TIMEOUT, Failure
from pfw.graph import LANE_ASYNC
from pfw_worker.core import LATE_S, NOTE_AFTER_S, STOP_EVERY_S, STOP_TIMEOUT, STOP_TOKEN, STOP_UNLOAD

#: A slot's status page names 100.0 as the start of what it executes.
START_US = 100_000_000


@pytest.fixture
def rig() -> WorkerRig:
    """A worker with one CPU slot, number 1, welcome and ready."""
    return WorkerRig().join()


def begin(rig: WorkerRig, *rows: AssignRow, timeout_ms: int = 1_000) -> None:
    """The first of these attempts begins, with a timeout; its start was told."""
    rig.assign(*rows, limits=((rows[0][0], timeout_ms, 0),))
    rig.turn()
    rig.now += NOTE_AFTER_S
    rig.look(slot1=rows[0][0])
    rig.turn()


def look_at(rig: WorkerRig, now: float) -> dict[str, object]:
    """A look as a shell takes it: with turns in between, so that none is late."""
    while now - rig.now > LATE_S / 2:
        rig.turn(at=rig.now + LATE_S / 2)
    rig.now = now
    rig.look(slot1=1)
    return {name: value for name, value in rig.turn().items() if name in ("stops", "kills", "to_slots")}


def timed_out(
    attempt: int,
    start_us: int,
    run_us: int,
    traceback: str = "",
    timeout: str = "1",
    cost: Cost = UNMEASURED,
    printed: str = "",
) -> m.OutcomeRow:
    text = f"it ran for longer than its timeout of {timeout} s"
    failure = Failure(FAIL_TIMEOUT, "StepTimeoutError", text, traceback, last_output=printed)
    return (attempt, oc.TIMED_OUT, start_us, run_us, failure.pack(), *cost)


def test_a_step_is_interrupted_when_its_timeout_is_over_and_killed_after_its_grace(rig: WorkerRig) -> None:
    begin(rig, row(1, grace_s=0.4))
    assert rig.wake_at == pytest.approx(100.1)
    assert look_at(rig, 100.98) == {}
    assert rig.wake_at == 101.0, "it is looked at when its time is over"
    assert look_at(rig, 101.0) == {"stops": [(1, 1, STOP_TIMEOUT)]}
    assert rig.wake_at <= 101.0 + STOP_EVERY_S
    assert look_at(rig, 101.3) == {"stops": [(1, 1, STOP_TIMEOUT)]}
    assert rig.wake_at == pytest.approx(101.4), "when its grace is over, not STOP_EVERY_S later"
    assert look_at(rig, 101.4) == {"kills": [1]}
    rig.core.on_slot_died(1, 1, START_US, 9, 0, 101.5)
    assert rig.turn(at=101.5)["messages"][0].rows == (timed_out(1, START_US, 1_500_000),)


@pytest.mark.parametrize("code", [oc.OK, oc.ERROR, oc.RETRYABLE, oc.STOPPED])
def test_whatever_it_returns_then_it_has_timed_out(rig: WorkerRig, code: int) -> None:
    begin(rig, row(1))
    look_at(rig, 101.2)
    payload = b"an output" if code == oc.OK else Failure(FAIL_ERROR, "E", "text", "where it was").pack()
    rig.core.on_slot_outcomes(1, columns_of([(1, code, START_US, 1_250_000, payload, 7, 8)]), rig.now)
    where = "" if code == oc.OK else "where it was"
    assert rig.turn()["messages"] == [rig.outcomes(timed_out(1, START_US, 1_250_000, where, cost=(7, 8)))]


def test_the_last_that_it_printed_is_part_of_its_failure(rig: WorkerRig) -> None:
    begin(rig, row(1))
    rig.core.on_printed(1, b"once, ", rig.now)
    look_at(rig, 101.2)
    rig.core.on_printed(1, b"and again", rig.now)
    rig.end(1, 1, code=oc.OK)
    said = rig.turn()["messages"]
    assert said[-1].rows == (timed_out(1, 100, 50, cost=(40, 0), printed="once, and again"),)


@pytest.mark.parametrize("text", ["of the first", ""])
def test_nobody_is_charged_with_what_another_one_printed(rig: WorkerRig, text: str) -> None:
    begin(rig, row(1, us=100), row(2, us=100))
    if text:
        rig.core.on_printed(1, text.encode(), rig.now)
    look_at(rig, 101.0)
    rig.core.on_slot_died(1, 2, 101_050_000, 11, 0, 101.1, "of the second")
    failures = {row[0]: Failure.unpack(row[4]) for row in rig.turn(at=101.1)["messages"][-1].rows}
    assert {number: failure.last_output for number, failure in failures.items()} == {
        1: text,
        2: "of the second",
    }


def test_of_one_that_was_killed_it_is_what_its_process_printed(rig: WorkerRig) -> None:
    begin(rig, row(1))
    look_at(rig, 101.0)
    rig.core.on_slot_died(1, 1, START_US, 9, 0, 101.1, "last words")
    assert rig.turn(at=101.1)["messages"][0].rows == (timed_out(1, START_US, 1_100_000, printed="last words"),)


def test_what_it_returned_before_it_was_told_counts(rig: WorkerRig) -> None:
    begin(rig, row(1))
    rig.now = 101.5
    rig.end(1, 1)
    assert rig.turn()["messages"][-1].rows == (outcome(1),)


def test_the_time_before_a_step_begins_does_not_count(rig: WorkerRig) -> None:
    rig.assign(row(1, us=10), row(2, us=10), limits=((2, 1_000, 0),))
    rig.turn()
    for _ in range(4):
        rig.now += 0.9
        rig.look(slot1=1)
        assert rig.turn()["stops"] == [(1, 1, STOP_UNLOAD)]


def test_a_crash_after_the_timeout_is_a_timeout(rig: WorkerRig) -> None:
    begin(rig, row(1))
    look_at(rig, 101.0)
    rig.core.on_slot_died(1, 1, START_US, 11, 0, 101.1)
    assert rig.turn(at=101.1)["messages"][0].rows == (timed_out(1, START_US, 1_100_000),)


def test_a_crash_before_is_a_crash(rig: WorkerRig) -> None:
    begin(rig, row(1))
    rig.core.on_slot_died(1, 1, START_US, 11, 0, 100.5)
    assert rig.turn(at=100.5)["messages"][0].rows[0][1] == oc.CRASHED


def test_an_outcome_that_dies_with_its_slot_is_still_that_of_a_timeout(rig: WorkerRig) -> None:
    """It had ended, and waited with the slot for the next step's outcome."""
    begin(rig, row(1, us=100), row(2, us=100))
    look_at(rig, 101.0)
    rig.core.on_slot_died(1, 2, 101_050_000, 11, 0, 101.1)
    rows = rig.turn(at=101.1)["messages"][0].rows
    assert [(row[0], row[1]) for row in rows] == [(1, oc.TIMED_OUT), (2, oc.CRASHED)]


def test_a_cancel_does_not_give_more_time(rig: WorkerRig) -> None:
    begin(rig, row(1, grace_s=0.4))
    look_at(rig, 101.0)
    rig.core.on_cancels(m.Cancels(0, 1, (1,)), 101.3)
    assert look_at(rig, 101.35) == {"stops": [(1, 1, STOP_TIMEOUT)]}
    assert look_at(rig, 101.4) == {"kills": [1]}


def test_a_timeout_does_not_hasten_a_cancel(rig: WorkerRig) -> None:
    begin(rig, row(1, grace_s=2.0))
    rig.core.on_cancels(m.Cancels(0, 1, (1,)), 100.9)
    assert look_at(rig, 101.1) == {"stops": [(1, 1, STOP_TOKEN)]}
    rig.end(1, 1, code=oc.STOPPED)
    assert rig.turn()["messages"][0].rows == (outcome(1, oc.STOPPED),)


def test_time_in_which_the_worker_could_not_look_does_not_count(rig: WorkerRig) -> None:
    begin(rig, row(1, grace_s=0.4))
    planned = rig.wake_at
    rig.now = planned + 30.0
    rig.look(slot1=1)
    assert "stops" not in rig.turn(), "it may have slept as long as the worker"
    assert look_at(rig, 130.99) == {}
    assert look_at(rig, 131.01) == {"stops": [(1, 1, STOP_TIMEOUT)]}
    rig.now = rig.wake_at + 30.0
    rig.look(slot1=1)
    assert rig.turn()["stops"] == [(1, 1, STOP_TIMEOUT)], "nor does it count for the grace"
    assert look_at(rig, 161.5) == {"kills": [1]}


def test_an_async_step_is_cancelled_and_its_process_killed(rig: WorkerRig) -> None:
    rig.assign(row(1, lane=LANE_ASYNC, grace_s=0.5), row(2, run=2, lane=LANE_ASYNC), limits=((1, 500, 0),))
    rig.turn()
    rig.core.on_slot_ready(2, rig.now)
    rig.turn()
    rig.now = 100.5
    rig.look()
    assert rig.turn()["to_slots"] == [(2, [[], [], [], [1]])]
    rig.now = 101.0
    rig.look()
    assert rig.turn()["kills"] == [2]
    rig.core.on_slot_died(2, 0, 0, 9, 0, rig.now)
    assert rig.turn()["messages"][-1].rows == (timed_out(1, START_US, 1_000_000, timeout="0.5"),)
    assert list(rig.core.attempts) == [2], "it runs once more, alone"


def test_an_async_step_that_had_not_begun_is_handed_back(rig: WorkerRig) -> None:
    rig.assign(row(1, lane=LANE_ASYNC), limits=((1, 500, 0),))
    rig.turn()
    rig.core.on_slot_ready(2, rig.now)
    rig.turn()
    rig.now = 100.6
    rig.look()
    rig.turn()
    rig.end(2, 1, code=oc.NOT_STARTED)
    assert rig.turn()["messages"][-1].rows == (outcome(1, oc.NOT_STARTED),)
