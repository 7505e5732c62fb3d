"""The coordinator's core: runs that grow, clients that are gone, what is forgotten."""

from __future__ import annotations

from typing import Any

import pytest

from helpers.columns import Assigned, Told
from helpers.coordinator_rig import EPOCH_S, CoordinatorRig, of_kind
from helpers.samples import graph_of
from pfw import messages as m
from pfw import outcome as oc
from pfw.facts import ASSIGNED, RUN_CANCELLED, RUN_RUNNING, RUN_SUCCEEDED, WAITING
from pfw.graph import Graph
from pfw.graphs import pack_graph
from pfw_coordinator import core as core_module
from pfw_coordinator.core import CLIENT_GONE_S

EMPTY = graph_of([])


@pytest.fixture
def rig() -> CoordinatorRig:
    """A coordinator with one client, "client", and one worker, "a"."""
    rig = CoordinatorRig()
    rig.client()
    rig.join("a", cpu=4)
    return rig


def positions(said: dict[str, list[Any]], client: str = "client") -> list[tuple[int, int]]:
    """(position, rows) of the facts that a client was sent."""
    return [(facts.position, len(facts.rows)) for facts in of_kind(said.get(client, []), Told)]


# -- open runs ---------------------------------------------------------------------------------------------------------


def extend(rig: CoordinatorRig, first: int, graph: Graph, client: str = "client") -> None:
    rig.core.on_extend(client.encode(), m.Extend(1, first, pack_graph(graph)), rig.now)


def test_an_open_run_grows_and_ends_when_it_is_closed(rig: CoordinatorRig) -> None:
    run = rig.submit(EMPTY, is_open=1, on_failure="continue")
    rig.turn()
    extend(rig, 0, graph_of([(), (0,)]))
    assert len(of_kind(rig.turn()["a"], Assigned)[0].rows) == 1
    rig.outcome("a", 1)
    rig.turn()
    rig.outcome("a", 2)
    rig.turn()
    assert run.life.status == RUN_RUNNING
    rig.core.on_close_run(b"client", m.CloseRun(1), rig.now)
    rig.turn()
    assert run.life.status == RUN_SUCCEEDED


def test_a_fragment_that_does_not_fit_is_not_taken(rig: CoordinatorRig) -> None:
    run = rig.submit(EMPTY, is_open=1)
    rig.turn()
    extend(rig, 1, graph_of([()]))
    extend(rig, 0, graph_of([(), ()]))
    extend(rig, 0, graph_of([(), ()]))
    rig.core.on_extend(b"client", m.Extend(1, 2, b"noise"), rig.now)
    rig.core.on_extend(b"client", m.Extend(99, 2, b"noise"), rig.now)
    rig.turn()
    assert len(run.life.states) == 2
    assert rig.core.oddities == 1


def test_steps_like_an_earlier_one_have_its_function_and_spec(rig: CoordinatorRig) -> None:
    run = rig.submit(EMPTY, is_open=1, on_failure="continue")
    rig.turn()
    extend(rig, 0, graph_of([(), ()], functions=[b"one", b"two"]))
    rig.turn()
    rig.core.on_extend_like(b"client", m.ExtendLike(1, 2, 1, ("c", "d"), (b"call 2", b"call 3"), ((), (0, 2))), rig.now)
    (assigned,) = of_kind(rig.turn()["a"], Assigned)
    assert [(row[2], row[4], row[8]) for row in assigned.rows] == [(2, 2, b"call 2")]
    assert run.life.graph.ids[2:] == ["c", "d"]
    assert list(run.life.states) == [ASSIGNED, ASSIGNED, ASSIGNED, WAITING]
    rig.outcome("a", 1, 3)
    (assigned,) = of_kind(rig.turn()["a"], Assigned)
    assert [(row[2], row[4], row[9]) for row in assigned.rows] == [(3, 2, (b"out 1", b"out 3"))]


@pytest.mark.parametrize(
    ("change", "is_odd"),
    [
        ({"first": 0}, False),
        ({"first": 2}, False),
        ({"run": 9}, False),
        ({"like": 1}, True),
        ({"ids": ("b", "c")}, True),
        ({"calls": ()}, True),
        ({"inputs": ((), ())}, True),
        ({"inputs": ((1,),)}, True),
    ],
)
def test_steps_like_none_or_that_do_not_fit_are_not_taken(
    rig: CoordinatorRig, change: dict[str, Any], is_odd: bool
) -> None:
    run = rig.submit(EMPTY, is_open=1)
    extend(rig, 0, graph_of([()]))
    rig.turn()
    good = m.ExtendLike(1, 1, 0, ("b",), (b"call",), ((0,),))
    rig.core.on_extend_like(b"client", good._replace(**change), rig.now)
    assert len(run.life.states) == 1
    assert rig.core.oddities == is_odd
    rig.core.on_extend_like(b"client", good, rig.now)
    assert len(run.life.states) == 2


def test_only_its_own_client_extends_or_closes_a_run(rig: CoordinatorRig) -> None:
    rig.client("other")
    run = rig.submit(EMPTY, is_open=1)
    rig.turn()
    extend(rig, 0, graph_of([()]), client="other")
    rig.core.on_close_run(b"other", m.CloseRun(1), rig.now)
    rig.core.on_attach(b"other", m.Attach(1, run.id), rig.now)
    assert of_kind(rig.turn()["other"], m.Rejected)
    assert run.life.is_open
    assert not run.life.states


def test_a_heartbeat_acknowledges_fragments(rig: CoordinatorRig) -> None:
    rig.submit(EMPTY, is_open=1)
    rig.turn()
    extend(rig, 0, graph_of([()] * 3))
    rig.turn()
    rig.cursors((1, 1, 1))
    assert rig.turn()["client"] == [Told(1, 1, 3, EPOCH_S, (), ())]


def test_what_was_released_is_no_input_any_more(rig: CoordinatorRig) -> None:
    run = rig.submit(EMPTY, is_open=1, on_failure="continue")
    extend(rig, 0, graph_of([()]))
    rig.turn()
    rig.outcome("a", 1)
    rig.turn()
    rig.cursors((1, 2, 2))
    rig.turn()
    extend(rig, 1, graph_of([(0,)]))
    rig.core.on_extend_like(b"client", m.ExtendLike(1, 1, 0, ("b",), (b"call",), ((0,),)), rig.now)
    assert rig.core.oddities == 2
    said = rig.turn()
    assert all(None not in row[9] for batch in of_kind(said.get("a", []), Assigned) for row in batch.rows)
    assert run.life.is_released(0)


def test_facts_that_are_not_released_stay_for_late_fragments(rig: CoordinatorRig) -> None:
    rig.submit(EMPTY, is_open=1, on_failure="continue")
    extend(rig, 0, graph_of([()]))
    rig.turn()
    rig.outcome("a", 1)
    rig.turn()
    rig.cursors((1, 2, 1))
    extend(rig, 1, graph_of([(0,)]))
    assert of_kind(rig.turn()["a"], Assigned)[0].rows[0][9] == (b"out 1",)


def test_who_attaches_again_to_an_open_run_goes_on_where_facts_still_are(rig: CoordinatorRig) -> None:
    run = rig.submit(EMPTY, is_open=1, on_failure="continue")
    extend(rig, 0, graph_of([(), ()]))
    rig.turn()
    rig.outcome("a", 1)
    rig.turn()
    rig.cursors((1, 2, 2))
    rig.outcome("a", 2)
    rig.turn(rig.now + 1.0)
    rig.core.on_attach(b"client", m.Attach(1, run.id), rig.now)
    assert positions(rig.turn(rig.now + 1.0)) == [(2, 1)]


# -- clients that are gone, runs that are forgotten --------------------------------------------------------------------


def silence(rig: CoordinatorRig, seconds: float) -> None:
    """The worker goes on, the clients say nothing."""
    until = rig.now + seconds
    while rig.now < until:
        rig.sleep(1.0)
        rig.heartbeat("a", 10**6, *rig.core.workers[b"a"].attempts)


def test_the_runs_of_a_client_that_is_gone_are_cancelled_unless_detached(rig: CoordinatorRig) -> None:
    mine, detached = rig.submit(key=b"1"), rig.submit(key=b"2", is_detached=1)
    rig.turn()
    silence(rig, CLIENT_GONE_S + 2.0)
    assert mine.life.cancel_reason
    assert not detached.life.cancel_reason
    assert not rig.core.clients
    rig.outcome("a", *rig.core.workers[b"a"].attempts, code=oc.STOPPED)
    rig.turn()
    assert mine.life.status == RUN_CANCELLED


def test_a_client_with_a_second_connection_is_not_gone(rig: CoordinatorRig) -> None:
    run = rig.submit()
    rig.turn()
    silence(rig, CLIENT_GONE_S - 5.0)
    rig.hello("again", b"client")
    silence(rig, 10.0)
    assert list(rig.core.clients) == [b"again"]
    assert not run.life.cancel_reason


def test_an_embedded_coordinator_forgets_what_its_client_has_read() -> None:
    rig = CoordinatorRig(is_embedded=True)
    rig.client()
    rig.join("a")
    rig.submit()
    rig.turn()
    rig.outcome("a", 1)
    rig.turn()
    rig.cursors((1, 2, 2))
    rig.turn()
    assert rig.core.runs
    rig.cursors((1, 3, 3))
    rig.turn()
    assert not rig.core.runs
    assert not rig.core.clients[b"client"].subscriptions


def test_an_embedded_open_run_is_forgotten_after_its_very_last_fact() -> None:
    rig = CoordinatorRig(is_embedded=True)
    rig.client()
    rig.join("a")
    rig.submit(EMPTY, is_open=1)
    extend(rig, 0, graph_of([(), ()]))
    rig.turn()
    rig.outcome("a", 1)
    rig.turn()
    rig.cursors((1, 2, 2))
    rig.turn()
    rig.core.on_cancel_run(b"client", m.CancelRun(1, ""), rig.now)
    rig.outcome("a", *rig.core.workers[b"a"].attempts, code=oc.STOPPED)
    rig.cursors((1, 2, 2))
    said = rig.turn(rig.now + 1.0)
    assert positions(said) == [(2, 2)]
    assert rig.core.runs
    rig.cursors((1, 4, 4))
    rig.turn()
    assert not rig.core.runs


def test_an_empty_open_run_can_be_cancelled_and_forgotten() -> None:
    rig = CoordinatorRig(is_embedded=True)
    rig.client()
    run = rig.submit(Graph([], [], [], [], [], [], [], []), is_open=1)
    rig.core.on_cancel_run(b"client", m.CancelRun(1, "closed"), rig.now)
    assert positions(rig.turn()) == [(0, 2)]
    assert run.life.status == RUN_CANCELLED
    rig.cursors((1, 2, 2))
    rig.turn()
    assert not rig.core.runs


def test_old_runs_go_when_their_facts_are_too_many(rig: CoordinatorRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_module, "KEPT_FACTS", 7)
    for number in range(1, 5):
        rig.submit(key=b"%d" % number)
        rig.turn()
        rig.outcome("a", number)
        rig.turn()
        rig.cursors((number, 3, 3))
        rig.turn(rig.now + 0.1)
    assert 2 <= len(rig.core.runs) <= 3
    assert 4 in rig.core.runs
    assert 1 not in rig.core.runs
