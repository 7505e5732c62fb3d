"""What a step was called with, and its call made again here, for a debugger."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pfw import codec, context
from pfw.call import bind
from pfw.context import Entry
from pfw.errors import OutputNotKeptError
from pfw.facts import FACT_SUCCEEDED, FAILURES, SKIPPED, STATE_NAMES, SUCCEEDED
from pfw.record import RunRecord
from pfw.stepfunction import open_workflow
from pfw.tolerance import bind_some

#: So many ids are named in a message.
NAMED = 10


def arguments(record: RunRecord, step: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns (args, kwargs) as the step with this index got them, unpickled anew.

    Raises:
        OutputNotKeptError: An output that is among them is not here; the message says how it would be.
    """
    graph = record.graph
    if record.states[step] == SKIPPED and not (graph.inputs[step] or graph.after[step]):
        raise OutputNotKeptError(f"{graph.ids[step]!r} was not called: it is the side of a branch that was not taken")
    inputs = _inputs(record, step)
    _, args, kwargs = codec.load_call(graph.calls[step])
    run_if = graph.specs[graph.spec_of[step]].run_if
    if run_if:
        found_args, found_kwargs = bind_some(run_if, args, kwargs, inputs)
    else:
        found_args, found_kwargs = bind(args, kwargs, [codec.load(pickled) for pickled in inputs])
    return tuple(found_args), found_kwargs


def _inputs(record: RunRecord, step: int) -> list[bytes]:
    graph = record.graph
    found, missing = [], []
    for dependency in graph.inputs[step]:
        pickled = record.outputs.get(dependency) or record.inputs.get(dependency)
        if pickled is None:
            missing.append(dependency)
        else:
            found.append(pickled)
    if missing:
        raise OutputNotKeptError(_explain(record, step, missing))
    return found


def _explain(record: RunRecord, step: int, missing: list[int]) -> str:
    ids, states = record.graph.ids, record.states
    other = next((dependency for dependency in missing if states[dependency] != SUCCEEDED), None)
    if other is not None:
        return f"there is no output of {ids[other]!r} for {ids[step]!r}: its state is {STATE_NAMES[states[other]]}"
    count = f"{len(missing):,} arguments" if len(missing) > NAMED else "arguments"
    return f"{count} of {ids[step]!r} were not kept: {how_to_keep(record, missing)}"


def how_to_keep(record: RunRecord, steps: Sequence[int]) -> str:
    """What would have kept the outputs of these steps; those that came while the run went on could not be named."""
    names = ", ".join(repr(record.graph.ids[step]) for step in steps)
    if len(steps) > NAMED:
        return "run with keep='all'"
    if max(steps) >= len(record.submitted.ids):
        return f"run with keep='all', or make {names} of a step with keep=True"
    return f"run with keep=[{names}] or keep='all'"


def call_again(record: RunRecord, step: int) -> Any:
    """Calls the step's function here, with the arguments it got, and returns what it returns; as `Run.replay`."""
    graph = record.graph
    args, kwargs = arguments(record, step)
    loaded = codec.load_function(graph.functions[graph.function_of[step]])
    attempts = [row[3] for row in record.rows if row[1] == step and row[0] in (*FAILURES, FACT_SUCCEEDED)]
    entry = Entry(record.run_id, attempts[-1] if attempts else 1)
    entry.step_id, entry.inherited = graph.ids[step], loaded.inherited
    previous = context.enter(entry)
    try:
        with outside_of_blocks():
            result = loaded.fn(*args, **kwargs)
            return _awaited(result) if inspect.iscoroutine(result) else result
    finally:
        context.leave(previous)


@contextmanager
def outside_of_blocks() -> Iterator[None]:
    """What runs inside a workflow's block must not add nodes to it."""
    token = open_workflow.set(None)
    try:
        yield
    finally:
        open_workflow.reset(token)


def _awaited(coroutine: Any) -> Any:
    import asyncio

    return asyncio.run(coroutine)
