"""Lines of JSON made straight from facts, compared with those of the events that the same facts mean."""

from __future__ import annotations

import json
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from pfw.events import COUNT_ABOVE, EventReader
from pfw.facts import (
    ENDED_ITSELF,
    FACT_CANCELLED,
    FACT_CAPACITY,
    FACT_EXPANDED,
    FACT_FAILED,
    FACT_FINISHED,
    FACT_PROGRESSED,
    FACT_RETRYING,
    FACT_RUN_STARTED,
    FACT_SKIPPED,
    FACT_STARTED,
    FACT_SUCCEEDED,
    FACT_TIMED_OUT,
    FACT_WAITING,
    RUN_FAILED,
    Fact,
    pack_end,
    pack_progress,
)
from pfw.failure import FAIL_ERROR, Failure
from pfw.lines import LineReader
from pfw.trackers import to_line

#: What a step can be called, and what has to be escaped in JSON.
IDS = ["a", "load[3]", 'say "hi"', "ä\\ß\n😀", "", "\x00\x7f", "outer/inner"]
WHY = Failure(FAIL_ERROR, "ValueError", 'no "ü"\n').pack()
PAYLOADS = {
    FACT_SUCCEEDED: b"output", FACT_RETRYING: WHY, FACT_FAILED: WHY, FACT_TIMED_OUT: WHY, FACT_SKIPPED: b"branch",
    FACT_CANCELLED: pack_end(ENDED_ITSELF, 12, "genug, äh".encode()), FACT_WAITING: b"no GPU", FACT_EXPANDED: b"",
    FACT_STARTED: b"", FACT_PROGRESSED: pack_progress(1.5, 0.0, "so far"), FACT_RUN_STARTED: b"1 1 1",
    FACT_CAPACITY: b"2 1 1", FACT_FINISHED: b"",
}  # fmt: skip

moments = st.one_of(
    st.floats(0.0, 1e7), st.integers(0, 10**13).map(lambda micros: micros / 1e6), st.sampled_from([0.0, 1.0, 1.0000005])
)


@st.composite
def facts(draw: st.DrawFn) -> Fact:
    kind = draw(st.one_of(st.just(FACT_SUCCEEDED), st.sampled_from(sorted(PAYLOADS))))
    attempt = RUN_FAILED if kind == FACT_FINISHED else draw(st.integers(int(kind == FACT_SUCCEEDED), 3))
    return Fact(
        kind, draw(st.integers(0, len(IDS) - 1)), draw(moments), attempt, draw(st.integers(0, 3)), draw(moments),
        draw(moments), draw(moments), PAYLOADS[kind],
    )  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    history=st.lists(facts(), min_size=1, max_size=12),
    epoch_s=st.one_of(st.floats(1.6e9, 2.0e9), st.just(0.0)),
    lengths=st.lists(st.integers(0, 2 * COUNT_ABOVE), max_size=5),
    may_count=st.booleans(),
    is_long=st.booleans(),
)
def test_the_lines_are_those_of_the_events(
    history: list[Fact], epoch_s: float, lengths: list[int], may_count: bool, is_long: bool
) -> None:
    if is_long:  # as much as is told in numbers, in an order of its own
        history = random.Random(len(history)).choices(history, k=2 * COUNT_ABOVE)
    workers: dict[int, str] = {1: "worker-1"}
    told = 'run "1"', IDS, workers, "flöw"
    events, lines = EventReader(*told), LineReader(*told)
    for length in [*lengths, len(history)]:
        rows, history = history[:length], history[length:]
        expected = list(map(to_line, events.read(rows, epoch_s, may_count=may_count)))
        found = lines.read(rows, epoch_s, may_count=may_count)
        assert "".join(found) == "".join(expected)
        assert all(json.loads(line) for line in "".join(found).splitlines())
        workers[2] = 'second "worker"'
    lost = [0] * len(IDS), ConnectionError("gone"), 7.0
    assert lines.conclude(*lost) == list(map(to_line, events.conclude(*lost)))
