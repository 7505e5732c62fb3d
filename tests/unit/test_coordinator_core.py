"""The coordinator's core and its workers: what is assigned, committed, sent again, taken for lost."""

from __future__ import annotations

import pytest

from helpers.coordinator_rig import EPOCH_S, HOST, CoordinatorRig, assign, of_kind, row
from helpers.samples import graph_of, spec
from pfw import messages as m
from pfw import outcome as oc
from pfw.graph import LANE_ASYNC, LANE_IO
from pfw.lifecycle import (
    ASSIGNED,
    BACKOFF,
    CANCELLED,
    FACT_FINISHED,
    FACT_RUN_STARTED,
    FACT_STARTED,
    FACT_SUCCEEDED,
    FAILED,
    READY,
    RUN_CANCELLED,
    RUN_FAILED,
    RUN_SUCCEEDED,
    SUCCEEDED,
)
from pfw_coordinator.core import LOST_S, REWIND_S, SUSPECT_S


@pytest.fixture
def rig() -> CoordinatorRig:
    """A coordinator with one client, "client"."""
    rig = CoordinatorRig()
    rig.client()
    return rig


# -- registering -------------------------------------------------------------------------------------------------------


def test_a_worker_is_welcome_and_watched_on_the_same_host() -> None:
    rig = CoordinatorRig()
    rig.register("a", host=HOST)
    assert rig.turn() == {"a": [m.Welcome(1, m.HEARTBEAT_S, "pub", 0)], "watch": [(b"a", 77)]}
    rig.register("b")
    assert rig.turn() == {"b": [m.Welcome(2, m.HEARTBEAT_S, "pub", 0)]}


def test_a_worker_that_registers_twice_is_one() -> None:
    rig = CoordinatorRig()
    rig.register("a", host=HOST)
    rig.turn()
    rig.register("a", host=HOST)
    assert rig.turn() == {"a": [m.Welcome(1, m.HEARTBEAT_S, "pub", 0)]}


@pytest.mark.parametrize("change", [{"protocol": 99}, {"python": "3.12"}])
def test_another_version_is_refused_naming_both(change: dict[str, object]) -> None:
    rig = CoordinatorRig()
    register = m.Register(m.PROTOCOL, "3.11", "0", "a", 1, HOST, 1, 1, 1, 0)._replace(**change)  # type: ignore[arg-type]
    hello = m.Hello(m.PROTOCOL, "3.11", "0", b"session")._replace(**change)  # type: ignore[arg-type]
    rig.core.on_register(b"a", register, rig.now)
    rig.core.on_hello(b"c", hello, rig.now)
    said = rig.turn()
    for peer, role in (("a", "worker"), ("c", "client")):
        (refused,) = said[peer]
        assert (refused.kind, refused.again) == (m.REFUSED_PROTOCOL, 0)
        assert refused.text.startswith(f"this {role} runs")
        assert all(str(value) in refused.text for value in (*change.values(), m.PROTOCOL, "3.11"))
    assert not rig.core.workers
    assert not rig.core.clients


def test_who_is_not_registered_is_told_to() -> None:
    rig = CoordinatorRig()
    rig.heartbeat("a", 0)
    rig.outcome("b", 1)
    rig.core.on_notes(b"c", m.Notes(((1, 1),)), rig.now)
    rig.core.on_cancels_asked(b"d", m.CancelsAsked(0), rig.now)
    rig.core.on_leaving(b"e", m.Leaving(1), rig.now)
    refused = [m.Refused(m.REFUSED_VERSION, "not registered here", 1)]
    assert rig.turn() == {"a": refused, "b": refused, "c": refused, "d": refused, "e": refused}


# -- assignments and outcomes ------------------------------------------------------------------------------------------


def test_a_run_goes_from_submission_to_its_end(rig: CoordinatorRig) -> None:
    rig.join("a")
    run = rig.submit(graph_of([(), (0,)]), keep=(1,))
    started = (FACT_RUN_STARTED, 0, 100.0, 0, 0, 100.0, 100.0, 0.0, b"")
    assert rig.turn() == {
        "client": [m.Accepted(b"key", 1, run.id), m.Facts(1, 0, 2, EPOCH_S, (), (started,))],
        "a": [assign(1, row(1), runs=((1, run.id),))],
    }
    rig.now = 101.0
    rig.outcome("a", 1)
    first = (FACT_SUCCEEDED, 0, 101.0, 1, 1, 100.0, 101.0, 0.5, b"")
    assert rig.turn() == {
        "client": [m.Facts(1, 1, 2, EPOCH_S, ((1, "a"),), (first,))],
        "a": [assign(2, row(2, 1, (b"out 1",), us=500_001), acked=1, functions=())],
    }
    rig.now = 102.0
    rig.outcome("a", 2)
    second = (FACT_SUCCEEDED, 1, 102.0, 1, 1, 101.0, 102.0, 0.5, b"out 2")
    finished = (FACT_FINISHED, 0, 102.0, RUN_SUCCEEDED, 0, 102.0, 102.0, 0.0, b"")
    assert rig.turn() == {
        "client": [m.Facts(1, 2, 2, EPOCH_S, ((1, "a"),), (second, finished))],
        "a": [m.Forget((1,), (0,)), m.Reply(2, 0, ())],
    }


def test_each_lane_has_its_own_slots(rig: CoordinatorRig) -> None:
    rig.join("a", cpu=1, io=1, permits=2)
    specs = [spec(), spec(), spec(LANE_IO), spec(LANE_IO), *([spec(LANE_ASYNC)] * 3)]
    run = rig.submit(graph_of([()] * 7, specs=specs))
    rows = [row for batch in of_kind(rig.turn()["a"], m.Assign) for row in batch.rows]
    assert [(step, lane) for _, _, step, _, _, lane, *_ in rows] == [(0, 0), (2, 1), (4, 2), (5, 2)]
    assert list(run.life.states) == [ASSIGNED, READY, ASSIGNED, READY, ASSIGNED, ASSIGNED, READY]


def test_a_function_goes_once_to_each_worker(rig: CoordinatorRig) -> None:
    rig.join("a")
    rig.submit(graph_of([(), (), ()], functions=[b"f", b"g"]))
    functions = [of_kind(rig.turn()["a"], m.Assign)[0].functions]
    for attempt in (1, 2):
        rig.outcome("a", attempt)
        functions.append(of_kind(rig.turn()["a"], m.Assign)[0].functions)
    assert functions == [((0, b"f"),), ((1, b"g"),), ()]


def test_the_same_function_of_another_run_has_the_same_number(rig: CoordinatorRig) -> None:
    rig.join("a", cpu=2)
    rig.submit(key=b"1")
    rig.turn()
    run = rig.submit(key=b"2")
    assert rig.turn()["a"] == [assign(2, row(2, run=2), runs=((2, run.id),), functions=())]
    rig.outcome("a", 1)
    assert rig.turn()["a"] == [m.Forget((1,), ()), m.Reply(1, 0, ())]
    rig.outcome("a", 2)
    assert rig.turn()["a"] == [m.Forget((2,), (0,)), m.Reply(2, 0, ())]


def test_a_heavy_step_has_no_estimate(rig: CoordinatorRig) -> None:
    rig.join("a")
    rig.submit(graph_of([(), (0,)], specs=[spec(), spec(heavy=1)]))
    rig.turn()
    rig.outcome("a", 1, us=50)
    assert of_kind(rig.turn()["a"], m.Assign)[0].rows[0][6] == 0


def test_an_outcome_counts_once(rig: CoordinatorRig) -> None:
    rig.join("a", cpu=2)
    run = rig.submit(graph_of([(), ()]), keep_all=1)
    rig.turn()
    rig.outcome("a", 1)
    rig.outcome("a", 1, code=oc.ERROR, number=2)
    assert rig.turn()["a"] == [m.Reply(2, 0, ())]
    rig.outcome("a", 1, number=2)
    assert rig.turn() == {"a": [m.Reply(2, 0, ())]}
    assert list(run.life.states) == [SUCCEEDED, ASSIGNED]


def test_an_outcome_of_one_who_does_not_hold_the_attempt_is_dropped(rig: CoordinatorRig) -> None:
    rig.join("a")
    rig.join("b")
    run = rig.submit()
    rig.turn()
    rig.outcome("b", 1)
    rig.outcome("b", 99)
    assert rig.turn() == {"b": [m.Reply(2, 0, ())]}
    assert list(run.life.states) == [ASSIGNED]


def test_outcomes_are_acknowledged_up_to_the_first_gap(rig: CoordinatorRig) -> None:
    rig.join("a", cpu=3)
    rig.submit(graph_of([()] * 4))
    rig.turn()
    rig.outcome("a", 1, number=2)
    assert of_kind(rig.turn()["a"], m.Assign)[0].acked == 0
    rig.outcome("a", 2, number=1)
    rig.outcome("a", 1, number=2)
    assert rig.turn()["a"] == [m.Reply(2, 0, ())]


def test_a_retry_is_assigned_when_its_backoff_has_ended(rig: CoordinatorRig) -> None:
    rig.join("a")
    run = rig.submit(graph_of([()], specs=[spec(retries=1, backoff=0.25)]))
    rig.turn()
    rig.outcome("a", 1, code=oc.RETRYABLE)
    rig.turn()
    assert list(run.life.states) == [BACKOFF]
    assert rig.wake_at == 100.25
    batch = rig.turn(100.25)["a"]
    assert batch == [assign(2, row(2, attempt_of_step=2), acked=1, functions=())]
    rig.outcome("a", 2, code=oc.RETRYABLE)
    rig.turn()
    assert run.life.status == RUN_FAILED


def test_a_step_that_was_handed_back_is_assigned_again(rig: CoordinatorRig) -> None:
    rig.join("a")
    rig.submit()
    rig.turn()
    rig.outcome("a", 1, code=oc.NOT_STARTED)
    assert rig.turn()["a"] == [assign(2, row(2), acked=1, functions=())]


def test_a_note_says_that_an_attempt_executes(rig: CoordinatorRig) -> None:
    rig.join("a")
    rig.submit()
    rig.turn()
    rig.now = 100.5
    rig.core.on_notes(b"a", m.Notes(((1, 100_200_000), (99, 1))), rig.now)
    assert rig.turn() == {
        "client": [m.Facts(1, 1, 1, EPOCH_S, ((1, "a"),), ((FACT_STARTED, 0, 100.5, 1, 1, 100.0, 100.2, 0.0, b""),))]
    }


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
        again += of_kind(rig.turn()["a"], m.Assign)
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
    assert [fact.kind for fact in run.life.facts[1:]] == [3], "RETRYING"
    assert READY in run.life.states
    assert list(run_2.life.states) == [READY]


def test_a_suspect_that_speaks_gets_work_again(rig: CoordinatorRig) -> None:
    rig.join("a")
    rig.sleep(SUSPECT_S + 0.1)
    rig.submit()
    assert "a" not in rig.turn()
    rig.heartbeat("a", 0)
    assert of_kind(rig.turn()["a"], m.Assign)


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
    assert of_kind(said[other], m.Assign)[0].rows == (row(2, attempt_of_step=2),)
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
    assert len(run.life.facts) == 1, "nothing is charged"


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
    assert of_kind(said, m.Assign)[0].batch == 1


# -- taking back -------------------------------------------------------------------------------------------------------


def test_work_is_taken_back_for_a_slot_that_idles(rig: CoordinatorRig) -> None:
    rig.join("a")
    rig.submit(graph_of([()] * 8), keep_all=1)
    rig.turn()
    rig.outcome("a", 1, us=100)
    rig.turn()
    assert len(rig.core.workers[b"a"].attempts) == 7
    rig.join("b")
    rig.sleep(0.02)
    rig.heartbeat("a", 2, *range(2, 9))
    rig.heartbeat("b", 0)
    given_back = of_kind(rig.turn()["a"], m.GiveBack)
    rig.sleep(0.5)
    assert given_back == [m.GiveBack((6, 7, 8))] or not rig.core.workers[b"b"].attempts


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
    assert run.life.facts[-1].payload == b"enough"


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
