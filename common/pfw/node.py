"""What stands for the outputs of steps while a workflow is put together.

A Node has no value: that exists only when the workflow runs. It may be an argument of another call; whatever else is
tried with it, as if it were its value, is refused with the remedy. This module must not know how a workflow keeps its
steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn, SupportsIndex, overload

from pfw.errors import GraphError

if TYPE_CHECKING:
    from pfw.workflow import Workflow


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
        self._refuse("cannot be iterated over", "pass it to a step that does; if it has n items, use .unpack(n)")

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
        """Returns `count` Nodes, which stand for the output's items 0, 1, ..."""
        return tuple(self[number] for number in range(count))

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
