"""Events and trackers on real processes: complete in every ending, and never in the run's way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import steps, wait_until
from helpers.command import expect, flow
from pfw import ConfigError, CoordinatorLostError, Event, LocalCluster, Run, Workflow, current, run, start, step

__all__ = ["flow"]

MODES = ("sequential", "parallel", "waves")
ENDS = {"Completed", "Failed", "Cancelled", "Skipped", "TimedOut"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(cpu=2, io=4) as found:
        yield found


def ends(events: list[Event]) -> Counter[str | None]:
    """{step: number of final events}"""
    return Counter(event.step_id for event in events if event.type in ENDS)


def check_ends(found: Run, events: list[Event]) -> None:
    assert ends(events) == dict.fromkeys(found.states, 1)
    assert events[-1].type == "RunFinished"
    assert sum(event.type in ("RunStarted", "RunFinished") for event in events) == 2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("on_failure", ["stop", "continue", "abort"])
def test_every_step_has_one_end_after_a_failure(cluster: LocalCluster, mode: str, on_failure: str) -> None:
    heard: list[Event] = []
    with Workflow() as wf:
        bad = step(steps.fail)("bad")
        step(steps.add)(step(steps.double)(bad), step(steps.give).map(range(20)))
    found = run(wf, mode=mode, on=cluster, on_failure=on_failure, check=False, progress=heard.append)
    check_ends(found, heard)
    assert list(found.events()) == heard


def test_every_step_has_one_end_after_a_cancel(cluster: LocalCluster, tmp_path: Path) -> None:
    heard: list[Event] = []
    with Workflow() as wf:
        held = step(steps.hold, hint="light_io").map([str(tmp_path)] * 6, [f"s{n}" for n in range(6)])
        step(steps.total)(held)
    found = start(wf, on=cluster, progress=heard.append)
    wait_until((tmp_path / "s0").exists, what="one runs")
    found.cancel("enough")
    assert found.wait(20)
    found.join_reporters()
    check_ends(found, heard)
    assert all(str(event.message).startswith("enough: ") for event in heard if event.type == "Cancelled")


def test_every_step_has_one_end_after_the_cluster_is_lost(tmp_path: Path) -> None:
    heard: list[Event] = []
    with LocalCluster(cpu=1, io=1) as cluster:
        with Workflow() as wf:
            first = step(steps.give)(1)
            step(steps.hold)(str(tmp_path), "it", first)
        found = start(wf, on=cluster, progress=heard.append)
        wait_until((tmp_path / "it").exists, what="it runs")
        wait_until(lambda: found.states["give"] == "SUCCEEDED", what="the first end is heard of")
        os.kill(cluster.workers()[0]["pid"], signal.SIGKILL)
        with pytest.raises(CoordinatorLostError) as caught:
            found.wait(20)
        found.join_reporters()
    check_ends(found, heard)
    (cancelled,) = [event for event in heard if event.type == "Cancelled"]
    assert str(caught.value) in str(cancelled.message)
    assert (heard[-1].message, heard[-1].error) == ("LOST", cancelled.message)


def test_ends_are_never_left_out_of_a_file(cluster: LocalCluster, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with Workflow("many") as wf:
        step(steps.double).map(range(5_000))
    run(wf, on=cluster, progress=path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    completed = Counter(line["step_id"] for line in lines if line["type"] == "completed")
    assert completed == dict.fromkeys((f"double[{n}]" for n in range(5_000)), 1)
    # What is counted adds up to what there was.
    assert sum(line.get("steps", 1) for line in lines if line["type"] == "started") == 5_000
    assert (lines[0]["type"], lines[-1]["type"]) == ("runstarted", "runfinished")


@pytest.mark.parametrize("mode", MODES)
def test_a_callback_that_hangs_does_not_hold_the_run(cluster: LocalCluster, mode: str) -> None:
    go, is_in, threads = threading.Event(), threading.Event(), set()

    def hang(event: Event) -> None:
        threads.add(threading.get_ident())
        is_in.set()
        assert go.wait(30)

    with Workflow() as wf:
        step(steps.double).map(range(50))
    found = start(wf, mode=mode, on=cluster, progress=hang)
    assert found.wait(20)
    assert is_in.wait(20)
    go.set()
    found.join_reporters()
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def count_up(limit: int, folder: str) -> int:
    context = current()
    for number in range(limit):
        context.progress(number, limit, "counting")
    context.progress(limit, limit, "all counted")
    steps.hold(folder, "counted")
    return limit


async def count_up_async(limit: int, folder: str) -> int:
    for number in range(limit + 1):
        current().progress(number, limit, "all counted" if number == limit else "counting")
    await steps.hold_async(folder, "counted")
    return limit


def say_late(folder: str) -> None:
    """Leaves a thread behind that goes on saying how far this step is."""
    context = current()

    def go_on() -> None:
        while not (Path(folder) / "go").exists():
            context.progress(99, 99, "late")

    threading.Thread(target=go_on, daemon=True).start()


@pytest.mark.parametrize("kind", ["light_cpu", "light_io", "async"])
def test_a_step_says_how_far_it_is(cluster: LocalCluster, kind: str, tmp_path: Path) -> None:
    heard: list[Event] = []
    with Workflow() as wf:
        counted = step(count_up_async) if kind == "async" else step(count_up, hint=kind)
        node = counted(20_000, str(tmp_path))
    found = start(wf, on=cluster, progress=heard.append)
    wait_until(lambda: any(event.message == "all counted" for event in heard), what="the last progress is heard of")
    (tmp_path / "go").touch()
    assert found.wait(20)
    found.join_reporters()
    said = [event for event in heard if event.type == "Progressed"]
    assert {event.step_id for event in said} == {node.id}
    assert (said[-1].done, said[-1].total, said[-1].message) == (20_000, 20_000, "all counted")
    assert [event.done for event in said] == sorted(event.done or 0 for event in said)
    assert len(said) < 100, "the latest is told, not everything"
    types = [event.type for event in heard]
    assert types.index("Started") < types.index("Progressed")
    assert types[-2:] == ["Completed", "RunFinished"]
    assert list(found.events()) == heard
    assert found.metrics.steps[node.id].attempts == 1


def test_in_sequential_mode_it_is_heard_of_while_the_step_runs(tmp_path: Path) -> None:
    heard: list[Event] = []
    with Workflow() as wf:
        step(count_up)(1_000, str(tmp_path))
    found = start(wf, mode="sequential", progress=heard.append)
    wait_until(lambda: any(event.type == "Progressed" for event in heard), what="progress")
    assert not found.done()
    (tmp_path / "go").touch()
    assert found.wait(20)
    found.join_reporters()
    types = [event.type for event in heard]
    assert (types[:4], types[-2:]) == (["RunStarted", "Queued", "Started", "Progressed"], ["Completed", "RunFinished"])


def test_a_thread_of_a_step_that_has_ended_is_not_heard(tmp_path: Path) -> None:
    with LocalCluster(cpu=1, io=1) as cluster, Workflow() as wf:
        late = step(say_late)(str(tmp_path))
        step(steps.hold)(str(tmp_path), "second").after(late)
        found = start(wf, on=cluster)
        wait_until((tmp_path / "second").exists, what="the second one runs")
        wait_until(lambda: found.states["hold"] == "ASSIGNED", what="it is known to run")
        (tmp_path / "go").touch()
        assert found.wait(20)
        assert not [event for event in found.events() if event.type == "Progressed" and event.step_id == "hold"]


def test_bad_progress_starts_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pfw.cluster.shared_cluster", lambda *_: pytest.fail("a cluster was asked for"))
    with Workflow() as wf:
        step(steps.give)(1)
    with pytest.raises(ConfigError, match="progress"):
        run(wf, progress="events.txt")


def test_the_file_is_whole_when_the_process_ends_with_its_run(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("""
from pfw import Workflow, start, step
with Workflow() as wf:
    step(abs).map(range(300))
start(wf, mode="sequential", progress="events.jsonl").wait()
""")
    subprocess.run([sys.executable, str(script)], cwd=tmp_path, check=True, timeout=50)
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["type"] == "runfinished"


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["parallel", "sequential"])
def test_the_command_writes_events_to_a_file(flow: str, mode: str, tmp_path: Path) -> None:
    path = tmp_path / "events of a run"
    done = expect(0, "run", f"{flow}:tripled", "-p", "count=5", "--mode", mode, "--events", path)
    assert len([line for line in path.read_text().splitlines() if json.loads(line)["type"] == "completed"]) == 6
    assert "[WORKFLOW]" not in done.stderr


def test_a_bar_without_a_terminal_is_lines(flow: str) -> None:
    done = expect(0, "run", f"{flow}:tripled", "-p", "count=5", "--mode", "sequential", "--progress", "bar")
    assert done.stderr.count("no progress bar, there is no terminal") == 1
    assert done.stderr.count("[WORKFLOW] Completed") == 6


def test_the_config_may_say_who_is_told(flow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PFW_PROGRESS", "console")
    assert "[WORKFLOW] Completed" in expect(0, "run", f"{flow}:tripled", "-p", "count=5", "--mode", "sequential").stderr
    assert (
        expect(0, "run", f"{flow}:tripled", "-p", "count=5", "--mode", "sequential", "--progress", "none").stderr == ""
    )


def test_an_events_file_that_cannot_be_written_is_a_usage_error(flow: str, tmp_path: Path) -> None:
    done = expect(2, "run", flow, "--mode", "sequential", "--events", tmp_path / "no" / "file")
    assert "events cannot be written" in done.stderr
    assert "--detach follows nothing" in expect(2, "run", flow, "--detach", "--events", "x").stderr
