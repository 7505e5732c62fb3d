"""Maps and branches that are known only at run time, in every mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers import steps
from helpers.pictures import picture
from pfw import GraphError, LocalCluster, Workflow, run, step

MODES = ("sequential", "parallel", "waves")

add, double, give, total = map(step, (steps.add, steps.double, steps.give, steps.total))


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(cpu=2, io=4) as found:
        yield found


def mapped() -> Workflow:
    with Workflow("mapped") as wf:
        items = give([1, 2, 3])
        doubled = items.map(double)
        again = doubled.map(double)
        both = again.map(steps.add, plus=1)
        none = give.options(id="none")([]).map(double)
        wf.returns([doubled, again, both, total(both), none, none.map(double), items.map(steps.add, plus=items[2])])
    return wf


def branched() -> Workflow:
    with Workflow("branched") as wf:
        low, high = give(1), give(5)
        sides = [n.when(lambda x: x > 3).then(double).otherwise(total_of) for n in (low, high)]
        passed = [n.when(lambda x: x > 3).then(double.options(name="then")) for n in (low, high)]
        wf.returns([*sides, *passed, add(sides[0], passed[1])])
    return wf


@step
def total_of(value: int) -> Workflow:
    with Workflow() as wf:
        add(value, 100)
    return wf


def fails_in_map() -> Workflow:
    with Workflow() as wf:
        odd = give([1, "x", 3]).map(lambda x: x + 1)
        total(odd)
        total(odd.map(double))
        give(4).map(double)
        give(5).when(lambda x: x.nothing).then(double)
    return wf


@pytest.mark.parametrize("make", [mapped, branched])
def test_the_modes_agree_on_what_comes_up_at_run_time(cluster: LocalCluster, make: Callable[[], Workflow]) -> None:
    runs = [run(make(), mode=mode, on=cluster, keep="all") for mode in MODES]
    first, *others = map(picture, runs)
    assert {found.status for found in runs} == {"SUCCEEDED"}
    for other in others:
        assert other == first
    assert runs[0].value == runs[1].value == runs[2].value


def test_maps_at_run_time() -> None:
    found = run(mapped(), mode="sequential")
    assert found.value == [[2, 4, 6], [4, 8, 12], [5, 9, 13], 27, [], [], [4, 5, 6]]
    assert {"double/double[2]", "double/add[2]", "double/returns"} <= set(found.states)
    assert found.states["double#2"] == "SUCCEEDED"
    assert not any(name.startswith("double#2/") for name in found.states)


def test_branches() -> None:
    found = run(branched(), mode="sequential")
    assert found.value == [101, 10, 1, 10, 111]
    assert (found.states["double"], found.states["double/double"]) == ("SUCCEEDED", "SKIPPED")
    skipped = next(event for event in found.events() if event.type == "Skipped")
    assert skipped.message == "branch"
    assert "double/#2/add" in found.states


@pytest.mark.parametrize("mode", MODES)
def test_what_fails_in_a_map(cluster: LocalCluster, mode: str) -> None:
    found = run(fails_in_map(), mode=mode, on=cluster, on_failure="continue", check=False)
    assert found.states["lambda/lambda[0]"] == "SUCCEEDED"
    assert found.states["lambda/lambda[1]"] == "FAILED"
    assert found.states["lambda/double[1]"] == "SKIPPED"
    assert found.states["lambda/double[2]"] == "SUCCEEDED"
    assert (found.states["lambda"], found.states["double"]) == ("FAILED", "FAILED")
    assert (found.states["total"], found.states["total#2"]) == ("SKIPPED", "SKIPPED")
    assert isinstance(found.errors["double#2"].__cause__, TypeError)
    assert isinstance(found.errors["double#3"].__cause__, AttributeError)


def test_a_map_of_a_map_has_no_barrier(cluster: LocalCluster, tmp_path: Path) -> None:
    folder = str(tmp_path)

    def first(name: str) -> str:
        if name == "slow":
            steps.hold(folder, name)  # until the second stage of the other one lets it go on
        return name

    def second(name: str) -> str:
        if name == "quick":
            steps.mark(folder, "go")
        return name

    with Workflow() as wf:
        give(["slow", "quick"]).map(first).map(second)
    assert run(wf, on=cluster).value == ["slow", "quick"]


def pair(value: int, other: list[int]) -> tuple[int, list[int]]:
    return value, other


def test_a_map_that_waits_for_something_else_gets_the_list(cluster: LocalCluster) -> None:
    with Workflow() as wf:
        late = give(3)
        doubled = give.options(id="items")([1, 2]).map(double)
        again = doubled.map(double)
        wf.returns([again, doubled.map(steps.add, plus=late), doubled.map(pair, other=[late]), again.map(double)])
        wf["double#2"].after(late)
    found = run(wf, on=cluster)
    assert found.value == [[4, 8], [5, 7], [(2, [3]), (4, [3])], [8, 16]]
    # Nothing is called twice.
    assert sum("[" in name for name in found.states) == 10


def test_what_a_branch_refuses() -> None:
    with Workflow() as wf:
        value = give(1)
        branch = value.when(bool).then(double).otherwise(give)
        with pytest.raises(GraphError, match="otherwise"):
            branch.otherwise(add)
        with pytest.raises(TypeError, match=r"when\(...\) is a function"):
            value.when(3).then(double)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="until is a function"):
            double.loop(1, until=3)  # type: ignore[arg-type]
    assert run(wf, mode="sequential").value == 2
