"""Single calls whose results nobody wants any more: the life of their run, and what client, coordinator, worker say."""

from __future__ import annotations

from typing import Any

import pytest

from helpers.columns import Told, columns_of
from helpers.coordinator_rig import CoordinatorRig, of_kind
from helpers.lives import assign, fail, start, succeed
from helpers.samples import graph_of, spec
from helpers.session_rig import STARTED, SessionRig, fact, facts, submission
from helpers.worker_rig import WorkerRig, outcome, row
from pfw import messages as m
from pfw import outcome as oc
from pfw.expansion import Fragment
from pfw.facts import (
    ASSIGNED,
    BACKOFF,
    CANCELLED,
    ENDED_ANYWAY,
    ENDED_ITSELF,
    ENDED_LOST,
    ENDED_NEVER_STARTED,
    ENDED_NOT_AGAIN,
    EXPANDED,
    FACT_CANCELLED,
    FACT_SKIPPED,
    FACT_SUCCEEDED,
    READY,
    RUN_RUNNING,
    RUN_SUCCEEDED,
    SKIPPED,
    SUCCEEDED,
    WAITING,
    unpack_end,
)
from pfw.graph import LANE_IO, Graph
from pfw.graphs import pack_fragment, pack_graph
from pfw.lifecycle import ReadyQueue, RunLife
from pfw.record import RunRecord
from pfw.session import REPEAT_S
from pfw_coordinator.ledger import Run
from pfw_worker.core import STOP_INTERRUPT, STOP_TOKEN

EMPTY = graph_of([])


# -- the life of the run -----------------------------------------------------------------------------------------------


def calls(graph: Graph) -> RunLife:
    return start(graph, is_open=True, on_failure="continue")


def end_of(life: RunLife, step: int) -> int:
    (end,) = (fact for fact in life.facts if fact.kind == FACT_CANCELLED and fact.step == step)
    return unpack_end(end.payload)[0]


def test_what_has_not_started_never_does_and_what_needs_it_is_skipped() -> None:
    life = calls(graph_of([(), (), (1,), (2,), ()], specs=[*[spec()] * 3, spec(LANE_IO), spec()]))
    assert life.cancel_calls([1, 2], 3.0) == []
    assert list(life.states) == [READY, CANCELLED, SKIPPED, SKIPPED, READY]
    assert end_of(life, 1) == ENDED_NEVER_STARTED
    assert [(f.step, f.attempt) for f in life.facts if f.kind == FACT_SKIPPED] == [(2, 1), (3, 1)]
    assert assign(life) == [0, 4]
    assert (life.status, life.unfinished) == (RUN_RUNNING, 2)


def test_a_call_that_comes_after_the_cancel_and_needs_it_is_skipped() -> None:
    life = calls(graph_of([()]))
    life.cancel_calls([0], 1.0)
    life.extend(graph_of([(0,)], first=1), 2.0)
    assert list(life.states) == [CANCELLED, SKIPPED]


def test_a_call_in_its_backoff_is_not_tried_again() -> None:
    life = calls(graph_of([()], specs=[spec(retries=2)]))
    assign(life)
    fail(life, 0, is_retryable=True)
    assert life.states[0] == BACKOFF
    life.cancel_calls([0], 1.0)
    life.on_time(9.0)
    assert (list(life.states), end_of(life, 0)) == ([CANCELLED], ENDED_NOT_AGAIN)


@pytest.mark.parametrize("how", ["ok", "failed", "retryable", "crashed", "lost", "handed back", "expanded"])
def test_how_the_attempt_ends_does_not_count(how: str) -> None:
    life = calls(graph_of([(), (0,), ()], specs=[spec(retries=3)] * 3))
    assign(life)
    assert life.cancel_calls([0, 1], 1.0) == [0]
    assert list(life.states) == [ASSIGNED, CANCELLED, ASSIGNED]
    assert (life.counts(0), life.counts(2), life.may_expand(0), life.may_expand(2)) == (False, True, False, True)
    if how == "ok":
        succeed(life, 0)
    elif how in ("failed", "retryable"):
        fail(life, 0, is_retryable=how == "retryable")
    elif how == "crashed":
        life.on_crashed(0, 1, 1.0, 0.5, b"why", 2.0)
    elif how == "lost":
        life.on_lost(0, 1, b"why", 2.0)
    elif how == "handed back":
        life.on_not_started(0, 1, 2.0)
    else:
        fragment = Fragment(graph_of([()]))
        life.on_expanded(0, 1, 1.0, 0.5, fragment, pack_fragment(fragment), 2.0)
    assert list(life.states) == [CANCELLED, CANCELLED, ASSIGNED]
    assert end_of(life, 0) == {"lost": ENDED_LOST, "handed back": ENDED_NEVER_STARTED}.get(how, ENDED_ANYWAY)
    succeed(life, 2)
    life.close(3.0)
    assert life.status == RUN_SUCCEEDED


def test_a_result_that_was_accepted_before_stands() -> None:
    life = calls(graph_of([()]))
    assign(life)
    succeed(life, 0)
    assert life.cancel_calls([0], 2.0) == []
    assert list(life.states) == [SUCCEEDED]


def test_the_cancel_of_the_run_is_no_cancel_of_calls() -> None:
    life = calls(graph_of([()]))
    assign(life)
    life.cancel("enough", 1.0)
    assert life.cancel_calls([0], 2.0) == []


def test_a_queue_forgets_a_step() -> None:
    queue = ReadyQueue()
    for step, rank in ((1, 0), (2, 5), (3, 0), (4, 3)):
        queue.push(step, rank)
    for step, rank in ((2, 5), (3, 0), (3, 0), (9, 7)):
        queue.discard(step, rank)
    assert (queue.count, list(queue.heads())) == (2, [4])
    assert queue.take() + queue.take() == [4, 1]


# -- the coordinator ---------------------------------------------------------------------------------------------------


@pytest.fixture
def rig() -> CoordinatorRig:
    """A coordinator with one client, "client", and one worker, "w", with two slots."""
    rig = CoordinatorRig()
    rig.client()
    rig.join("w", cpu=2)
    return rig


def open_run(rig: CoordinatorRig, graph: Graph) -> Run:
    run = rig.submit(EMPTY, is_open=1, on_failure="continue")
    rig.core.on_extend(b"client", m.Extend(run.number, 0, pack_graph(graph)), rig.now)
    rig.turn()
    return run


def cancel(rig: CoordinatorRig, *steps: int, client: str = "client", run: int = 1) -> None:
    rig.core.on_cancel_calls(client.encode(), m.CancelCalls(run, steps), rig.now)


def told(said: dict[str, list[Any]]) -> list[tuple[int, int]]:
    """(kind, step) of what the client was told."""
    return [(row[0], row[1]) for facts in of_kind(said.get("client", []), Told) for row in facts.rows]


def test_the_worker_is_told_as_often_as_the_client_says_it(rig: CoordinatorRig) -> None:
    run = open_run(rig, graph_of([()] * 3))
    cancel(rig, 0, 2, 99)
    said = rig.turn()
    assert said["w"] == [m.GiveBack((1,), 1)]
    assert told(said) == [(FACT_CANCELLED, 2)]
    cancel(rig, 0)
    assert rig.turn() == {"w": [m.GiveBack((1,), 1)]}
    rig.outcome("w", 1, code=oc.STOPPED)
    assert told(rig.turn()) == [(FACT_CANCELLED, 0)]
    assert unpack_end(list(run.life.facts)[-1].payload)[0] == ENDED_ITSELF
    assert list(run.life.states) == [CANCELLED, ASSIGNED, CANCELLED]


def test_only_calls_of_its_own_are_a_clients_to_cancel(rig: CoordinatorRig) -> None:
    run = open_run(rig, graph_of([()]))
    whole = rig.submit(key=b"other")
    rig.client("other")
    cancel(rig, 0, client="other")
    cancel(rig, 0, run=whole.number)
    cancel(rig, 0, run=77)
    rig.turn()
    assert (list(run.life.states), list(whole.life.states)) == ([ASSIGNED], [ASSIGNED])


def test_the_fragment_of_a_call_is_cancelled_with_it(rig: CoordinatorRig) -> None:
    run = open_run(rig, graph_of([(), (0,), ()]))
    cells = rig.row(1, oc.EXPANDED)
    payload = pack_fragment(Fragment(graph_of([(), (0,)], functions=[b"inner"])))
    rig.core.on_outcomes(b"w", m.Outcomes(1, columns_of(((*cells[:4], payload, *cells[5:]),))), rig.now)
    rig.turn()
    assert list(run.life.states) == [EXPANDED, WAITING, ASSIGNED]
    cancel(rig, 0)
    said = rig.turn()
    assert [cancels.runs for cancels in said["all"]] == [(2,)]
    assert told(said) == [(FACT_CANCELLED, 0), (FACT_SKIPPED, 1)]
    cancel(rig, 0)
    assert rig.turn() == {}
    rig._outcomes["w"] = 1
    rig.outcome("w", 3, code=oc.STOPPED)
    rig.turn()
    assert list(rig.core.runs) == [1]
    assert list(run.life.states) == [CANCELLED, SKIPPED, ASSIGNED]
    assert run.life.status == RUN_RUNNING


def test_a_workflow_that_comes_after_the_cancel_is_not_run(rig: CoordinatorRig) -> None:
    run = open_run(rig, graph_of([()]))
    cancel(rig, 0)
    cells = rig.row(1, oc.EXPANDED)
    payload = pack_fragment(Fragment(graph_of([()])))
    rig.core.on_outcomes(b"w", m.Outcomes(1, columns_of(((*cells[:4], payload, *cells[5:]),))), rig.now)
    rig.turn()
    assert (list(run.life.states), run.inner) == ([CANCELLED], {})


# -- the worker --------------------------------------------------------------------------------------------------------


def test_a_worker_hands_back_what_waits_and_stops_what_runs() -> None:
    rig = WorkerRig().join()
    rig.assign(row(1, grace_s=1.0), row(2), row(3))
    rig.turn()
    rig.core.on_give_back(m.GiveBack((1, 2, 99), 1), rig.now)
    rig.look(slot1=1)
    assert rig.turn() == {
        "messages": [rig.outcomes(outcome(2, oc.NOT_STARTED))],
        "stops": [(1, 1, STOP_TOKEN)],
    }
    rig.now += 0.4
    rig.core.on_give_back(m.GiveBack((1,), 1), rig.now)  # said once more: the ladder goes on
    rig.now += 0.2
    rig.look(slot1=1)
    assert rig.turn()["stops"] == [(1, 1, STOP_INTERRUPT)]
    rig.now += 0.4
    rig.look(slot1=1)
    assert rig.turn()["kills"] == [1]


def test_what_its_slot_has_not_begun_goes_back_with_the_slot() -> None:
    rig = WorkerRig().join()
    rig.assign(*(row(attempt, us=100) for attempt in (1, 2, 3)))
    rig.turn()
    rig.core.on_give_back(m.GiveBack((2,), 1), rig.now)
    rig.core.on_slot_died(1, 1, 100_000_000, 11, 0, rig.now)
    (outcomes,) = rig.turn()["messages"]
    assert [cells[:2] for cells in outcomes.rows] == [(1, oc.CRASHED), (2, oc.NOT_STARTED)]
    assert list(rig.core.attempts) == [3]


def test_what_is_only_wanted_elsewhere_runs_on() -> None:
    rig = WorkerRig().join()
    rig.assign(row(1))
    rig.turn()
    rig.core.on_give_back(m.GiveBack((1,)), rig.now)
    rig.look(slot1=1)
    assert rig.turn() == {}


# -- the client --------------------------------------------------------------------------------------------------------


def test_a_cancel_is_repeated_until_the_call_has_ended() -> None:
    rig = SessionRig().join()
    record = rig.start(is_open=True)
    rig.session.extend(record, graph_of([()] * 3), rig.now)
    rig.turn()
    for step in (2, 0):
        rig.session.cancel_call(record, step)
    assert rig.turn() == [m.CancelCalls(1, (2, 0))]
    assert m.CancelCalls(1, (0, 2)) in rig.sleep(REPEAT_S * 1.6)
    rig.hear(facts(0, STARTED, fact(FACT_SUCCEEDED, 2, payload=b"out"), steps=3))
    assert m.CancelCalls(1, (0,)) in rig.sleep(REPEAT_S * 1.6)
    rig.hear(facts(2, fact(FACT_CANCELLED, 0, payload=b"0 0 "), steps=3))
    rig.session.cancel_call(record, 0)
    assert not of_kind(rig.sleep(REPEAT_S * 2), m.CancelCalls)
    assert not record.unwanted


def test_a_cancel_waits_for_the_run_to_be_accepted() -> None:
    rig = SessionRig().join()
    record = RunRecord("name", "parallel", EMPTY, None, is_open=True)
    rig.session.submit(submission(), record)
    rig.session.extend(record, graph_of([()]), rig.now)
    rig.session.cancel_call(record, 0)
    assert rig.turn() == [submission()]
    rig.hear(m.Accepted(b"key", 4, "id"))
    assert rig.turn() == [m.Extend(4, 0, pack_graph(graph_of([()]))), m.CancelCalls(4, (0,))]
