"""The progress bar: what it shows, and what there is where it cannot be drawn."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable

import pytest
from rich.console import Console

from pfw import BarProgress, Event, Workflow, run, step
from pfw.events import Completed, Failed, Progressed, RunFinished, RunStarted, Skipped


def screen(*, is_terminal: bool = True) -> Console:
    return Console(file=io.StringIO(), force_terminal=is_terminal, width=100, color_system=None)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def show(bar: BarProgress, *batches: Iterable[Event]) -> None:
    bar.open()
    for events in batches:
        bar.on_events(list(events))
    bar.close()


def test_a_bar_shows_how_many_steps_have_ended_and_how() -> None:
    console = screen()
    bar = BarProgress(console)
    ends = [Completed("r", "a", 0.0), Failed("r", "b", 0.0), Skipped("r", "c", 0.0), Skipped("r", "d", 0.0)]
    show(bar, [RunStarted("r", None, 0.0, message="flow [x]", steps=5)], ends, [RunFinished("r", None, 0.0)])
    last = written(console).rpartition("flow [x]")[2]
    assert "4/5" in last
    assert "1 failed, 2 skipped" in last


def test_steps_that_are_added_count_as_well() -> None:
    console = screen()
    bar = BarProgress(console)
    ends = [Completed("r", name, 0.0) for name in ("a/b", "a")]
    show(bar, [RunStarted("r", None, 0.0, message="grows", steps=1)], ends, [RunFinished("r", None, 0.0)])
    assert "2/2" in written(console).rpartition("grows")[2]


def test_steps_that_say_how_far_they_are_have_lines_while_they_run() -> None:
    console = screen()
    bar = BarProgress(console)
    half = [Progressed("r", f"s{n}", 0.0, done=float(n), total=20.0, message="reading [x]") for n in range(12)]
    ends = [Completed("r", f"s{n}", 0.0) for n in range(12)]
    show(bar, [RunStarted("r", None, 0.0, message="flow", steps=12)], half, [RunFinished("r", None, 0.0)])
    last = written(console).rpartition("flow")[2]
    assert all(f"{n}/20" in last for n in range(8))
    assert "s8" not in last, "only some are shown"
    assert "reading [x]" in last
    console = screen()
    show(BarProgress(console), [RunStarted("r", None, 0.0, message="flow", steps=12)], half, ends)
    assert "reading" not in written(console).rpartition("flow")[2]


def test_each_run_has_its_bar_and_the_last_one_ends_the_drawing() -> None:
    console = screen()
    bar = BarProgress(console)
    bar.open()
    show(bar, [RunStarted("r1", None, 0.0, message="first", steps=1)])
    bar.on_events([RunStarted("r2", None, 0.0, message="second", steps=1), Completed("r2", "a", 0.0)])
    bar.close()
    assert "first" in written(console)
    assert "1/1" in written(console).rpartition("second")[2]
    before = written(console)
    show(bar, [RunStarted("r3", None, 0.0, message="third", steps=1)])
    assert "third" in written(console)[len(before) :]
    assert "first" not in written(console)[len(before) :]


def test_a_run_is_shown_to_its_end() -> None:
    console = screen()
    with Workflow("four") as wf:
        step(abs).map(range(4))
    run(wf, mode="sequential", progress=BarProgress(console))
    assert "4/4" in written(console).rpartition("four")[2]


def test_without_a_terminal_there_are_lines_and_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    console = screen(is_terminal=False)
    bar = BarProgress(console)
    for _ in range(2):
        show(bar, [Completed("r", "a", 0.0)])
    assert written(console) == 2 * "[WORKFLOW] Completed: a\n"
    assert [record.message for record in caplog.records] == [
        "no progress bar, there is no terminal: a line for each event instead"
    ]


def test_without_rich_there_are_lines(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    show(BarProgress(), [Completed("r", "a", 0.0)])
    assert capsys.readouterr().err.endswith("[WORKFLOW] Completed: a\n")
    assert "rich is not installed (pip install 'pfw-cluster[ui]')" in caplog.text
