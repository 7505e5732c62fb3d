"""How messages travel: msgpack arrays of ints and bytes, several to a frame, long frames in pieces.

Everything a peer sends is checked here, where `columns` looks at what there is much of, and nowhere else. Whatever is
odd is a ProtocolError for that peer alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import chain
from math import isfinite
from typing import Any, TypeVar

import msgpack

from pfw.columns import INT_LIMIT, are_blocks, are_bytes, are_in_range, are_ints, are_outcomes
from pfw.errors import ProtocolError
from pfw.expansion import Fragment
from pfw.graph import IF_ALWAYS, PRIORITY_LIMIT, Graph, Spec
from pfw.messages import MESSAGES, Message

#: A frame longer than this goes in pieces; also what a socket accepts as one frame, with room for the marker.
PIECE_BYTES = 64 << 20
#: The longest message: a 2 GiB result and what surrounds it.
MESSAGE_BYTES = (2 << 30) + (1 << 20)
#: A turn's message to one peer ends at about this size; the rest follows in the next turn.
BATCH_BYTES = 1 << 20

STR_LIMIT = 64 << 10
#: Longest delay or grace: a month.
SECONDS_LIMIT = 31 * 24 * 3600

#: What a piece starts with, before the digest of its whole frame: 0xc1 is the one byte msgpack never uses.
_FIRST, _PIECE, _LAST = b"\xc1\x02", b"\xc1\x01", b"\xc1\x00"
_DIGEST_BYTES, _HEAD_BYTES = 8, 2 + 8

_NUMBER_OF = {cls: number for number, cls in enumerate(MESSAGES)}

T = TypeVar("T")
Check = Callable[[Any], bool]


def parts(rows: Sequence[T], sizes: Sequence[int]) -> Iterator[Sequence[T]]:
    """Rows of these sizes in groups of PIECE_BYTES at most, or of one: payloads must not add up to more than fits."""
    if sum(sizes) <= PIECE_BYTES:
        yield rows
        return
    first = size = 0
    for number, row_size in enumerate(sizes):
        if number > first and size + row_size > PIECE_BYTES:
            yield rows[first:number]
            first, size = number, 0
        size += row_size
    yield rows[first:]


def encode(messages: Sequence[Message]) -> list[bytes]:
    """The frames that carry these messages, in order.

    Raises:
        ProtocolError: One of them is longer than MESSAGE_BYTES.
    """
    frame: bytes = msgpack.packb([(_NUMBER_OF[type(m)], *m) for m in messages])
    if len(frame) > MESSAGE_BYTES and len(messages) > 1:
        return [part for message in messages for part in encode([message])]
    if len(frame) <= PIECE_BYTES:
        return [frame]
    if len(frame) > MESSAGE_BYTES:
        raise ProtocolError(f"a message of {len(frame):,} bytes is over the limit of {MESSAGE_BYTES:,}")
    digest = _digest(frame)
    pieces = [digest + frame[at : at + PIECE_BYTES] for at in range(0, len(frame), PIECE_BYTES)]
    return [_FIRST + pieces[0], *(_PIECE + piece for piece in pieces[1:-1]), _LAST + pieces[-1]]


def _digest(frame: bytes) -> bytes:
    """Names a frame that goes in pieces, so that those of two are never put together. 1 GB/s."""
    return blake2b(frame, digest_size=_DIGEST_BYTES).digest()


class Assembler:
    """Puts the pieces of one peer's long frames together again."""

    __slots__ = ("_head", "_pieces", "_size")

    def __init__(self) -> None:
        self._head = b""
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, frame: bytes) -> list[Message]:
        """The messages completed by this frame (none while pieces are missing).

        Raises:
            ProtocolError: The frame is not one of ours, or of one that went in pieces a piece is missing.
        """
        if frame[:1] != b"\xc1":
            self._clear()
            return decode(frame)
        kind, head, piece = frame[:2], frame[2:_HEAD_BYTES], frame[_HEAD_BYTES:]
        if kind == _FIRST:
            self._clear()
            self._head = head
        self._size += len(piece)
        if kind not in (_FIRST, _PIECE, _LAST) or not head or head != self._head or self._size > MESSAGE_BYTES:
            self._clear()
            raise ProtocolError("a piece that does not continue what was read before, or of a message that is too long")
        self._pieces.append(piece)
        if kind != _LAST:
            return []
        whole = b"".join(self._pieces)
        self._clear()
        if _digest(whole) != head:
            raise ProtocolError("a piece is missing")
        return decode(whole)

    def _clear(self) -> None:
        self._head = b""
        self._pieces.clear()
        self._size = 0


def decode(frame: bytes) -> list[Message]:
    """The messages of one frame.

    Raises:
        ProtocolError: Not msgpack, not our form, or a value out of its range.
    """
    messages = unpack(frame)
    if type(messages) is not tuple:
        raise ProtocolError("a frame is a list of messages")
    return [_decode_one(message) for message in messages]


def unpack(data: bytes) -> Any:
    """Unpacks msgpack with every limit set: no declared length can be longer than the data itself."""
    size = len(data)
    try:
        return msgpack.unpackb(
            data, use_list=False, strict_map_key=True, max_str_len=size, max_bin_len=size, max_array_len=size,
            max_map_len=size, max_ext_len=0,
        )  # fmt: skip
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise ProtocolError(f"not a message: {type(error).__name__}") from None


def _decode_one(message: Any) -> Message:
    if type(message) is not tuple or not message or type(message[0]) is not int:
        raise ProtocolError("a message is a list that starts with its number")
    if not 0 <= message[0] < len(MESSAGES):
        raise ProtocolError(f"no message has number {message[0]}")
    cls, checks = _FORMS[message[0]]
    # Fields that a later version may have added at the end are not looked at.
    fields = message[1 : len(checks) + 1]
    if len(fields) < len(checks):
        raise ProtocolError(f"{cls.__name__} has {len(checks)} fields, not {len(fields)}")
    for check, field in zip(checks, fields):  # noqa: B905  # their lengths were compared just now
        if not check(field):
            bad = [name for name, check, field in zip(cls._fields, checks, fields, strict=True) if not check(field)]
            raise ProtocolError(f"{cls.__name__}.{bad[0]} is not what it should be")
    return tuple.__new__(cls, fields)


def _is_int(value: Any) -> bool:
    return type(value) is int and 0 <= value < INT_LIMIT


def _is_capacity(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 100_000


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and isfinite(value)


def _is_seconds(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= SECONDS_LIMIT


def _is_str(value: Any) -> bool:
    return type(value) is str and len(value) <= STR_LIMIT


def _is_bytes(value: Any) -> bool:
    return type(value) is bytes


def _is_ints(value: Any) -> bool:
    return type(value) is tuple and are_ints(value)


def _are_strings(column: Sequence[Any]) -> bool:
    return not column or (set(map(type, column)) == {str} and max(map(len, column)) <= STR_LIMIT)


def _rows(*types: type) -> Check:
    """A list of rows whose cells have these types; ints are not negative, floats finite, strings short.

    Many are looked at as one list of cells, so that the work is done in C: 0.5 µs a row of ten in a batch. Few are
    looked at one by one: 0.9 µs for one row where its columns would take 4.4.
    """
    width, of_row = len(types), list(types)
    columns = [(number, _COLUMN_CHECKS[kind]) for number, kind in enumerate(types) if kind in _COLUMN_CHECKS]
    ints = [number for number, kind in enumerate(types) if kind is int]
    others = [(number, _CELL_CHECKS[kind]) for number, kind in enumerate(types) if kind in _CELL_CHECKS]

    def is_row(row: Any) -> bool:
        if type(row) is not tuple or tuple(map(type, row)) != types:
            return False
        for number in ints:
            if not 0 <= row[number] < INT_LIMIT:
                return False
        return all(is_cell(row[number]) for number, is_cell in others)

    def check(rows: Any) -> bool:
        if type(rows) is not tuple:
            return False
        if len(rows) <= _FEW_ROWS:
            return all(map(is_row, rows))
        if set(map(type, rows)) != {tuple} or set(map(len, rows)) != {width}:
            return False
        cells = list(chain.from_iterable(rows))
        if list(map(type, cells)) != of_row * len(rows):
            return False
        return all(is_column(cells[number::width]) for number, is_column in columns)

    return check


#: Up to so many rows are checked one by one.
_FEW_ROWS = 8

_CELL_CHECKS: dict[type, Check] = {float: isfinite, str: _is_str}

_COLUMN_CHECKS: dict[type, Callable[[Sequence[Any]], bool]] = {
    int: are_in_range,
    # A sum is finite only if every part of it is (and times do not add up to 1e308): half of the time of asking each.
    float: lambda column: isfinite(sum(column)),
    str: _are_strings,
}

_are_amounts = _rows(str, int)

_CHECKS: dict[str, tuple[Check, ...]] = {
    "Register": (
        _is_int, _is_str, _is_str, _is_str, _is_int, _is_str, _is_capacity, _is_capacity, _is_capacity, _is_int,
        _are_amounts,
    ),
    "Heartbeat": (_is_int, _is_int, _is_ints, _is_int, _is_number, _is_number, _is_int),
    "Outcomes": (_is_int, are_outcomes),
    "Notes": (_rows(int, int),),
    "CancelsAsked": (_is_int,),
    "Leaving": (_is_int,),
    "Welcome": (_is_int, _is_number, _is_str, _is_int),
    "Refused": (_is_int, _is_str, _is_int),
    "Assign": (
        _is_int, _is_int, _is_int, _rows(int, bytes), _rows(int, str),
        are_blocks,
    ),
    "GiveBack": (_is_ints, _is_int),
    "Reply": (_is_int, _is_int, _is_ints),
    "Forget": (_is_ints, _is_ints),
    "Cancels": (_is_int, _is_int, _is_ints, _is_ints),
    "Hello": (_is_int, _is_str, _is_str, _is_bytes),
    "Submit": (
        _is_bytes, _is_str, _is_str, _is_str, _is_int, _is_ints, _is_int, _is_int, _is_int, _is_bytes, _is_bytes,
        _is_str, _is_seconds, _is_int,
    ),
    "Extend": (_is_int, _is_int, _is_bytes), "CancelCalls": (_is_int, _is_ints),
    "CancelRun": (_is_int, _is_str, _is_int),
    "CloseRun": (_is_int,),
    "Attach": (_is_int, _is_str),
    "Cursors": (_rows(int, int, int),),
    "Query": (_is_int, _is_str, _is_int, _is_int),
    "Accepted": (_is_bytes, _is_int, _is_str),
    "Rejected": (_is_bytes, _is_int, _is_int, _is_str),
    "Attached": (_is_int, _is_int, _is_str, _is_str, _is_str, _is_bytes, _is_bytes, _is_str, _is_int),
    "Facts": (
        _is_int, _is_int, _is_int, _is_number, _rows(int, str),
        _rows(int, int, float, int, int, float, float, float, bytes, int, int),
    ),
    "Answer": (_is_int, _is_bytes),
    "Printed": (_is_int, _rows(int, bytes)), "Progress": (_rows(int, float, float, str),),
}  # fmt: skip

#: By number: the message's class and the checks of its fields.
_FORMS = [(cls, _CHECKS[cls.__name__]) for cls in MESSAGES]


def pack_graph(graph: Graph) -> bytes:
    """A graph as one blob; its specs are a blob in it, by which those that come again and again are known."""
    return msgpack.packb((*graph[:2], msgpack.packb(graph.specs), *graph[3:]))


def unpack_graph(blob: bytes, first: int = 0) -> Graph:
    """The graph of a blob, checked: columns of one length, indices in range, dependencies before their dependents.

    Args:
        blob: What `pack_graph` made.
        first: Index of the blob's first step in its run (a fragment's steps may depend on earlier ones).

    Raises:
        ProtocolError: Anything else.
    """
    columns = unpack(blob)
    if type(columns) is not tuple or tuple(map(type, columns)) != (tuple, tuple, bytes, *[tuple] * 5):
        raise ProtocolError("a graph is seven columns and its specs")
    ids, functions, packed_specs, function_of, spec_of, calls, inputs, after = columns
    specs = _unpack_specs(packed_specs)
    if len({len(ids), len(function_of), len(spec_of), len(calls), len(inputs), len(after)}) != 1:
        raise ProtocolError("the columns of a graph have one length")
    if not (_are_strings(ids) and are_bytes(functions) and are_bytes(calls)):
        raise ProtocolError("ids are strings, functions and calls are bytes")
    if not (_are_indices(function_of, len(functions)) and _are_indices(spec_of, len(specs))):
        raise ProtocolError("a step names a function or a spec that is not there")
    _check_dependencies(inputs, first)
    _check_dependencies(after, first)
    return Graph(
        list(ids), list(functions), specs, list(function_of), list(spec_of), list(calls), list(inputs), list(after)
    )


def pack_fragment(fragment: Fragment) -> bytes:
    """A fragment as one blob."""
    return msgpack.packb((pack_graph(fragment.graph), fragment.skipped, fragment.taken))


def unpack_fragment(blob: bytes) -> Fragment:
    """The fragment of a blob, checked like a graph; it has a step, and nothing depends on what is skipped.

    Raises:
        ProtocolError: Anything else.
    """
    cells = unpack(blob)
    if type(cells) is not tuple or len(cells) != 3 or not _is_bytes(cells[0]):
        raise ProtocolError("a fragment is a graph, what is skipped and what is taken over")
    graph, skipped, taken = unpack_graph(cells[0]), cells[1], cells[2]
    if not graph.ids or not _is_ints(skipped) or not _rows(str, int)(taken):
        raise ProtocolError("a fragment has steps")
    apart = (*skipped, *(tail for _, tail in taken))
    if len(set(apart)) != len(apart) or not _are_indices(apart, len(graph.ids) - 1):
        raise ProtocolError("what is skipped, and what another step ends with, is named once and not the last step")
    needed = {*chain.from_iterable(graph.inputs), *chain.from_iterable(graph.after)}
    if not needed.isdisjoint(skipped) or any(graph.inputs[step] or graph.after[step] for step in skipped):
        raise ProtocolError("what is skipped stands alone")
    return Fragment(graph, skipped, taken)


def _are_indices(column: Sequence[Any], limit: int) -> bool:
    if len(column) == 1:  # a single call
        return type(column[0]) is int and 0 <= column[0] < limit
    return not column or (are_ints(column) and max(column) < limit)


def _check_dependencies(column: Sequence[Any], first: int) -> None:
    if not set(map(type, column)) <= {tuple}:
        raise ProtocolError("dependencies are lists")
    if not any(column):
        return
    if not are_ints(tuple(chain.from_iterable(column))):
        raise ProtocolError("a dependency is the index of a step")
    for step, dependencies in enumerate(column, first):
        if dependencies and max(dependencies) >= step:
            raise ProtocolError(f"step {step} depends on itself or on a later one")


def _unpack_specs(blob: bytes) -> list[Spec]:
    # Each single call comes with the same spec again, and checking it takes 12 µs. Names in specs may be long.
    return list(_checked_specs(blob) if len(blob) <= STR_LIMIT >> 6 else _checked_specs.__wrapped__(blob))


@lru_cache(maxsize=256)
def _checked_specs(blob: bytes) -> tuple[Spec, ...]:
    specs = unpack(blob)
    if type(specs) is not tuple or not all(type(spec) is tuple and len(spec) == len(Spec._fields) for spec in specs):
        raise ProtocolError("specs are a list of lists of numbers")
    return tuple([_checked_spec(*spec) for spec in specs])


def _checked_spec(*spec: Any) -> Spec:
    lane, heavy, retries, backoff, factor, max_delay, jitter, grace, run_if, keep, priority, tags, *more = spec
    timeout, retries_timeouts, reruns, slots, needs, limits, retries_memory = more
    if not all(map(_is_int, (lane, heavy, retries, jitter, retries_timeouts, reruns, retries_memory))) or lane > 2:
        raise ProtocolError("a spec's lane, heavy, retries and jitter are whole numbers, and there are three lanes")
    if not all(map(_is_seconds, (backoff, factor, max_delay, grace, timeout))):
        raise ProtocolError(f"a spec's times are from 0 to {SECONDS_LIMIT:,} s")
    if not all(map(_is_int, (run_if, keep, priority))) or run_if > IF_ALWAYS or priority >= PRIORITY_LIMIT:
        raise ProtocolError("a spec's run_if, keep and priority are whole numbers in their ranges")
    if not (type(tags) is tuple and _are_strings(tags)):
        raise ProtocolError("a spec's tags are strings")
    if not (_is_capacity(slots) and slots and _are_amounts(needs) and _are_amounts(limits)):
        raise ProtocolError("a spec's slots are a number from 1, its needs and limits are names with numbers")
    return Spec(*spec)


def pack(value: Any) -> bytes:
    """Packs plain data (reports for people and scripts)."""
    return msgpack.packb(value)
