"""Recorded scientific workflows in WfFormat (WfCommons 1.0 to 1.5) as workflows that can be replayed.

`load` reads a file into an Instance, `to_workflow` makes a Workflow of it with nothing but the public API, and
`lower_bound` says how short a replay can be at best. Format: github.com/wfcommons/WfFormat.

From 1.5 on, a specification (tasks, parents, files) and an execution (runtimes) are joined by task id. Up to 1.4 one
list of tasks (called jobs at first) held both; parents were named by task name, which therefore is the id here.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Literal

from pfw.errors import ConfigError, CycleError
from pfw.graph import critical_path, topological_order
from pfw.jsonfile import Place, read_json
from pfw.node import Node
from pfw.stepfunction import step
from pfw.workflow import Workflow

Lane = Literal["cpu", "io"]

#: A task that used less of one core than this, in percent, mostly waited: it belongs in the io lane.
IO_BELOW_PERCENT = 50.0

_JOINED = ("1.5",)
_SINGLE = ("1.0", "1.1", "1.2", "1.3", "1.4")
_HINTS = {"cpu": "light_cpu", "io": "light_io"}


class WfFormatError(ConfigError):
    """A file is not a workflow in WfFormat. The message names the file and the place in it: mend the file there."""


@dataclass(frozen=True, slots=True)
class Task:
    """One recorded task."""

    #: Unique in its instance; may contain `/`.
    id: str
    #: What people call it; often the id.
    name: str
    #: The program it ran, "" if not recorded.
    program: str
    #: Recorded runtime in seconds.
    runtime_s: float
    #: Average use in percent of one core (over 100 for several), None if not recorded.
    avg_cpu: float | None
    #: Ids of the tasks it depends on, each once.
    parents: tuple[str, ...]
    #: Sum of the sizes of the files it wrote.
    output_bytes: int
    #: Sum of the sizes of the files it read.
    input_bytes: int

    @property
    def lane(self) -> Lane:
        """`"io"` if it used less than half a core, `"cpu"` otherwise and when that was not recorded."""
        return "io" if self.avg_cpu is not None and self.avg_cpu < IO_BELOW_PERCENT else "cpu"


@dataclass(frozen=True, slots=True)
class Instance:
    """One recorded workflow; every task stands behind its parents."""

    name: str
    tasks: tuple[Task, ...]


def load(path: str | PathLike[str]) -> Instance:
    """Reads one file.

    Raises:
        WfFormatError: It cannot be read, is not JSON, or is not WfFormat 1.0 to 1.5; the message names the place, as in
            `workflow.specification.tasks[3].parents[1]: unknown task "x"`.
        CycleError: The tasks depend on each other in a circle, which the message names.
    """
    root = read_json(fspath(path), WfFormatError)
    version = root.field("schemaVersion")
    workflow = root.field("workflow")
    if version.value in _JOINED:
        tasks = _joined_tasks(workflow)
    elif version.value in _SINGLE:
        tasks = _single_tasks(workflow)
    else:
        raise version.error(f"{json.dumps(version.value)} is not a known version ({', '.join(_SINGLE + _JOINED)})")
    name = root.find("name")
    return Instance(name.text() if name else root.file, _in_order(root.file, tasks))


def _in_order(file: str, tasks: Iterable[Task]) -> tuple[Task, ...]:
    """Sorts the tasks so that each stands behind its parents."""
    by_id = {task.id: task for task in tasks}
    try:
        order = topological_order({id: task.parents for id, task in by_id.items()})
    except CycleError as error:
        raise CycleError(f"{file}: {error}", cycle=error.cycle) from None
    return tuple(by_id[id] for id in order)


# ---------------------------------------------------------------------------------------------------- reading


def _joined_tasks(workflow: Place) -> list[Task]:
    """Reads `specification` and `execution` of 1.5."""
    specification = workflow.field("specification")
    execution = workflow.field("execution")
    sizes = {
        file.field("id").text(): int(file.field("sizeInBytes").number()) for file in specification.items_of("files")
    }
    specified = _by_name(specification.field("tasks"), "id")
    executed = _by_name(execution.field("tasks"), "id")
    for id, record in executed.items():
        if id not in specified:
            raise record.field("id").error(f'unknown task "{id}"')
    tasks = [
        _task(id, spec, _record_of(id, executed, execution), specified, _file_sizes(sizes, spec))
        for id, spec in specified.items()
    ]
    _check_children(specified)
    return tasks


def _single_tasks(workflow: Place) -> list[Task]:
    """Reads the one list of tasks of 1.0 to 1.4, in which a task's name identifies it."""
    records = _by_name(workflow.field("tasks", "jobs"), "name")
    return [_task(name, record, record, records, _linked_sizes(record)) for name, record in records.items()]


def _by_name(tasks: Place, key: str) -> dict[str, Place]:
    """Returns {value of the field `key`: task} in the order of the file."""
    found: dict[str, Place] = {}
    for task in tasks.items():
        name = task.field(key)
        if name.text() in found:
            raise name.error(f'a second task "{name.text()}"')
        found[name.text()] = task
    if not found:
        raise tasks.error("there are no tasks")
    return found


def _record_of(id: str, executed: Mapping[str, Place], execution: Place) -> Place:
    record = executed.get(id)
    if record is None:
        raise execution.field("tasks").error(f'no record of the task "{id}"')
    return record


def _task(id: str, spec: Place, record: Place, known: Mapping[str, Place], sizes: tuple[int, int]) -> Task:
    """Joins what was specified, what was recorded, and (bytes written, bytes read)."""
    name, avg_cpu, command = spec.find("name"), record.find("avgCPU"), record.find("command")
    program = command.find("program") if command else None
    return Task(
        id=id,
        name=name.text() if name else id,
        program=program.text() if program else "",
        runtime_s=float(record.field("runtimeInSeconds", "runtime").number()),
        avg_cpu=float(avg_cpu.number()) if avg_cpu else None,
        parents=_parents(spec, known),
        output_bytes=sizes[0],
        input_bytes=sizes[1],
    )


def _parents(spec: Place, known: Mapping[str, Place]) -> tuple[str, ...]:
    parents = spec.items_of("parents")
    for parent in parents:
        if parent.text() not in known:
            raise parent.error(f'unknown task "{parent.value}"')
    return tuple(dict.fromkeys(parent.text() for parent in parents))


def _check_children(specified: Mapping[str, Place]) -> None:
    """Refuses a child that does not name its parent: one of the two lists is wrong, and nobody can say which."""
    parents = {id: {parent.value for parent in spec.items_of("parents")} for id, spec in specified.items()}
    for id, spec in specified.items():
        for child in spec.items_of("children"):
            if child.text() not in specified:
                raise child.error(f'unknown task "{child.value}"')
            if id not in parents[child.text()]:
                raise child.error(f'the task "{child.value}" does not name "{id}" among its parents')


def _file_sizes(sizes: Mapping[str, int], spec: Place) -> tuple[int, int]:
    """Returns (bytes written, bytes read) from lists of file ids."""

    def total(files: Iterable[Place]) -> int:
        return sum(_size_of(sizes, file) for file in files)

    return total(spec.items_of("outputFiles")), total(spec.items_of("inputFiles"))


def _size_of(sizes: Mapping[str, int], file: Place) -> int:
    size = sizes.get(file.text())
    if size is None:
        raise file.error(f'unknown file "{file.value}"')
    return size


def _linked_sizes(record: Place) -> tuple[int, int]:
    """Returns (bytes written, bytes read) from file records that say which link they are."""
    total = {"output": 0, "input": 0}
    for file in record.items_of("files"):
        link = file.field("link")
        if link.value not in total:
            raise link.error('must be "input" or "output"')
        size = file.find("sizeInBytes", "size")
        total[link.text()] += int(size.number()) if size else 0
    return total["output"], total["input"]


# ---------------------------------------------------------------------------------------------------- replaying


@step(hint=_HINTS["io"])
def wait_step(seconds: float, size_bytes: int, *inputs: bytes) -> bytes:
    """Waits, as a task does that reads, writes or talks to others; returns `size_bytes` bytes."""
    time.sleep(seconds)
    return b"w" * size_bytes


@step(hint=_HINTS["cpu"])
def burn_step(seconds: float, size_bytes: int, *inputs: bytes) -> bytes:
    """Uses `seconds` of CPU time, however long that takes on a busy core; returns `size_bytes` bytes."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        # About 10 µs between two looks at the clock.
        sum(range(500))
    return b"b" * size_bytes


def to_workflow(
    instance: Instance, *, time_scale: float = 1.0, bytes_scale: float = 0.0, lane: Lane | None = None
) -> Workflow:
    """Makes a workflow in which each task is replayed after its parents.

    A task in the io lane waits for its recorded runtime, one in the cpu lane uses that much CPU time. It returns as
    many bytes as it wrote, and each child gets them as an argument.

    Args:
        instance: What `load` gave.
        time_scale: Recorded seconds are multiplied by this.
        bytes_scale: Recorded bytes are multiplied by this; with 0 every output is empty.
        lane: Puts all tasks in this lane; None: each in its own (`Task.lane`).

    Raises:
        ConfigError: A scale is negative or not finite, or there is no such lane.
    """
    _check_scale("time_scale", time_scale)
    _check_scale("bytes_scale", bytes_scale)
    _check_lane(lane)
    workflow = Workflow(instance.name)
    ids = step_ids(instance)
    nodes: dict[str, Node] = {}
    for task in instance.tasks:
        function = burn_step if (lane or task.lane) == "cpu" else wait_step
        nodes[task.id] = workflow.add(
            function.options(id=ids[task.id]),
            task.runtime_s * time_scale,
            round(task.output_bytes * bytes_scale),
            *(nodes[parent] for parent in task.parents),
        )
    return workflow


def step_ids(instance: Instance) -> dict[str, str]:
    """Returns {task id: step id}: the same, but for `/`, which a step id may not have and which becomes `|`.

    Where that would take the id of another task, `_` is appended until it does not.
    """
    taken = {task.id for task in instance.tasks}
    ids: dict[str, str] = {}
    for task in instance.tasks:
        id = task.id
        if "/" in id:
            id = id.replace("/", "|")
            while id in taken:
                id += "_"
            taken.add(id)
        ids[task.id] = id
    return ids


def critical_path_s(instance: Instance) -> float:
    """Returns the longest sum of runtimes along dependent tasks, in recorded seconds."""
    runtime_s = {task.id: task.runtime_s for task in instance.tasks}
    return critical_path({task.id: task.parents for task in instance.tasks}, runtime_s.__getitem__)[1]


def lower_bound(
    instance: Instance, slots: Mapping[str, int], *, time_scale: float = 1.0, lane: Lane | None = None
) -> float:
    """Returns the seconds that no replay can be faster than.

        max(critical path, total of the cpu lane / cpu slots, total of the io lane / io slots) × time_scale

    The first holds because dependent tasks cannot overlap, the others because a slot executes one task at a time
    (R. L. Graham, Bounds on Multiprocessing Timing Anomalies, 1969). A lane without tasks needs no slots.

    Args:
        instance: What `load` gave.
        slots: {"cpu": n, "io": m}.
        time_scale: As for `to_workflow`.
        lane: As for `to_workflow`.

    Raises:
        ConfigError: A lane has tasks and no slots, or an argument that `to_workflow` would refuse.
    """
    _check_scale("time_scale", time_scale)
    _check_lane(lane)
    total_s = dict.fromkeys(_HINTS, 0.0)
    for task in instance.tasks:
        total_s[lane or task.lane] += task.runtime_s
    bound_s = critical_path_s(instance)
    for name, seconds in total_s.items():
        if seconds > 0:
            if slots.get(name, 0) < 1:
                raise ConfigError(f"there are tasks in the {name} lane, and no slots for it")
            bound_s = max(bound_s, seconds / slots[name])
    return bound_s * time_scale


def _check_scale(name: str, scale: float) -> None:
    if not 0 <= scale < math.inf:
        raise ConfigError(f"{name} must be 0 or more, not {scale}")


def _check_lane(lane: str | None) -> None:
    if lane is not None and lane not in _HINTS:
        raise ConfigError(f'lane must be "cpu", "io" or None, not {lane!r}')
