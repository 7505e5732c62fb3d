"""The client's session: runs that grow."""

from __future__ import annotations

import pytest

from helpers.samples import graph_of
from helpers.session_rig import ENDED, STARTED, SessionRig, fact, facts, submission
from pfw import messages as m
from pfw.facts import (
    FACT_STARTED,
    FACT_SUCCEEDED,
    WAITING,
)
from pfw.graphs import pack_graph
from pfw.record import RunRecord
from pfw.session import REPEAT_S


@pytest.fixture
def rig() -> SessionRig:
    return SessionRig().join()


def test_fragments_are_repeated_until_their_steps_are_counted(rig: SessionRig) -> None:
    record = rig.start(is_open=True)
    one, two = graph_of([(), ()]), graph_of([(0,)])
    assert rig.session.extend(record, one, rig.now) == 0
    assert rig.session.extend(record, two, rig.now) == 2
    extends = [m.Extend(1, 0, pack_graph(one)), m.Extend(1, 2, pack_graph(two))]
    assert rig.turn() == extends
    assert list(record.states) == [WAITING] * 3
    rig.hear(facts(0, STARTED, steps=2))
    said = rig.sleep(REPEAT_S * 1.6)
    assert extends[0] not in said
    assert said.count(extends[1]) == 1
    rig.hear(facts(1, steps=3))
    assert extends[1] not in rig.sleep(REPEAT_S * 2)


def test_steps_like_an_earlier_one_are_told_and_repeated_as_fragments_are(rig: SessionRig) -> None:
    record = RunRecord("name", "parallel", graph_of([]), None, is_open=True)
    rig.session.submit(submission(), record)
    columns = ("b", "c"), (b"call b", b"call c"), ((0,), ())
    assert rig.session.extend(record, graph_of([()]), rig.now) == 0
    assert rig.session.extend_like(record, 0, *columns, rig.now) == 1
    assert rig.session.extend_like(record, 0, ("d",), (b"call d",), ((),), rig.now) == 3
    assert rig.turn() == [submission()]
    rig.hear(m.Accepted(b"key", 4, "id"))
    likes = [m.ExtendLike(4, 1, 0, *columns), m.ExtendLike(4, 3, 0, ("d",), (b"call d",), ((),))]
    assert rig.turn() == [m.Extend(4, 0, pack_graph(graph_of([()]))), *likes]
    rig.hear(facts(0, STARTED, run=4, steps=3))
    said = rig.sleep(REPEAT_S * 1.6)
    assert [message for message in said if isinstance(message, m.Extend | m.ExtendLike)] == [likes[1]]
    rig.hear(facts(1, run=4, steps=4))
    assert likes[1] not in rig.sleep(REPEAT_S * 2)


def test_fragments_wait_for_the_run_to_be_accepted(rig: SessionRig) -> None:
    record = RunRecord("name", "parallel", graph_of([]), None, is_open=True)
    rig.session.submit(submission(), record)
    rig.session.extend(record, graph_of([()]), rig.now)
    assert rig.turn() == [submission()]
    rig.hear(m.Accepted(b"key", 4, "id"))
    assert rig.turn() == [m.Extend(4, 0, pack_graph(graph_of([()])))]


def test_nothing_is_released_while_a_fragment_may_refer_to_it(rig: SessionRig) -> None:
    record = rig.start(is_open=True)
    rig.session.extend(record, graph_of([()]), rig.now)
    rig.hear(facts(0, STARTED, fact(FACT_SUCCEEDED), steps=1))
    rig.turn(101.0)
    rig.session.extend(record, graph_of([(0,)]), rig.now)
    rig.hear(facts(2, fact(FACT_STARTED, 0), steps=1))
    assert rig.turn(102.0)[-1:] == [m.Cursors(((1, 3, 2),))]
    rig.hear(facts(3, steps=2))
    assert m.Cursors(((1, 3, 3),)) in rig.turn(103.0)
    assert not record.rows, "an open run keeps no history"


def test_a_close_is_repeated_until_the_run_has_ended(rig: SessionRig) -> None:
    record = rig.start(is_open=True)
    rig.session.close_run(record)
    assert rig.turn() == [m.CloseRun(1)]
    assert m.CloseRun(1) in rig.sleep(REPEAT_S * 1.6)
    rig.hear(facts(0, STARTED, ENDED, steps=0))
    assert m.CloseRun(1) not in rig.sleep(REPEAT_S * 2)


def test_a_run_is_not_closed_before_its_fragments_are_there(rig: SessionRig) -> None:
    record = rig.start(is_open=True)
    rig.session.extend(record, graph_of([()]), rig.now)
    rig.session.close_run(record)
    assert m.CloseRun(1) not in rig.sleep(REPEAT_S * 1.6), "the fragment may be lost, the close not"
    rig.hear(facts(0, STARTED, steps=1))
    assert m.CloseRun(1) in rig.sleep(REPEAT_S * 1.6)
