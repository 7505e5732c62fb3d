"""Attempts and outcomes one by one, as tests speak of them, and in blocks and columns, as they travel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from pfw import messages as m
from pfw.columns import unpack_facts

#: (attempt, run, step, try, function, lane, estimate_us, grace_ms, call, inputs); the step, which does not travel, is
#: what the number in the call of `samples.graph_of` says.
AssignRow = tuple[int, int, int, int, int, int, int, int, bytes, m.Inputs]


class Ended(NamedTuple):
    """Outcomes one by one."""

    number: int
    rows: tuple[m.OutcomeRow, ...]


class Assigned(NamedTuple):
    """An Assign whose attempts stand one by one; those with limits or needs of their own are named apart."""

    batch: int
    last_cancel: int
    acked: int
    functions: tuple[tuple[int, bytes], ...]
    runs: tuple[tuple[int, str], ...]
    rows: tuple[AssignRow, ...]
    #: (attempt, timeout_ms, is_once)
    limits: tuple[tuple[int, int, int], ...] = ()
    #: (attempt, slots, GPUs, memory)
    needs: tuple[tuple[int, int, int, int], ...] = ()


def blocks_of(
    rows: Sequence[AssignRow],
    limits: Iterable[tuple[int, int, int]] = (),
    needs: Iterable[tuple[int, int, int, int]] = (),
) -> tuple[m.AssignBlock, ...]:
    """Blocks as large as can be: neighbours that are alike and have consecutive numbers share one."""
    limit_of = {attempt: (timeout_ms, is_once) for attempt, timeout_ms, is_once in limits}
    need_of = {attempt: tuple(need) for attempt, *need in needs}
    blocks: list[list[Any]] = []
    for attempt, run, _, *alike, call, inputs in rows:
        kind = [run, *alike, *limit_of.get(attempt, (0, 0)), need_of.get(attempt, ())]
        if blocks and blocks[-1][1:10] == kind and blocks[-1][0] + len(blocks[-1][10]) == attempt:
            blocks[-1][10].append(call)
            blocks[-1][11].append(inputs)
        else:
            blocks.append([attempt, *kind, [call], [inputs]])
    return tuple((*block[:10], tuple(block[10]), tuple(block[11]) if any(block[11]) else ()) for block in blocks)


def assigned(message: m.Assign) -> Assigned:
    """The same with one row for each attempt."""
    rows, limits, needs = list[AssignRow](), list[tuple[int, int, int]](), list[tuple[int, int, int, int]]()
    for (
        first,
        run,
        attempt,
        function,
        lane,
        estimate_us,
        grace_ms,
        timeout_ms,
        is_once,
        need,
        calls,
        inputs,
    ) in message.blocks:
        for place, call in enumerate(calls):
            given = inputs[place] if inputs else ()
            rows.append((first + place, run, _step(call), attempt, function, lane, estimate_us, grace_ms, call, given))
            if timeout_ms or is_once:
                limits.append((first + place, timeout_ms, is_once))
            if need:
                needs.append((first + place, need[0], need[1], need[2]))
    return Assigned(*message[:5], tuple(rows), tuple(limits), tuple(needs))


def _step(call: bytes) -> int:
    return int(call.removeprefix(b"call ")) if call.startswith(b"call ") else 0


def rows_of_slot(blocks: Iterable[Any]) -> list[tuple[Any, ...]]:
    """What a slot is sent, attempt by attempt: (attempt, run, run id, try, function, known short, call, inputs)."""
    return [
        (first + place, *alike, call, inputs[place] if inputs else ())
        for first, *alike, calls, inputs in blocks
        for place, call in enumerate(calls)
    ]


def blocks_of_slot(rows: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The other way round; a block for each."""
    return [(*alike, (call,), (inputs,) if inputs else ()) for *alike, call, inputs in rows]


def columns_of(rows: Sequence[m.OutcomeRow]) -> m.OutcomeColumns:
    """Outcomes as they travel."""
    attempts, codes, starts_us, runs_us, payloads, cpus_us, peaks_bytes = zip(*rows, strict=True)
    return attempts, bytes(codes), starts_us, runs_us, payloads, cpus_us, peaks_bytes


def ended(message: m.Outcomes) -> Ended:
    """The same with one row for each attempt."""
    return Ended(message.number, tuple(zip(*message.columns, strict=True)))


class Told(NamedTuple):
    """Facts one by one."""

    run: int
    position: int
    steps: int
    epoch_s: float
    workers: tuple[tuple[int, str], ...]
    rows: tuple[m.FactRow, ...]


def told(message: m.Facts) -> Told:
    """The same with its rows."""
    *head, numbers, payloads = message
    return Told(*head, tuple(unpack_facts(numbers, payloads)))
