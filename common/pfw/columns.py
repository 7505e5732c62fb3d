"""Columns of cells that a peer or a slot has sent: whether they have the type and the range they should have."""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from types import NoneType
from typing import Any, Self

from pfw.errors import ProtocolError
from pfw.graph import LANE_ASYNC, LANE_CPU, LANE_IO
from pfw.messages import FactRow, OutcomeColumns

#: Ints are counters and µs; arithmetic on them must stay what msgpack can carry.
INT_LIMIT = 1 << 62
#: Where the most significant byte of a packed int is, and what it may be below the limit.
_TOP, _TOPS = 7 if sys.byteorder == "little" else 0, bytes(range(INT_LIMIT >> 56))


def are_ints(column: Sequence[Any]) -> bool:
    """Whether each cell is an int from 0 to the limit, and no bool."""
    return not column or (set(map(type, column)) == {int} and are_in_range(column))


def are_in_range(ints: Sequence[int]) -> bool:
    """Whether each is from 0 to the limit. Packing them takes a third of the time of `min` and `max`."""
    try:
        packed = array("Q", ints).tobytes()
    except OverflowError:
        return False
    return not packed[_TOP::8].translate(None, _TOPS)


def are_bytes(column: Sequence[Any]) -> bool:
    """Whether each cell is bytes."""
    if len(column) == 1:  # a single call: a quarter of the time
        return type(column[0]) is bytes
    return set(map(type, column)) <= {bytes}


#: Of outcomes: attempts, codes, starts_us, runs_us, payloads, cpus_us, peaks_bytes.
_OUTCOMES = (tuple, bytes, tuple, tuple, tuple, tuple, tuple)


def are_outcomes(columns: Any) -> bool:
    """Whether these are columns of outcomes, of one row or more (`messages.Outcomes`)."""
    if type(columns) is not tuple or tuple(map(type, columns)) != _OUTCOMES:
        return False
    attempts, codes, starts_us, runs_us, payloads, cpus_us, peaks_bytes = columns
    if not codes or set(map(len, columns)) != {len(codes)}:
        return False
    # As one column: row by row only a single one would take less, 2.0 µs instead of 2.7, and 64 twice as much.
    return are_ints(attempts + starts_us + runs_us + cpus_us + peaks_bytes) and are_bytes(payloads)


#: The ints of one outcome.
_ONE = struct.Struct("=5Q")

#: Outcomes as they come from a slot: all ints as 8 bytes each, column after column; codes; payloads.
PackedOutcomes = tuple[bytes, bytes, Sequence[bytes]]


def pack_outcomes(columns: OutcomeColumns) -> PackedOutcomes:
    """What a slot sends to its supervisor. As lists of ints it would take both of them 0.3 µs a row more."""
    attempts, codes, starts_us, runs_us, payloads, cpus_us, peaks_bytes = columns
    ints = [*attempts, *starts_us, *runs_us, *cpus_us, *peaks_bytes]
    try:
        packed = array("Q", ints)
    except OverflowError:  # a step has set back the clock of its process
        packed = array("Q", [max(0, cell) for cell in ints])
    return packed.tobytes(), codes, payloads


def pack_outcome(
    attempt: int, code: int, start_us: int, run_us: int, payload: bytes, cpu_us: int, peak_bytes: int
) -> PackedOutcomes:
    """One outcome as `pack_outcomes` packs several; 2 µs less."""
    try:
        packed = _ONE.pack(attempt, start_us, run_us, cpu_us, peak_bytes)
    except struct.error:  # as above
        packed = _ONE.pack(attempt, max(0, start_us), max(0, run_us), max(0, cpu_us), peak_bytes)
    return packed, bytes((code,)), (payload,)


def unpack_outcomes(packed: tuple[Any, ...]) -> OutcomeColumns | None:
    """The columns, of one row or more; None if something else was packed."""
    if tuple(map(type, packed)) != (bytes, bytes, tuple):
        return None
    ints, codes, payloads = packed
    rows = len(codes)
    if not rows or len(ints) != 5 * 8 * rows or len(payloads) != rows or not are_bytes(payloads):
        return None
    if rows == 1:  # to look at the bytes takes 1 µs more
        attempt, start_us, run_us, cpu_us, peak_bytes = _ONE.unpack(ints)
        if attempt | start_us | run_us | cpu_us | peak_bytes >= INT_LIMIT:
            return None
        return (attempt,), codes, (start_us,), (run_us,), payloads, (cpu_us,), (peak_bytes,)
    if ints[_TOP::8].translate(None, _TOPS):
        return None
    cells = array("Q", ints).tolist()
    starts_us, runs_us, cpus_us, peaks_bytes = [cells[at : at + rows] for at in range(rows, 5 * rows, rows)]
    return cells[:rows], codes, starts_us, runs_us, payloads, cpus_us, peaks_bytes


#: The numbers of one fact, as `pack_facts` orders them, how many they are, and their bytes: a fact without its payload.
_ONE_FACT = struct.Struct("<6Q4d")
_NUMBERS = 10
FACT_BYTES = _ONE_FACT.size
_NOT_WHOLE, _NOT_FINITE = "facts have ten numbers each, of which six are whole", "facts have finite times"
#: What the most significant byte of a float is below 2 ** 1009: infinities and what is no number are beyond.
_FINITE_TOPS = bytes([top for top in range(256) if top & 0x7F != 0x7F])


def pack_facts(rows: Sequence[FactRow]) -> tuple[bytes, tuple[bytes, ...]]:
    """Facts as they travel: their numbers, 8 bytes each, column after column, and their payloads.

    With msgpack 0.6 µs a row, as its own rows take; but who hears them takes 1.0 with all checks, and of rows 1.4.
    """
    if len(rows) == 1:
        kind, step, at, attempt, worker, queued_at, started_at, run_s, payload, cpu_us, peak_bytes = rows[0]
        ints = kind, step, attempt, worker, cpu_us, peak_bytes
        return _ONE_FACT.pack(*ints, at, queued_at, started_at, run_s), (payload,)
    if not rows:
        return b"", ()
    kinds, steps, ats, attempts, workers, *times, payloads, cpus_us, peaks_bytes = zip(*rows, strict=True)
    cells = [*chain(kinds, steps, attempts, workers, cpus_us, peaks_bytes, ats, *times)]
    return struct.pack(f"<{6 * len(rows)}Q{4 * len(rows)}d", *cells), payloads


def unpack_facts(numbers: bytes, payloads: tuple[bytes, ...]) -> tuple[FactRow, ...]:
    """The facts that `pack_facts` was given.

    Raises:
        ProtocolError: It was given none: there are too few or too many numbers, or one is out of its range.
    """
    rows = len(payloads)
    if rows == 1 and len(numbers) == FACT_BYTES:  # of a single call: its ints are looked at in less time by themselves
        kind, step, attempt, worker, cpu_us, peak_bytes, at, queued_at, started_at, run_s = _ONE_FACT.unpack(numbers)
        if kind | step | attempt | worker | cpu_us | peak_bytes >= INT_LIMIT:
            raise ProtocolError(_NOT_WHOLE)
        if numbers[55::8].translate(None, _FINITE_TOPS):
            raise ProtocolError(_NOT_FINITE)
        return ((kind, step, at, attempt, worker, queued_at, started_at, run_s, payloads[0], cpu_us, peak_bytes),)
    _check_facts(numbers, rows)
    if not rows:
        return ()
    cells = struct.unpack(f"<{6 * rows}Q{4 * rows}d", numbers)
    kinds, steps, attempts, workers, cpus_us, peaks_bytes, ats, *times = [
        cells[first : first + rows] for first in range(0, len(cells), rows)
    ]
    return tuple(zip(kinds, steps, ats, attempts, workers, *times, payloads, cpus_us, peaks_bytes, strict=True))


def _check_facts(numbers: bytes, rows: int) -> None:
    ints = rows * 48
    if len(numbers) != rows * FACT_BYTES or numbers[7:ints:8].translate(None, _TOPS):
        raise ProtocolError(_NOT_WHOLE)
    if numbers[ints + 7 :: 8].translate(None, _FINITE_TOPS):
        raise ProtocolError(_NOT_FINITE)


class PackedFacts:
    """Facts as they travel (`pack_facts`), which are unpacked when they are read."""

    __slots__ = ("numbers", "payloads")

    def __init__(self, numbers: bytes, payloads: tuple[bytes, ...]) -> None:
        """Takes what `pack_facts` gave."""
        self.numbers, self.payloads = numbers, payloads

    @classmethod
    def checked(cls, numbers: bytes, payloads: tuple[bytes, ...]) -> Self:
        """Takes what somebody else may have packed. Raises as `unpack_facts`."""
        _check_facts(numbers, len(payloads))
        return cls(numbers, payloads)

    def __len__(self) -> int:
        return len(self.payloads)

    def __iter__(self) -> Iterator[FactRow]:
        return iter(unpack_facts(self.numbers, self.payloads))

    def __getitem__(self, place: slice) -> PackedFacts:
        """Returns neighbours."""
        payloads = self.payloads[place]
        if len(payloads) == len(self):
            return self
        first, end, _ = place.indices(len(self))
        cells = slice(8 * first, 8 * end)
        return PackedFacts(b"".join([self.column(number)[cells] for number in range(_NUMBERS)]), payloads)

    def column(self, number: int) -> bytes:
        """One of the columns of numbers."""
        size = 8 * len(self)
        return self.numbers[number * size : (number + 1) * size]

    def heads(self) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
        """Kinds, steps and attempts."""
        rows = len(self)
        cells = struct.unpack_from(f"<{3 * rows}Q", self.numbers)
        return cells[:rows], cells[rows : 2 * rows], cells[2 * rows :]

    def workers(self) -> set[int]:
        """Who took part."""
        if len(self) == 1:
            return {_ONE_FACT.unpack(self.numbers)[3]}
        return set(struct.unpack(f"<{len(self)}Q", self.column(3)))


def joined(parts: Sequence[PackedFacts]) -> PackedFacts:
    """Facts behind one another as one."""
    if len(parts) == 1:
        return parts[0]
    columns = [part.column(number) for number in range(_NUMBERS) for part in parts]
    return PackedFacts(b"".join(columns), tuple(chain.from_iterable([part.payloads for part in parts])))


def pack_alike(
    kind: int, at: float, worker: int, steps: Sequence[int], attempts: Sequence[int], queued_at: Sequence[float],
    started_at: Sequence[float], runs_s: Sequence[float], payloads: Iterable[bytes], cpus_us: Sequence[int],
    peaks_bytes: Sequence[int],
) -> PackedFacts:  # fmt: skip
    """Facts of one kind, time and worker, from columns; 0.2 µs a fact."""
    rows = len(steps)
    ints = [_packed("Q", column) for column in (steps, attempts, cpus_us, peaks_bytes)]
    times = [_packed("d", column) for column in (queued_at, started_at, runs_s)]
    kinds, workers, ats = struct.pack("<Q", kind) * rows, struct.pack("<Q", worker) * rows, struct.pack("<d", at) * rows
    return PackedFacts(b"".join((kinds, *ints[:2], workers, *ints[2:], ats, *times)), tuple(payloads))


def _packed(form: str, column: Sequence[float]) -> bytes:
    cells = array(form, column)
    if sys.byteorder == "big":
        cells.byteswap()
    return cells.tobytes()


_INPUTS = frozenset({bytes, NoneType})
_LANES = (LANE_CPU, LANE_IO, LANE_ASYNC)


def are_blocks(blocks: Any) -> bool:
    """Whether these are blocks of attempts (`messages.Assign`)."""
    return type(blocks) is tuple and all(map(_is_block, blocks))


def _is_block(block: Any) -> bool:
    if type(block) is not tuple or len(block) != 12:
        return False
    *numbers, need, calls, inputs = block
    if not (
        are_ints(numbers) and block[4] in _LANES and type(need) is tuple and len(need) in (0, 3) and are_ints(need)
    ):
        return False
    if type(calls) is not tuple or not calls or not are_bytes(calls) or type(inputs) is not tuple:
        return False
    if not inputs:
        return True
    are_lists = len(inputs) == len(calls) and set(map(type, inputs)) == {tuple}
    return are_lists and _INPUTS.issuperset(map(type, chain.from_iterable(inputs)))
