"""From a draft to what is run: functions and calls pickled, steps numbered in topological order.

What cannot be pickled is found out here, before anything runs, and named.
"""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable, Collection, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

from pfw.call import PLAIN_TYPES, Input, Inputs, is_plain, place_all
from pfw.draft import Dependencies, Draft
from pfw.errors import GraphError, UnpicklableError
from pfw.expansion import ids_within
from pfw.graph import Graph, Spec
from pfw.step import STEP_DEFAULTS, Inherited, StepFunction


class Compiled(NamedTuple):
    """A workflow that is ready to run. Steps are named by their index in the graph."""

    graph: Graph
    #: Structure in which `Input(step, path)` stands for outputs: the value of a run. None: there are several leaves.
    value: Any
    #: Steps that nothing depends on.
    leaves: tuple[int, ...]
    #: `{id: step}`
    index: dict[str, int]  # type: ignore[assignment]  # tuple.index is of no use here
    #: `{name of a map: its members in the order of their items}`
    maps: dict[str, tuple[int, ...]]
    #: Whether the value is the output of the last step, to which all others lead.
    has_tail: bool


def compile_draft(
    draft: Draft,
    dependencies: Dependencies,
    value: Any,
    inherited: Inherited,
    within: str | None = None,
    apart: Collection[int] = (),
) -> Compiled:
    """Pickles and numbers the steps of a draft.

    Args:
        draft: the steps.
        dependencies: what `draft.check()` gave.
        value: what was given to `returns`, with Inputs that name steps of the graph; None: nothing was.
        inherited: what its steps get of the workflow and its run.
        within: the step whose place the steps take; None: they are a run of their own.
        apart: places of leaves that the value does not wait for.

    Raises:
        GraphError: a Node is where none can be, such as in a set or a closure.
        UnpicklableError: a function or an argument cannot be sent.
    """
    order, rank = dependencies.order, dependencies.ranks()
    ids = [draft.ids[place] for place in order]
    steps = [draft.steps[place] for place in order]
    keys = list(map(id, steps))
    distinct = dict(zip(keys, steps, strict=True))
    if inherited.defaults != STEP_DEFAULTS:
        distinct = {key: step.settled(inherited.defaults) for key, step in distinct.items()}
    functions, number_of_function = _dump_functions(
        distinct, dict(zip(keys[::-1], ids[::-1], strict=True)), _dump_inherited(inherited)
    )
    specs, number_of_spec = _share_specs(distinct)
    inputs, after = (_renumber(column, order, rank) for column in (dependencies.inputs, dependencies.after))
    leaves = _leaves(inputs, after)
    if apart:
        leaves = tuple([leaf for leaf in leaves if order[leaf] not in apart])
    maps = {name: tuple([rank[member] for member in members]) for name, members in draft.maps.items()}
    value = _only_leaf(leaves, maps) if value is None else value
    has_tail = leaves == (len(ids) - 1,) and value == Input(leaves[0])
    if within is not None:
        ids = ids_within(within, ids, has_tail=has_tail)
    graph = Graph(
        ids=list(map(str, ids)),
        functions=functions,
        specs=specs,
        function_of=[number_of_function[key] for key in keys],
        spec_of=[number_of_spec[key] for key in keys],
        calls=_dump_calls(draft, order, ids),
        inputs=inputs,
        after=after,
    )
    index = dict(zip(graph.ids, range(len(ids)), strict=True))
    return Compiled(graph, value, leaves, index, maps, has_tail)


def _renumber(column: list[tuple[int, ...]], order: Sequence[int], rank: Sequence[int]) -> list[tuple[int, ...]]:
    if rank is order:  # both are one range: nothing moves
        return column[:]
    # Most steps of a wide graph have no dependencies, and share one empty tuple.
    return [tuple([rank[needed] for needed in column[place]]) if column[place] else () for place in order]


def _leaves(inputs: list[tuple[int, ...]], after: list[tuple[int, ...]]) -> tuple[int, ...]:
    needed = set(chain(chain.from_iterable(inputs), chain.from_iterable(after)))
    if not needed:
        return tuple(range(len(inputs)))
    return tuple([step for step in range(len(inputs)) if step not in needed])


def _only_leaf(leaves: tuple[int, ...], maps: dict[str, tuple[int, ...]]) -> Input | Inputs | list[Input] | None:
    """Returns what stands for the output of the only leaf, a map counting as one; None: there are several."""
    members = next((members for members in maps.values() if leaves[0] in members), None)
    if members is not None and (members == leaves or set(leaves).issubset(members)):
        return place_all(members)
    return Input(leaves[0]) if len(leaves) == 1 else None


# ---------------------------------------------------------------- functions and specs


def _dump_inherited(inherited: Inherited) -> bytes:
    from pfw.codec import dump_inherited

    try:
        return dump_inherited(inherited)
    except UnpicklableError as error:
        raise UnpicklableError(f"the workflow's params, or the config's retry: {error}") from error


def _dump_functions(
    distinct: dict[int, StepFunction], ids: dict[int, str], inherited: bytes
) -> tuple[list[bytes], dict[int, int]]:
    """Returns pickled functions, each once, and `{key of a StepFunction: its function's number}`."""
    from pfw.codec import dump_function

    functions: list[bytes] = []
    number_of: dict[object, int] = {}
    numbers: dict[int, int] = {}
    for key, step in distinct.items():
        # Many StepFunctions (made by `options`) may share one function.
        number = numbers[key] = number_of.setdefault(_function_key(step), len(functions))
        if number == len(functions):
            functions.append(_explained(partial(dump_function, step, inherited), ids[key], "its function"))
    return functions, numbers


def _function_key(step: StepFunction) -> object:
    """Returns what is equal for steps whose functions travel as the same bytes."""
    rules = (step.retry.on, step.retry.give_up)
    return id(step.fn), step.run_if, *(rule if isinstance(rule, tuple) else id(rule) for rule in rules)


def _share_specs(distinct: dict[int, StepFunction]) -> tuple[list[Spec], dict[int, int]]:
    """Returns distinct specs, and `{key of a StepFunction: its spec's number}`."""
    number_of: dict[Spec, int] = {}
    numbers = {key: number_of.setdefault(step.spec, len(number_of)) for key, step in distinct.items()}
    return list(number_of), numbers


# ---------------------------------------------------------------- calls


def _dump_calls(draft: Draft, order: Sequence[int], ids: Sequence[str]) -> list[bytes]:
    from pfw.codec import dump

    args, kwargs = draft.args, draft.kwargs
    try:
        # Plain values name no module, so they need not be searched for one: half of what a call costs.
        if not any(kwargs) and is_plain(chain.from_iterable(filter(None, args))):
            return [pickle.dumps((step_id, args[place], None), 5) for place, step_id in zip(order, ids, strict=True)]
        return [
            pickle.dumps((step_id, args[place], None), 5)
            if kwargs[place] is None and PLAIN_TYPES.issuperset(map(type, args[place] or ()))
            else dump((step_id, args[place], kwargs[place]))
            for place, step_id in zip(order, ids, strict=True)
        ]
    except Exception:
        # The usual case runs without a try per step; who is to blame is looked for only now.
        for place in order:
            _check_arguments(draft, place)
        raise


def _check_arguments(draft: Draft, place: int) -> None:
    """Raises the error of the first argument of a step that cannot be pickled, if there is one."""
    from pfw.codec import dump

    args, kwargs, step = draft.args[place] or (), draft.kwargs[place] or {}, draft.steps[place]
    names = [*_parameter_names(step.fn, len(args)), *kwargs]
    for name, value in zip(names, (*args, *kwargs.values()), strict=True):
        _explained(partial(dump, value), draft.ids[place], f"argument {name}")


def _parameter_names(fn: Callable[..., Any], count: int) -> list[str]:
    """Returns what the first `count` positional arguments are called, by number where the function does not say."""
    names = [str(number) for number in range(1, count + 1)]
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return names
    for number, parameter in enumerate(parameters):
        if number < count and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names[number] = f'"{parameter.name}"'
    return names


def _explained(dump: Callable[[], bytes], step_id: str, what: str) -> bytes:
    """Returns `dump()`; what it raises is raised with the place where it happened.

    Raises:
        GraphError: because of a Node.
        UnpicklableError: because of anything else.
    """
    try:
        return dump()
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, GraphError):
            cause = cause.__cause__ or cause.__context__
        if cause is not None:
            raise GraphError(f'step "{step_id}": {what}: {cause}') from error
        raise UnpicklableError(f'step "{step_id}": {what}: {error}', step=step_id) from error
