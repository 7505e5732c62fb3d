from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest

from helpers import INSTANCES
from pfw.errors import ConfigError, CycleError
from pfw.wfformat import (
    Instance,
    Task,
    WfFormatError,
    burn_step,
    critical_path_s,
    load,
    lower_bound,
    step_ids,
    to_workflow,
    wait_step,
)

#: One read by two, which one joins; the last but one is listed before its parents.
DIAMOND: dict[str, Any] = {
    "name": "diamond",
    "schemaVersion": "1.5",
    "workflow": {
        "specification": {
            "tasks": [
                {"id": "a", "name": "A", "parents": [], "children": ["b", "c"], "outputFiles": ["f", "g"]},
                {"id": "d", "parents": ["b", "c"], "inputFiles": ["h"]},
                {"id": "b", "parents": ["a"], "children": ["d"], "inputFiles": ["f"], "outputFiles": ["h"]},
                {"id": "c", "parents": ["a", "a"], "children": ["d"], "inputFiles": ["f", "g"], "outputFiles": []},
            ],
            "files": [{"id": "f", "sizeInBytes": 10}, {"id": "g", "sizeInBytes": 5}, {"id": "h", "sizeInBytes": 0}],
        },
        "execution": {
            "tasks": [
                {"id": "a", "runtimeInSeconds": 1, "avgCPU": 99.5, "command": {"program": "make", "arguments": []}},
                {"id": "b", "runtimeInSeconds": 2.5, "avgCPU": 49.9},
                {"id": "c", "runtimeInSeconds": 3.0, "avgCPU": 50},
                {"id": "d", "runtimeInSeconds": 0},
            ]
        },
    },
}


def old_form(version: str, tasks_key: str, suffix: str = "") -> dict[str, Any]:
    """The forms up to 1.4: one list of tasks, parents by name, files with a link."""
    size_key = "sizeInBytes" if suffix else "size"
    return {
        "name": "old",
        "schemaVersion": version,
        "workflow": {
            tasks_key: [
                {
                    "name": "fetch_ID01",
                    "id": "ID01",
                    f"runtime{suffix}": 2,
                    "avgCPU": 10,
                    "command": {"program": "fetch"},
                    "files": [
                        {"link": "input", "name": "in", size_key: 7},
                        {"link": "output", "name": "out", size_key: 9},
                    ],
                },
                {"name": "sum_ID02", f"runtime{suffix}": 4.5, "parents": ["fetch_ID01"], "files": []},
            ]
        },
    }


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(content: object) -> Path:
        path = tmp_path / "case.json"
        text = content if isinstance(content, str | bytes) else json.dumps(content)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_every_field_of_1_5_is_read_and_parents_come_first(write: Any) -> None:
    instance = load(write(DIAMOND))
    assert instance == Instance(
        "diamond",
        (
            Task("a", "A", "make", 1.0, 99.5, (), 15, 0),
            Task("b", "b", "", 2.5, 49.9, ("a",), 0, 10),
            Task("c", "c", "", 3.0, 50.0, ("a",), 0, 15),
            Task("d", "d", "", 0.0, None, ("b", "c"), 0, 0),
        ),
    )
    assert [task.lane for task in instance.tasks] == ["cpu", "io", "cpu", "cpu"]


@pytest.mark.parametrize(
    ("version", "tasks_key", "suffix"),
    [
        ("1.0", "jobs", ""),
        ("1.1", "jobs", ""),
        ("1.2", "jobs", ""),
        ("1.3", "tasks", ""),
        ("1.4", "tasks", "InSeconds"),
    ],
)
def test_older_forms(write: Any, version: str, tasks_key: str, suffix: str) -> None:
    assert load(write(old_form(version, tasks_key, suffix))).tasks == (
        Task("fetch_ID01", "fetch_ID01", "fetch", 2.0, 10.0, (), 9, 7),
        Task("sum_ID02", "sum_ID02", "", 4.5, None, ("fetch_ID01",), 0, 0),
    )


SPEC = ("workflow", "specification", "tasks")
EXEC = ("workflow", "execution", "tasks")
FILES = ("workflow", "specification", "files")


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ((*SPEC, 1, "parents", 1), "x", r'workflow\.specification\.tasks\[1\]\.parents\[1\]: unknown task "x"'),
        ((*SPEC, 1, "parents"), "b", r"specification\.tasks\[1\]\.parents: must be a list"),
        ((*SPEC, 1, "parents", 0), 7, r"tasks\[1\]\.parents\[0\]: must be a text"),
        ((*SPEC, 0, "children", 0), "x", r'tasks\[0\]\.children\[0\]: unknown task "x"'),
        ((*SPEC, 0, "children", 1), "d", r'tasks\[0\]\.children\[1\]: the task "d" does not name "a" among'),
        ((*SPEC, 0, "outputFiles", 1), "x", r'tasks\[0\]\.outputFiles\[1\]: unknown file "x"'),
        ((*SPEC, 1, "id"), "a", r'tasks\[1\]\.id: a second task "a"'),
        ((*SPEC, 1, "id"), "", r"tasks\[1\]\.id: must be a text that is not empty"),
        ((*SPEC, 1), [], r"tasks\[1\]: must be an object"),
        (SPEC, [], r"specification\.tasks: there are no tasks"),
        ((*EXEC, 3, "id"), "x", r'execution\.tasks\[3\]\.id: unknown task "x"'),
        ((*EXEC, 3), {"id": "c", "runtimeInSeconds": 1}, r'execution\.tasks\[3\]\.id: a second task "c"'),
        (EXEC, [{"id": "a", "runtimeInSeconds": 1}], r'execution\.tasks: no record of the task "d"'),
        ((*EXEC, 0, "runtimeInSeconds"), -1, r"tasks\[0\]\.runtimeInSeconds: must be 0 or more, not -1"),
        ((*EXEC, 0, "runtimeInSeconds"), True, r"tasks\[0\]\.runtimeInSeconds: must be a number"),
        ((*EXEC, 0, "runtimeInSeconds"), None, r'tasks\[0\]: "runtimeInSeconds" is missing'),
        ((*EXEC, 0, "avgCPU"), "99", r"tasks\[0\]\.avgCPU: must be a number"),
        ((*FILES, 2, "sizeInBytes"), 1.0e999, r"Infinity is not a JSON number"),
        ((*FILES, 2, "sizeInBytes"), "0", r"files\[2\]\.sizeInBytes: must be a number"),
        (("workflow", "execution"), None, r'workflow: "execution" is missing'),
        (("workflow",), [], r"workflow: must be an object"),
        (("schemaVersion",), "2.0", r'schemaVersion: "2\.0" is not a known version \(1\.0, .*1\.5\)'),
        (("schemaVersion",), None, r'top level: "schemaVersion" is missing'),
    ],
)
def test_an_error_names_file_and_place(write: Any, where: tuple[Any, ...], value: object, message: str) -> None:
    broken = copy.deepcopy(DIAMOND)
    holder: Any = broken
    for key in where[:-1]:
        holder = holder[key]
    holder[where[-1]] = value
    with pytest.raises(WfFormatError, match=r"case\.json: .*" + message):
        load(write(broken))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"name": "x",\n "workflow": }', r"case\.json: line 2, column 14: not JSON: Expecting value"),
        ("", r"line 1, column 1: not JSON"),
        ("[]", r"top level: must be an object"),
        ('{"a": NaN}', r"NaN is not a JSON number"),
        (b'{"name": "\xff"}', r"byte 10: not UTF-8"),
        ("[" * 200_000, r"case\.json: not JSON that can be read"),
        ("9" * 5_000, r"case\.json: not JSON that can be read"),
    ],
)
def test_what_is_no_json_is_refused_with_its_place(write: Any, content: str | bytes, message: str) -> None:
    with pytest.raises(WfFormatError, match=message):
        load(write(content))


def test_a_link_must_be_input_or_output(write: Any) -> None:
    broken = old_form("1.4", "tasks", "InSeconds")
    broken["workflow"]["tasks"][0]["files"][1]["link"] = "both"
    with pytest.raises(WfFormatError, match=r'tasks\[0\]\.files\[1\]\.link: must be "input" or "output"'):
        load(write(broken))


def test_a_file_that_is_not_there_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.json: cannot be read: No such file"):
        load(tmp_path / "none.json")


def test_a_cycle_is_named(write: Any) -> None:
    circle = copy.deepcopy(DIAMOND)
    tasks = circle["workflow"]["specification"]["tasks"]
    tasks[0]["parents"] = ["d"]
    tasks[1]["children"] = ["a"]
    with pytest.raises(
        CycleError, match=r"case\.json: .*(a -> [bc] -> d -> a|[bc] -> d -> a -> [bc]|d -> a -> [bc] -> d)"
    ):
        load(write(circle))


def test_a_byte_order_mark_is_no_harm(write: Any) -> None:
    assert load(write(b"\xef\xbb\xbf" + json.dumps(DIAMOND).encode())).name == "diamond"


def task(id: str, runtime_s: float = 1.0, parents: tuple[str, ...] = (), avg_cpu: float | None = None) -> Task:
    return Task(id, id, "", runtime_s, avg_cpu, parents, 4, 0)


def test_slashes_in_ids_are_replaced_without_taking_another_tasks_id() -> None:
    instance = Instance("x", (task("a/b"), task("a|b"), task("a|b_"), task("plain")))
    assert step_ids(instance) == {"a/b": "a|b__", "a|b": "a|b", "a|b_": "a|b_", "plain": "plain"}


def test_the_bound_is_the_critical_path_or_the_fuller_lane() -> None:
    chain = Instance("chain", (task("a", 2), task("b", 3, ("a",)), task("c", 1)))
    assert critical_path_s(chain) == 5
    assert lower_bound(chain, {"cpu": 4}) == 5
    assert lower_bound(chain, {"cpu": 1}) == 6
    assert lower_bound(chain, {"cpu": 1}, time_scale=0.5) == 3
    mixed = Instance("mixed", (task("a", 8, avg_cpu=10), task("b", 4), task("c", 4), task("d", 8, avg_cpu=10)))
    assert lower_bound(mixed, {"cpu": 2, "io": 1}) == 16
    assert lower_bound(mixed, {"cpu": 2, "io": 2}) == 8
    assert lower_bound(mixed, {"io": 2}, lane="io") == 12


def test_the_bound_needs_slots_for_each_lane_that_has_tasks() -> None:
    with pytest.raises(ConfigError, match="io lane, and no slots"):
        lower_bound(Instance("x", (task("a", avg_cpu=1),)), {"cpu": 2})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time_scale": -1}, "time_scale must be 0 or more, not -1"),
        ({"bytes_scale": math.inf}, "bytes_scale must be 0 or more, not inf"),
        ({"time_scale": math.nan}, "time_scale must be 0 or more, not nan"),
        ({"lane": "gpu"}, "lane must be"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        to_workflow(Instance("x", (task("a"),)), **options)


def test_a_replay_has_the_tasks_as_steps_with_their_dependencies(write: Any) -> None:
    workflow = to_workflow(load(write(DIAMOND)))
    assert workflow.waves() == [["a"], ["b", "c"], ["d"]]
    graph = workflow.compile().graph
    named = {graph.ids[step]: {graph.ids[needed] for needed in graph.inputs[step]} for step in range(4)}
    assert named == {"a": set(), "b": {"a"}, "c": {"a"}, "d": {"b", "c"}}
    lanes = {graph.ids[step]: graph.specs[graph.spec_of[step]].lane for step in range(4)}
    assert lanes == {"a": 0, "b": 1, "c": 0, "d": 0}


def test_a_lane_can_be_forced(write: Any) -> None:
    graph = to_workflow(load(write(DIAMOND)), lane="io").compile().graph
    assert {spec.lane for spec in graph.specs} == {1}


def test_replay_steps_take_their_time_and_return_their_size() -> None:
    import time

    before, cpu_before = time.monotonic(), time.thread_time()
    assert len(wait_step(0.02, 5, b"input")) == 5
    assert time.monotonic() - before >= 0.02
    assert time.thread_time() - cpu_before < 0.015
    cpu_before = time.thread_time()
    assert len(burn_step(0.02, 3)) == 3
    assert 0.02 <= time.thread_time() - cpu_before < 0.04


#: As the collection describes itself: tasks, edges, depth, total s, critical path s, tasks of the io lane.
RECORDED = {
    "1000genome-chameleon-8ch-250k-001": (328, 424, 3, 21720.4, 372.9, 21),
    "blast-chameleon-small-001": (43, 120, 3, 382.9, 10.4, 0),
    "bwa-chameleon-small-001": (104, 400, 3, 380.0, 91.4, 90),
    "cycles-chameleon-2l-1c-9p-001": (133, 194, 4, 3666.7, 219.1, 97),
    "epigenomics-chameleon-hep-1seq-100k-001": (41, 48, 9, 539.3, 104.8, 9),
    "epigenomics-chameleon-ilmn-4seq-50k-001": (1095, 1361, 9, 20417.6, 211.8, 801),
    "helloworld-forkjoin-10-chameleon": (10, 16, 3, 1028.7, 307.4, 0),
    "montage-chameleon-2mass-01d-001": (103, 231, 8, 362.6, 21.1, 46),
    "montage-chameleon-2mass-04d-001": (1312, 3540, 8, 3022.5, 37.7, 1045),
    "rnaseq-dirt02-001": (197, 451, 10, 2580.4, 759.5, 29),
    "seismology-chameleon-500p-001": (501, 500, 2, 288.1, 5.8, 62),
    "soykb-chameleon-20fastq-10ch-001": (176, 374, 11, 33279.7, 5357.9, 132),
    "srasearch-chameleon-10a-003": (22, 30, 3, 18985.6, 2894.5, 11),
}


@pytest.mark.skipif(not INSTANCES.is_dir(), reason="the recorded workflows are not beside the repository")
@pytest.mark.parametrize("name", sorted(RECORDED))
def test_recorded_workflows_are_read_as_their_description_says(name: str) -> None:
    tasks, edges, depth, total_s, path_s, waiting = RECORDED[name]
    instance = load(INSTANCES / f"{name}.json")
    assert len(instance.tasks) == tasks
    assert sum(len(task.parents) for task in instance.tasks) == edges
    assert sum(task.runtime_s for task in instance.tasks) == pytest.approx(total_s, abs=0.06)
    assert critical_path_s(instance) == pytest.approx(path_s, abs=0.06)
    assert sum(task.lane == "io" for task in instance.tasks) == waiting
    assert len(to_workflow(instance).waves()) == depth
