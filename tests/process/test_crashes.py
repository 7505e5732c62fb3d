"""Steps that end or spoil their process: a clear error for that step, and nobody else notices."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import steps
from pfw import LocalCluster, StepCrashedError, StepFailedError, Workflow, current, run, step


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(cpu=2, io=4) as found:
        yield found


def alone(fn: Any, *args: Any) -> Workflow:
    wf = Workflow()
    wf.add(fn, *args)
    return wf


CRASHES = [("0", None, 0), ("3", None, 3), ("segfault", signal.SIGSEGV, None), ("kill", signal.SIGKILL, None)]


@pytest.mark.parametrize("hint", ["light_cpu", "light_io"])
@pytest.mark.parametrize(("how", "number", "code"), CRASHES)
def test_a_step_that_ends_its_process_fails_after_three_crashes(
    cluster: LocalCluster, how: str, number: int | None, code: int | None, hint: str
) -> None:
    with Workflow() as wf:
        step(steps.crash, hint=hint)(how)
        neighbours = step(steps.double, hint=hint).map(range(40))
        wf.returns(neighbours)
    found = run(wf, on=cluster, on_failure="continue", check=False)
    error = found.errors["crash"]
    assert isinstance(error, StepCrashedError)
    assert (error.signal, error.exit_code, error.attempts) == (number, code, 3)
    assert found.outputs[neighbours] == [2 * x for x in range(40)]
    assert found.metrics.failed_steps == 1
    assert {found.metrics.steps[node.id].attempts for node in neighbours.nodes} == {1}
    kinds = [event.type for event in found.events() if event.step_id == "crash"]
    assert kinds == ["Queued", "Started", "Retrying", "Started", "Retrying", "Started", "Failed"]


def fall_once(folder: str) -> str:
    """Crashes at its first attempt."""
    steps.mark(folder, "begun")
    if len((Path(folder) / "begun").read_text().split()) == 1:
        steps.crash("kill")
    return "rerun"


async def fall_once_async(folder: str) -> str:
    return fall_once(folder)


@pytest.mark.parametrize("fn", [fall_once, fall_once_async], ids=["sync", "async"])
@pytest.mark.parametrize("rerun_on_loss", [True, False])
def test_a_step_that_may_not_be_rerun_fails_at_its_first_crash(
    cluster: LocalCluster, tmp_path: Path, fn: Any, rerun_on_loss: bool
) -> None:
    wf = alone(step(fn, rerun_on_loss=rerun_on_loss, retry=3), str(tmp_path))
    if rerun_on_loss:
        assert run(wf, on=cluster).value == "rerun"
        return
    with pytest.raises(StepCrashedError) as caught:
        run(wf, on=cluster)
    assert (caught.value.attempts, caught.value.signal) == (1, signal.SIGKILL)
    assert len((tmp_path / "begun").read_text().split()) == 1


def test_an_async_step_that_ends_its_process_is_blamed_alone(cluster: LocalCluster, tmp_path: Path) -> None:
    with Workflow() as wf:
        step(steps.crash_async)("kill")
        step(steps.meet_async).map([str(tmp_path)] * 10, [f"with{n}" for n in range(10)], count=1)
    found = run(wf, on=cluster, on_failure="continue", check=False)
    assert list(found.errors) == ["crash_async"]
    error = found.errors["crash_async"]
    assert isinstance(error, StepCrashedError)
    assert error.signal == signal.SIGKILL


class KillsWhenRead:
    def __reduce__(self) -> Any:
        return steps.crash, ("7",)


def test_an_argument_that_kills_while_it_is_read_is_blamed(cluster: LocalCluster) -> None:
    with Workflow() as wf:
        step(steps.give).options(id="bad")(KillsWhenRead())
        step(steps.double).map(range(10))
    found = run(wf, on=cluster, on_failure="continue", check=False)
    assert list(found.errors) == ["bad"]
    error = found.errors["bad"]
    assert isinstance(error, StepCrashedError)
    assert error.exit_code == 7


def crash_once(folder: str) -> str:
    if len(list(Path(folder).iterdir())) < 2:
        steps.mark(folder, str(current().attempt))
        steps.crash("kill")
    return "alive"


def test_a_step_that_crashes_twice_may_still_succeed(cluster: LocalCluster, tmp_path: Path) -> None:
    found = run(alone(crash_once, str(tmp_path)), on=cluster)
    assert found.value == "alive"
    assert found.metrics.steps["crash_once"].attempts == 3


# ---------------------------------------------------------------- steps that spoil their process


def close_everything() -> None:
    """As libraries do that make daemons."""
    os.closerange(3, 256)


def write_everywhere(data: bytes) -> None:
    """Hits the socket over which its slot speaks."""
    for fd in range(3, 12):
        try:
            os.write(fd, data)
        except OSError:
            continue


def fork_and_return() -> int:
    os.fork()
    return os.getpid()


async def stop_its_loop() -> None:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(600)


async def cancel_everybody() -> None:
    for task in asyncio.all_tasks():
        task.cancel()
    await asyncio.sleep(600)


def leave_thread() -> None:
    threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()


def close_streams() -> None:
    sys.stdout.close()
    sys.stderr = None  # type: ignore[assignment]


def leave_alarm() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.001)


SPOILERS = [
    (close_everything,), (write_everywhere, b"\x00junk"), (write_everywhere, b"\x00\x91\x95\x01\x02\x03\x04\x05"),
    (stop_its_loop,), (cancel_everybody,),
]  # fmt: skip


@pytest.mark.parametrize("call", SPOILERS, ids=lambda call: f"{call[0].__name__}-{len(call[1:] and call[1])}")
def test_a_step_that_spoils_its_process_fails_alone(call: tuple[Any, ...]) -> None:
    with LocalCluster(cpu=1, io=1) as cluster:
        wf = alone(*call)
        others = [wf.add(steps.double, n) for n in range(10)]
        found = run(wf, on=cluster, on_failure="continue", check=False)
        assert [found.outputs[node] for node in others] == [2 * n for n in range(10)]
        assert set(found.errors) <= {call[0].__name__}
        assert all(isinstance(error, StepFailedError) for error in found.errors.values())
        assert cluster.submit(steps.double, 2).result(20) == 4


def test_a_step_that_forks_is_done_once_and_its_slot_goes_on() -> None:
    with LocalCluster(cpu=1, io=1) as cluster:
        assert cluster.submit(fork_and_return).result(20)
        for number in range(20):
            # A function is sent to a slot once: whoever shared its socket would miss every other one.
            calls = [cluster.submit(step(lambda x, number=number: x + number), 1) for _ in range(2)]
            assert cluster.gather(calls) == [1 + number] * 2


@pytest.mark.parametrize("fn", [leave_thread, close_streams, leave_alarm])
def test_what_a_step_leaves_behind_does_not_harm_the_next(cluster: LocalCluster, fn: Any) -> None:
    for _ in range(2):
        assert cluster.submit(fn).result(20) is None
        assert cluster.submit(steps.double, 2).result(20) == 4


def test_the_cluster_is_whole_after_all_this(cluster: LocalCluster, tmp_path: Path) -> None:
    with Workflow() as wf:
        step(steps.meet).map([str(tmp_path)] * 2, ["both0", "both1"], count=2)
        step(steps.meet, hint="light_io").map([str(tmp_path)] * 4, [f"four{n}" for n in range(4)], count=4)
        step(steps.meet_async).map([str(tmp_path)] * 9, [f"nine{n}" for n in range(9)], count=9)
    assert run(wf, on=cluster).status == "SUCCEEDED"
    assert cluster.status()["oddities"] == 0
