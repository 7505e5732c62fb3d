"""The worker's core when slots die, when runs are cancelled, and when it leaves."""

from __future__ import annotations

import signal as signals

import pytest

from helpers.worker_rig import WorkerRig, outcome, row, sent
from pfw import messages as m
from pfw import outcome as oc
from pfw.errors import ClusterError
from pfw.failure import FAIL_CRASHED, Failure
from pfw.graph import LANE_ASYNC, LANE_CPU
from pfw_worker.core import COMPANY_S, NOTE_AFTER_S, STARTS_LIMIT, STOP_EVERY_S, STOP_INTERRUPT, STOP_TOKEN

FUNCTION = (0, b"fn 0")


@pytest.fixture
def rig() -> WorkerRig:
    """A worker with one CPU slot, number 1, welcome and ready."""
    return WorkerRig().join()


# -- slots that die ----------------------------------------------------------------------------------------------------


def crashed(
    attempt: int, *, signal: int = 0, exit_code: int = 0, run_us: int = 0, last_output: str = "", peak: int = 0
) -> m.OutcomeRow:
    how = f"was killed by {signals.Signals(signal).name} (signal {signal})" if signal else ""
    how = how or f"ended with exit code {exit_code} before the step had returned"
    failure = Failure(
        FAIL_CRASHED, "StepCrashedError", f"its process {how}", "", b"", signal, exit_code, last_output, peak
    )
    return (attempt, oc.CRASHED, 100_000_000, run_us, failure.pack(), 0, peak)


def test_blame_falls_only_on_the_step_that_executed(rig: WorkerRig) -> None:
    rig.assign(*(row(attempt, us=100) for attempt in (1, 2, 3)))
    rig.turn()
    rig.now = 100.25
    rig.end(1, 1)
    rig.core.on_slot_died(1, 2, 100_000_000, 11, 0, rig.now, "last words", 1 << 30)
    assert rig.turn() == {
        "messages": [
            rig.outcomes(outcome(1), crashed(2, signal=11, run_us=250_000, last_output="last words", peak=1 << 30))
        ],
        "starts": [(2, LANE_CPU)],
    }
    rig.core.on_slot_ready(2, rig.now)
    assert rig.turn() == {"to_slots": [(2, [[FUNCTION], [], [sent(3, short=1)]])]}


def test_nobody_is_blamed_when_nothing_executed(rig: WorkerRig) -> None:
    rig.assign(*(row(attempt, us=100) for attempt in (1, 2)), row(3))
    rig.turn()
    rig.core.on_slot_died(1, 0, 0, 0, 1, rig.now)
    assert rig.turn() == {"starts": [(2, LANE_CPU)]}
    rig.core.on_slot_ready(2, rig.now)
    assert rig.turn()["to_slots"] == [(2, [[FUNCTION], [], [sent(1, short=1), sent(2, short=1)]])], "in their order"


def test_an_exit_without_outcome_is_a_crash(rig: WorkerRig) -> None:
    rig.assign(row(1))
    rig.turn()
    rig.core.on_slot_died(1, 1, 100_000_000, 0, 0, rig.now)
    assert rig.turn()["messages"] == [rig.outcomes(crashed(1))]


def test_async_steps_of_a_dead_process_run_alone_until_the_guilty_one_is_found(rig: WorkerRig) -> None:
    rig.assign(*(row(attempt, lane=LANE_ASYNC) for attempt in (1, 2)))
    rig.turn()
    rig.core.on_slot_ready(2, rig.now)
    rig.turn()
    rig.core.on_slot_died(2, 0, 0, 6, 0, rig.now)
    assert rig.turn() == {"starts": [(3, LANE_ASYNC)]}
    rig.core.on_slot_ready(3, rig.now)
    assert rig.turn() == {"to_slots": [(3, [[FUNCTION], [], [sent(1)]])]}
    rig.assign(row(3, lane=LANE_ASYNC), functions=())
    assert rig.turn() == {}, "nobody else while a suspect runs"
    rig.core.on_slot_died(3, 1, 100_000_000, 6, 0, rig.now)
    assert rig.turn() == {"starts": [(4, LANE_ASYNC)]}, "the outcome waits for company"
    assert rig.turn(at=rig.now + 2 * COMPANY_S) == {"messages": [rig.outcomes(crashed(1, signal=6))]}
    rig.core.on_slot_ready(4, rig.now)
    assert rig.turn() == {"to_slots": [(4, [[FUNCTION], [], [sent(2)]])]}
    rig.end(4, 2)
    assert rig.turn() == {"messages": [rig.outcomes(outcome(2))], "to_slots": [(4, [[], [], [sent(3)]])]}


def test_slots_that_never_become_ready_end_the_worker() -> None:
    rig = WorkerRig()
    rig.turn()
    for number in range(1, STARTS_LIMIT):
        rig.core.on_slot_died(number, 0, 0, 0, 1, rig.now)
        rig.turn()
    with pytest.raises(ClusterError, match="before they were ready"):
        rig.core.on_slot_died(STARTS_LIMIT, 0, 0, 0, 1, rig.now)


def test_a_slot_that_becomes_ready_ends_the_row_of_bad_starts() -> None:
    rig = WorkerRig()
    rig.turn()
    for number in range(1, 4 * STARTS_LIMIT):
        if number % STARTS_LIMIT == 0:
            rig.core.on_slot_ready(number, rig.now)
        rig.core.on_slot_died(number, 0, 0, 0, 1, rig.now)
        assert rig.turn()["starts"] == [(number + 1, LANE_CPU)]


def test_an_async_step_beside_one_that_was_dropped_is_innocent(rig: WorkerRig) -> None:
    rig.assign(row(1, lane=LANE_ASYNC), row(2, lane=LANE_ASYNC))
    rig.turn()
    rig.core.on_slot_ready(2, rig.now)
    rig.turn()
    rig.core.on_reply(m.Reply(0, 0, (1,)), rig.now)
    assert rig.turn() == {"kills": [2]}
    rig.core.on_slot_died(2, 0, 0, 9, 0, rig.now)
    assert rig.turn() == {"starts": [(3, LANE_ASYNC)]}
    assert list(rig.core.attempts) == [2]


# -- notes -------------------------------------------------------------------------------------------------------------


def test_a_long_attempt_is_told_of_once(rig: WorkerRig) -> None:
    rig.assign(row(1))
    rig.turn()
    assert rig.core.is_look_due(rig.now)
    rig.look(slot1=1)
    assert rig.turn() == {}
    rig.now += NOTE_AFTER_S + 0.001
    assert rig.wake_at <= rig.now
    rig.look(slot1=1)
    assert rig.turn() == {"messages": [m.Notes(((1, 100_000_000),))]}
    rig.look(slot1=1)
    assert rig.turn() == {}
    rig.end(1, 1)
    rig.turn()
    assert not rig.core.is_look_due(rig.now + 1)


# -- cancels -----------------------------------------------------------------------------------------------------------


def test_a_cancel_hands_back_what_waits_and_stops_what_runs(rig: WorkerRig) -> None:
    rig.assign(row(1, grace_s=0.8), row(2), row(3, run=2))
    rig.turn()
    rig.core.on_cancels(m.Cancels(0, 1, (1,)), rig.now)
    rig.look(slot1=1)
    assert rig.turn() == {
        "messages": [rig.outcomes(outcome(2, oc.NOT_STARTED))],
        "cancelled": [1],
        "stops": [(1, 1, STOP_TOKEN)],
    }
    rig.now += 0.3
    rig.look(slot1=1)
    assert rig.turn() == {"messages": [m.Notes(((1, 100_000_000),))], "stops": [(1, 1, STOP_TOKEN)]}
    rig.now += 0.2
    rig.look(slot1=1)
    assert rig.turn() == {"stops": [(1, 1, STOP_INTERRUPT)]}
    rig.now += 0.4
    rig.look(slot1=1)
    assert rig.turn() == {"kills": [1]}
    rig.core.on_slot_died(1, 1, 100_000_000, 9, 0, rig.now)
    assert rig.turn() == {
        "clears": ["run-1"],
        "messages": [rig.outcomes((1, oc.KILLED, 100_000_000, 900_000, b"", 0, 0))],
        "starts": [(2, LANE_CPU)],
    }


def test_a_stop_is_repeated_every_100_ms(rig: WorkerRig) -> None:
    rig.assign(row(1))
    rig.turn()
    rig.core.on_cancels(m.Cancels(0, 1, (1,)), rig.now)
    assert rig.core.is_look_due(rig.now)
    rig.look(slot1=1)
    rig.turn()
    assert rig.wake_at == rig.now + STOP_EVERY_S
    assert not rig.core.is_look_due(rig.now + STOP_EVERY_S / 2)


def test_each_rung_is_climbed_when_it_is_due(rig: WorkerRig) -> None:
    rig.assign(row(1, grace_s=0.25))
    rig.turn()
    rig.core.on_cancels(m.Cancels(0, 1, (1,)), rig.now)
    climbed = []
    while rig.now < 100.26:
        rig.look(slot1=1)
        climbed.append((round(rig.now - 100.0, 3), rig.turn()))
        rig.now = rig.wake_at
    assert [at for at, box in climbed if "stops" in box] == [0.0, 0.1, 0.125, 0.225]
    assert [at for at, box in climbed if "kills" in box] == [0.25]


@pytest.mark.parametrize(
    ("waited", "code", "told"),
    [
        (0.0, oc.STOPPED, oc.STOPPED),
        (0.6, oc.STOPPED, oc.INTERRUPTED),
        (0.6, oc.RETRYABLE, oc.RETRYABLE),
        (0.6, oc.OK, oc.OK),
    ],
)
def test_how_a_stopped_step_has_ended_is_told(rig: WorkerRig, waited: float, code: int, told: int) -> None:
    rig.assign(row(1, grace_s=1.0))
    rig.turn()
    rig.core.on_cancels(m.Cancels(0, 1, (1,)), rig.now)
    rig.now += waited
    rig.look(slot1=1)
    rig.turn()
    rig.end(1, 1, code=code)
    assert rig.turn() == {"messages": [rig.outcomes(outcome(1, told))], "clears": ["run-1"]}


def test_a_step_that_stops_itself_unasked_was_not_interrupted(rig: WorkerRig) -> None:
    rig.assign(row(1))
    rig.turn()
    rig.end(1, 1, code=oc.STOPPED)
    assert rig.turn() == {"messages": [rig.outcomes(outcome(1, oc.STOPPED))]}


def test_a_crash_while_it_is_being_stopped_is_a_crash(rig: WorkerRig) -> None:
    rig.assign(row(1))
    rig.turn()
    rig.core.on_cancels(m.Cancels(0, 1, (1,)), rig.now)
    rig.look(slot1=1)
    rig.turn()
    rig.core.on_slot_died(1, 1, 100_000_000, 11, 0, rig.now)
    assert rig.turn()["messages"] == [rig.outcomes(crashed(1, signal=11))]


def test_who_is_killed_for_another_is_not_to_blame(rig: WorkerRig) -> None:
    rig.assign(row(1, us=100, grace_s=0.0), row(2, run=2, us=100))
    rig.turn()
    rig.core.on_cancels(m.Cancels(0, 1, (1,)), rig.now)
    rig.look(slot1=1)
    assert rig.turn()["kills"] == [1]
    rig.end(1, 1)
    rig.core.on_slot_died(1, 2, 100_000_000, 9, 0, rig.now)
    assert rig.turn() == {"messages": [rig.outcomes(outcome(1))], "starts": [(2, LANE_CPU)], "clears": ["run-1"]}
    assert list(rig.core.attempts) == [2]


def test_a_killed_slot_gets_nothing_more(rig: WorkerRig) -> None:
    rig.assign(row(1, grace_s=0.0))
    rig.turn()
    rig.core.on_cancels(m.Cancels(0, 1, (1,)), rig.now)
    rig.look(slot1=1)
    rig.end(1, 1)
    rig.assign(row(2, run=2))
    box = rig.turn()
    assert box["kills"] == [1]
    assert "to_slots" not in box


def test_an_async_step_is_stopped_by_message(rig: WorkerRig) -> None:
    rig.assign(row(1, lane=LANE_ASYNC, grace_s=1.0), row(2, run=2, lane=LANE_ASYNC))
    rig.turn()
    rig.core.on_slot_ready(2, rig.now)
    rig.turn()
    rig.core.on_cancels(m.Cancels(0, 1, (1,)), rig.now)
    rig.look()
    assert rig.turn() == {"cancelled": [1], "to_slots": [(2, [[], [], [], [1]])]}
    rig.now += 1.0
    rig.look()
    assert rig.turn()["kills"] == [2]
    rig.core.on_slot_died(2, 0, 0, 9, 0, rig.now)
    box = rig.turn()
    assert box["messages"] == [rig.outcomes((1, oc.KILLED, 100_000_000, 1_000_000, b"", 0, 0))]
    assert list(rig.core.attempts) == [2], "it was innocent"


def test_a_cancel_that_overtakes_its_assignment_counts(rig: WorkerRig) -> None:
    rig.core.on_cancels(m.Cancels(0, 1, (1,)), rig.now)
    rig.turn()
    rig.assign(row(1), row(2, run=2), last_cancel=0)
    assert rig.turn() == {
        "messages": [rig.outcomes(outcome(1, oc.NOT_STARTED))],
        "to_slots": [(1, [[FUNCTION], [], [sent(2, run=2)]])],
    }


def test_on_a_gap_nothing_starts_before_the_cancels_are_known(rig: WorkerRig) -> None:
    rig.assign(row(1), row(2, run=2), last_cancel=3)
    assert rig.turn() == {"messages": [m.CancelsAsked(0)]}
    rig.core.on_cancels(m.Cancels(1, 2, (7,)), rig.now)
    assert rig.turn() == {"messages": [m.CancelsAsked(0)], "cancelled": [7]}
    rig.core.on_cancels(m.Cancels(0, 3, (1,)), rig.now)
    assert rig.turn() == {
        "clears": ["run-1"],
        "messages": [rig.outcomes(outcome(1, oc.NOT_STARTED))],
        "cancelled": [1],
        "to_slots": [(1, [[FUNCTION], [], [sent(2, run=2)]])],
    }


def test_an_old_cancel_does_not_close_a_gap(rig: WorkerRig) -> None:
    rig.core.on_cancels(m.Cancels(0, 3, (9,)), rig.now)
    rig.turn()
    rig.assign(row(1), last_cancel=5)
    rig.turn()
    rig.core.on_cancels(m.Cancels(2, 3, (9,)), rig.now)
    assert "to_slots" not in rig.turn()


def test_a_gap_is_asked_for_again_with_every_heartbeat(rig: WorkerRig) -> None:
    rig.assign(row(1), last_cancel=1)
    rig.turn()
    assert rig.turn(at=101.0) == {"messages": [m.CancelsAsked(0), rig.heartbeat(1)]}


def test_a_blocked_attempt_that_is_dropped_is_gone(rig: WorkerRig) -> None:
    rig.assign(row(1), row(2), last_cancel=1)
    rig.turn()
    rig.core.on_reply(m.Reply(0, 1, (1,)), rig.now)
    rig.core.on_cancels(m.Cancels(0, 1, (1,)), rig.now)
    assert rig.turn() == {
        "clears": ["run-1"],
        "messages": [m.CancelsAsked(0), rig.outcomes(outcome(2, oc.NOT_STARTED))],
        "cancelled": [1],
    }


def test_a_reply_that_shows_a_gap_asks(rig: WorkerRig) -> None:
    rig.core.on_reply(m.Reply(0, 2, ()), rig.now)
    assert rig.turn() == {"messages": [m.CancelsAsked(0)]}


def test_a_cancelled_run_is_remembered_until_it_is_forgotten(rig: WorkerRig) -> None:
    rig.core.on_cancels(m.Cancels(0, 1, (1,)), rig.now)
    rig.turn()
    rig.core.on_cancels(m.Cancels(0, 1, (1,)), rig.now)
    assert rig.turn() == {}
    rig.core.on_forget(m.Forget((1,), ()), rig.now)
    rig.assign(row(1))
    assert rig.turn() == {"to_slots": [(1, [[FUNCTION], [], [sent(1)]])]}


def test_what_is_taken_back_of_a_cancelled_run_is_handed_back(rig: WorkerRig) -> None:
    rig.assign(row(1, us=100), row(2, us=100), row(3, run=2, us=100))
    ((_, message),) = rig.turn()["to_slots"]
    rig.core.on_cancels(m.Cancels(0, 1, (1,)), rig.now)
    rig.recalled(1, message)
    box = rig.turn()
    assert box["messages"] == [rig.outcomes(outcome(1, oc.NOT_STARTED), outcome(2, oc.NOT_STARTED))]
    assert [row[0] for _, message in box["to_slots"] for row in message[2]] == [3]


# -- leaving -----------------------------------------------------------------------------------------------------------


def test_a_drain_hands_back_what_waits_and_finishes_what_runs(rig: WorkerRig) -> None:
    rig.assign(row(1), row(2))
    rig.turn()
    rig.core.on_drain(rig.now)
    handed_back = rig.outcomes(outcome(2, oc.NOT_STARTED))
    assert rig.turn() == {"messages": [m.Leaving(0), handed_back]}
    rig.assign(row(3))
    late = rig.outcomes(outcome(3, oc.NOT_STARTED))
    assert rig.turn() == {"messages": [late]}
    assert rig.turn(at=101.0) == {"messages": [m.Leaving(0), rig.heartbeat(1, 2, 3)]}
    assert not rig.core.is_drained
    rig.end(1, 1)
    rig.turn()
    assert not rig.core.is_drained, "its outcome is not acknowledged"
    rig.core.on_reply(m.Reply(3, 0, ()), rig.now)
    assert rig.core.is_drained


def test_a_stopped_step_with_a_long_grace_holds_up_no_other_run(rig: WorkerRig) -> None:
    """The slot unloads as it is told to stop; what it has not read is taken back."""
    rig.assign(row(1, us=100, grace_s=30.0), row(2, run=2, us=100))
    rig.turn()
    rig.core.on_cancels(m.Cancels(0, 1, (1,)), rig.now)
    rig.now += 0.06
    rig.look(slot1=1)
    assert rig.turn()["recalls"] == [1]
