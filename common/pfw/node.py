"""What stands for the outputs of steps while a workflow is put together.

A Node has no value: that exists only when the workflow runs. It may be an argument of another call; whatever else is
tried with it, as if it were its value, is refused with the remedy. This module must not know how a workflow keeps its
steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn, SupportsIndex, overload

from pfw.checks import check_count
from pfw.errors import GraphError

if TYPE_CHECKING:
    from pfw.standins import Sides, Stage
    from pfw.workflow import Workflow

#: Most items that one output is unpacked into.
ITEMS_LIMIT = 1_000_000


class Deferred:
    """An output that exists only when the workflow runs; base of Node, ItemNode and MapNode."""

    __slots__ = ("workflow",)

    #: The workflow that it belongs to.
    workflow: Workflow

    # Identity, although == is refused: a Node may be a key of a dict.
    __hash__ = object.__hash__

    @property
    def id(self) -> str:
        """Id of the step (of a map: the map's name)."""
        raise NotImplementedError

    def __bool__(self) -> bool:
        self._refuse("has no truth value", "make the decision in a step that gets it as an argument")

    def __len__(self) -> int:
        self._refuse("has no length", "take it in a step that gets it as an argument")

    def __iter__(self) -> Iterator[Any]:
        remedy = "pass it to a step that does; to call one for each item use node.map(fn); for n items use .unpack(n)"
        self._refuse("cannot be iterated over", remedy)

    def __format__(self, format_spec: str) -> str:
        self._refuse("cannot be put into a string", "do that in a step that gets it; for its id use .id")

    def __eq__(self, other: object) -> bool:
        self._refuse("cannot be compared", "compare in a step that gets it as an argument; to compare Nodes use `is`")

    def __lt__(self, other: object) -> bool:
        self._refuse("cannot be compared", "compare in a step that gets it as an argument")

    __ne__ = __eq__
    __le__ = __gt__ = __ge__ = __lt__

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        self._refuse(
            "cannot be pickled or copied",
            "a step gets the output of another one as an argument, or in a list, tuple, named tuple or dict value of "
            "its arguments, not in a set, a dict key, a closure, a global or an object of another class",
        )

    def _refuse(self, what: str, remedy: str) -> NoReturn:
        raise GraphError(f"{self!r} {what}: its value exists only when the workflow runs; {remedy}")


class Node(Deferred):
    """One use of a step in a workflow.

    As an argument of another call it stands for the step's output. `node[key]` stands for an item of the output.
    """

    __slots__ = ("index",)

    #: Place among the workflow's steps, in the order in which they were added.
    index: int

    def __init__(self, workflow: Workflow, index: int) -> None:
        self.workflow = workflow
        self.index = index

    @property
    def id(self) -> str:
        """Id of the step."""
        return self.workflow.id_of(self.index)

    @property
    def tags(self) -> tuple[str, ...]:
        """The step's own words, as given to `step`."""
        return self.workflow.tags_of(self.index)

    @property
    def path(self) -> tuple[Any, ...]:
        """Keys that are applied to the step's output, one after another."""
        return ()

    def __getitem__(self, key: Any) -> ItemNode:
        """Returns what stands for `output[key]`; the item is taken where it is used, by no step of its own."""
        if isinstance(key, Deferred):
            raise GraphError(f"{key!r} cannot be a key of {self!r}: take the item in a step that gets both")
        return ItemNode(self.workflow, self.index, (*self.path, key))

    def unpack(self, count: int) -> tuple[ItemNode, ...]:
        """Returns `count` Nodes, which stand for the output's items 0, 1, ...

        Raises:
            ConfigError: it is no whole number, 0 or more.
        """
        check_count("the number of items", count, ITEMS_LIMIT, least=0)
        return tuple(self[number] for number in range(count))

    def map(self, fn: Callable[..., Any], /, **constants: Any) -> LateMapNode:
        """Adds `fn(item, **constants)` for each item of the output, however many there will be.

        Args:
            fn: a step or a function; its options are those of each use.
            constants: keyword arguments that each use gets; values or Nodes.

        Returns:
            What stands for the list of the outputs, in the order of the items.
        """
        return self.workflow.add_late_map(fn, self, constants)

    def when(self, predicate: Callable[[Any], Any], /) -> When:
        """Begins a choice: `node.when(predicate).then(f).otherwise(g)` is one Node, with the output of the side taken.

        Args:
            predicate: is asked with the output, where steps run.
        """
        return When(self, predicate)

    def after(self, *others: Deferred | str) -> Node:
        """Lets this step start only when `others` (Nodes, or ids of steps or maps) have ended; passes no data.

        Returns:
            This Node.

        Raises:
            GraphError: one of `others` belongs to another workflow.
        """
        self.workflow.order_after((self.index,), others)
        return self

    def __repr__(self) -> str:
        return f'Node "{self.id}"' + "".join(f"[{key!r}]" for key in self.path)


class ItemNode(Node):
    """An item of a step's output: `node[key]`. Its id and place are those of the step."""

    __slots__ = ("_path",)

    def __init__(self, workflow: Workflow, index: int, path: tuple[Any, ...]) -> None:
        super().__init__(workflow, index)
        self._path = path

    @property
    def path(self) -> tuple[Any, ...]:
        """Keys that are applied to the step's output, one after another."""
        return self._path


class LateMapNode(Node):
    """The uses of one step over the items of an output: as an argument the list of their outputs, in order."""

    __slots__ = ("_stages",)

    def __init__(self, workflow: Workflow, index: int, stages: list[Stage]) -> None:
        super().__init__(workflow, index)
        #: Where this map is a stage, its own step first: the stages of that step, and its number among them.
        self._stages = [(stages, 0)]

    def map(self, fn: Callable[..., Any], /, **constants: Any) -> LateMapNode:
        """Adds `fn(output, **constants)` for each output; each starts as soon as that is there.

        With Nodes among the constants they start when all outputs are there. Else as `Node.map`.
        """
        from pfw.standins import Stage
        from pfw.workflow import as_step

        step = as_step(fn)
        found = self.workflow.add_late_map(step, self, constants)
        if not step.after and self.workflow.inputs_of(found.index) == (self.index,):
            for stages, number in self._stages:
                stages.append(Stage(number, step, constants, found.id))
                found._stages.append((stages, len(stages) - 1))
        return found

    def after(self, *others: Deferred | str) -> LateMapNode:
        """Lets all uses start only when `others` have ended, as `Node.after`. Returns this Node."""
        for stages, number in self._stages:
            if number:
                stages[number] = stages[number]._replace(is_apart=True)
        super().after(*others)
        return self


class BranchNode(Node):
    """The output of the side of a branch that is taken; without `otherwise` the value passes through."""

    __slots__ = ("_sides",)

    def __init__(self, workflow: Workflow, index: int, sides: Sides) -> None:
        super().__init__(workflow, index)
        self._sides = sides

    def otherwise(self, fn: Callable[..., Any], /) -> BranchNode:
        """Sets what is called where the predicate does not hold; returns this Node.

        Raises:
            GraphError: it was set before.
            TypeError: `fn` does not take one argument.
        """
        from pfw.workflow import as_step

        if self._sides.otherwise is not None:
            raise GraphError(f"{self!r} has an otherwise(...) already: branch again on its output")
        step = as_step(fn)
        step.check_call(1, ())
        self._sides.otherwise = step
        self.workflow.changed()
        return self


class When:
    """A choice whose first side is still to be named."""

    __slots__ = ("_node", "_predicate")

    def __init__(self, node: Node, predicate: Callable[[Any], Any]) -> None:
        self._node, self._predicate = node, predicate

    def then(self, fn: Callable[..., Any], /) -> BranchNode:
        """Adds the choice: `fn(output)` where the predicate holds."""
        return self._node.workflow.add_branch(self._predicate, fn, self._node)


class MapNode(Deferred):
    """The uses of one step over several items, known when the workflow is put together.

    As an argument of another call it stands for the list of the outputs, in the order of the items. It can be iterated
    over and indexed: its items are Nodes.
    """

    __slots__ = ("members", "name")

    #: Name of the map: its members are `name[0]`, `name[1]`, ...
    name: str
    #: Places of the members among the workflow's steps.
    members: range

    def __init__(self, workflow: Workflow, name: str, members: range) -> None:
        self.workflow = workflow
        self.name = name
        self.members = members

    @property
    def id(self) -> str:
        """Name of the map."""
        return self.name

    @property
    def nodes(self) -> list[Node]:
        """The members."""
        return [self.workflow.node(index) for index in self.members]

    def __len__(self) -> int:
        return len(self.members)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    @overload
    def __getitem__(self, key: int) -> Node: ...

    @overload
    def __getitem__(self, key: slice) -> list[Node]: ...

    def __getitem__(self, key: int | slice) -> Node | list[Node]:
        if isinstance(key, slice):
            return self.nodes[key]
        return self.workflow.node(self.members[key])

    def map(self, fn: Callable[..., Any], /, **constants: Any) -> MapNode:
        """Adds `fn(item, **constants)` for each member's output; each starts as soon as its own item is there."""
        return self.workflow.add_map(fn, [(node,) for node in self.nodes], constants)

    def after(self, *others: Deferred | str) -> MapNode:
        """Lets each member start only when `others` have ended, as `Node.after`. Returns this MapNode."""
        self.workflow.order_after(self.members, others)
        return self

    def __repr__(self) -> str:
        return f'MapNode "{self.name}" of {len(self.members)}'
