"""The worker's core when a run has to end at once, and when nothing of a cancelled one is left."""

from __future__ import annotations

import pytest

from helpers.worker_rig import WorkerRig, row
from pfw import messages as m
from pfw import outcome as oc
from pfw_worker.core import STOP_TOKEN


@pytest.fixture
def rig() -> WorkerRig:
    """A worker with one CPU slot, number 1, welcome and ready."""
    return WorkerRig().join()


def test_what_had_ended_in_a_killed_slot_without_being_told_was_killed(rig: WorkerRig) -> None:
    rig.assign(*(row(attempt, us=100, grace_s=0.0) for attempt in (1, 2, 3)))
    rig.turn()
    rig.core.on_cancels(m.Cancels(0, 1, (1,)), rig.now)
    rig.look(slot1=2)
    assert rig.turn()["kills"] == [1]
    rig.core.on_slot_died(1, 2, 100_000_000, 9, 0, rig.now)
    ends = [(number, code) for number, code, *_ in rig.turn()["messages"][0].rows]
    assert ends == [(1, oc.KILLED), (2, oc.KILLED), (3, oc.NOT_STARTED)]


def test_an_urgent_cancel_leaves_no_grace(rig: WorkerRig) -> None:
    rig.assign(row(1, grace_s=60.0))
    rig.turn()
    rig.core.on_cancels(m.Cancels(0, 1, (1,)), rig.now)
    rig.look(slot1=1)
    assert rig.turn()["stops"] == [(1, 1, STOP_TOKEN)]
    rig.core.on_cancels(m.Cancels(1, 2, (1,), (1,)), rig.now)
    assert rig.core.is_look_due(rig.now)
    rig.look(slot1=1)
    assert rig.turn() == {"kills": [1]}


def test_an_urgent_cancel_is_one_of_its_run_alone(rig: WorkerRig) -> None:
    rig.assign(row(1))
    rig.turn()
    rig.core.on_cancels(m.Cancels(0, 1, (1,)), rig.now)
    rig.core.on_cancels(m.Cancels(1, 2, (2,), (2,)), rig.now)
    rig.look(slot1=1)
    assert rig.turn()["stops"] == [(1, 1, STOP_TOKEN)]


def test_a_cancelled_run_is_cleared_away_when_nothing_of_it_runs(rig: WorkerRig) -> None:
    rig.assign(row(1), row(2, run=2))
    rig.turn()
    rig.core.on_cancels(m.Cancels(0, 1, (1,)), rig.now)
    rig.look(slot1=1)
    assert "clears" not in rig.turn()
    rig.core.on_cancels(m.Cancels(1, 2, (7,)), rig.now)
    assert "clears" not in rig.turn(), "nothing is known of that run here"
    rig.end(1, 1, code=oc.STOPPED)
    assert rig.turn()["clears"] == ["run-1"]
    assert "clears" not in rig.turn()
