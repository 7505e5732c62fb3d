"""The coordinator's core when messages and workers get lost, when work is taken back, when runs are cancelled."""

from __future__ import annotations

import pytest

from helpers.columns import Assigned
from helpers.coordinator_rig import CoordinatorRig, assign, of_kind, row
from helpers.samples import graph_of
from pfw import messages as m
from pfw import outcome as oc
from pfw.facts import (
    ASSIGNED,
    CANCELLED,
    FACT_CAPACITY,
    FACT_RETRYING,
    FAILED,
    READY,
    RUN_CANCELLED,
    RUN_FAILED,
)
from pfw_coordinator.core import LOST_S, REWIND_S, SUSPECT_S
from pfw_coordinator.placement import RECALL_AFTER_S


@pytest.fixture
def rig() -> CoordinatorRig:
    """A coordinator with one client, "client"."""
    rig = CoordinatorRig()
    rig.client()
    return rig


# -- what gets lost ----------------------------------------------------------------------------------------------------


def test_what_a_worker_lost_of_a_batch_it_has_is_sent_again(rig: CoordinatorRig) -> None:
    rig.join("a", cpu=2)
    run = rig.submit(graph_of([(), ()]))
    rig.turn()
    rig.heartbeat("a", 1, 2)
    again = assign(2, row(1), runs=((1, run.id),))
    assert rig.turn() == {"a": [again, m.Reply(0, 0, ())]}
    rig.heartbeat("a", 2, 1, 2)
    assert rig.turn() == {"a": [m.Reply(0, 0, ())]}


def test_a_batch_on_its_way_is_not_lost(rig: CoordinatorRig) -> None:
    rig.join("a")
    rig.submit()
    rig.turn()
    rig.heartbeat("a", 0)
    assert rig.turn() == {"a": [m.Reply(0, 0, ())]}


def test_the_last_batch_is_lost_when_heartbeats_do_not_name_it_for_long(rig: CoordinatorRig) -> None:
    rig.join("a")
    run = rig.submit()
    rig.turn()
    again = []
    for _ in range(5):
        rig.now += m.HEARTBEAT_S
        rig.heartbeat("a", 0)
        again += of_kind(rig.turn()["a"], Assigned)
    assert again[0] == assign(2, row(1), runs=((1, run.id),))
    assert len(again) <= 1 + 5 * m.HEARTBEAT_S // REWIND_S


def test_what_is_held_and_not_assigned_is_to_be_stopped(rig: CoordinatorRig) -> None:
    rig.join("a")
    rig.submit()
    rig.turn()
    rig.heartbeat("a", 1, 1, 7, 8)
    assert rig.turn() == {"a": [m.Reply(0, 0, (7, 8))]}


def test_a_silent_worker_is_suspect_then_lost(rig: CoordinatorRig) -> None:
    rig.join("a", cpu=2)
    rig.join("b")
    run = rig.submit(graph_of([(), ()]))
    rig.turn()
    held = [row[0] for row in rig.core.workers[b"b"].attempts.items()]
    rig.sleep(SUSPECT_S - 0.1)
    rig.heartbeat("b", 1, *held)
    rig.turn()
    rig.sleep(0.2)
    assert rig.core.workers[b"a"].is_suspect
    run_2 = rig.submit(key=b"2")
    assert "a" not in rig.turn()
    rig.sleep(LOST_S - SUSPECT_S)
    assert b"a" not in rig.core.workers
    assert [fact.kind for fact in list(run.life.facts)[1:]] == [FACT_RETRYING, FACT_CAPACITY]
    assert READY in run.life.states
    assert list(run_2.life.states) == [READY]


def test_a_suspect_that_speaks_gets_work_again(rig: CoordinatorRig) -> None:
    rig.join("a")
    rig.sleep(SUSPECT_S + 0.1)
    rig.submit()
    assert "a" not in rig.turn()
    rig.heartbeat("a", 0)
    assert of_kind(rig.turn()["a"], Assigned)


def test_a_turn_that_starts_late_moves_the_deadlines(rig: CoordinatorRig) -> None:
    rig.join("a")
    rig.submit()
    rig.turn()
    rig.turn(rig.wake_at + 60.0)
    assert not rig.core.workers[b"a"].is_suspect
    rig.sleep(LOST_S + 0.5)
    assert not rig.core.workers


def test_a_worker_whose_process_has_ended_is_lost_at_once(rig: CoordinatorRig) -> None:
    rig.join("a")
    rig.join("b")
    rig.submit()
    (holder,) = [name for name in ("a", "b") if name in rig.turn()]
    other = "b" if holder == "a" else "a"
    rig.core.on_peer_died(holder.encode(), rig.now)
    said = rig.turn()
    assert of_kind(said[other], Assigned)[0].rows == (row(2, attempt_of_step=2),)
    rig.core.on_peer_died(holder.encode(), rig.now)
    assert rig.turn() == {}


def test_losses_have_a_budget(rig: CoordinatorRig) -> None:
    run = rig.submit()
    for name in ("a", "b", "c"):
        rig.join(name)
        rig.core.on_peer_died(name.encode(), rig.now)
        rig.turn()
    assert run.life.status == RUN_FAILED


def test_a_worker_that_leaves_gets_nothing_and_its_attempts_go_elsewhere_unharmed(rig: CoordinatorRig) -> None:
    rig.join("a", cpu=2)
    run = rig.submit()
    rig.turn()
    rig.core.on_leaving(b"a", m.Leaving(0), rig.now)
    rig.submit(key=b"2")
    assert "a" not in rig.turn()
    rig.join("b")
    rig.core.on_leaving(b"a", m.Leaving(1), rig.now)
    rig.turn()
    assert b"a" not in rig.core.workers
    assert {fact.kind for fact in list(run.life.facts)[1:]} == {FACT_CAPACITY}, "nothing is charged"


def test_the_attempts_of_a_lost_worker_are_nothing_when_it_returns(rig: CoordinatorRig) -> None:
    rig.join("a")
    rig.submit()
    rig.turn()
    rig.sleep(LOST_S + 1.0)
    rig.outcome("a", 1)
    assert rig.turn()["a"] == [m.Refused(m.REFUSED_VERSION, "not registered here", 1)]
    rig.register("a")
    said = rig.turn()["a"]
    assert said[0] == m.Welcome(2, m.HEARTBEAT_S, "pub", 0)
    assert of_kind(said, Assigned)[0].batch == 1


# -- taking back -------------------------------------------------------------------------------------------------------


def test_work_is_taken_back_for_a_slot_that_idles(rig: CoordinatorRig) -> None:
    rig.join("a")
    rig.submit(graph_of([()] * 8), keep_all=1)
    rig.turn()
    rig.outcome("a", 1, us=100)
    rig.turn()
    assert len(rig.core.workers[b"a"].attempts) == 7
    rig.join("b")
    assert rig.turn(rig.now + 2 * RECALL_AFTER_S) == {"a": [m.GiveBack((6, 7, 8))]}
    rig.outcome("a", 7, 8, code=oc.NOT_STARTED)
    said = rig.turn()
    assert {row[2] for row in of_kind(said["b"], Assigned)[0].rows} == {6, 7}


# -- cancels -----------------------------------------------------------------------------------------------------------


def test_a_cancel_is_broadcast_and_ends_with_the_last_attempt(rig: CoordinatorRig) -> None:
    rig.join("a")
    run = rig.submit(graph_of([(), ()]))
    rig.turn()
    rig.core.on_cancel_run(b"client", m.CancelRun(1, "enough"), rig.now)
    assert rig.turn()["all"] == [m.Cancels(0, 1, (1,))]
    assert list(run.life.states) == [ASSIGNED, CANCELLED]
    rig.core.on_cancel_run(b"client", m.CancelRun(1, "enough"), rig.now)
    assert "all" not in rig.turn()
    rig.outcome("a", 1, code=oc.STOPPED)
    said = rig.turn()
    assert said["a"] == [m.Forget((1,), (0,)), m.Reply(1, 1, ())]
    assert run.life.status == RUN_CANCELLED
    assert list(run.life.facts)[-1].payload == b"enough"


def test_an_urgent_cancel_is_broadcast_once_more(rig: CoordinatorRig) -> None:
    rig.join("a")
    run = rig.submit(graph_of([()]))
    rig.turn()
    rig.core.on_cancel_run(b"client", m.CancelRun(1, "enough"), rig.now)
    assert rig.turn()["all"] == [m.Cancels(0, 1, (1,))]
    for _ in range(2):
        rig.core.on_cancel_run(b"client", m.CancelRun(1, "enough", 1), rig.now)
    assert rig.turn()["all"] == [m.Cancels(1, 2, (1,), (1,))]
    rig.core.on_cancels_asked(b"a", m.CancelsAsked(0), rig.now)
    assert rig.turn()["a"] == [m.Cancels(0, 2, (1,), (1,))]
    rig.outcome("a", 1, code=oc.KILLED)
    rig.turn()
    assert run.life.status == RUN_CANCELLED
    rig.core.on_cancel_run(b"client", m.CancelRun(1, "enough", 1), rig.now)
    assert "all" not in rig.turn()


def test_a_cancel_that_is_urgent_from_the_start_is_broadcast_once(rig: CoordinatorRig) -> None:
    rig.join("a")
    rig.submit(graph_of([()]))
    rig.turn()
    rig.core.on_cancel_run(b"client", m.CancelRun(1, "enough", 1), rig.now)
    assert rig.turn()["all"] == [m.Cancels(0, 1, (1,), (1,))]


def test_a_cancel_of_what_has_not_started_ends_at_once(rig: CoordinatorRig) -> None:
    run = rig.submit()
    rig.core.on_cancel_run(b"client", m.CancelRun(1, ""), rig.now)
    assert "all" not in rig.turn()
    assert run.life.status == RUN_CANCELLED


def test_who_asks_is_told_the_cancels_that_still_matter(rig: CoordinatorRig) -> None:
    rig.join("a", cpu=3)
    for key in (b"1", b"2", b"3"):
        rig.submit(key=key)
        rig.turn()
    for number in (1, 2, 3):
        rig.core.on_cancel_run(b"client", m.CancelRun(number, ""), rig.now)
        rig.turn()
    rig.outcome("a", 2, code=oc.STOPPED)
    rig.turn()
    rig.core.on_cancels_asked(b"a", m.CancelsAsked(0), rig.now)
    assert rig.turn()["a"] == [m.Cancels(0, 3, (1, 3))]
    rig.core.on_cancels_asked(b"a", m.CancelsAsked(2), rig.now)
    assert rig.turn()["a"] == [m.Cancels(2, 3, (3,))]


def test_every_batch_carries_the_last_cancel(rig: CoordinatorRig) -> None:
    rig.join("a", cpu=2)
    rig.submit(key=b"1")
    rig.turn()
    rig.core.on_cancel_run(b"client", m.CancelRun(1, ""), rig.now)
    run = rig.submit(key=b"2")
    said = rig.turn()
    assert said["a"] == [assign(2, row(2, run=2), runs=((2, run.id),), functions=(), last_cancel=1)]


def test_what_a_cancelled_attempt_returns_does_not_count(rig: CoordinatorRig) -> None:
    rig.join("a")
    run = rig.submit(keep_all=1)
    rig.turn()
    rig.core.on_cancel_run(b"client", m.CancelRun(1, ""), rig.now)
    rig.outcome("a", 1)
    rig.turn()
    assert list(run.life.states) == [CANCELLED]


def test_abort_stops_the_others(rig: CoordinatorRig) -> None:
    rig.join("a", cpu=2)
    run = rig.submit(graph_of([(), ()]), on_failure="abort")
    rig.turn()
    rig.outcome("a", 1, code=oc.ERROR)
    assert rig.turn()["all"] == [m.Cancels(0, 1, (1,))]
    rig.outcome("a", 2, code=oc.STOPPED)
    rig.turn()
    assert list(run.life.states) == [FAILED, CANCELLED]
    assert run.life.status == RUN_FAILED
