"""Trackers: what they write, and what can be given as `progress`."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pfw import (
    BarProgress,
    CallbackProgress,
    ConfigError,
    ConsoleProgress,
    Event,
    FileProgress,
    Retry,
    Tracker,
    Workflow,
    current,
    run,
    step,
)
from pfw.events import Completed, Failed, Progressed, Queued, RunFinished, RunStarted, Started
from pfw.trackers import describe, to_line, trackers_of

EVENTS: list[Event] = [
    RunStarted("r1", None, 1.5, message="flow", steps=2),
    Queued("r1", "a", 1.5),
    Started("r1", "a", 2.0, 1, "w"),
    Failed("r1", "a", 2.5, 1, "w", 0.5, error='ValueError: "ü"\n'),
    RunFinished("r1", None, 3.0, duration=1.5, message="FAILED", steps=2),
]


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (Completed("r", "a", 0.0), "Completed: a"),
        (Completed("r", "", 0.0), "Completed: "),
        (Failed("r", "a", 0.0, error="ValueError: x"), "Failed: a - ValueError: x"),
        (RunFinished("r", None, 0.0, message="SUCCEEDED", steps=5), "RunFinished: r - SUCCEEDED"),
        (Started("r", None, 0.0, steps=1_200), "Started: 1,200 steps"),
        (Progressed("r", "a", 0.0, done=1500.0, total=2000.5), "Progressed: a - 1,500 of 2,000.5"),
        (Progressed("r", "a", 0.0, done=0.5, message="reading"), "Progressed: a - 0.5, reading"),
    ],
)
def test_an_event_in_words(event: Event, text: str) -> None:
    assert describe(event) == text


def test_the_console_has_a_line_for_each_event_but_those_that_were_queued() -> None:
    stream = io.StringIO()
    ConsoleProgress(stream).on_events(EVENTS)
    assert stream.getvalue().splitlines()[:2] == ["[WORKFLOW] RunStarted: r1 - flow", "[WORKFLOW] Started: a"]
    assert "Queued" not in stream.getvalue()


def test_the_console_is_stderr_as_it_is_now(capsys: pytest.CaptureFixture[str]) -> None:
    ConsoleProgress().on_events(EVENTS[-1:])
    assert capsys.readouterr().err == "[WORKFLOW] RunFinished: r1 - FAILED\n"


def test_a_line_of_json_has_the_keys_that_others_read() -> None:
    lines = [json.loads(to_line(event)) for event in EVENTS]
    assert all({"type", "step_id", "timestamp", "message"} <= set(line) for line in lines)
    assert [line["type"] for line in lines] == ["runstarted", "queued", "started", "failed", "runfinished"]
    assert lines[3] == {
        "type": "failed", "step_id": "a", "timestamp": 2.5, "run_id": "r1", "message": 'Failed: a - ValueError: "ü"\n',
        "error": 'ValueError: "ü"\n', "attempt": 1, "worker": "w", "duration": 0.5,
    }  # fmt: skip
    assert (lines[0]["step_id"], lines[0]["steps"]) == ("", 2)
    progressed = json.loads(to_line(Progressed("r1", "a", 2.0, 1, "w", done=3.0)))
    assert (progressed["done"], progressed["total"]) == (3.0, None)
    assert all(to_line(event).count("\n") == 1 for event in EVENTS)


def test_a_file_is_begun_anew_and_then_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("old\n")
    tracker = FileProgress(path)
    for _ in range(2):
        tracker.open()
        tracker.on_events(EVENTS[:1])
        assert path.read_text().endswith("}\n")
        tracker.close()
    assert path.read_text().count("runstarted") == 2
    assert "old" not in path.read_text()
    appending = FileProgress(path, append=True)
    appending.open()
    appending.on_events(EVENTS)
    appending.close()
    assert len(path.read_text().splitlines()) == 7


def test_a_file_stays_open_until_its_last_run_has_ended(tmp_path: Path) -> None:
    tracker = FileProgress(tmp_path / "e.jsonl")
    tracker.open()
    tracker.open()
    tracker.close()
    tracker.on_events(EVENTS)
    tracker.close()
    assert len((tmp_path / "e.jsonl").read_text().splitlines()) == len(EVENTS)


def test_a_file_that_cannot_be_written_is_said_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no/e\.jsonl': No such file"):
        run(small(), mode="sequential", progress=tmp_path / "no" / "e.jsonl")


def test_what_can_be_given(tmp_path: Path) -> None:
    def listen(event: Event) -> None:
        pass

    path, tracker = tmp_path / "e.jsonl", ConsoleProgress()
    kinds = [type(found) for found in trackers_of("progress", ["console", "bar", str(path), path, listen, tracker])]
    assert kinds == [ConsoleProgress, BarProgress, FileProgress, FileProgress, CallbackProgress, ConsoleProgress]
    assert trackers_of("progress", tracker) == (tracker,)
    assert trackers_of("progress", None) == trackers_of("progress", []) == ()


@pytest.mark.parametrize("given", [7, "bars", "events.json", "", [None], ["console", 3], b"bar", ConsoleProgress, True])
def test_what_cannot_be_given_is_refused_at_once(given: Any) -> None:
    with pytest.raises(ConfigError, match="progress"):
        run(small(), mode="sequential", progress=given)


def test_a_callback_is_a_function() -> None:
    with pytest.raises(ConfigError, match="takes a function"):
        CallbackProgress(7)  # type: ignore[arg-type]


# -- in a run ----------------------------------------------------------------------------------------------------------


def small() -> Workflow:
    wf = Workflow("small")
    wf.add(step(abs), -1)
    return wf


def varied() -> Workflow:
    """Steps of which one says how far it is, one fails in spite of a retry, and one cannot run."""

    @step
    def say() -> None:
        current().progress(1, 2, "half")

    @step(retry=Retry(1, backoff=0.0))
    def fail() -> None:
        raise ValueError('"no"')

    wf = Workflow("varied")
    wf.add(say)
    wf.add(step(abs), wf.add(fail))
    return wf


TYPES = ["RunStarted", "Queued", "Started", "Completed", "RunFinished"]


def test_all_trackers_hear_all_events(tmp_path: Path) -> None:
    heard: list[str] = []

    class Own(Tracker):
        batches = 0
        is_closed = False

        def on_events(self, events: Sequence[Event]) -> None:
            self.batches += len(events)

        def close(self) -> None:
            self.is_closed = True

    own = Own()
    path = tmp_path / "e.jsonl"
    run(small(), mode="sequential", progress=[lambda event: heard.append(event.type), own, path])
    assert heard == TYPES
    assert (own.batches, own.is_closed) == (5, True)
    assert [json.loads(line)["type"] for line in path.read_text().splitlines()] == [kind.lower() for kind in TYPES]


def test_a_file_has_the_line_of_each_event(tmp_path: Path) -> None:
    found = run(varied(), mode="sequential", progress=tmp_path / "e.jsonl", on_failure="continue", check=False)
    assert (tmp_path / "e.jsonl").read_text() == "".join(map(to_line, found.events()))
    assert {event.type for event in found.events()} >= {"Retrying", "Failed", "Skipped", "Completed", "Progressed"}


def test_a_file_of_a_kind_of_its_own_is_told_of_events(tmp_path: Path) -> None:
    class Ends(FileProgress):
        def on_events(self, events: Sequence[Event]) -> None:
            super().on_events([event for event in events if event.type == "Completed"])

    found = run(small(), mode="sequential", progress=Ends(tmp_path / "e.jsonl"))
    assert (tmp_path / "e.jsonl").read_text() == "".join([to_line(e) for e in found.events() if e.type == "Completed"])


def test_whoever_waits_for_the_end_does_not_wait_for_the_next_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pfw.runs.WATCH_S", 3600.0)
    heard: list[str] = []
    run(small(), mode="sequential", progress=lambda event: heard.append(event.type))
    assert heard == TYPES


def test_one_that_raises_is_logged_once_and_dropped(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[str] = []
    heard: list[str] = []

    def raise_always(event: Event) -> None:
        calls.append(event.type)
        raise RuntimeError("not today")

    found = run(small(), mode="sequential", progress=[raise_always, lambda event: heard.append(event.type)])
    assert (found.value, calls, heard) == (1, ["RunStarted"], TYPES)
    assert [record.message for record in caplog.records] == ["CallbackProgress raised and is told no more"]


def test_a_full_disk_is_logged_once_and_the_run_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[str] = []
    full = FileProgress("/dev/full")
    found = run(small(), mode="sequential", progress=[full, lambda event: heard.append(event.type)])
    assert (found.value, heard) == (1, TYPES)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "No space left on device: '/dev/full'" in record.message
    assert record.exc_info is None
