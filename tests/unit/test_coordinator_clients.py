"""The coordinator's core and its clients: submissions, facts, attaching, questions."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from helpers.columns import Told
from helpers.coordinator_rig import CoordinatorRig, of_kind
from helpers.samples import graph_of, spec
from pfw import messages as m
from pfw import outcome as oc
from pfw.graphs import pack_graph
from pfw.wire import unpack
from pfw_coordinator import feed as feed_module
from pfw_coordinator.feed import FACTS_EVERY_S, REWIND_S, SLACK_S

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


# -- submitting --------------------------------------------------------------------------------------------------------


def test_who_has_not_said_hello_is_told_to(rig: CoordinatorRig) -> None:
    core, now, peer = rig.core, rig.now, b"stranger"
    core.on_submit(peer, m.Submit(b"k", "", "parallel", "stop", 0, (), 0, 0, 0, b"", pack_graph(graph_of([()]))), now)
    core.on_extend(peer, m.Extend(1, 0, b""), now)
    core.on_extend_like(peer, m.ExtendLike(1, 0, 0, (), (), ()), now)
    core.on_cancel_run(peer, m.CancelRun(1, ""), now)
    core.on_close_run(peer, m.CloseRun(1), now)
    core.on_attach(peer, m.Attach(1, "x"), now)
    core.on_cursors(peer, m.Cursors(()), now)
    core.on_query(peer, m.Query(1, "status"), now)
    assert rig.turn() == {"stranger": [m.Refused(m.REFUSED_VERSION, "say Hello first", 1)] * 8}
    assert not core.runs


def test_the_same_key_twice_is_one_run(rig: CoordinatorRig) -> None:
    run = rig.submit()
    rig.turn()
    assert rig.submit() is run
    assert rig.turn() == {"client": [m.Accepted(b"key", 1, run.id)]}
    assert len(rig.core.runs) == 1


def test_the_same_key_with_another_workflow_is_refused(rig: CoordinatorRig) -> None:
    rig.submit()
    rig.turn()
    rig.submit(graph_of([(), ()]))
    (rejected,) = rig.turn()["client"]
    assert (rejected.key, rejected.kind) == (b"key", m.REFUSED_KEY)
    assert len(rig.core.runs) == 1


def test_two_clients_may_follow_one_run(rig: CoordinatorRig) -> None:
    rig.client("other")
    rig.submit()
    rig.turn()
    run = rig.submit(client="other")
    said = rig.turn()
    assert said["other"] == [m.Accepted(b"key", 1, run.id), *of_kind(said["other"], Told)]
    assert positions(said, "other") == [(0, 1)]


@pytest.mark.parametrize(
    "fields",
    [
        {"graph": b""},
        {"graph": b"noise"},
        {"graph": pack_graph(EMPTY)},
        {"graph": msgpack.packb([[]] * 8)},
        {"graph": pack_graph(graph_of([(0,)]))},
        {"mode": "sideways"},
        {"on_failure": "explode"},
    ],
    ids=str,
)
def test_an_odd_submission_is_refused_and_harms_nobody(rig: CoordinatorRig, fields: dict[str, Any]) -> None:
    message = m.Submit(b"odd", "", "parallel", "stop", 0, (), 0, 0, 0, b"", pack_graph(graph_of([()])))
    rig.core.on_submit(b"client", message._replace(**fields), rig.now)
    (rejected,) = rig.turn()["client"]
    assert (rejected.key, rejected.kind) == (b"odd", m.REFUSED_GRAPH)
    assert not rig.core.runs
    assert rig.core.oddities == 1
    rig.submit()
    assert of_kind(rig.turn()["client"], m.Accepted)


def test_what_to_keep_may_name_steps_that_are_not_there(rig: CoordinatorRig) -> None:
    rig.submit(keep=(0, 7, 2**60))
    rig.turn()
    rig.outcome("a", 1)
    assert of_kind(rig.turn()["client"], Told)[0].rows[0][8] == b"out 1"


# -- facts -------------------------------------------------------------------------------------------------------------


def test_facts_go_at_once_and_then_together(rig: CoordinatorRig) -> None:
    rig.submit(graph_of([()] * 4))
    assert positions(rig.turn()) == [(0, 1)]
    rig.outcome("a", 1)
    assert positions(rig.turn(rig.now + FACTS_EVERY_S / 10)) == []
    assert rig.wake_at <= 100.0 + FACTS_EVERY_S
    rig.outcome("a", 2)
    rig.turn(rig.now + FACTS_EVERY_S / 10)
    assert positions(rig.turn(100.0 + 1.01 * FACTS_EVERY_S)) == [(1, 2)]
    rig.outcome("a", 3, 4)
    assert positions(rig.turn()) == [(3, 3)], "the end does not wait"


def test_facts_go_along_with_a_turn_that_is_taken_anyway(rig: CoordinatorRig) -> None:
    rig.submit(graph_of([()] * 4))
    rig.turn()
    rig.outcome("a", 1)
    assert positions(rig.turn(100.0 + FACTS_EVERY_S - 1.01 * SLACK_S)) == []
    assert rig.wake_at == pytest.approx(100.0 + FACTS_EVERY_S), "none is taken for them alone before that"
    assert positions(rig.turn(100.0 + FACTS_EVERY_S - 0.99 * SLACK_S)) == [(1, 1)]


def test_confirmed_facts_are_not_sent_again_and_lost_ones_are(rig: CoordinatorRig) -> None:
    rig.submit(graph_of([()] * 4))
    rig.turn()
    rig.cursors((1, 1, 1))
    rig.outcome("a", 1, 2)
    assert positions(rig.turn(rig.now + 1.0)) == [(1, 2)]
    rig.cursors((1, 1, 1))
    assert positions(rig.turn(rig.now + 0.5)) == [], "they may be on their way"
    again: list[Told] = []
    for _ in range(8):
        rig.cursors((1, 1, 1))
        again += of_kind(rig.turn(rig.now + REWIND_S / 4).get("client", []), Told)
    assert [(facts.position, len(facts.rows), facts.workers) for facts in again] == [(1, 2, ((1, "a"),))]
    rig.cursors((1, 3, 3))
    sent = []
    for _ in range(8):
        rig.cursors((1, 3, 3))
        sent += positions(rig.turn(rig.now + REWIND_S / 4))
    assert sent == []


def test_a_worker_is_named_with_the_first_fact_of_it(rig: CoordinatorRig) -> None:
    rig.submit(graph_of([()] * 4))
    rig.turn()
    named = []
    for attempt in (1, 2):
        rig.outcome("a", attempt)
        named += [facts.workers for facts in of_kind(rig.turn(rig.now + 1.0)["client"], Told)]
    assert named == [((1, "a"),), ()]


def test_a_client_is_sent_no_more_than_a_window(rig: CoordinatorRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "WINDOW_BYTES", 500)
    monkeypatch.setattr(feed_module, "FACTS_PER_MESSAGE", 3)
    rig.submit(graph_of([()] * 30), on_failure="continue")
    rig.turn()
    for attempt in range(1, 31):
        rig.outcome("a", attempt, us=10**6)
        rig.turn()
    said = positions(rig.turn(rig.now + 1.0))
    at = 0
    for _ in range(40):
        if said:
            assert sum(rows for _, rows in said) <= 12, "about a window"
            at = said[-1][0] + said[-1][1]
        rig.cursors((1, at, at))
        said = positions(rig.turn(rig.now + 0.1))
    assert at == 32


def test_a_cursor_beyond_the_facts_is_not_believed(rig: CoordinatorRig) -> None:
    rig.submit()
    rig.turn()
    rig.cursors((1, 99, 99), (77, 1, 1))
    assert rig.turn() == {"client": [m.Reply(0, 0, ())]}
    rig.outcome("a", 1)
    assert positions(rig.turn(rig.now + 1.0)) == [(1, 2)]


def test_a_client_that_is_ahead_of_what_was_sent_is_believed(
    rig: CoordinatorRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It attached again, and has the beginning already."""
    monkeypatch.setattr(feed_module, "WINDOW_BYTES", 100)
    monkeypatch.setattr(feed_module, "FACTS_PER_MESSAGE", 1)
    run = rig.submit(graph_of([()] * 3))
    rig.turn()
    rig.outcome("a", 1, 2, 3)
    rig.turn()
    rig.core.on_attach(b"client", m.Attach(1, run.id), rig.now)
    rig.turn()
    rig.cursors((1, 4, 4))
    assert positions(rig.turn(rig.now + 0.1)) == [(4, 1)]


def test_an_idle_client_gets_an_answer_to_its_heartbeat(rig: CoordinatorRig) -> None:
    rig.cursors()
    assert rig.turn() == {"client": [m.Reply(0, 0, ())]}


# -- attaching ---------------------------------------------------------------------------------------------------------


def test_who_attaches_gets_the_graph_and_the_history(rig: CoordinatorRig) -> None:
    rig.client("other")
    graph = graph_of([()])
    run = rig.submit(graph, meta=b"meta", mode="waves")
    rig.turn()
    rig.outcome("a", 1)
    rig.turn()
    rig.core.on_attach(b"other", m.Attach(9, run.id), rig.now)
    said = rig.turn()
    assert said["other"][0] == m.Attached(9, 1, run.id, "name", "waves", b"meta", pack_graph(graph), position=3)
    assert positions(said, "other") == [(0, 3)]


def test_an_unknown_run_cannot_be_attached_to(rig: CoordinatorRig) -> None:
    rig.core.on_attach(b"client", m.Attach(9, "none"), rig.now)
    (rejected,) = rig.turn()["client"]
    assert (rejected.key, rejected.request, rejected.kind) == (b"", 9, m.REFUSED_UNKNOWN_RUN)
    assert "'none'" in rejected.text


# -- questions ---------------------------------------------------------------------------------------------------------


def ask(rig: CoordinatorRig, what: str, run: int = 0, step: int = 0) -> Any:
    rig.core.on_query(b"client", m.Query(5, what, run, step), rig.now)
    (answer,) = rig.turn()["client"]
    assert answer.request == 5
    return unpack(answer.body) if isinstance(answer, m.Answer) else answer


def test_questions_are_answered(rig: CoordinatorRig) -> None:
    run = rig.submit(graph_of([(), (0,)]))
    rig.turn()
    rig.heartbeat("a", 1, 1)
    rig.turn()
    (worker,) = ask(rig, "workers")
    assert {"name": "a", "cpu": 4, "held": 1, "state": "ready", "rss_bytes": 1}.items() <= worker.items()
    (report,) = ask(rig, "runs")
    assert {"id": run.id, "status": "RUNNING", "steps": 2, "assigned": 1, "waiting": 1}.items() <= report.items()
    status = ask(rig, "status")
    assert {"workers": 1, "clients": 1, "runs": 1, "held": 1, "cpu": 4}.items() <= status.items()
    assert ask(rig, "the weather").kind == m.REFUSED_UNKNOWN_RUN


def test_how_a_step_stands_is_answered(rig: CoordinatorRig) -> None:
    run = rig.submit(graph_of([(), ()], specs=[spec(retries=1, backoff=7.0)]))
    rig.turn()
    stands = {
        "state": "ASSIGNED", "attempt": 1, "retry_s": 0.0, "worker": "a", "silent_s": 0.0, "obstacle": "",
        "slots": 4, "taken": 2, "waiting": 0, "is_in_later_wave": False,
    }  # fmt: skip
    assert ask(rig, "step", run.number, 0) == stands
    rig.outcome("a", 1, code=oc.RETRYABLE)
    rig.turn()
    rig.turn(rig.now + 3.0)
    assert ask(rig, "step", run.number, 0) == {**stands, "state": "BACKOFF", "retry_s": 4.0, "worker": "", "taken": 1}
    for number, step in ((run.number, 2), (99, 0)):
        assert ask(rig, "step", number, step).kind == m.REFUSED_UNKNOWN_RUN
