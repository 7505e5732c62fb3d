"""What the command line shows: counter, events, summary, tables, exit codes."""

from __future__ import annotations

import doctest
import io
import json
from typing import Any

import pytest

from pfw import Workflow, errors, run, script, table
from pfw.cli import BUG, CANCELLED, NOT_CONNECTED, USAGE, code_of
from pfw.display import CounterLine
from pfw.events import Failed, Queued
from pfw.replay import Replay
from pfw.summary import PROCESS, VALUE_CHARS, shorten, summarise
from pfw.wfformat import Instance, Task


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("module", [table, script])
def test_doctests(module: Any) -> None:
    assert doctest.testmod(module).failed == 0


def test_the_counter_is_renewed_in_place_on_a_terminal_and_goes_at_the_end() -> None:
    stream = Terminal()
    line = CounterLine(stream, 1_200)
    line.on_states(["SUCCEEDED"] * 600 + ["FAILED", "ASSIGNED"])
    assert stream.getvalue().startswith("\r")
    assert "50%  601 of 1,200 steps (1 failed)\x1b[K" in stream.getvalue()
    line.finish()
    assert stream.getvalue().endswith("\r\x1b[K")


def test_the_counter_is_plain_lines_elsewhere() -> None:
    stream = io.StringIO()
    line = CounterLine(stream, 2)
    line.on_states(["SUCCEEDED", "WAITING"])
    line.finish()
    assert stream.getvalue().endswith(" 50%  1 of 2 steps\n")
    assert "\x1b" not in stream.getvalue()


def test_events_are_counted() -> None:
    line = CounterLine(io.StringIO(), 3)
    for kind in (Queued, Failed):
        line.on_event(kind("r", "a", 0.0))
    assert "1 of 3 steps (1 failed)" in line.line()


def test_steps_that_are_added_count_as_well() -> None:
    line = CounterLine(io.StringIO(), 1)
    for step_id in ("a", "a/b"):
        line.on_event(Failed("r", step_id, 0.0))
    assert "100%  2 of 2 steps" in line.line()


def fail() -> None:
    raise ValueError("no")


def test_a_summary_says_what_a_run_was_worth() -> None:
    workflow = Workflow("w")
    workflow.add(abs, -1)
    found = run(workflow, mode="sequential")
    summary = summarise(found, {PROCESS: 1, "io": 0}, lower_bound_s=0.5 * found.metrics.total_duration)
    assert summary.ratio == pytest.approx(2)
    assert summary.slots == {PROCESS: 1}
    assert 0 < summary.utilisation[PROCESS] <= 1
    assert json.loads(json.dumps(summary.to_dict()))["steps"] == {"SUCCEEDED": 1}
    assert str(summary).startswith(f"w: SUCCEEDED (run {found.id})\n  steps        1 succeeded\n")


def test_a_run_that_failed_has_no_ratio() -> None:
    workflow = Workflow("w")
    workflow.add(fail)
    summary = summarise(run(workflow, mode="sequential", check=False), {PROCESS: 1}, lower_bound_s=1.0)
    assert (summary.status, summary.ratio) == ("FAILED", None)
    assert "ratio" not in str(summary)


def task(id: str, runtime_s: float, avg_cpu: float, *parents: str) -> Task:
    return Task(id, id, "", runtime_s, avg_cpu, parents, 0, 0)


def test_the_bound_of_a_replay_depends_on_the_slots() -> None:
    instance = Instance("i", (task("a", 4.0, 100), task("b", 4.0, 100), task("c", 2.0, 0, "a")))
    replay = Replay(instance, time_scale=0.5, bytes_scale=0, lane=None)
    assert replay.bound_s({"cpu": 1, "io": 1}) == 4.0
    assert replay.bound_s({"cpu": 2, "io": 1}) == 3.0
    assert replay.bound_s({PROCESS: 1}) == 5.0
    assert replay.bound_s({"cpu": 2, "io": 0}) is None
    assert replay._replace(lane="cpu").bound_s({"cpu": 2, "io": 0}) == 3.0


class Odd:
    def __repr__(self) -> str:
        raise RuntimeError("odd")


def test_values_are_shortened() -> None:
    assert shorten({"a": [1, 2]}) == "{'a': [1, 2]}"
    assert len(shorten(list(range(10**6)))) < 100
    assert len(shorten([["x" * 10**6] * 100] * 100)) <= VALUE_CHARS
    assert "Odd" in shorten(Odd())
    assert "Odd" in shorten([Odd()])


def test_what_json_has_not_is_its_repr() -> None:
    assert table.plain({"a": (1, b"x")}) == {"a": [1, "b'x'"]}
    assert table.plain({(1, 2): 3}) == "{(1, 2): 3}"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.CycleError("x"), USAGE),
        (errors.UnpicklableError("x"), USAGE),
        (errors.UnknownRunError("x"), USAGE),
        (errors.VersionMismatchError("x"), NOT_CONNECTED),
        (errors.RunCancelledError("x"), CANCELLED),
        (errors.InternalError("x"), BUG),
        (RuntimeError("x"), BUG),
    ],
)
def test_each_error_has_its_exit_code(error: Exception, code: int) -> None:
    assert code_of(error) == code
