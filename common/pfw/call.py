"""How the arguments of a call travel: values as they are, outputs of other steps as placeholders.

When a call is built, `scan` takes the sources (Nodes, futures) out of its arguments and leaves placeholders. What is
sent is `(step_id, args, kwargs)`, as bytes. Where the step runs, `bind` puts the inputs, given in the order of the
sources, in the placeholders' places. `args is None` is the short form of the usual case: the inputs are the arguments.

Both ways look only into lists, tuples, named tuples and the values of dicts, of exactly these types; a container in
which nothing is to be replaced is passed on as it is. This module must not know what the sources are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import is_
from typing import Any, Generic, NamedTuple, TypeVar

from pfw.errors import GraphError

S = TypeVar("S")

#: Types that hold no source, for a quick look: a fan-out over plain values is not looked at one by one. Values of
#: exactly these types never change, and are read back by marshal as what they were.
PLAIN_TYPES = frozenset({int, str, float, bool, bytes, type(None), complex})


class Input:
    """Stands for the input at `position`, or an item of it: `path` holds keys that are applied one after another."""

    __slots__ = ("path", "position")

    def __init__(self, position: int, path: tuple[Any, ...] = ()) -> None:
        self.position = position
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Input, (self.position, self.path) if self.path else (self.position,))

    def __eq__(self, other: object) -> bool:
        return type(other) is Input and (self.position, self.path) == (other.position, other.path)

    def __hash__(self) -> int:
        return hash((Input, self.position))

    def __repr__(self) -> str:
        return f"Input({self.position}, {self.path!r})" if self.path else f"Input({self.position})"

    def pick(self, inputs: Sequence[Any]) -> Any:
        """Returns what this stands for."""
        value = inputs[self.position]
        for key in self.path:
            value = value[key]
        return value


class Inputs:
    """Stands for the list of the `count` inputs from `start` on."""

    __slots__ = ("count", "start")

    def __init__(self, start: int, count: int) -> None:
        self.start = start
        self.count = count

    def __reduce__(self) -> tuple[Any, ...]:
        return (Inputs, (self.start, self.count))

    def __eq__(self, other: object) -> bool:
        return type(other) is Inputs and (self.start, self.count) == (other.start, other.count)

    def __hash__(self) -> int:
        return hash((Inputs, self.start, self.count))

    def __repr__(self) -> str:
        return f"Inputs({self.start}, {self.count})"

    def pick(self, inputs: Sequence[Any]) -> list[Any]:
        """Returns what this stands for."""
        return list(inputs[self.start : self.start + self.count])


#: A call's positional arguments with placeholders; None: the inputs are the arguments.
Row = tuple[Any, ...] | None

#: What travels of a call: the step's id, and its arguments as they are after `scan`, a Row and a dict or None.
Call = tuple[str, Any, Any]


# ---------------------------------------------------------------- where the step runs


def bind(
    args: tuple[Any, ...] | None, kwargs: dict[str, Any] | None, inputs: Sequence[Any]
) -> tuple[Sequence[Any], dict[str, Any]]:
    """Returns the arguments to call the function with: `function(*args, **kwargs)`.

    Args:
        args: positional arguments with placeholders; None: the inputs are the arguments.
        kwargs: keyword arguments with placeholders, or None.
        inputs: outputs of the step's inputs.
    """
    if args is None:
        return inputs, kwargs or {}
    if not inputs:
        return args, kwargs or {}
    return fill(args, inputs), fill(kwargs, inputs) if kwargs else {}


def fill(obj: Any, inputs: Sequence[Any]) -> Any:
    """Returns `obj` with each placeholder replaced by what it stands for."""
    kind = type(obj)
    if kind is Input or kind is Inputs:
        return obj.pick(inputs)
    return rebuild(obj, lambda item: fill(item, inputs))


# ---------------------------------------------------------------- where the call is built


class Numbering(Generic[S]):
    """Numbers the distinct sources of a call in the order of their appearance."""

    __slots__ = ("_position_of",)

    def __init__(self) -> None:
        self._position_of: dict[S, int] = {}

    @property
    def sources(self) -> tuple[S, ...]:
        """The sources, each at its position."""
        return tuple(self._position_of)

    def position(self, source: S) -> int:
        """Returns the position of `source`, a new one if it was not met before."""
        return self._position_of.setdefault(source, len(self._position_of))

    def positions(self, sources: Iterable[S]) -> list[int]:
        """Returns the positions of several: of a whole map a quarter less time than `position` for each."""
        known = self._position_of
        return [known.setdefault(source, len(known)) for source in sources]


def place_all(positions: Sequence[int]) -> Inputs | list[Input]:
    """Returns what stands for the list of the inputs at `positions`: compact if they follow one another."""
    # Of no inputs at all nothing is filled in, so an empty list must travel as itself.
    if positions and _follow_one_another(positions):
        return Inputs(positions[0], len(positions))
    return [Input(position) for position in positions]


def _follow_one_another(positions: Sequence[int]) -> bool:
    follow = range(positions[0], positions[0] + len(positions))
    return positions == follow if isinstance(positions, range) else list(positions) == list(follow)


class Scan(NamedTuple, Generic[S]):
    """A call's arguments as they travel, and where its inputs come from."""

    args: tuple[Any, ...] | None
    kwargs: dict[str, Any] | None
    #: Distinct sources; the placeholders' positions are indices into it.
    sources: tuple[S, ...]


#: Returns the placeholder of a source and numbers what it stands for.
Place = Callable[[Any, Numbering[Any]], Any]


def place_plain(source: Any, numbering: Numbering[Any]) -> Input:
    """The `Place` for sources that stand for their whole output, such as futures."""
    return Input(numbering.position(source))


def scan(
    args: tuple[Any, ...], kwargs: dict[str, Any], source_types: tuple[type, ...], place: Place = place_plain
) -> Scan[Any]:
    """Takes the sources out of a call's arguments and leaves placeholders in their places.

    Args:
        args: positional arguments.
        kwargs: keyword arguments.
        source_types: an instance of one of these (or of a subclass) is a source.
        place: gives a source's placeholder.

    Raises:
        GraphError: a container is nested too deeply or contains itself; or whatever `place` raises.
    """
    if PLAIN_TYPES.issuperset(map(type, args)) and PLAIN_TYPES.issuperset(map(type, kwargs.values())):
        return Scan(args or None, kwargs or None, ())
    numbering: Numbering[Any] = Numbering()
    placed = replace_sources(args, source_types, place, numbering)
    placed_kwargs = replace_sources(kwargs, source_types, place, numbering) if kwargs else None
    sources = numbering.sources
    if placed_kwargs is None and len(placed) == len(sources) and _is_in_order(placed):
        return Scan(None, None, sources)
    return Scan(placed, placed_kwargs, sources)


def replace_sources(obj: Any, source_types: tuple[type, ...], place: Place, numbering: Numbering[Any]) -> Any:
    """Returns `obj` with each source in it replaced by its placeholder.

    Raises:
        GraphError: as `scan`.
    """

    def replace(item: Any) -> Any:
        if isinstance(item, source_types):
            return place(item, numbering)
        return rebuild(item, replace)

    try:
        return replace(obj)
    except RecursionError:
        raise GraphError(
            "an argument is nested too deeply or contains itself, so it cannot be searched for outputs of other steps; "
            "put it into an object of a class of your own"
        ) from None


def _is_in_order(placed: Iterable[Any]) -> bool:
    return all(type(item) is Input and item.position == n and not item.path for n, item in enumerate(placed))


# ---------------------------------------------------------------- both


def rebuild(obj: Any, replace: Callable[[Any], Any]) -> Any:
    """Returns container `obj` with `replace` applied to its items; `obj` itself if that changes none of them."""
    kind = type(obj)
    if kind is list or kind is tuple:
        items = _replaced(obj, replace)
        return obj if items is None else kind(items)
    if kind is dict:
        items = _replaced(obj.values(), replace)
        return obj if items is None else dict(zip(obj, items, strict=True))
    if isinstance(obj, tuple) and hasattr(kind, "_fields"):
        items = _replaced(obj, replace)
        return obj if items is None else kind._make(items)
    return obj


def _replaced(items: Iterable[Any], replace: Callable[[Any], Any]) -> list[Any] | None:
    """Returns the replaced items, or None if all of them stay what they are."""
    # One pass in C over large lists of numbers and strings, before anything is done one by one.
    if PLAIN_TYPES.issuperset(map(type, items)):
        return None
    new = [replace(item) for item in items]
    return None if all(map(is_, new, items)) else new


def is_plain(column: Iterable[Any]) -> bool:
    """Returns whether nothing in `column` can be or hold a source, as far as a quick look shows."""
    return PLAIN_TYPES.issuperset(map(type, column))


class Column:
    """Rows of one plain value each, made anew each time they are read: a wide fan-out then holds no tuple per step."""

    __slots__ = ("_items",)

    def __init__(self, items: list[Any]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return zip(self._items, strict=False)


#: Positional arguments of the uses of a step in a map.
Rows = list[tuple[Any, ...]] | Column


def rows_of(iterables: Sequence[Iterable[Any]]) -> Rows:
    """Returns the tuples of items that belong together, until the shortest iterable ends."""
    if len(iterables) == 1:
        # Not `list(iterable)`, which asks a length of what only claims to have one.
        items = list(iter(iterables[0]))
        if is_plain(items):
            return Column(items)
        iterables = (items,)
    return list(zip(*iterables, strict=False))
