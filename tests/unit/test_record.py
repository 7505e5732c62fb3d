"""What a client knows of a run."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from helpers.samples import graph_of
from pfw.columns import PackedFacts, pack_facts
from pfw.expansion import Fragment
from pfw.facts import (
    FACT_CAPACITY,
    FACT_EXPANDED,
    FACT_FAILED,
    FACT_FINISHED,
    FACT_INPUT,
    FACT_PRINTED,
    FACT_RUN_STARTED,
    FACT_SKIPPED,
    FACT_SUCCEEDED,
    FACT_TIMED_OUT,
    RUN_CANCELLED,
    RUN_FAILED,
    RUN_RUNNING,
    Fact,
)
from pfw.graphs import pack_fragment
from pfw.record import RunRecord


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
    assert (list(record.rows), record.position) == ([SUCCEEDED, FAILED], 4)
    assert (record.log.text(1), record.inputs, record.outputs, told) == ("text", {0: b"in"}, {}, [b"text"])
    record.apply([FINISHED])
    assert record.rows[2:] == [FINISHED]


STARTED = fact(FACT_RUN_STARTED, attempt=0)


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize(
    "rows",
    [
        (STARTED, fact(FACT_SUCCEEDED, 1, b"out"), SUCCEEDED, FINISHED),
        (STARTED,),
        (SUCCEEDED, PRINTED, INPUT, FAILED),
        (fact(FACT_SUCCEEDED, 1, b"out"), fact(FACT_FAILED, 0, b"why"), FINISHED),
        (fact(FACT_CAPACITY, payload=b"2 8 1"), fact(FACT_FINISHED, payload=b"enough", attempt=RUN_CANCELLED)),
    ],
)
def test_facts_mean_the_same_as_they_travel(rows: tuple[Fact, ...], is_open: bool) -> None:
    records = [RunRecord("name", "parallel", graph_of([(), ()]), None, is_open=is_open) for _ in range(2)]
    records[0].apply(rows)
    records[1].take(PackedFacts(*pack_facts(rows)))
    known = [
        (r.position, list(r.rows), r.states, r.outputs, r.failures, r.inputs, r.status, r.cancel_reason, r.is_finished)
        for r in records
    ]
    assert known[0] == known[1]


def test_who_hears_new_facts_hears_no_more_after_the_last() -> None:
    record = RunRecord("name", "parallel", graph_of([(), ()]), None)
    heard: list[Sequence[Fact]] = []
    record.on_new_facts = heard.append  # type: ignore[assignment]
    record.apply([SUCCEEDED])
    record.apply([FAILED, FINISHED])
    assert (heard, record.on_new_facts) == ([[SUCCEEDED], [FAILED, FINISHED]], None)


def test_a_fragment_is_kept_once() -> None:
    record = RunRecord("name", "parallel", graph_of([()], functions=[b"a function"]), None)
    for step in range(3):
        packed = pack_fragment(Fragment(graph_of([()], functions=[b"a function"])))
        record.apply([PRINTED, fact(FACT_EXPANDED, step, packed), SUCCEEDED])
    assert list(record.rows) == [row for step in range(3) for row in (fact(FACT_EXPANDED, step), SUCCEEDED)]
    assert record.position == 9
    assert record.graph.functions == [b"a function"] * 4
    assert len(set(map(id, record.graph.functions))) == 1


def test_who_sees_the_end_finds_everything_before_it() -> None:
    record = RunRecord("name", "parallel", graph_of([(), (0,)]), None)
    seen: list[int] = []
    record.on_printed = lambda text: seen.append(record.status)
    record.apply([PRINTED, FINISHED])
    assert (seen, record.status) == ([RUN_RUNNING], RUN_FAILED)


def expanded(step: int, inputs: Sequence[tuple[int, ...]], *taken: tuple[str, int]) -> Fact:
    """The step gives way to steps with these inputs."""
    return fact(FACT_EXPANDED, step, pack_fragment(Fragment(graph_of(inputs), (), taken)))


def test_who_is_to_blame_for_a_failure_is_one_that_was_called() -> None:
    record = RunRecord("name", "parallel", graph_of([(), (0,), (0,)]), None)
    record.apply([expanded(0, [(), (), (), (0, 2)], ("s1", 1)), fact(FACT_EXPANDED, 1)])
    assert record.tails == {0: 6, 1: 4}
    record.apply([expanded(5, [(), (0,)]), fact(FACT_FAILED, 7, b"why"), fact(FACT_SKIPPED, 8)])
    assert [record.blamed(step) for step in (0, 5, 7)] == [0, 5, 7], "the others have not failed yet"
    record.apply([fact(FACT_FAILED, 5, b"why"), fact(FACT_SKIPPED, 6), fact(FACT_FAILED, 0, b"why")])
    record.apply([fact(FACT_SKIPPED, 2), fact(FACT_TIMED_OUT, 4, b"late"), fact(FACT_TIMED_OUT, 1, b"late")])
    assert [record.blamed(step) for step in (0, 5, 7)] == [7, 7, 7]
    assert (record.blamed(1), record.blamed(4)) == (4, 4)
    assert (record.blamed(2), record.blamed(6)) == (2, 6), "what was skipped was not called"


def test_an_open_run_keeps_no_log() -> None:
    record = RunRecord("calls", "parallel", graph_of([(), ()]), None, is_open=True)
    record.apply([PRINTED, SUCCEEDED])
    assert (list(record.rows), record.log.text(1), record.position) == ([], "", 2)
