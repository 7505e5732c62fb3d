"""The client's session: what it asks, repeats, takes and gives up."""

from __future__ import annotations

from typing import Any

import pytest

from helpers.samples import graph_of
from helpers.session_rig import ENDED, GRAPH, HELLO, STARTED, SessionRig, fact, facts, submission
from pfw import messages as m
from pfw.client import answer_of
from pfw.errors import (
    ClusterError,
    ConfigError,
    CoordinatorLostError,
    ProtocolError,
    UnknownRunError,
    VersionMismatchError,
)
from pfw.facts import (
    ASSIGNED,
    BACKOFF,
    CANCELLED,
    FACT_CANCELLED,
    FACT_FAILED,
    FACT_FINISHED,
    FACT_RETRYING,
    FACT_SKIPPED,
    FACT_STARTED,
    FACT_SUCCEEDED,
    FAILED,
    RUN_CANCELLED,
    RUN_SUCCEEDED,
    SKIPPED,
    SUCCEEDED,
)
from pfw.graphs import pack_graph
from pfw.record import RunRecord
from pfw.session import CONFIRM_BYTES, HELLO_S, LOST_S, REPEAT_S


@pytest.fixture
def rig() -> SessionRig:
    return SessionRig().join()


# -- the connection ----------------------------------------------------------------------------------------------------


def test_hello_is_said_until_there_is_an_answer() -> None:
    rig = SessionRig()
    assert rig.turn() == [HELLO]
    assert rig.turn() == []
    assert rig.wake_at == pytest.approx(100.0 + HELLO_S)
    assert rig.sleep(3.0)[:2] == [HELLO, HELLO]
    assert rig.wake_at > rig.now
    rig.hear(m.Welcome(1, 1.0, "", 0))
    assert rig.session.is_welcome
    assert HELLO not in rig.sleep(2.0)


def test_a_hello_that_could_not_be_sent_is_said_in_the_next_turn() -> None:
    rig = SessionRig()
    rig.turn()
    rig.session.on_unsent()
    assert (rig.turn(), rig.turn(), rig.wake_at) == ([HELLO], [], pytest.approx(100.0 + HELLO_S))


def test_what_was_asked_before_the_welcome_is_said_after_it() -> None:
    rig = SessionRig()
    record = RunRecord("name", "parallel", GRAPH, None)
    rig.session.submit(submission(), record)
    number = rig.session.ask(lambda number: m.Query(number, "status"))
    assert rig.turn() == [HELLO]
    rig.hear(m.Welcome(1, 1.0, "", 0))
    assert rig.turn() == [submission(), m.Query(number, "status")]
    rig.hear(m.Welcome(1, 1.0, "", 0))
    assert rig.turn() == []


def test_a_heartbeat_says_what_was_read_of_each_run(rig: SessionRig) -> None:
    rig.start(number=1)
    rig.start(number=2)
    rig.hear(facts(0, STARTED, fact(FACT_SUCCEEDED), run=2))
    assert rig.turn(101.0) == [m.Cursors(((1, 0, 0), (2, 2, 2)))]
    assert rig.turn() == []
    assert rig.turn(102.0)[0] == m.Cursors(((1, 0, 0), (2, 2, 2)))


def test_another_version_ends_the_session() -> None:
    rig = SessionRig()
    rig.turn()
    rig.hear(m.Refused(m.REFUSED_PROTOCOL, "other versions", 0))
    assert isinstance(rig.session.error, VersionMismatchError)
    assert rig.turn() == []
    assert rig.wake_at > rig.now + 1.0


def test_a_coordinator_that_is_silent_is_lost(rig: SessionRig) -> None:
    record, waiting = rig.start(), RunRecord("name", "parallel", GRAPH, None)
    rig.session.submit(submission(b"other"), waiting)
    rig.sleep(LOST_S - 1.0)
    assert rig.session.error is None
    rig.sleep(2.0)
    assert isinstance(rig.session.error, CoordinatorLostError)
    assert record.error is waiting.error is rig.session.error
    assert record.is_finished
    assert rig.ends == [rig.session.error]
    assert rig.session.is_idle
    assert rig.turn() == []
    assert rig.wake_at > rig.now + 1.0, "and nothing turns in circles"


def test_anything_heard_proves_it_alive(rig: SessionRig) -> None:
    for _ in range(30):
        rig.sleep(1.0)
        rig.hear(m.Reply(0, 0, ()))
    assert rig.session.error is None


def test_a_turn_that_starts_late_moves_the_deadline(rig: SessionRig) -> None:
    rig.turn(rig.wake_at + 60.0)
    assert rig.session.error is None
    rig.sleep(LOST_S + 1.0)
    assert rig.session.error is not None


@pytest.mark.parametrize("under_way", ["record", "submit", "question"])
def test_a_coordinator_that_refuses_and_never_comes_back_is_lost(rig: SessionRig, under_way: str) -> None:
    if under_way == "record":
        rig.start()
    elif under_way == "submit":
        rig.session.submit(submission(), RunRecord("name", "parallel", GRAPH, None))
    else:
        rig.session.ask(lambda number: m.Query(number, "status"))
    rig.hear(m.Refused(0, "say Hello first", 1))
    rig.sleep(LOST_S + 1.0)
    assert isinstance(rig.session.error, CoordinatorLostError)


def test_a_known_loss_counts_at_once_and_once(rig: SessionRig) -> None:
    record = rig.start()
    first = ClusterError("gone")
    rig.session.on_lost(first)
    rig.session.on_lost(ClusterError("again"))
    assert record.error is rig.session.error is first
    assert rig.ends == [first]


def test_a_message_for_others_is_an_error(rig: SessionRig) -> None:
    with pytest.raises(ProtocolError):
        rig.hear(m.GiveBack(()))


# -- runs --------------------------------------------------------------------------------------------------------------


def test_a_submission_is_repeated_until_it_is_accepted(rig: SessionRig) -> None:
    record = RunRecord("name", "parallel", GRAPH, None)
    rig.session.submit(submission(), record)
    assert rig.turn() == [submission()]
    assert submission() not in rig.sleep(REPEAT_S * 0.4)
    assert rig.sleep(REPEAT_S * 1.2).count(submission()) == 1
    rig.hear(m.Accepted(b"key", 7, "id"))
    assert (record.number, record.run_id) == (7, "id")
    rig.hear(m.Accepted(b"key", 7, "id"))
    assert submission() not in rig.sleep(REPEAT_S * 2)


@pytest.mark.parametrize(("kind", "error"), [(m.REFUSED_KEY, ConfigError), (m.REFUSED_GRAPH, ProtocolError)])
def test_a_submission_that_is_refused_has_an_error(rig: SessionRig, kind: int, error: type[Exception]) -> None:
    record = RunRecord("name", "parallel", GRAPH, None)
    rig.session.submit(submission(), record)
    rig.hear(m.Rejected(b"key", 0, kind, "because"))
    assert isinstance(record.error, error)
    assert "because" in str(record.error)
    assert rig.session.is_idle
    rig.hear(m.Rejected(b"key", 0, kind, "because"))
    assert rig.session.error is None


@pytest.mark.parametrize("hears", [False, True])
def test_facts_fill_the_record(rig: SessionRig, hears: bool) -> None:
    record = rig.start(hears=hears)
    rows = (STARTED, fact(FACT_STARTED), fact(FACT_RETRYING, 1), fact(FACT_SUCCEEDED, 2, payload=b"out"))
    rig.hear(facts(0, *rows))
    assert list(record.states) == [ASSIGNED, BACKOFF, SUCCEEDED]
    assert record.outputs == {2: b"out"}
    assert record.workers == {1: "worker"}
    assert record.epoch_s == 5.0
    assert list(record.rows) == list(rows)
    assert rig.news == ([rows] if hears else [])
    rig.hear(facts(4, fact(FACT_FAILED, 0, payload=b"why"), fact(FACT_SKIPPED, 1), fact(FACT_CANCELLED, 1)))
    assert list(record.states) == [FAILED, CANCELLED, SUCCEEDED]
    assert record.failures == {0: b"why"}
    assert SKIPPED not in record.states


@pytest.mark.parametrize("hears", [False, True])
def test_a_gap_is_not_taken_and_a_repetition_only_where_it_is_new(rig: SessionRig, hears: bool) -> None:
    record = rig.start(hears=hears)
    rig.hear(facts(1, fact(FACT_SUCCEEDED)))
    assert record.position == 0
    rig.hear(facts(0, STARTED, fact(FACT_SUCCEEDED)))
    rig.hear(facts(0, STARTED, fact(FACT_SUCCEEDED), fact(FACT_SUCCEEDED, 1)))
    rig.hear(facts(1, fact(FACT_SUCCEEDED)))
    rig.hear(facts(0, run=99))
    assert record.position == 3
    assert list(record.rows) == [STARTED, fact(FACT_SUCCEEDED), fact(FACT_SUCCEEDED, 1)]
    assert list(record.states) == [SUCCEEDED, SUCCEEDED, 0]
    assert rig.news == ([(STARTED, fact(FACT_SUCCEEDED)), (fact(FACT_SUCCEEDED, 1),)] if hears else [])


def test_the_end_is_confirmed_at_once(rig: SessionRig) -> None:
    record = rig.start()
    rig.hear(facts(0, STARTED, ENDED))
    assert record.status == RUN_SUCCEEDED
    assert record.is_finished
    assert rig.turn() == [m.Cursors(((1, 2, 2),))]
    assert rig.session.is_idle
    rig.hear(facts(0, STARTED, ENDED))
    assert rig.turn() == []


def test_the_reason_of_a_cancel_is_known(rig: SessionRig) -> None:
    record = rig.start()
    rig.hear(facts(0, STARTED, fact(FACT_FINISHED, attempt=RUN_CANCELLED, payload="genug für heute".encode())))
    assert record.cancel_reason == "genug für heute"


def test_many_bytes_are_confirmed_without_waiting(rig: SessionRig) -> None:
    rig.start()
    rig.hear(facts(0, STARTED, fact(FACT_SUCCEEDED, payload=b"x" * CONFIRM_BYTES)))
    assert rig.turn() == [m.Cursors(((1, 2, 2),))]


def test_a_forgotten_run_is_no_longer_asked_for(rig: SessionRig) -> None:
    record, waiting = rig.start(), RunRecord("name", "parallel", GRAPH, None)
    rig.session.submit(submission(b"other"), waiting)
    rig.turn()
    rig.session.forget(record)
    rig.session.forget(waiting)
    assert rig.session.is_idle
    assert rig.sleep(REPEAT_S * 1.6) == [m.Cursors(())] * 3


# -- questions and attached runs ---------------------------------------------------------------------------------------


def test_a_question_is_repeated_until_it_is_answered(rig: SessionRig) -> None:
    number = rig.session.ask(lambda number: m.Query(number, "status"))
    query = m.Query(number, "status")
    assert rig.turn() == [query]
    assert query in rig.sleep(REPEAT_S * 1.6)
    rig.hear(m.Answer(number, b"\x01"))
    assert query not in rig.sleep(REPEAT_S * 2)
    assert answer_of(rig.session.answers.pop(number)) == 1
    rig.hear(m.Answer(number, b"\x02"))
    assert not rig.session.answers


def test_an_unknown_run_is_an_error(rig: SessionRig) -> None:
    number = rig.session.ask(lambda number: m.Attach(number, "none"))
    rig.hear(m.Rejected(b"", number, m.REFUSED_UNKNOWN_RUN, "no run 'none' here"))
    with pytest.raises(UnknownRunError, match="no run 'none' here"):
        answer_of(rig.session.answers[number])


def test_an_attached_run_is_followed_from_its_answer_on(rig: SessionRig) -> None:
    number = rig.session.ask(lambda number: m.Attach(number, "id"))
    rig.hear(
        m.Attached(number, 5, "id", "name", "waves", b"meta", pack_graph(GRAPH), position=1), facts(0, STARTED, run=5)
    )
    record = rig.session.attached[number]
    assert (record.number, record.run_id, record.mode, record.position) == (5, "id", "waves", 1)
    assert m.Cursors(((5, 1, 1),)) in rig.sleep(1.1)


# -- a coordinator that was started anew, or has lost this client ------------------------------------------------------


def refuse(rig: SessionRig) -> list[m.Message]:
    """The coordinator does not know this client; gives what is said after the new welcome."""
    rig.hear(m.Refused(0, "say Hello first", 1), m.Refused(0, "say Hello first", 1))
    assert not rig.session.is_welcome
    assert rig.turn() == [HELLO]
    rig.hear(m.Welcome(1, 1.0, "", 0))
    return rig.turn()


def test_runs_are_attached_to_again_and_go_on_where_they_were(rig: SessionRig) -> None:
    record = rig.start()
    rig.hear(facts(0, STARTED, fact(FACT_SUCCEEDED)))
    (attach,) = refuse(rig)
    assert isinstance(attach, m.Attach)
    assert attach.run_id == "run-1"
    rig.hear(m.Attached(attach.request, 1, "run-1", "name", "parallel", b"", pack_graph(GRAPH), position=2))
    rig.hear(facts(0, STARTED, fact(FACT_SUCCEEDED), ENDED))
    assert record.status == RUN_SUCCEEDED
    assert record.position == 3
    assert not rig.session.answers
    assert not rig.session.attached


def test_a_run_that_was_lost_has_an_error(rig: SessionRig) -> None:
    record = rig.start()
    (attach,) = refuse(rig)
    rig.hear(m.Rejected(b"", attach[0], m.REFUSED_UNKNOWN_RUN, "no such run"))  # type: ignore[arg-type]
    assert isinstance(record.error, CoordinatorLostError)
    assert rig.session.error is None
    assert rig.session.is_idle


def test_a_new_run_with_the_number_of_a_lost_one_is_followed(rig: SessionRig) -> None:
    lost = rig.start()
    (attach,) = refuse(rig)
    new: Any = RunRecord("name", "parallel", GRAPH, None)
    rig.session.submit(submission(b"new"), new)
    rig.hear(m.Accepted(b"new", 1, "another"))
    rig.hear(m.Rejected(b"", attach[0], m.REFUSED_UNKNOWN_RUN, "no such run"))  # type: ignore[arg-type]
    rig.hear(facts(0, STARTED, ENDED))
    assert isinstance(lost.error, CoordinatorLostError)
    assert new.status == RUN_SUCCEEDED


def test_nothing_is_said_of_a_run_by_its_number_until_the_coordinator_has_it(rig: SessionRig) -> None:
    rig.start()
    (attach,) = refuse(rig)
    assert m.Cursors(()) in rig.sleep(1.5)
    rig.hear(m.Attached(attach[0], 1, "run-1", "name", "parallel", b"", pack_graph(GRAPH)))  # type: ignore[arg-type]
    assert m.Cursors(((1, 0, 0),)) in rig.sleep(1.5)


def test_facts_of_another_run_with_the_number_are_not_taken(rig: SessionRig) -> None:
    record = rig.start(is_open=True, hears=True)
    (attach,) = refuse(rig)
    assert isinstance(attach, m.Attach)
    rig.hear(facts(0, STARTED, fact(FACT_SUCCEEDED, 7)))  # of a run whose Accepted was lost
    assert (record.position, rig.news) == (0, [])
    rig.session.extend(record, graph_of([()]), rig.now)
    rig.session.cancel(record, "enough")
    assert rig.turn() == [], "it would be said to another run"
    rig.hear(m.Attached(attach.request, 1, "run-1", "name", "parallel", b"", pack_graph(GRAPH)))
    assert {m.Extend(1, 0, pack_graph(graph_of([()]))), m.CancelRun(1, "enough")} <= set(rig.sleep(REPEAT_S * 1.6))
