"""What a step takes beside one slot of its lane, and whether a worker can ever give it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pfw.graph import Spec

#: Names under which workers offer what is not a user's own resource.
GPU, HEAVY_IO, MEMORY = "gpu", "heavy_io", "memory"
RESERVED_NAMES = frozenset({GPU, HEAVY_IO, MEMORY})
#: Heavy-IO permits of a worker that says nothing else.
HEAVY_IO_PERMITS = 4

#: By lane.
_SLOTS = ("CPU slots", "IO slots", "async permits")


class Demand(NamedTuple):
    """What a step takes while it is assigned. Steps with equal demands wait in one queue."""

    lane: int
    #: 1: never sent ahead.
    heavy: int
    #: Slots of the lane.
    slots: int
    #: (name, number) of what is reserved on the worker.
    needs: tuple[tuple[str, int], ...]
    #: (name, number): not more than so many steps with this name at once in the whole cluster.
    limits: tuple[tuple[str, int], ...]


class Offer(NamedTuple):
    """What a worker has in all."""

    #: By lane.
    slots: tuple[int, int, int]
    resources: Mapping[str, int]


def demand_of(spec: Spec, limits: tuple[tuple[str, int], ...] = ()) -> Demand | None:
    """The demand of a step; None for a step that takes one slot and nothing else.

    Args:
        spec: Of the step.
        limits: Of its run, as in Demand.
    """
    if spec.slots == 1 and not (spec.needs or spec.limits or limits):
        return None
    return Demand(spec.lane, int(not spec.may_go_ahead), spec.slots, spec.needs, spec.limits + limits)


def plain_demand(lane: int) -> Demand:
    """What a step takes that takes one slot of its lane and nothing else."""
    return Demand(lane, 0, 1, (), ())


def own_needs(demand: Demand) -> tuple[int, int, int]:
    """What a step wants of its slot: CPU slots, GPUs, bytes of memory (0: no limit)."""
    needs = dict(demand.needs)
    return demand.slots, needs.get(GPU, 0), needs.get(MEMORY, 0)


def shortage(demand: Demand, offers: Iterable[Offer], has: str = "has") -> str:
    """What none of these workers can give, in words; "" if one of them can give all.

    Args:
        demand: What a step takes.
        offers: What each worker has, or what of it is free.
        has: The words for that.

    >>> shortage(Demand(0, 1, 8, (), ()), [Offer((4, 16, 1000), {})])
    'it needs 8 CPU slots of one worker, and the most that a worker has is 4'
    """
    known = list(offers)
    wanted = {_SLOTS[demand.lane]: (demand.slots, [o.slots[demand.lane] for o in known])}
    wanted.update({repr(name): (n, [o.resources.get(name, 0) for o in known]) for name, n in demand.needs})
    if not known:
        return f"it needs {_list(wanted)}, and there is no worker"
    lacking = [name for name, (n, amounts) in wanted.items() if max(amounts) < n]
    if lacking:
        name = lacking[0]
        n, amounts = wanted[name]
        most = f"{max(amounts) / 1e6:,.1f} MB" if name == repr(MEMORY) else max(amounts)
        return f"it needs {_amount(n, name)} of one worker, and the most that a worker {has} is {most}"
    if any(all(amounts[place] >= n for n, amounts in wanted.values()) for place in range(len(known))):
        return ""
    return f"it needs {_list(wanted)}, and no worker {has} all of that"


def _list(wanted: Mapping[str, tuple[int, object]]) -> str:
    return ", ".join(_amount(n, name) for name, (n, _) in wanted.items())


def _amount(n: int, name: str) -> str:
    if name == repr(MEMORY):
        return f"{n / 1e6:,.1f} MB of memory"
    return f"{n} {name.removesuffix('s')}" if n == 1 and name in _SLOTS else f"{n} {name}"
