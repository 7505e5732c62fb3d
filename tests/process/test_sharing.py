"""How steps share slots: those of several runs, and those that last longer than they were expected to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import steps, wait_until
from pfw import LocalCluster, Workflow, run, start, step

TIMEOUT_S = 30.0


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(cpu=2) as found:
        yield found


def burn(number: int) -> int:
    """A millisecond or two of work."""
    return sum(range(80_000 + number % 2))


def pause_at(number: int, slow: int, folder: str) -> int:
    """Quick, but for one number, which waits for a file."""
    if number == slow:
        steps.wait_for(folder, "gate")
    return number


def test_many_short_steps_do_not_keep_the_slots_from_another_run(cluster: LocalCluster) -> None:
    with Workflow("many") as many:
        step(burn).map(range(5_000))
    with Workflow("one") as one:
        step(steps.give)(7)
    crowd = start(many, on=cluster)
    wait_until(lambda: "SUCCEEDED" in crowd.states.values(), TIMEOUT_S, what="steps of the first run are known")
    assert run(one, on=cluster).value == 7
    assert not crowd.done(), "the other run was first"
    crowd.cancel("enough")


def test_what_is_quick_does_not_wait_for_what_is_slow(cluster: LocalCluster, tmp_path: Path) -> None:
    """Nobody can know which step of a kind lasts: those in its message, before and behind it, end all the same."""
    count, slow = 400, 250
    with Workflow("mixed") as wf:
        step(pause_at).map(range(count), slow=slow, folder=str(tmp_path))
    found = start(wf, on=cluster)

    def ended() -> int:
        return list(found.states.values()).count("SUCCEEDED")

    wait_until(lambda: ended() == count - 1, TIMEOUT_S, what="all but one have ended", detail=ended)
    (tmp_path / "gate").touch()
    assert found.value == list(range(count))
