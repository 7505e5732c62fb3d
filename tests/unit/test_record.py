"""What a client knows of a run."""

from __future__ import annotations

from helpers.samples import graph_of
from pfw.expansion import Fragment
from pfw.facts import (
    FACT_EXPANDED,
    FACT_FAILED,
    FACT_FINISHED,
    FACT_INPUT,
    FACT_PRINTED,
    FACT_SUCCEEDED,
    RUN_FAILED,
    RUN_RUNNING,
    Fact,
)
from pfw.record import RunRecord
from pfw.wire import pack_fragment


def fact(kind: int, step: int = 0, payload: bytes = b"", attempt: int = 1) -> Fact:
    return Fact(kind, step, 1.0, attempt, 1, 1.0, 1.0, 0.5, payload)


PRINTED, INPUT = fact(FACT_PRINTED, 1, b"text"), fact(FACT_INPUT, 0, b"in")
SUCCEEDED, FAILED = fact(FACT_SUCCEEDED), fact(FACT_FAILED, 1, b"why")
FINISHED = fact(FACT_FINISHED, attempt=RUN_FAILED)


def test_what_is_beside_the_history_is_kept_apart() -> None:
    record = RunRecord("name", "parallel", graph_of([(), (0,)]), None)
    told: list[bytes] = []
    record.on_printed = told.append
    record.apply([SUCCEEDED, PRINTED, INPUT, FAILED])
    assert (record.rows, record.position) == ([SUCCEEDED, FAILED], 4)
    assert (record.log.text(1), record.inputs, record.outputs, told) == ("text", {0: b"in"}, {}, [b"text"])
    record.apply([FINISHED])
    assert record.rows[2:] == [FINISHED]


def test_a_fragment_is_kept_once() -> None:
    record = RunRecord("name", "parallel", graph_of([()], functions=[b"a function"]), None)
    for step in range(3):
        packed = pack_fragment(Fragment(graph_of([()], functions=[b"a function"])))
        record.apply([PRINTED, fact(FACT_EXPANDED, step, packed), SUCCEEDED])
    assert record.rows == [row for step in range(3) for row in (fact(FACT_EXPANDED, step), SUCCEEDED)]
    assert record.position == 9
    assert record.graph.functions == [b"a function"] * 4
    assert len(set(map(id, record.graph.functions))) == 1


def test_who_sees_the_end_finds_everything_before_it() -> None:
    record = RunRecord("name", "parallel", graph_of([(), (0,)]), None)
    seen: list[int] = []
    record.on_printed = lambda text: seen.append(record.status)
    record.apply([PRINTED, FINISHED])
    assert (seen, record.status) == ([RUN_RUNNING], RUN_FAILED)


def test_an_open_run_keeps_no_log() -> None:
    record = RunRecord("calls", "parallel", graph_of([(), ()]), None, is_open=True)
    record.apply([PRINTED, SUCCEEDED])
    assert (record.rows, record.log.text(1), record.position) == ([], "", 2)
