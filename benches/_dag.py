"""One DAG for every contestant: as a plain loop, as a workflow, and on an executor that knows nothing of DAGs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from queue import SimpleQueue
from typing import Any, NamedTuple

from pfw import Node, Workflow, step


class Call(NamedTuple):
    """`function(*arguments, *outputs of the calls that `inputs` names)`; every call stands behind its inputs."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    inputs: tuple[int, ...]


def serial(calls: Sequence[Call]) -> list[Any]:
    """Every output, by a plain loop."""
    outputs: list[Any] = []
    for function, arguments, inputs in calls:
        outputs.append(function(*arguments, *[outputs[index] for index in inputs]))
    return outputs


def build(name: str, calls: Sequence[Call], wanted: Sequence[int], hint: str = "light_cpu") -> Workflow:
    """The workflow that returns the outputs of `wanted`, a list."""
    workflow = Workflow(name)
    functions = {function: step(function, hint=hint) for function in {call.function for call in calls}}
    nodes: list[Node] = []
    for function, arguments, inputs in calls:
        nodes.append(workflow.add(functions[function], *arguments, *[nodes[index] for index in inputs]))
    workflow.returns([nodes[index] for index in wanted])
    return workflow


def resubmit(pool: ProcessPoolExecutor, calls: Sequence[Call]) -> list[Any]:
    """Every output, by an executor: this process submits each call when the last of its inputs has come."""
    outputs: list[Any] = [None] * len(calls)
    missing = [len(call.inputs) for call in calls]
    children: list[list[int]] = [[] for _ in calls]
    for index, call in enumerate(calls):
        for parent in call.inputs:
            children[parent].append(index)
    ended: SimpleQueue[tuple[int, Future[Any]]] = SimpleQueue()
    ready = deque(index for index, count in enumerate(missing) if not count)
    for _ in calls:
        while ready:
            index = ready.popleft()
            function, arguments, inputs = calls[index]
            future = pool.submit(function, *arguments, *[outputs[parent] for parent in inputs])
            future.add_done_callback(lambda done, index=index: ended.put((index, done)))  # type: ignore[misc]
        index, future = ended.get()
        outputs[index] = future.result()
        for child in children[index]:
            missing[child] -= 1
            if not missing[child]:
                ready.append(child)
    return outputs


def warm_pool(processes: int) -> ProcessPoolExecutor:
    """An executor whose processes are up: they are forked before this process has threads of ours."""
    pool = ProcessPoolExecutor(processes)
    list(pool.map(_meet, [0.05] * processes))
    return pool


def _meet(seconds: float) -> None:
    time.sleep(seconds)
