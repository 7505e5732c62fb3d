"""How a step stands, in words."""

from __future__ import annotations

from typing import Any

from helpers.samples import graph_of, spec
from pfw.errors import ClusterError
from pfw.explanation import explain, explain_run
from pfw.facts import (
    ENDED_NEVER_STARTED,
    FACT_CANCELLED,
    FACT_FAILED,
    FACT_FINISHED,
    FACT_RETRYING,
    FACT_RUN_STARTED,
    FACT_SKIPPED,
    FACT_STARTED,
    FACT_SUCCEEDED,
    RUN_FAILED,
    Fact,
    pack_end,
)
from pfw.failure import FAIL_ERROR, Failure
from pfw.graph import LANE_IO
from pfw.record import RunRecord

EPOCH_S, NOW = 1_000.0, 1_110.0
WHY = Failure(FAIL_ERROR, "ValueError", "no good").pack()
#: s2 depends on s0 and s1, s3 on s2, and s4 stands apart.
GRAPH = graph_of([(), (), (0, 1), (2,), ()], specs=[spec(lane=LANE_IO)])


def record_with(*facts: Fact) -> RunRecord:
    record = RunRecord("flow", "parallel", GRAPH, None)
    record.run_id, record.epoch_s, record.workers = "run", EPOCH_S, {1: "alpha"}
    record.apply([Fact(FACT_RUN_STARTED, 0, 100.0, 0, 0, 100.0, 100.0, 0.0, b""), *facts])
    return record


def fact(kind: int, step: int, *, attempt: int = 1, payload: bytes = b"") -> Fact:
    return Fact(kind, step, 103.0, attempt, 1, 100.0, 101.5, 1.5, payload)


def seen(state: str, **more: Any) -> dict[str, Any]:
    """What a coordinator says."""
    return {
        "state": state, "attempt": 1, "retry_s": 0.0, "worker": "alpha", "silent_s": 0.0, "obstacle": "",
        "slots": 4, "taken": 4, "waiting": 1_234, "is_in_later_wave": False, **more,
    }  # fmt: skip


def told(record: RunRecord, step: int, **stands: Any) -> str:
    return explain(record, step, lambda _, other: {**stands, "step": other} if stands else {}, NOW)


def test_how_a_step_has_ended() -> None:
    record = record_with(
        fact(FACT_SUCCEEDED, 0), fact(FACT_RETRYING, 1, payload=WHY), fact(FACT_FAILED, 1, attempt=2, payload=WHY),
        Fact(FACT_SKIPPED, 2, 103.0, 1, 0, 103.0, 103.0, 0.0, b""),
        Fact(FACT_CANCELLED, 4, 103.0, 0, 0, 100.0, 103.0, 0.0, pack_end(ENDED_NEVER_STARTED, 0, b"enough")),
    )  # fmt: skip
    assert told(record, 0) == "'s0' is SUCCEEDED at attempt 1 on worker alpha after 1.50 s."
    assert told(record, 1) == "'s1' is FAILED at attempt 2 on worker alpha after 1.50 s: ValueError: no good."
    assert told(record, 2) == "'s2' is SKIPPED: s1 failed."
    assert told(record, 4) == "'s4' is CANCELLED: enough: never started."


def test_who_waits_is_followed_to_what_holds_it_up() -> None:
    record = record_with(fact(FACT_SUCCEEDED, 0), fact(FACT_STARTED, 1))
    assert told(record, 3, **seen("ASSIGNED")).splitlines() == [
        "'s3' waits for 1 of the 1 steps it depends on: 's2'.",
        "'s2' waits for 1 of the 2 steps it depends on: 's1'.",
        "'s1' executes on worker alpha, attempt 1, since 8.5 s.",
    ]


def test_how_a_step_stands_that_could_start() -> None:
    record = record_with()
    assert told(record, 0, **seen("READY")) == (
        "'s0' could start and waits for one of the 4 io slots: 4 are taken, and 1,234 steps of this run wait for them."
    )
    assert told(record, 0, **seen("READY", obstacle="it needs more")) == "'s0' could start, but it needs more."
    assert told(record, 0, **seen("ASSIGNED", silent_s=4.21)) == (
        "'s0' is on worker alpha, attempt 1, which is suspect: silent for 4.2 s."
    )
    assert "starts with its wave" in told(record, 0, **seen("READY", is_in_later_wave=True))
    assert "begun just now or waits there" in told(record, 0, **seen("ASSIGNED"))
    assert told(record, 0, **seen("SUCCEEDED")) == "'s0' has just become SUCCEEDED."


def test_a_backoff_says_why_and_until_when() -> None:
    record = record_with(fact(FACT_RETRYING, 0, payload=WHY))
    assert told(record, 0, **seen("BACKOFF", retry_s=2.25)) == (
        "'s0' has failed at attempt 1: ValueError: no good. The next one may start in 2.2 s."
    )


def test_a_cluster_that_is_gone_cannot_be_asked() -> None:
    record = record_with()
    assert "cannot be asked" in told(record, 0)
    record.error = ClusterError("gone")
    assert "cannot be asked" in told(record, 0, **seen("READY"))


def test_a_run_that_nobody_has_taken_yet() -> None:
    record = RunRecord("flow", "parallel", GRAPH, None)
    assert told(record, 3).splitlines()[-1] == "'s0' has not started: no coordinator has taken its run yet."


def test_a_run_is_held_up_by_what_failed_and_what_could_go_on() -> None:
    record = record_with(fact(FACT_FAILED, 0, payload=WHY), fact(FACT_STARTED, 4))
    text = explain_run(record, lambda _, __: seen("ASSIGNED"), NOW)
    assert [line.split(" ")[0] for line in text.splitlines()] == ["Run", "'s0'", "'s1'", "'s4'"]
    assert text.startswith("Run run of 'flow' is RUNNING.\n")


def test_of_many_the_first_are_told() -> None:
    record = RunRecord("flow", "parallel", graph_of([()] * 30), None)
    record.run_id = "run"
    record.apply([Fact(FACT_FINISHED, 0, 1.0, RUN_FAILED, 0, 1.0, 1.0, 0.0, b"")])
    lines = explain_run(record, lambda _, __: {}, NOW).splitlines()
    assert (len(lines), lines[0], lines[-1]) == (12, "Run run of 'flow' is FAILED.", "Beside these there are 20 more.")
