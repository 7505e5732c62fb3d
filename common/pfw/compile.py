"""From a draft to what is run: functions and calls pickled, steps numbered in topological order.

What cannot be pickled is found out here, before anything runs, and named.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain, filterfalse
from typing import Any, NamedTuple, TypeVar

from pfw.call import Input, Inputs, Row, place_all
from pfw.draft import Dependencies, Draft, ranks_of
from pfw.errors import GraphError, PfwError, UnpicklableError
from pfw.expansion import ids_within
from pfw.graph import Graph, Spec
from pfw.stepfunction import STEP_DEFAULTS, Inherited, StepFunction

T = TypeVar("T")


class Compiled(NamedTuple):
    """A workflow that is ready to run. Steps are named by their index in the graph."""

    graph: Graph
    #: Structure in which `Input(step, path)` stands for outputs: the value of a run. None: there are several leaves.
    value: Any
    #: Steps that nothing depends on.
    leaves: Sequence[int]
    #: `{name of a map: its members in the order of their items}`
    maps: dict[str, Sequence[int]]
    #: Whether the value is the output of the last step, to which all others lead.
    has_tail: bool

    @property
    def index(self) -> dict[str, int]:  # type: ignore[override]  # tuple.index is of no use here
        """`{id: step}`, made anew each time: few ask for it."""
        return {name: step for step, name in enumerate(self.graph.ids)}


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
    ids, steps = _in_order(draft.ids, order), _in_order(draft.steps, order)
    distinct = {step: step for step in dict.fromkeys(steps)}
    if inherited.defaults != STEP_DEFAULTS:
        distinct = {given: step.settled(inherited.defaults) for given, step in distinct.items()}
    functions, number_of_function = _dump_functions(distinct, ids, steps, _dump_inherited(inherited))
    specs, number_of_spec = _share_specs(distinct)
    inputs, after = (_renumber(column, order, rank) for column in (dependencies.inputs, dependencies.after))
    leaves = _leaves(inputs, after)
    if apart:
        leaves = tuple([leaf for leaf in leaves if order[leaf] not in apart])
    maps = {name: ranks_of(members, rank) for name, members in draft.maps.items()}
    value = _only_leaf(leaves, maps) if value is None else value
    has_tail = len(leaves) == 1 and leaves[0] == len(ids) - 1 and value == Input(leaves[0])
    if within is not None:
        ids = ids_within(within, ids, has_tail=has_tail)
    graph = Graph(
        ids=ids if within is None else list(map(str, ids)),
        functions=functions,
        specs=specs,
        function_of=_numbers(steps, number_of_function),
        spec_of=_numbers(steps, number_of_spec),
        calls=_dump_calls(draft, order, ids),
        inputs=inputs,
        after=after,
    )
    return Compiled(graph, value, leaves, maps, has_tail)


def _in_order(column: list[T], order: Sequence[int]) -> list[T]:
    return column[:] if isinstance(order, range) else [column[place] for place in order]


def _numbers(steps: list[StepFunction], number_of: dict[StepFunction, int]) -> list[int]:
    if len(number_of) == 1:
        return [0] * len(steps)
    return list(map(number_of.__getitem__, steps))


def _renumber(column: list[tuple[int, ...]], order: Sequence[int], rank: Sequence[int]) -> list[tuple[int, ...]]:
    if rank is order:  # both are one range: nothing moves
        return column[:]
    # Most steps of a wide graph have no dependencies, and share one empty tuple.
    return [tuple([rank[needed] for needed in column[place]]) if column[place] else () for place in order]


def _leaves(inputs: list[tuple[int, ...]], after: list[tuple[int, ...]]) -> Sequence[int]:
    steps = range(len(inputs))
    if not any(inputs) and not any(after):
        return steps
    needed = set(chain.from_iterable(inputs))
    needed.update(chain.from_iterable(after))
    return tuple(filterfalse(needed.__contains__, steps))


def _only_leaf(leaves: Sequence[int], maps: dict[str, Sequence[int]]) -> Input | Inputs | list[Input] | None:
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
    distinct: dict[StepFunction, StepFunction], ids: list[str], steps: list[StepFunction], inherited: bytes
) -> tuple[list[bytes], dict[StepFunction, int]]:
    """Returns pickled functions, each once, and `{step as it was given: its function's number}`."""
    from pfw.codec import dump_function

    functions: list[bytes] = []
    number_of: dict[object, int] = {}
    numbers: dict[StepFunction, int] = {}
    for given, step in distinct.items():
        # Many StepFunctions (made by `options`) may share one function.
        number = numbers[given] = number_of.setdefault(_function_key(step), len(functions))
        if number == len(functions):
            try:
                functions.append(dump_function(step, inherited))
            except Exception as error:
                raise _explained(error, ids[steps.index(given)], "its function") from error
    return functions, numbers


def _function_key(step: StepFunction) -> object:
    """Returns what is equal for steps whose functions travel as the same bytes."""
    rules = (step.retry.on, step.retry.give_up)
    return id(step.fn), step.run_if, *(rule if isinstance(rule, tuple) else id(rule) for rule in rules)


def _share_specs(distinct: dict[StepFunction, StepFunction]) -> tuple[list[Spec], dict[StepFunction, int]]:
    """Returns distinct specs, and `{step as it was given: its spec's number}`."""
    number_of: dict[Spec, int] = {}
    numbers = {given: number_of.setdefault(step.spec, len(number_of)) for given, step in distinct.items()}
    return list(number_of), numbers


# ---------------------------------------------------------------- calls


def _dump_calls(draft: Draft, order: Sequence[int], ids: Sequence[str]) -> list[bytes]:
    from pfw.codec import dump_call, dump_plain_calls

    others = draft.others
    rows: Iterable[Row] = draft.rows()
    if not isinstance(order, range):
        rows = _in_order(list(rows), order)
    try:
        if type(ids[-1]) is not str:  # the last one is a fragment's tail
            return [
                dump_call(step_id, *others.get(place, (row, None)))
                for place, step_id, row in zip(order, ids, rows, strict=True)
            ]
        calls = dump_plain_calls(ids, rows)
        for step, place in enumerate(order) if others else ():
            if place in others:
                calls[step] = dump_call(ids[step], *others[place])
        return calls
    except Exception:
        # The usual case runs without a try per step; who is to blame is looked for only now.
        for place in order:
            if place in others:
                _check_arguments(draft, place, *others[place])
        raise


def _check_arguments(draft: Draft, place: int, args: Row, kwargs: dict[str, Any] | None) -> None:
    """Raises the error of the first argument of a step that cannot be pickled, if there is one."""
    from pfw.codec import dump

    args, kwargs = args or (), kwargs or {}
    names = [*_parameter_names(draft.steps[place].fn, len(args)), *kwargs]
    for name, value in zip(names, (*args, *kwargs.values()), strict=True):
        try:
            dump(value)
        except Exception as error:
            raise _explained(error, draft.ids[place], f"argument {name}") from error


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


def _explained(error: Exception, step_id: str, what: str) -> PfwError:
    """Returns the error with the place where it happened: an UnpicklableError, unless a Node is the reason."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, GraphError):
        cause = cause.__cause__ or cause.__context__
    if cause is not None:
        return GraphError(f'step "{step_id}": {what}: {cause}')
    return UnpicklableError(f'step "{step_id}": {what}: {error}', step=step_id)
