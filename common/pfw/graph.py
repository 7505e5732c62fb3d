"""The graph that is run, as columns, and the algorithms on dependencies.

Every algorithm takes `{key: keys it depends on}`, every dependency being a key itself, is iterative and O(V + E), and
is deterministic: where an order is free, the order of insertion decides. This module must not know what a step calls.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from pfw.errors import CycleError

K = TypeVar("K", bound=Hashable)

#: Lanes of a worker: processes for computing, processes for waiting, the one process for `async def` steps.
LANE_CPU, LANE_IO, LANE_ASYNC = 0, 1, 2

#: When a step starts: all that it depends on succeeded; all has ended and something succeeded; all has ended.
IF_ALL, IF_ANY, IF_ALWAYS = 0, 1, 2

#: Priorities of runs and steps are below this.
PRIORITY_LIMIT = 1 << 31

#: A longer cycle is shown by its first and last members.
_CYCLE_SHOWN = 100


class Spec(NamedTuple):
    """How a step is to be run. Equal specs are shared; one travels as a tuple of ints and floats."""

    #: LANE_CPU, LANE_IO or LANE_ASYNC.
    lane: int
    #: 1: never sent ahead in a batch.
    heavy: int
    #: How many attempts may follow the first one.
    retries: int
    #: Delay before the first retry, s.
    backoff: float
    #: What the delay is multiplied with from retry to retry.
    factor: float
    #: Bound of the delay, s.
    max_delay: float
    #: 1: the delay is drawn from 0 to its value; 0: it is its value.
    jitter: int
    #: Time between the request to stop and SIGKILL, s.
    grace: float
    #: IF_ALL, IF_ANY or IF_ALWAYS.
    run_if: int = IF_ALL
    #: 1: the output is kept for the caller.
    keep: int = 0
    #: Among ready steps of a run a higher one goes first.
    priority: int = 0
    #: The user's own words for it.
    tags: tuple[str, ...] = ()
    #: Longest run time of an attempt, s; 0: no limit.
    timeout: float = 0.0
    #: 1: the step's retry rule allows another attempt after a timeout.
    retries_timeouts: int = 0
    #: 1: executed again if its worker is lost or its process dies; 0: it is begun at most once in each attempt.
    reruns: int = 1
    #: Slots of its lane that it takes on one worker.
    slots: int = 1
    #: (name, number) of what is reserved for it on its worker.
    needs: tuple[tuple[str, int], ...] = ()
    #: (name, number): not more than so many steps with this name at once in the whole cluster.
    limits: tuple[tuple[str, int], ...] = ()
    #: 1: the step's retry rule allows another attempt after one that held too much memory.
    retries_memory: int = 0

    @property
    def may_go_ahead(self) -> bool:
        """Whether a worker may be sent the step before it has a free slot for it."""
        return not self.heavy and self.reruns == 1


class Graph(NamedTuple):
    """Columns with one entry per step, always in topological order: every dependency has a smaller index."""

    #: Ids of the steps, unique.
    ids: list[str]
    #: Pickled functions, each once.
    functions: list[bytes]
    #: Distinct specs.
    specs: list[Spec]
    #: Step -> index into `functions`.
    function_of: list[int]
    #: Step -> index into `specs`.
    spec_of: list[int]
    #: Pickled calls, opaque to everything but the slot (see `pfw.call`).
    calls: list[bytes]
    #: Steps whose outputs this one gets, distinct, in the order in which its call numbers them.
    inputs: list[tuple[int, ...]]
    #: Further dependencies, without data; distinct and disjoint from `inputs`.
    after: list[tuple[int, ...]]


def topological_order(dependencies: Mapping[K, Collection[K]], name: Callable[[K], str] = str) -> list[K]:
    """Returns the keys so that each follows its dependencies (Kahn 1962, first in, first out).

    Args:
        dependencies: `{key: keys it depends on}`.
        name: gives a key's name for the error.

    Raises:
        CycleError: the dependencies go round in a circle; it names the circle.
    """
    order = _peel(dependencies)
    if len(order) < len(dependencies):
        cycle = [name(key) for key in find_cycle(dependencies)]
        raise CycleError(f"the steps wait for each other: {_cycle_text(cycle)}", cycle=cycle)
    return order


def _peel(dependencies: Mapping[K, Collection[K]]) -> list[K]:
    """Returns what can be ordered; whatever is in a cycle, or depends on one, is left out."""
    missing = {key: len(needed) for key, needed in dependencies.items()}
    dependents = dependents_of(dependencies)
    order = [key for key, count in missing.items() if not count]
    for key in order:  # grows while it is walked
        for dependent in dependents.get(key, ()):
            missing[dependent] -= 1
            if not missing[dependent]:
                order.append(dependent)
    return order


def dependents_of(dependencies: Mapping[K, Collection[K]]) -> dict[K, list[K]]:
    """Returns `{key: keys that depend on it}`; a key that nothing depends on is not in it."""
    dependents: dict[K, list[K]] = {}
    for key, needed in dependencies.items():
        for dependency in needed:
            dependents.setdefault(dependency, []).append(key)
    return dependents


def find_cycle(dependencies: Mapping[K, Collection[K]]) -> list[K]:
    """Returns the members of a cycle, each before the one that depends on it, or [] if there is none."""
    ordered = set(_peel(dependencies))
    start = next((key for key in dependencies if key not in ordered), None)
    if start is None:
        return []
    # Each key that is left depends on another one that is left: going that way must come back to a key seen before.
    seen: dict[K, int] = {}
    key = start
    while key not in seen:
        seen[key] = len(seen)
        key = next(dependency for dependency in dependencies[key] if dependency not in ordered)
    members = list(seen)[seen[key] :]
    return [members[0], *members[:0:-1]]


def _cycle_text(cycle: Sequence[str]) -> str:
    names = [*cycle, cycle[0]]
    if len(names) > _CYCLE_SHOWN:
        half = _CYCLE_SHOWN // 2
        names[half:-half] = [f"... {len(names) - 2 * half:,} more ..."]
    return " -> ".join(names)


def generations(dependencies: Mapping[K, Collection[K]]) -> list[list[K]]:
    """Returns the waves: the first has no dependencies, each other one depends on at least one key of the wave before.

    Raises:
        CycleError: as `topological_order`.
    """
    waves: list[list[K]] = []
    wave_of: dict[K, int] = {}
    for key in topological_order(dependencies):
        wave = max((wave_of[dependency] for dependency in dependencies[key]), default=-1) + 1
        wave_of[key] = wave
        if wave == len(waves):
            waves.append([])
        waves[wave].append(key)
    return waves


def critical_path(dependencies: Mapping[K, Collection[K]], weight: Callable[[K], float]) -> tuple[list[K], float]:
    """Returns the heaviest path (its keys in order) and its length, the sum of the weights along it.

    With durations as weights, the length is what no number of slots can go below.

    Args:
        dependencies: `{key: keys it depends on}`.
        weight: non-negative weight of a key; called once for each.

    Raises:
        CycleError: as `topological_order`.
    """
    length: dict[K, float] = {}
    before: dict[K, K | None] = {}
    for key in topological_order(dependencies):
        heaviest = max(dependencies[key], key=length.__getitem__, default=None)
        before[key] = heaviest
        length[key] = weight(key) + (0.0 if heaviest is None else length[heaviest])
    if not length:
        return [], 0.0
    end = max(length, key=length.__getitem__)
    return _walk_back(end, before), length[end]


def _walk_back(end: K, before: Mapping[K, K | None]) -> list[K]:
    path = [end]
    while (key := before[path[-1]]) is not None:
        path.append(key)
    return path[::-1]


def mermaid(ids: Sequence[str], inputs: Sequence[Collection[int]], after: Sequence[Collection[int]]) -> str:
    """Returns a Mermaid flowchart: solid arrows carry data, dotted ones only order."""
    lines = ["flowchart TD"]
    lines += [f'    n{step}["{_mermaid_text(name)}"]' for step, name in enumerate(ids)]
    for arrow, edges in (("-->", inputs), ("-.->", after)):
        lines += [f"    n{needed} {arrow} n{step}" for step, sources in enumerate(edges) for needed in sources]
    return "\n".join(lines) + "\n"


def _mermaid_text(name: str) -> str:
    # Mermaid has entities of its own form (#34;) for what would end or change a label.
    return "".join(char if char.isalnum() or char in " _-.[]()" else f"#{ord(char)};" for char in name)
