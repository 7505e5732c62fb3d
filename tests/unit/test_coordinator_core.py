"""The coordinator's core and its workers: who registers, what is assigned and committed."""

from __future__ import annotations

import pytest

from helpers.columns import Assigned, Told, columns_of
from helpers.coordinator_rig import EPOCH_S, HOST, CoordinatorRig, assign, of_kind, row
from helpers.samples import graph_of, spec
from pfw import messages as m
from pfw import outcome as oc
from pfw.facts import (
    ASSIGNED,
    BACKOFF,
    FACT_FINISHED,
    FACT_PRINTED,
    FACT_PROGRESSED,
    FACT_RUN_STARTED,
    FACT_STARTED,
    FACT_SUCCEEDED,
    READY,
    RUN_FAILED,
    RUN_SUCCEEDED,
    SUCCEEDED,
    pack_progress,
)
from pfw.graph import LANE_ASYNC, LANE_IO
from pfw_coordinator.core import ACKNOWLEDGE_BYTES, ACKNOWLEDGE_S
from pfw_coordinator.ledger import AHEAD_BYTES


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
    started = (FACT_RUN_STARTED, 0, 100.0, 0, 0, 100.0, 100.0, 0.0, b"1 1 1", 0, 0)
    assert rig.turn() == {
        "client": [m.Accepted(b"key", 1, run.id), Told(1, 0, 2, EPOCH_S, (), (started,))],
        "a": [assign(1, row(1), runs=((1, run.id),))],
    }
    rig.now = 101.0
    rig.outcome("a", 1)
    first = (FACT_SUCCEEDED, 0, 101.0, 1, 1, 100.0, 101.0, 0.5, b"", 250_000, 1 << 20)
    assert rig.turn() == {
        "client": [Told(1, 1, 2, EPOCH_S, ((1, "a"),), (first,))],
        "a": [assign(2, row(2, 1, (b"out 1",), us=500_001), acked=1, functions=())],
    }
    rig.now = 102.0
    rig.outcome("a", 2)
    second = (FACT_SUCCEEDED, 1, 102.0, 1, 1, 101.0, 102.0, 0.5, b"out 2", 250_000, 1 << 20)
    finished = (FACT_FINISHED, 0, 102.0, RUN_SUCCEEDED, 0, 102.0, 102.0, 0.0, b"", 0, 0)
    assert rig.turn() == {
        "client": [Told(1, 2, 2, EPOCH_S, (), (second, finished))],
        "a": [m.Forget((1,), (0,)), m.Reply(2, 0, ())],
    }


def test_each_lane_has_its_own_slots(rig: CoordinatorRig) -> None:
    rig.join("a", cpu=1, io=1, permits=2)
    specs = [spec(), spec(), spec(LANE_IO), spec(LANE_IO), *([spec(LANE_ASYNC)] * 3)]
    run = rig.submit(graph_of([()] * 7, specs=specs))
    rows = [row for batch in of_kind(rig.turn()["a"], Assigned) for row in batch.rows]
    assert [(step, lane) for _, _, step, _, _, lane, *_ in rows] == [(0, 0), (2, 1), (4, 2), (5, 2)]
    assert list(run.life.states) == [ASSIGNED, READY, ASSIGNED, READY, ASSIGNED, ASSIGNED, READY]


def test_a_function_goes_once_to_each_worker(rig: CoordinatorRig) -> None:
    rig.join("a")
    rig.submit(graph_of([(), (), ()], functions=[b"f", b"g"]))
    functions = [of_kind(rig.turn()["a"], Assigned)[0].functions]
    for attempt in (1, 2):
        rig.outcome("a", attempt)
        functions.append(of_kind(rig.turn()["a"], Assigned)[0].functions)
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
    assert of_kind(rig.turn()["a"], Assigned)[0].rows[0][6] == 0


def test_an_outcome_counts_once(rig: CoordinatorRig) -> None:
    rig.join("a", cpu=2)
    run = rig.submit(graph_of([(), ()]), keep_all=1)
    rig.turn()
    rig.outcome("a", 1)
    rig.outcome("a", 1, code=oc.ERROR, number=2)
    assert "a" not in rig.turn(), "an acknowledgement may wait"
    rig.outcome("a", 1, number=2)
    assert rig.turn(at=rig.now + ACKNOWLEDGE_S)["a"] == [m.Reply(2, 0, ())]
    assert list(run.life.states) == [SUCCEEDED, ASSIGNED]


def test_an_outcome_of_one_who_does_not_hold_the_attempt_is_dropped(rig: CoordinatorRig) -> None:
    rig.join("a")
    rig.join("b")
    run = rig.submit()
    rig.turn()
    rig.outcome("b", 1)
    rig.outcome("b", 99)
    assert rig.turn() == {}
    assert rig.turn(at=rig.now + ACKNOWLEDGE_S) == {"b": [m.Reply(2, 0, ())]}
    assert list(run.life.states) == [ASSIGNED]


def test_outcomes_are_acknowledged_up_to_the_first_gap(rig: CoordinatorRig) -> None:
    rig.join("a", cpu=3)
    rig.submit(graph_of([()] * 4))
    rig.turn()
    rig.outcome("a", 1, number=2)
    assert of_kind(rig.turn()["a"], Assigned)[0].acked == 0
    rig.outcome("a", 2, number=1)
    rig.outcome("a", 1, number=2)
    rig.turn()
    assert rig.turn(at=rig.now + ACKNOWLEDGE_S)["a"] == [m.Reply(2, 0, ())]


def test_large_outcomes_are_acknowledged_at_once(rig: CoordinatorRig) -> None:
    """Their worker keeps them until then."""
    rig.join("a", cpu=2)
    rig.submit(graph_of([(), ()]))
    rig.turn()
    cells = rig.row(1)
    rig.core.on_outcomes(b"a", m.Outcomes(1, columns_of([(*cells[:4], bytes(ACKNOWLEDGE_BYTES + 1), 0, 0)])), rig.now)
    assert rig.turn()["a"] == [m.Reply(1, 0, ())]


def test_a_worker_that_leaves_hears_at_once_that_its_outcomes_are_here(rig: CoordinatorRig) -> None:
    rig.join("a", cpu=2)
    rig.submit(graph_of([(), ()]))
    rig.turn()
    rig.core.on_leaving(b"a", m.Leaving(0), rig.now)
    rig.outcome("a", 1)
    assert rig.turn()["a"] == [m.Reply(1, 0, ())]


def test_a_backoff_that_ends_at_the_instant_of_the_one_before_is_noted_too(rig: CoordinatorRig) -> None:
    """No backoff at all, on a clock that stands still."""
    rig.join("a")
    run = rig.submit(graph_of([()], specs=[spec(retries=2, backoff=0.0)]))
    rig.turn()
    for attempt in (1, 2):
        rig.outcome("a", attempt, code=oc.RETRYABLE)
        rig.turn()
        rig.turn()
    assert run.life.attempts == [3]


def test_a_retry_is_assigned_when_its_backoff_has_ended(rig: CoordinatorRig) -> None:
    rig.join("a")
    run = rig.submit(graph_of([()], specs=[spec(retries=1, backoff=0.25)]))
    rig.turn()
    rig.outcome("a", 1, code=oc.RETRYABLE)
    rig.turn()
    assert list(run.life.states) == [BACKOFF]
    rig.turn(100.1)
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


def test_what_an_attempt_prints_is_a_fact_of_its_step(rig: CoordinatorRig) -> None:
    rig.join("a")
    rig.submit()
    rig.turn()
    rig.now = 100.5
    rig.core.on_printed(b"a", m.Printed(3, ((1, b"text"), (99, b"of no attempt"))), rig.now)
    rig.core.on_printed(b"b", m.Printed(1, ((1, b"not its own"),)), rig.now)
    said = rig.turn()
    assert said["b"] == [m.Refused(m.REFUSED_VERSION, "not registered here", 1)]
    assert said["client"] == [
        Told(1, 1, 1, EPOCH_S, ((1, "a"),), ((FACT_PRINTED, 0, 100.5, 1, 1, 100.5, 100.5, 0.0, b"text", 0, 0),))
    ]
    for number in (3, 2):
        rig.core.on_printed(b"a", m.Printed(number, ((1, b"again"),)), rig.now)
    assert "client" not in rig.turn(at=101.0), "it came twice, or too late"
    rig.core.on_printed(b"a", m.Printed(5, ((1, b"more"),)), rig.now)
    assert [row[8] for row in rig.turn()["client"][0].rows] == [b"more"]


def test_a_note_says_that_an_attempt_executes(rig: CoordinatorRig) -> None:
    rig.join("a")
    rig.submit()
    rig.turn()
    rig.now = 100.5
    rig.core.on_notes(b"a", m.Notes(((1, 100_200_000), (99, 1))), rig.now)
    started = (FACT_STARTED, 0, 100.5, 1, 1, 100.0, 100_200_000 * 1e-6, 0.0, b"", 0, 0)
    assert rig.turn() == {
        "client": [
            Told(1, 1, 1, EPOCH_S, ((1, "a"),), (started,)),
        ]
    }


def test_how_far_an_attempt_is_comes_after_its_start(rig: CoordinatorRig) -> None:
    rig.join("a")
    rig.join("b")
    rig.submit()
    rig.turn()
    rig.now = 100.5
    rig.core.on_notes(b"a", m.Notes(((1, 100_200_000),)), rig.now)
    rig.core.on_progress(b"a", m.Progress(((1, 2.0, 0.0, "two"), (99, 1.0, 0.0, ""))), rig.now)
    rig.core.on_progress(b"b", m.Progress(((1, 3.0, 0.0, "not its own"),)), rig.now)
    ((facts,),) = [messages for peer, messages in rig.turn().items() if peer == "client"]
    assert [row[0] for row in facts.rows] == [FACT_STARTED, FACT_PROGRESSED]
    started = 100_200_000 * 1e-6
    progress = pack_progress(2.0, 0.0, "two")
    assert facts.rows[1] == (FACT_PROGRESSED, 0, 100.5, 1, 1, 100.0, started, 0.0, progress, 0, 0)
    rig.outcome("a", 1)
    rig.turn()
    rig.core.on_progress(b"a", m.Progress(((1, 4.0, 0.0, "after its end"),)), rig.now)
    assert "client" not in rig.turn()


def test_what_fills_a_worker_in_one_lane_counts_in_the_others(rig: CoordinatorRig) -> None:
    rig.join("a", cpu=4, io=1)
    short = graph_of([()], specs=[spec(LANE_IO)], functions=[b"io"])
    rig.submit(short._replace(), key=b"first")
    rig.turn()
    rig.outcome("a", 1, us=100)
    rig.submit(short._replace(), key=b"second")
    rig.turn()
    worker = rig.core.workers[b"a"]
    assert (worker.out[LANE_IO], worker.has_credit(LANE_IO)) == (1, True), "more of them may be sent ahead"
    rig.submit(graph_of([()] * 4)._replace(calls=[bytes(AHEAD_BYTES // 2)] * 4), key=b"third")
    rig.turn()
    assert not worker.has_credit(LANE_IO)
    assert worker not in rig.core._credit[LANE_IO]
