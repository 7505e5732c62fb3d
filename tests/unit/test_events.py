"""Events, made from facts."""

from __future__ import annotations

import pickle

import pytest

from pfw import Event
from pfw.errors import CoordinatorLostError
from pfw.events import (
    COUNT_ABOVE,
    Cancelled,
    Completed,
    EventReader,
    Failed,
    Progressed,
    Queued,
    Retrying,
    RunFinished,
    RunStarted,
    Skipped,
    Started,
)
from pfw.facts import (
    ASSIGNED,
    ENDED_KILLED,
    ENDED_NEVER_STARTED,
    FACT_CANCELLED,
    FACT_CAPACITY,
    FACT_FAILED,
    FACT_FINISHED,
    FACT_PROGRESSED,
    FACT_RETRYING,
    FACT_RUN_STARTED,
    FACT_SKIPPED,
    FACT_STARTED,
    FACT_SUCCEEDED,
    FAILED,
    RUN_FAILED,
    SKIPPED,
    SUCCEEDED,
    WAITING,
    Fact,
    pack_end,
    pack_progress,
)
from pfw.failure import FAIL_ERROR, Failure

EPOCH_S = 100.0
WHY = Failure(FAIL_ERROR, "ValueError", "why").pack()
BEGAN = Fact(FACT_RUN_STARTED, 0, 1.0, 0, 0, 1.0, 1.0, 0.0, b"1 1 1")
ENDED = Fact(FACT_FINISHED, 0, 9.0, RUN_FAILED, 0, 9.0, 9.0, 0.0, b"")


@pytest.fixture
def reader() -> EventReader:
    """Of a run of three steps, a, b and c, on one worker."""
    return EventReader("run", ["a", "b", "c"], {1: "worker"}, "flow")


def test_one_fact_of_a_short_step_is_three_events(reader: EventReader) -> None:
    rows = [BEGAN, Fact(FACT_SUCCEEDED, 0, 3.0, 1, 1, 1.0, 2.0, 0.5, b"out")]
    assert reader.read(rows, EPOCH_S) == [
        RunStarted("run", None, 101.0, message="flow", steps=3),
        Queued("run", "a", 101.0),
        Started("run", "a", 102.0, 1, "worker"),
        Completed("run", "a", 103.0, 1, "worker", 0.5),
    ]


def test_what_was_told_is_not_told_again(reader: EventReader) -> None:
    started = Fact(FACT_STARTED, 0, 2.5, 1, 1, 1.0, 2.0, 0.0, b"")
    assert [event.type for event in reader.read([BEGAN, started], EPOCH_S)] == ["RunStarted", "Queued", "Started"]
    assert reader.read([started], EPOCH_S) == []
    found = reader.read([Fact(FACT_SUCCEEDED, 0, 3.0, 1, 1, 1.0, 2.0, 0.5, b"")], EPOCH_S)
    assert found == [Completed("run", "a", 103.0, 1, "worker", 0.5)]


def test_each_attempt_is_started_and_the_step_is_queued_once(reader: EventReader) -> None:
    rows = [
        Fact(FACT_RETRYING, 0, 2.0, 1, 1, 1.0, 1.0, 0.5, WHY),
        Fact(FACT_STARTED, 0, 4.5, 2, 1, 3.0, 4.0, 0.0, b""),
        Fact(FACT_FAILED, 0, 5.0, 2, 1, 3.0, 4.0, 1.0, WHY),
    ]
    assert reader.read(rows, EPOCH_S) == [
        Queued("run", "a", 101.0),
        Started("run", "a", 101.0, 1, "worker"),
        Retrying("run", "a", 102.0, 1, "worker", 0.5, error="ValueError: why"),
        Started("run", "a", 104.0, 2, "worker"),
        Failed("run", "a", 105.0, 2, "worker", 1.0, error="ValueError: why"),
    ]


def test_steps_that_never_began_have_only_their_end(reader: EventReader) -> None:
    rows = [
        Fact(FACT_SKIPPED, 1, 5.0, 0, 0, 5.0, 5.0, 0.0, b""),
        Fact(FACT_CAPACITY, 0, 5.0, 0, 0, 5.0, 5.0, 0.0, b"2 2 2"),
        Fact(FACT_CANCELLED, 2, 6.0, 0, 0, 1.0, 6.0, 0.0, pack_end(ENDED_NEVER_STARTED, 0, b"")),
        ENDED,
    ]
    assert reader.read(rows, EPOCH_S) == [
        Skipped("run", "b", 105.0, message="a failed"),
        Cancelled("run", "c", 106.0, message="the run stopped after a failure: never started"),
        RunFinished("run", None, 109.0, duration=9.0, message="FAILED", steps=3),
    ]


def test_a_cancelled_step_that_ran_was_started(reader: EventReader) -> None:
    rows = [Fact(FACT_CANCELLED, 0, 6.0, 1, 1, 1.0, 2.0, 4.0, pack_end(ENDED_KILLED, 50, b"enough"))]
    assert reader.read(rows, EPOCH_S) == [
        Queued("run", "a", 101.0),
        Started("run", "a", 102.0, 1, "worker"),
        Cancelled("run", "a", 106.0, 1, "worker", 4.0, message="enough: killed after 50 ms"),
    ]


def test_a_step_cancelled_in_its_backoff_is_not_started_again(reader: EventReader) -> None:
    rows = [
        Fact(FACT_RETRYING, 0, 2.0, 1, 1, 1.0, 1.0, 0.5, WHY),
        Fact(FACT_CANCELLED, 0, 6.0, 1, 0, 1.0, 6.0, 0.0, pack_end(ENDED_NEVER_STARTED, 0, b"enough")),
    ]
    assert [event.type for event in reader.read(rows, EPOCH_S)] == ["Queued", "Started", "Retrying", "Cancelled"]


def many(count: int) -> tuple[EventReader, list[Fact]]:
    reader = EventReader("run", [f"s{step}" for step in range(count)], {1: "worker"}, "flow")
    return reader, [BEGAN, *[Fact(FACT_SUCCEEDED, step, 3.0, 1, 1, 1.0, 2.0, 0.5, b"") for step in range(count)], ENDED]


def test_an_onlooker_who_is_far_behind_is_told_numbers() -> None:
    reader, rows = many(COUNT_ABOVE)
    events = reader.read(rows, EPOCH_S, may_count=True)
    assert [(event.type, event.step_id, event.steps) for event in events[:3]] == [
        ("RunStarted", None, COUNT_ABOVE), ("Queued", None, COUNT_ABOVE), ("Started", None, COUNT_ABOVE),
    ]  # fmt: skip
    assert [event.step_id for event in events[3:-1] if event.type == "Completed"] == [
        f"s{step}" for step in range(COUNT_ABOVE)
    ]
    assert events[-1].type == "RunFinished"


def test_nothing_is_counted_of_few_rows_or_for_others() -> None:
    reader, rows = many(COUNT_ABOVE - 2)
    assert len(reader.read(rows, EPOCH_S, may_count=True)) == 3 * (COUNT_ABOVE - 2) + 2
    reader, rows = many(COUNT_ABOVE)
    assert len(reader.read(rows, EPOCH_S)) == 3 * COUNT_ABOVE + 2


def test_every_step_has_an_end_although_nothing_more_is_heard(reader: EventReader) -> None:
    lost = CoordinatorLostError("it is gone")
    text = "CoordinatorLostError: it is gone"
    assert reader.conclude([SUCCEEDED, ASSIGNED, WAITING], lost, 9.0) == [
        Cancelled("run", "b", 9.0, message=text),
        Cancelled("run", "c", 9.0, message=text),
        RunFinished("run", None, 9.0, error=text, message="LOST", steps=3),
    ]
    assert len(reader.conclude([SUCCEEDED, FAILED, SKIPPED], lost, 9.0)) == 1


def test_events_are_values() -> None:
    event = Failed("run", "a", 1.0, error="E: why")
    assert (event.type, Failed.type, Event.type) == ("Failed", "Failed", "Event")
    assert event == Failed("run", "a", 1.0, error="E: why")
    assert event != Cancelled("run", "a", 1.0, error="E: why")
    assert hash(event) == hash(Failed("run", "a", 1.0, error="E: why"))
    assert pickle.loads(pickle.dumps(event)) == event
    with pytest.raises(AttributeError):
        event.error = "another"  # type: ignore[misc]


def test_progress_comes_after_the_start_even_where_that_was_not_told(reader: EventReader) -> None:
    rows = [
        Fact(FACT_PROGRESSED, 0, 2.0, 1, 1, 1.0, 1.5, 0.0, pack_progress(3.0, 0.0, "")),
        Fact(FACT_PROGRESSED, 0, 3.0, 1, 1, 1.0, 1.5, 0.0, pack_progress(4.5, 9.0, "half of it")),
        Fact(FACT_SUCCEEDED, 0, 4.0, 1, 1, 1.0, 1.5, 2.0, b""),
    ]
    assert reader.read(rows, EPOCH_S) == [
        Queued("run", "a", 101.0),
        Started("run", "a", 101.5, 1, "worker"),
        Progressed("run", "a", 102.0, 1, "worker", done=3.0),
        Progressed("run", "a", 103.0, 1, "worker", message="half of it", done=4.5, total=9.0),
        Completed("run", "a", 104.0, 1, "worker", 2.0),
    ]
