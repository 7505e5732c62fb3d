"""Runs in an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import steps, wait_until
from pfw import LocalCluster, Workflow, arun, run, step

give = step(steps.give)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(cpu=2, io=4) as found:
        yield found


def test_run_inside_a_running_loop_names_arun(cluster: LocalCluster) -> None:
    with Workflow() as wf:
        give(1)

    async def main() -> object:
        with pytest.raises(RuntimeError, match="arun"):
            run(wf, on=cluster)
        found = await asyncio.gather(*(arun(wf, on=cluster) for _ in range(4)))
        return [each.value for each in found]

    assert asyncio.run(main()) == [1] * 4


def test_a_cancelled_task_cancels_its_run(cluster: LocalCluster, tmp_path: Path) -> None:
    with Workflow() as wf:
        step(steps.obey_check)(str(tmp_path), "it")

    async def main() -> None:
        task = asyncio.create_task(arun(wf, on=cluster))
        while not (tmp_path / "it").exists():
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    wait_until((tmp_path / "it-stopped").exists, what="the step was stopped")


class Gate:
    """An argument that is held back where it is pickled."""

    reached, opened = threading.Event(), threading.Event()

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        Gate.reached.set()
        assert Gate.opened.wait(20)
        return int, (1,)


def test_a_task_that_is_cancelled_while_its_run_starts_cancels_it(cluster: LocalCluster, tmp_path: Path) -> None:
    with Workflow("gated") as wf:
        step(steps.hold)(str(tmp_path), "it", Gate())

    async def main() -> None:
        task = asyncio.create_task(arun(wf, on=cluster))
        assert await asyncio.to_thread(Gate.reached.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        Gate.opened.set()

    asyncio.run(main())
    wait_until(lambda: "gated" not in [run["name"] for run in cluster.runs()], what="it has ended")
