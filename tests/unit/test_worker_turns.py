"""What waits for a turn that the worker takes anyway, and how long."""

from __future__ import annotations

import pytest

from helpers.worker_rig import WorkerRig, outcome, row
from pfw import messages as m
from pfw_worker.core import ALONE_S, COMPANY_S, NOTE_AFTER_S, SLACK_S, STOP_INTERRUPT


@pytest.fixture
def busy() -> WorkerRig:
    """One slot, and far more queued than it has; its first outcome is there."""
    rig = WorkerRig().join()
    rig.assign(*[row(attempt, us=5_000) for attempt in range(1, 41)])
    rig.turn()
    rig.end(1, 1)
    rig.turn(at=100.005)
    rig.look()
    assert "messages" not in rig.turn(), "it may wait"
    return rig


def test_outcomes_leave_with_a_turn_that_is_taken_anyway(busy: WorkerRig) -> None:
    began = 100.0
    assert "messages" not in busy.turn(at=began + 0.99 * COMPANY_S)
    assert busy.wake_at > began + COMPANY_S, "none is taken for them"
    assert busy.turn(at=began + 1.01 * COMPANY_S)["messages"] == [busy.outcomes(outcome(1))]


def test_outcomes_have_a_turn_of_their_own_if_no_other_comes(busy: WorkerRig) -> None:
    assert busy.wake_at == pytest.approx(100.0 + ALONE_S)
    assert busy.turn(at=busy.wake_at)["messages"] == [busy.outcomes(outcome(1))]


def test_outcomes_do_not_wait_once_little_is_queued(busy: WorkerRig) -> None:
    while busy.core._queues[0]:
        slot = busy.core.slots[1]
        busy.end(1, *slot.held)
        said = busy.turn().get("messages", [])
    assert len(said) == 1


def test_a_look_that_is_due_soon_is_had_in_a_turn_that_is_taken_anyway(busy: WorkerRig) -> None:
    assert not busy.core.is_look_due(busy.now + NOTE_AFTER_S - 1.01 * SLACK_S)
    assert busy.core.is_look_due(busy.now + NOTE_AFTER_S - 0.99 * SLACK_S)
    busy.turn()
    assert busy.wake_at <= busy.now + NOTE_AFTER_S


def test_nothing_is_told_to_stop_more_often_while_something_else_is_due() -> None:
    rig = WorkerRig(cpu=2, io=1).join()
    rig.assign(row(1, run=1, grace_s=2.0), row(2, run=2, grace_s=5.0), limits=((2, 1_065, 0),))
    rig.turn()
    rig.core.on_cancels(m.Cancels(0, 1, (1,)), rig.now)
    stopped_at = []
    for turn in range(1_200):  # as many turns as others make
        rig.now = 100.0 + turn / 1_000
        if rig.core.is_look_due(rig.now):
            rig.look(slot1=1, slot2=2)
        stops = rig.turn().get("stops", ())
        stopped_at += [turn for _, attempt, level in stops if (attempt, level) == (1, STOP_INTERRUPT)]
    assert stopped_at == [1_000, 1_065, 1_165], (
        "at half of its grace, when the other's timeout is over, and 0.1 s later"
    )


def test_the_coordinator_may_hear_of_outcomes_before_all_else_is_done() -> None:
    rig = WorkerRig(cpu=2).join()
    rig.assign(row(1), row(2))
    rig.turn()
    rig.end(1, 1)
    assert rig.tell() == [rig.outcomes(outcome(1))]
    assert rig.tell() == []
    assert "messages" not in rig.turn(), "they are told once"
    rig.assign(acked=1)
    rig.end(2, 2)
    assert rig.tell() == [rig.outcomes(outcome(2))]


@pytest.mark.parametrize(
    ("first", "found"),
    [
        ("a step waits for a slot", "to_slots"),
        ("a step waits for a slot of its own kind", "starts"),
        ("something was printed", "messages"),
        ("a run is to be cleared away", "clears"),
    ],
)
def test_outcomes_are_not_told_before_what_goes_first(first: str, found: str) -> None:
    rig = WorkerRig(cpu=1).join()
    rig.assign(row(1))
    rig.turn()
    if first == "a step waits for a slot":
        rig.assign(row(2))
    elif first == "a step waits for a slot of its own kind":
        rig.assign(row(2), needs=((2, 1, 0, 1 << 20),))
    elif first == "something was printed":
        rig.core.on_printed(1, b"text", rig.now)
    else:
        rig.core.on_cancels(m.Cancels(0, 1, (1,)), rig.now)
    rig.end(1, 1)
    assert rig.tell() == []
    box = rig.turn()
    assert box["messages"][-1] == rig.outcomes(outcome(1))
    assert len(box[found]) == (2 if found == "messages" else 1)
