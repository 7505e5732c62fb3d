"""What came up in a world, read from its story: whether the worlds do what they are for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from helpers.columns import assigned
from pfw import messages as m
from pfw import outcome as oc
from pfw.facts import RUN_STATE_NAMES, STATE_NAMES

if TYPE_CHECKING:
    from sim.world import World

_OUTCOMES = {
    oc.STOPPED: "stopped", oc.CRASHED: "crashed", oc.NOT_STARTED: "handed back", oc.RETRYABLE: "retried",
    oc.TIMED_OUT: "timed out", oc.EXPANDED: "expanded",
}  # fmt: skip


def sights(world: World) -> set[str]:
    """The states that steps and runs reached, and what was said on the way, of a world that kept its whole story."""
    seen = {STATE_NAMES[state] for run in world.oracle.runs.values() for state in run.life.states}
    seen |= {f"run {RUN_STATE_NAMES[run.life.status]}" for run in world.oracle.runs.values()}
    seen |= {f"inner {RUN_STATE_NAMES[run.life.status]}" for run in world.oracle.runs.values() if run.outer}
    if any(count > 1 for count in world.oracle.begun.values()):
        seen.add("begun again")
    seen |= {what for _, _, what, _ in world.story}
    known: set[tuple[bytes, int]] = set()
    stated: dict[tuple[bytes, int], int] = {}
    for peer, message in _said(world):
        seen.add(type(message).__name__)
        if isinstance(message, m.Outcomes):
            seen |= {_OUTCOMES.get(code, "ended") for code in message.columns[1]}
        elif isinstance(message, m.Assign):
            batch = assigned(message)
            numbers = {(peer, row[0]) for row in batch.rows}
            seen |= {"sent again"} if numbers & known else set()
            known |= numbers
            seen |= {"takes more"} if batch.needs else set()
            seen |= {"sent along"} if any(None in row[9] for row in batch.rows) else set()
        elif isinstance(message, m.Facts) and message.payloads:
            seen |= {"rewound"} if message.position < stated.get((peer, message.run), 0) else set()
            stated[peer, message.run] = message.position + len(message.payloads)
    return seen


def _said(world: World) -> Iterator[tuple[bytes, m.Message]]:
    for _, who, what, detail in world.story:
        if what == "to":
            yield from ((detail[0], message) for message in detail[1])
        elif what == "says":
            yield from ((who.encode(), message) for message in detail)
