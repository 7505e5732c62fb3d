"""The outputs of a run as its caller reads them: by id, node or index, unpickled when they are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pfw.node import ItemNode, MapNode, Node

if TYPE_CHECKING:
    from pfw.runs import Run


class Meaning(NamedTuple):
    """How a run's outputs make its value; travels with the run for clients that attach later."""

    #: Structure with Input(step, path) in place of outputs; None: the workflow has several leaves.
    value: Any
    leaves: Sequence[int]
    #: {name of a map: its members}
    maps: dict[str, Sequence[int]]


class PickledOutputs:
    """Outputs by step index, as `fill` reads them."""

    def __init__(self, run: Run) -> None:
        from pfw import codec

        self._run = run
        self._load, self._load_all = codec.load, codec.load_all
        self._pickled = run._record.outputs

    def __getitem__(self, key: int | slice) -> Any:
        if isinstance(key, slice):
            return self.of(range(key.start, key.stop))
        pickled = self._pickled.get(key)
        return self._run.output(key) if pickled is None else self._load(pickled)

    def of(self, steps: Sequence[int]) -> list[Any]:
        """The outputs of several steps: two thirds of the time of one after another.

        Raises:
            OutputNotKeptError: One was not kept, or its step did not succeed.
        """
        pickled = list(filter(None, map(self._pickled.get, steps)))
        return self._load_all(pickled) if len(pickled) == len(steps) else [self[step] for step in steps]


class OutputMapping(Mapping[str | Node | MapNode, Any]):
    """The kept outputs of a run."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def __getitem__(self, key: str | Node | MapNode) -> Any:
        run = self._run
        if isinstance(key, MapNode):
            key = key.id
        if isinstance(key, ItemNode):
            value = run.output(run.step_index(key.id))
            for item in key.path:
                value = value[item]
            return value
        name = key.id if isinstance(key, Node) else key
        members = run._meaning.maps.get(name)
        if members is not None:
            return PickledOutputs(run).of(members)
        return run.output(run.step_index(name))

    def __iter__(self) -> Iterator[str | Node | MapNode]:
        record = self._run._record
        return iter([record.graph.ids[step] for step in sorted(record.outputs)])

    def __len__(self) -> int:
        return len(self._run._record.outputs)
