"""What steps print and log reaches their client, bounded, and nobody is harmed by much of it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import ROOT, steps, wait_until
from helpers.command import expect, flow, result
from helpers.daemons import Daemons, daemons
from pfw import Client, LocalCluster, Retry, StepCrashedError, Workflow, current, run, start, step
from pfw.printed import LOG_BYTES, LOG_PIECE_BYTES

__all__ = ["daemons", "flow"]

MODES = ("sequential", "parallel", "waves")
MB = 1_000_000


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(cpu=2, io=4) as found:
        found.echo.write = lambda text: None
        yield found


def alone(fn: Any, *args: Any) -> Workflow:
    wf = Workflow()
    wf.add(fn, *args)
    return wf


def shout(n: int) -> int:
    print("out", n, "é")
    print("err", n, file=sys.stderr)
    current().logger.info("logged %d", n)
    current().logger.debug("not logged")
    print("no newline", end="")
    return n


async def shout_async(n: int) -> int:
    print("before", n)
    await asyncio.sleep(0.01)
    print("after", n, file=sys.stderr)
    current().logger.warning("logged")
    return n


def twice() -> None:
    print("attempt", current().attempt)
    if current().attempt == 1:
        raise ValueError("once more")


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_notes_the_same(cluster: LocalCluster, mode: str) -> None:
    with Workflow() as wf:
        step(shout).map(range(40))
        step(shout, hint="light_io").options(id="io")(7)
        step(shout_async).map(range(40))
        step(twice, retry=Retry(retries=1, backoff=0.001))()
        step(steps.double)(1)
    found = run(wf, on=None if mode == "sequential" else cluster, mode=mode)
    for n in range(40):
        log = f"out {n} é\nerr {n}\nINFO pfw.step.shout[{n}]: logged {n}\nno newline"
        assert found.logs(f"shout[{n}]") == log
        assert found.logs(f"shout_async[{n}]") == f"before {n}\nafter {n}\nWARNING pfw.step.shout_async[{n}]: logged\n"
    assert found.logs("io").startswith("out 7 é\n")
    assert found.logs(wf["twice"]) == "attempt 1\nattempt 2\n"
    assert (found.logs("twice", 1), found.logs("twice", attempt=2)) == ("attempt 1\n", "attempt 2\n")
    assert found.logs("double") == ""
    assert not {event.type for event in found.events()} - {
        "RunStarted", "Queued", "Started", "Retrying", "Completed", "RunFinished",
    }  # fmt: skip


def print_from_below() -> None:
    print("python")
    subprocess.run(["echo", "child"], check=True)
    ctypes.CDLL(None).dprintf(1, b"native\n")
    if os.fork() == 0:
        print("fork", flush=True)
        os._exit(0)
    os.wait()
    os.write(2, b"raw\xff\xfe\x00\n")
    sys.stdout.buffer.write("€".encode()[:2])
    sys.stdout.buffer.write("€".encode()[2:])
    sys.stdout.write("\udc80")


FROM_BELOW = "python\nchild\nnative\nfork\nraw\ufffd\ufffd\x00\n€\\udc80"


def test_whatever_writes_to_the_descriptors_is_noted(cluster: LocalCluster) -> None:
    found = run(alone(print_from_below), on=cluster)
    assert found.logs("print_from_below") == "python\nchild\nnative\nfork\nraw\ufffd\ufffd\x00\n€\\udc80"


def close_streams() -> None:
    sys.stdout.close()
    sys.stderr = None  # type: ignore[assignment]


def replace_stdout() -> None:
    sys.stdout = io.StringIO()


def close_descriptors() -> None:
    os.close(1)
    os.close(2)


def redirect_descriptors() -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)


@pytest.mark.parametrize("fn", [close_streams, replace_stdout, close_descriptors, redirect_descriptors])
def test_what_a_step_does_to_its_streams_is_undone_for_the_next(fn: Any) -> None:
    with LocalCluster(cpu=1, io=1) as cluster:
        cluster.echo.write = lambda text: None
        with Workflow() as wf:
            step(print_from_below)().after(step(fn)())
        found = run(wf, on=cluster)
    assert found.logs("print_from_below") == FROM_BELOW


def speak_once(n: int) -> None:
    print("line", n)


def test_of_many_steps_every_line_is_shown_once_and_noted_as_its_own() -> None:
    count, shown = 3_000, list[str]()
    with LocalCluster(cpu=2, io=1) as cluster:
        cluster.echo.write = shown.append
        with Workflow() as wf:
            step(speak_once).map(range(count))
        found = run(wf, on=cluster)
    assert sorted("".join(shown).splitlines()) == sorted(f"line {n}" for n in range(count))
    assert all(found.logs(f"speak_once[{n}]") == f"line {n}\n" for n in range(count))


# -- much of it --------------------------------------------------------------------------------------------------------


def flood(size: int) -> int:
    for n in range(size // MB):
        print(f"{n:06}", "x" * (MB - 8))
    return size


@pytest.mark.parametrize("mode", ["parallel", "sequential"])
def test_a_flood_is_cut_and_harms_nobody(cluster: LocalCluster, mode: str, capfd: pytest.CaptureFixture[str]) -> None:
    with Workflow() as wf:
        flood_node = step(flood)(100 * MB)
        others = step(steps.double).map(range(100))
        step(shout).options(id="shout")(1)
        wf.returns([flood_node, others])
    found = run(wf, on=None if mode == "sequential" else cluster, mode=mode)
    capfd.readouterr()
    assert found.value == [100 * MB, [2 * n for n in range(100)]]
    text = found.logs("flood")
    assert text.startswith("000000 xxx")
    assert "bytes left out" in text
    assert text.endswith("x" * 1_000 + "\n")
    assert len(text) < 4 * MB
    assert found.logs("shout").startswith("out 1")


def flood_and_wait(folder: str) -> None:
    flood(50 * MB)
    steps.hold(folder, "waiting")


def test_the_memory_of_a_flood_is_given_back(tmp_path: Path) -> None:
    with LocalCluster(cpu=1, io=1) as cluster:
        cluster.echo.write = lambda text: None
        found = start(alone(flood_and_wait, str(tmp_path)), on=cluster)
        wait_until((tmp_path / "waiting").exists, 30, what="it was printed")
        (worker,) = cluster.workers()
        wait_until(lambda: 0 < output_bytes(worker["pid"]) < 4 * MB, 30, what="the file shrinks")
        (tmp_path / "go").touch()
        assert found.wait(30)


def leave_flood(folder: str) -> None:
    """A child goes on printing after its step."""
    script = f"while [ ! -e {folder}/go ]; do printf '%01000000d' 0; done"
    subprocess.Popen(["bash", "-c", script])


def test_a_flood_that_a_step_leaves_behind_is_given_back(tmp_path: Path) -> None:
    with LocalCluster(cpu=1, io=1) as cluster:
        cluster.echo.write = lambda text: None
        found = run(alone(leave_flood, str(tmp_path)), on=cluster)
        (worker,) = cluster.workers()
        pid = worker["pid"]
        wait_until(lambda: output_size(pid) > 200 * MB and output_bytes(pid) < 50 * MB, 30, what="it is freed")
        (tmp_path / "go").touch()
        wait_until(lambda: output_bytes(pid) < 4 * MB, 30, what="all is freed")
        assert len(found.logs("leave_flood")) < 4 * MB


def outputs_of(pid: int) -> list[os.stat_result]:
    """All output files that a worker has open."""
    found = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed: the worker looks into /proc itself
            if "pfw-output" in os.readlink(fd):
                found.append(os.stat(fd))
    return found


def output_size(pid: int) -> int:
    """Bytes that were written to all output files of a worker."""
    return sum(output.st_size for output in outputs_of(pid))


def output_bytes(pid: int) -> int:
    """Memory of all output files that a worker has open."""
    return sum(output.st_blocks * 512 for output in outputs_of(pid))


def test_of_many_steps_the_oldest_output_is_dropped(cluster: LocalCluster) -> None:
    count = 2 * LOG_BYTES // LOG_PIECE_BYTES
    with Workflow() as wf:
        wf.returns(step(flood).map([MB] * count))
    found = run(wf, on=cluster)
    kept = [len(found.logs(f"flood[{n}]")) for n in range(count)]
    assert LOG_BYTES / 2 < sum(size for size in kept if size > 1_000) <= LOG_BYTES
    assert "no longer kept" in next(found.logs(f"flood[{n}]") for n in range(count) if kept[n] < 1_000)


# -- steps that die ----------------------------------------------------------------------------------------------------


def last_words(how: str) -> None:
    bytearray(200 * MB)  # touches all of it
    print("x" * 10_000)
    print("last words é", end="")
    steps.crash(how)


async def last_words_async() -> None:
    print("last words", flush=True)
    steps.crash("kill")


@pytest.mark.parametrize("how", ["3", "segfault", "kill"])
def test_a_crash_says_what_was_printed_last(cluster: LocalCluster, how: str) -> None:
    with Workflow() as wf:
        step(last_words)(how)
        step(steps.double).map(range(10))
    found = run(wf, on=cluster, on_failure="continue", check=False)
    error = found.errors["last_words"]
    assert isinstance(error, StepCrashedError)
    assert error.last_output.endswith("xxx\nlast words é")
    assert len(error.last_output) <= 4_000
    assert error.peak_memory is not None
    assert 200 * MB < error.peak_memory < 1_000 * MB
    assert (found.metrics.steps["last_words"].memory_peak or 0) >= error.peak_memory, "the highest of its attempts"
    assert str(error).endswith("last words é")
    assert found.logs("last_words", 2) == "x" * 10_000 + "\nlast words é"


def test_a_crash_of_an_async_step_says_what_was_printed_last(cluster: LocalCluster) -> None:
    found = run(alone(last_words_async), on=cluster, check=False)
    error = found.errors["last_words_async"]
    assert isinstance(error, StepCrashedError)
    assert error.last_output.endswith("last words\n")


# -- while it runs, and from elsewhere ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fn", [steps.speak, steps.speak_async])
def test_what_a_running_step_prints_is_there_before_its_end(cluster: LocalCluster, fn: Any, tmp_path: Path) -> None:
    found = start(alone(fn, str(tmp_path)), on=cluster)
    wait_until(lambda: found.logs(fn.__name__) == "speaking\n", 20, what="it is told")
    assert not found.done()
    (tmp_path / "go").touch()
    assert found.wait(30)
    assert found.logs(fn.__name__) == "speaking\ndone\n"


def test_those_who_attach_read_the_log_of_a_run(
    daemons: Daemons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.environ["PYTHONPATH"], str(ROOT / "tests")]))
    daemons.start_coordinator()
    daemons.start_worker(cpu=1, io=1)
    with Client(daemons.address) as client:
        run_id = client.start(alone(steps.speak, str(tmp_path))).id
    wait_until((tmp_path / "waiting").exists, 20, what="it runs", detail=daemons.tails)
    wait_until(lambda: expect(0, "logs", run_id, "speak", env=daemons.env).stdout == "speaking\n", 30, what="a log")
    (tmp_path / "go").touch()
    expect(0, "attach", run_id, env=daemons.env)
    found = result("logs", run_id, "speak", env=daemons.env)
    assert found == {"run": run_id, "step": "speak", "log": "speaking\ndone\n"}
    assert 'did you mean "speak"' in expect(2, "logs", run_id, "speek", env=daemons.env).stderr
    assert "speaking" not in daemons.tails()


LOUD = """
from pfw import Workflow, step

@step
def loud():
    print("printed by a step")
    return 7

def main() -> Workflow:
    with Workflow("loud") as wf:
        loud()
    return wf
"""


@pytest.mark.parametrize("mode", MODES)
def test_pfw_run_shows_what_steps_print_on_stderr(tmp_path: Path, mode: str) -> None:
    (tmp_path / "loud.py").write_text(LOUD)
    done = expect(
        0, "run", tmp_path / "loud.py", "--mode", mode, "--json", *(["--cpu", 1] if mode != "sequential" else [])
    )
    assert "printed by a step\n" in done.stderr
    assert done.stdout.startswith("{")
