"""What a receipt says of each step."""

from __future__ import annotations

import json
import pickle

from helpers.lives import assign, fail, start, succeed
from helpers.samples import graph_of, spec
from pfw.errors import RunCancelledError
from pfw.events import EventReader
from pfw.facts import ENDED_INTERRUPTED, ENDED_ITSELF, ENDED_KILLED, FACT_CANCELLED
from pfw.lifecycle import RunLife
from pfw.receipt import CancelReceipt, StepEnd, read_receipt
from pfw.record import RunRecord


def record_of(life: RunLife) -> RunRecord:
    record = RunRecord("name", "parallel", life.graph, None)
    record.run_id = "run-1"
    record.apply(list(life.facts))
    return record


def cancelled() -> RunLife:
    """Eight steps that end in as many ways."""
    life = start(graph_of([(), (), (), (), (), (), (0,), (1,)]), on_failure="continue")
    assign(life)
    fail(life, 0)
    life.cancel("enough", 10.0)
    return life


def test_it_says_how_each_step_ended_and_after_how_long() -> None:
    life = cancelled()
    life.on_stopped(1, 1, ENDED_ITSELF, 10.002)
    life.on_stopped(2, 1, ENDED_INTERRUPTED, 11.0)
    life.on_stopped(3, 1, ENDED_KILLED, 12.0)
    succeed(life, 4, 10.5)
    life.on_lost(5, 1, b"", 10.25)
    receipt = read_receipt(record_of(life))
    ids = life.graph.ids
    assert receipt == CancelReceipt(
        "run-1",
        "enough",
        True,
        {
            ids[0]: StepEnd("already done", None),
            ids[1]: StepEnd("stopped itself", 2),
            ids[2]: StepEnd("interrupted", 1000),
            ids[3]: StepEnd("killed", 2000),
            ids[4]: StepEnd("finished anyway", 500),
            ids[5]: StepEnd("lost with its worker", 250),
            ids[6]: StepEnd("already done", None),
            ids[7]: StepEnd("never started", 0),
        },
    )
    assert receipt.after_ms == 2000
    assert receipt.counts()["already done"] == 2
    assert str(receipt).startswith("2 already done, 1 stopped itself")
    assert str(receipt).endswith("; all after 2,000 ms")
    assert json.loads(json.dumps(receipt.to_dict()))["steps"][ids[3]] == {"how": "killed", "after_ms": 2000}


def test_a_step_that_waits_for_its_next_attempt_is_not_started_again() -> None:
    life = start(graph_of([(), ()], specs=[spec(retries=1, backoff=9.0), spec(retries=1)]))
    assign(life)
    fail(life, 0, is_retryable=True)
    life.cancel("enough", 2.0)
    life.on_not_started(1, 1, 2.5)
    ends = read_receipt(record_of(life)).steps
    assert [ends[name] for name in life.graph.ids] == [StepEnd("not started again", 0), StepEnd("never started", 500)]


def test_before_the_end_it_says_what_has_not_ended() -> None:
    life = cancelled()
    receipt = read_receipt(record_of(life))
    assert not receipt.is_complete
    assert receipt.counts() == {"not ended": 5, "already done": 2, "never started": 1}
    assert "not ended yet" in str(receipt)


def test_of_a_run_that_had_ended_everything_was_done() -> None:
    life = start(graph_of([()]))
    assign(life)
    succeed(life, 0)
    receipt = read_receipt(record_of(life))
    assert (receipt.reason, receipt.is_complete, receipt.after_ms) == ("", True, 0)
    assert receipt.counts() == {"already done": 1}


def test_events_say_it_too() -> None:
    life = cancelled()
    life.on_stopped(1, 1, ENDED_ITSELF, 10.002)
    reader = EventReader("run-1", life.graph.ids, {1: "worker"})
    rows = [fact for fact in life.facts if fact.kind == FACT_CANCELLED]
    messages = [event.message for event in reader.read(rows, 0.0) if event.type == "Cancelled"]
    assert messages == ["enough: never started", "enough: stopped itself after 2 ms"]


def test_the_error_brings_it_through_a_pickle() -> None:
    receipt = read_receipt(record_of(cancelled()))
    error = pickle.loads(pickle.dumps(RunCancelledError("text", reason="enough", receipt=receipt, run=object)))
    assert (error.receipt, error.reason, error.run) == (receipt, "enough", None)
