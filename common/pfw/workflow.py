"""The workflow as its author sees it: a graph that is put together by calling steps.

A workflow is data: it can be checked, looked at, compiled and run many times. This module must not know how it is run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextvars import Token
from itertools import chain, repeat
from types import TracebackType
from typing import Any, TypeVar

from pfw import graph
from pfw.call import Column, Input, Inputs, Numbering, Row, Rows, is_plain, place_all, replace_sources, scan
from pfw.checks import checked_text
from pfw.compile import Compiled, compile_draft
from pfw.draft import Dependencies, Draft, Target, ranks_of
from pfw.errors import ConfigError, GraphError, UnknownDependencyError, did_you_mean
from pfw.node import BranchNode, Deferred, ItemNode, LateMapNode, MapNode, Node
from pfw.stepclass import Step, from_instance
from pfw.stepfunction import STEP_DEFAULTS, Inherited, StepDefaults, StepFunction, open_workflow

__all__ = ["BranchNode", "Compiled", "ItemNode", "LateMapNode", "MapNode", "Node", "Workflow"]

#: So many arguments are compared with each other one by one.
_FEW = 8

D = TypeVar("D", bound=Deferred)


class Workflow:
    """A graph of steps.

    >>> from pfw.stepfunction import step
    >>> @step
    ... def add(x, y):
    ...     return x + y
    >>> with Workflow("sums") as wf:
    ...     total = add(add(1, 2), 3)
    >>> wf.order()
    ['add', 'add#2']
    """

    def __init__(
        self, name: str | None = None, *, version: str | None = None, params: Mapping[str, Any] | None = None
    ) -> None:
        """Makes an empty workflow.

        Args:
            name: what it is called where runs are listed.
            version: which version of it this is, in your own words; noted with each run.
            params: what its steps read as `current().params`; sent with each function, so keep large values elsewhere.

        Raises:
            ConfigError: one of them is nothing that can be sent.
        """
        self.name = checked_text("the workflow's name", name or "workflow")
        self.version = None if version is None else checked_text("the workflow's version", version)
        self.params = _checked_params(params)
        self._draft = Draft()
        self._nodes: dict[int, Node] = {}
        self._returned: Any = None
        self._blocks: list[Token[Workflow | None]] = []
        self._compiled: Compiled | None = None
        self._compiled_with = STEP_DEFAULTS

    def __enter__(self) -> Workflow:
        """Opens the block: until its end a call of a step adds a node here."""
        self._blocks.append(open_workflow.set(self))
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        open_workflow.reset(self._blocks.pop())

    # ------------------------------------------------------------ adding steps

    def add(self, fn: Callable[..., Any] | Step, /, *args: Any, **kwargs: Any) -> Node:
        """Adds a use of a step.

        Args:
            fn: a step, a function, or a `Step` in class form (which takes no arguments).
            args: arguments of the function: values, or Nodes for outputs of other steps, which may also stand in lists,
                tuples, named tuples and dict values.
            kwargs: as `args`.

        Returns:
            The Node that stands for its output.

        Raises:
            GraphError: a Node of another workflow is among the arguments.
            DuplicateStepError: the step's explicit id is taken.
            TypeError: `fn` is nothing that can be a step, or does not take these arguments.
        """
        # A large graph is added by as many of these calls: what is usual is asked first, and here, since each further
        # call of a function of ours makes one of them 2 % longer.
        if type(fn) is not StepFunction and isinstance(fn, Step):
            step, place = self._add_instance(fn, args, kwargs)
        else:
            step = fn if type(fn) is StepFunction else as_step(fn)
            if kwargs or (len(args), ()) not in step.forms:
                step.check_call(len(args), kwargs)
            found, named, sources = self._scan(args, kwargs)
            place = self._draft.add(step, found, named, sources)
        self._compiled = None
        if step.after:
            self.order_after((place,), step.after)
        node = self._nodes[place] = Node(self, place)
        return node

    def _add_instance(self, instance: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[StepFunction, int]:
        if args or kwargs:
            raise TypeError(f"{type(instance).__name__} is a step in class form, which takes no arguments of its own")
        step, names = from_instance(instance)
        place = self._draft.add(step, (names, *map(Input, range(len(names)))), None, ())
        if names:
            self._draft.named[place] = names
        return step, place

    def add_map(self, fn: Callable[..., Any], rows: Rows, constants: dict[str, Any]) -> MapNode:
        """Adds a use of `fn` for each row, with the row's items as positional and `constants` as keyword arguments.

        `step.map`, `step.starmap` and `MapNode.map` are the usual ways to here.

        Raises:
            GraphError: as `add`.
            DuplicateStepError: as `add`.
            TypeError: as `add`.
        """
        step = as_step(fn)
        is_column = isinstance(rows, Column)
        for count in {1} if is_column and rows else set(map(len, rows)):
            step.check_call(count, constants)
        if (is_column or is_plain(chain.from_iterable(rows))) and is_plain(constants.values()):
            kwargs = [constants] * len(rows) if constants else ()
            name = self._draft.add_map(step, rows, kwargs, repeat((), len(rows)))
        else:
            found = [self._scan(row, constants) for row in rows]
            args, kwargs, sources = zip(*found, strict=True) if found else ((), (), ())
            name = self._draft.add_map(step, args, kwargs, sources)
        self._compiled = None
        members = self._draft.maps[name]
        if step.after:
            self.order_after(members, step.after)
        return MapNode(self, name, members)

    def add_late_map(self, fn: Callable[..., Any], items: Node, constants: dict[str, Any]) -> LateMapNode:
        """Adds a use of `fn` for each item of an output; `Node.map` is the usual way to here. Raises as `add`."""
        from pfw.standins import make_map

        step = as_step(fn)
        step.check_call(1, constants)
        stand_in, stages = make_map(step)
        node = self.add(stand_in, items, **constants)
        found = self._nodes[node.index] = LateMapNode(self, node.index, stages)
        return found

    def add_branch(self, is_taken: Callable[[Any], Any], then: Callable[..., Any], value: Node) -> BranchNode:
        """Adds the choice between two steps; `Node.when` is the usual way to here. Raises as `add`."""
        from pfw.standins import make_branch

        step = as_step(then)
        step.check_call(1, ())
        stand_in, sides = make_branch(is_taken, step)
        return BranchNode(self, self.add(stand_in, value).index, sides)

    def changed(self) -> None:
        """A step that was added does something else than before."""
        self._compiled = None

    def order_after(self, places: Iterable[int], others: Iterable[Deferred | str]) -> None:
        """Lets the steps at `places` start only when `others` have ended; `Node.after` is the usual way to here."""
        targets: list[Target] = []
        for other in others:
            if isinstance(other, MapNode):
                targets += self._own(other).members
            elif isinstance(other, Node):
                targets.append(self._own(other).index)
            elif isinstance(other, str):
                targets.append(other)
            else:
                raise TypeError(f"a step can be ordered after Nodes and ids, not after {other!r}")
        self._draft.order_after(places, targets)
        self._compiled = None

    def _scan(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Row, Any, tuple[int, ...]]:
        """Returns what a Scan has."""
        if not kwargs and len(args) <= _FEW:
            # Nodes of this workflow, each once: the usual form of a call that has inputs at all. A plain loop takes
            # half of the time of what goes through `map`, a comprehension and a set.
            places: list[int] = []
            for node in args:
                if type(node) is not Node or node.workflow is not self or node.index in places:
                    break
                places.append(node.index)
            else:
                return None, None, tuple(places)
        return scan(args, kwargs, (Deferred,), self._place)

    def _place(self, source: Any, numbering: Numbering[int]) -> Input | Inputs | list[Input]:
        """Gives the placeholder of a Node; a step's place in the draft is what is numbered."""
        self._own(source)
        if isinstance(source, MapNode):
            return place_all(numbering.positions(source.members))
        return Input(numbering.position(source.index), source.path)

    def _own(self, node: D) -> D:
        if node.workflow is not self:
            other = "this one" if node.workflow.name == self.name else f'"{self.name}"'
            raise GraphError(
                f'{node!r} belongs to workflow "{node.workflow.name}", not to {other}: '
                f"a Node can only be used in its own workflow; run that one first and pass its value"
            )
        return node

    def returns(self, structure: Any) -> None:
        """Fixes what the value of a run is; else it is the output of the only leaf.

        Args:
            structure: a Node, or a list, tuple, named tuple or dict whose values are or hold Nodes.

        Raises:
            GraphError: it holds no Node, or one of another workflow.
        """
        numbering: Numbering[int] = Numbering()
        replace_sources(structure, (Deferred,), self._place, numbering)
        if not numbering.sources and not isinstance(structure, MapNode):
            raise GraphError(f"returns() gets a Node, or a structure that holds some, not {structure!r}")
        self._returned = structure
        self._compiled = None

    # ------------------------------------------------------------ looking at it

    @property
    def nodes(self) -> list[Node]:
        """All Nodes, in the order in which they were added."""
        return [self.node(place) for place in range(len(self._draft.steps))]

    def __getitem__(self, id: str) -> Node | MapNode:
        """Returns the Node of this id, or the MapNode of this name.

        Raises:
            UnknownDependencyError: there is none (it is a KeyError).
        """
        place = self._draft.place_of(id)
        if place is not None:
            return self.node(place)
        if id in self._draft.maps:
            return MapNode(self, id, self._draft.maps[id])
        raise UnknownDependencyError(f'workflow "{self.name}" has no step "{id}"{did_you_mean(id, self._draft.ids)}')

    def __contains__(self, id: object) -> bool:
        return id in self._draft.maps or self._draft.place_of(id) is not None

    def __repr__(self) -> str:
        return f'<Workflow "{self.name}" of {len(self._draft.steps)} steps>'

    def node(self, place: int) -> Node:
        """Returns the Node of the step that was added as number `place` (from 0), always the same one."""
        node = self._nodes.get(place)
        if node is None:
            node = self._nodes[place] = Node(self, place)
        return node

    def id_of(self, place: int) -> str:
        """Returns the id of the step that was added as number `place` (from 0)."""
        return self._draft.ids[place]

    def inputs_of(self, place: int) -> tuple[int, ...]:
        """Returns the places of the steps whose outputs the step that was added as number `place` gets."""
        return self._draft.inputs[place]

    def tags_of(self, place: int) -> tuple[str, ...]:
        """Returns the tags of the step that was added as number `place` (from 0)."""
        return self._draft.steps[place].tags

    def validate(self) -> None:
        """Checks what only the whole workflow can show.

        Raises:
            EmptyWorkflowError: it has no steps.
            UnknownDependencyError: a step depends on an id that is not there.
            CycleError: steps wait for each other in a circle.
        """
        self._draft.check()

    def order(self) -> list[str]:
        """Returns the ids so that each follows its dependencies (Kahn's order). Raises as `validate`."""
        return self._names(graph.topological_order(self._draft.check().of_steps()))

    def waves(self) -> list[list[str]]:
        """Returns the ids by depth: those of a wave depend only on waves before. Raises as `validate`."""
        dependencies = self._draft.check()
        return [self._names(wave) for wave in graph.generations(dependencies.of_steps())]

    def critical_path(self, weights: Mapping[str, float] | Callable[[str], float] | None = None) -> list[str]:
        """Returns the ids along the heaviest path.

        Args:
            weights: `{id: weight}` or a function of the id, such as durations in s; None: each step weighs 1.

        Raises:
            KeyError: `weights` lacks a step.
            GraphError: as `validate`.
        """
        dependencies = self._draft.check()
        weight_of = _weight_of(weights)
        path, _ = graph.critical_path(dependencies.of_steps(), lambda place: weight_of(self._draft.ids[place]))
        return self._names(path)

    def to_mermaid(self) -> str:
        """Returns the graph as a Mermaid flowchart; dotted arrows are order without data. Raises as `validate`."""
        dependencies = self._draft.check()
        return graph.mermaid(self._draft.ids, dependencies.inputs, dependencies.after)

    def _names(self, places: Collection[int]) -> list[str]:
        ids = self._draft.ids
        return [ids[place] for place in places]

    # ------------------------------------------------------------ making it ready to run

    def compile(self, defaults: StepDefaults = STEP_DEFAULTS) -> Compiled:
        """Returns what is run; the same object until the workflow or the defaults change.

        Args:
            defaults: for options that steps do not set.

        Raises:
            GraphError: as `validate`; or a Node is where none can be, such as in a set.
            UnpicklableError: a function or an argument cannot be sent; it names the step and the argument.
        """
        if self._compiled is None or defaults != self._compiled_with:
            dependencies = self._draft.check()
            value = self._value(dependencies)
            self._compiled = compile_draft(self._draft, dependencies, value, Inherited(self.params, defaults))
            self._compiled_with = defaults
        return self._compiled

    def compile_within(self, step_id: str, inherited: Inherited, apart: Collection[int] = ()) -> Compiled:
        """Returns what is run in the place of a step that returned this workflow. Raises as `compile`.

        Args:
            step_id: the step.
            inherited: what this workflow has of the one around it, where it says nothing itself.
            apart: places of leaves that its value does not wait for.
        """
        dependencies = self._draft.check()
        if self.params:
            inherited = inherited._replace(params=self.params)
        return compile_draft(self._draft, dependencies, self._value(dependencies), inherited, step_id, apart)

    def _value(self, dependencies: Dependencies) -> Any:
        """Returns the returned structure with placeholders whose positions are places in the order, or None."""
        rank = dependencies.ranks()

        def place(source: Any, numbering: Numbering[int]) -> Input | Inputs | list[Input]:
            self._own(source)
            if isinstance(source, MapNode):
                return place_all(ranks_of(source.members, rank))
            return Input(rank[source.index], source.path)

        return replace_sources(self._returned, (Deferred,), place, Numbering())


def _checked_params(params: Any) -> Mapping[str, Any]:
    if params is None:
        return {}
    if not isinstance(params, Mapping) or not all(isinstance(key, str) for key in params):
        raise ConfigError(f"the workflow's params are a dict with names as keys, not {params!r}")
    return dict(params)


def as_step(fn: Any) -> StepFunction:
    """Returns a step that runs `fn`; TypeError if there can be none."""
    if isinstance(fn, StepFunction):
        return fn
    if isinstance(fn, type) and issubclass(fn, Step):
        raise TypeError(f"{fn.__name__} is the class of a step: add an instance, {fn.__name__}()")
    return StepFunction(fn)


def checked_workflow(wf: Any) -> Workflow:
    """Returns what is to be run.

    Raises:
        TypeError: it is no Workflow.
    """
    if isinstance(wf, Workflow):
        return wf
    remedy = "; a template is called first, and what it returns is run" if callable(wf) else ""
    raise TypeError(f"what is run is a Workflow, not {wf!r}{remedy}")


def _weight_of(weights: Mapping[str, float] | Callable[[str], float] | None) -> Callable[[str], float]:
    if weights is None:
        return lambda _: 1.0
    return weights.__getitem__ if isinstance(weights, Mapping) else weights
