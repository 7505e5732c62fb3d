"""Every recorded workflow, in every mode: each task exactly once, and after its parents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import INSTANCES
from helpers.order import check_barriers, check_order
from pfw import LocalCluster, run
from pfw.lifecycle import MODES
from pfw.wfformat import load, step_ids, to_workflow

FILES = sorted(INSTANCES.glob("*.json"))
#: Recorded seconds are shrunk at least so much, and so far that no instance has more than so much to do.
TIME_SCALE = 0.0002
WORK_S = 0.25


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(cpu=2, io=8) as found:
        yield found


@pytest.mark.skipif(not FILES, reason="the recorded workflows are not there")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_task_runs_once_and_after_its_parents(path: Path, mode: str, cluster: LocalCluster) -> None:
    instance = load(path)
    scale = min(TIME_SCALE, WORK_S / sum(task.runtime_s for task in instance.tasks))
    found = run(to_workflow(instance, time_scale=scale), mode=mode, on=cluster)
    assert found.status == "SUCCEEDED"
    events = [(event.type, event.step_id) for event in found.events()]
    check_order(instance, events)
    if mode == "waves":
        check_barriers(instance, events)


@pytest.mark.skipif(not FILES, reason="the recorded workflows are not there")
def test_outputs_of_the_scaled_size_are_passed_on(cluster: LocalCluster) -> None:
    instance = load(INSTANCES / "montage-chameleon-2mass-01d-001.json")
    workflow = to_workflow(instance, time_scale=0, bytes_scale=0.01)
    found = run(workflow, on=cluster, keep="all")
    ids = step_ids(instance)
    sizes = {ids[task.id]: round(task.output_bytes * 0.01) for task in instance.tasks}
    assert {step: len(found.outputs[step]) for step in sizes} == sizes
    assert max(sizes.values()) > 100_000
