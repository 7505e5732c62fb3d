"""How messages travel: msgpack arrays of ints and bytes, several to a frame, long frames in pieces.

Everything a peer sends is checked here, where `columns` looks at what there is much of, and nowhere else; what a graph
says is `graphs`' business. Whatever is odd is a ProtocolError for that peer alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from hashlib import blake2b
from itertools import chain
from math import isfinite
from operator import call, itemgetter, or_
from typing import Any, NamedTuple, TypeVar

import msgpack

from pfw.columns import INT_LIMIT, are_blocks, are_bytes, are_in_range, are_ints, are_outcomes
from pfw.errors import ProtocolError
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
_PIECES = 0xC1
_FIRST, _PIECE, _LAST = b"\xc1\x02", b"\xc1\x01", b"\xc1\x00"
_DIGEST_BYTES, _HEAD_BYTES = 8, 2 + 8
_SHORT_BYTES = 64 << 10

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
    if len(messages) == 1:  # as nearly always; a comprehension takes as long as what it does here
        frame = _pack([(_NUMBER_OF[type(messages[0])], *messages[0])])
    else:
        frame = _pack([(_NUMBER_OF[type(m)], *m) for m in messages])
    if len(frame) <= PIECE_BYTES:
        return [frame]
    if len(frame) > MESSAGE_BYTES and len(messages) > 1:
        return [part for message in messages for part in encode([message])]
    if len(frame) > MESSAGE_BYTES:
        raise ProtocolError(f"a message of {len(frame):,} bytes is over the limit of {MESSAGE_BYTES:,}")
    digest = _digest(frame)
    pieces = [digest + frame[at : at + PIECE_BYTES] for at in range(0, len(frame), PIECE_BYTES)]
    return [_FIRST + pieces[0], *(_PIECE + piece for piece in pieces[1:-1]), _LAST + pieces[-1]]


#: Packers that nobody uses just now: to make one takes longer than to pack a short message.
_packers: list[msgpack.Packer] = []


def _pack(value: Any) -> bytes:
    try:
        packer = _packers.pop()  # it is no other thread's then
    except IndexError:
        packer = msgpack.Packer()
    packed: bytes = packer.pack(value)
    if len(packed) <= _SHORT_BYTES:  # it keeps as much room as its longest message took
        _packers.append(packer)
    return packed


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
        if not frame or frame[0] != _PIECES:
            if self._pieces:
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
    return [_decode_one(messages[0])] if len(messages) == 1 else [_decode_one(message) for message in messages]


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
    form = _FORMS[message[0]]
    cls, types, ints_of, checks, _, checked_of = form
    # Fields that a later version may have added at the end are not looked at.
    fields = message[1 : len(types) + 1]
    # Of ints below the limit, a power of two, no bit from there on is set; of a negative one all are.
    if (
        tuple(map(type, fields)) == types
        and 0 <= reduce(or_, ints_of(fields)) < INT_LIMIT
        and all(map(call, checks, checked_of(fields)))
    ):
        return tuple.__new__(cls, fields)
    raise ProtocolError(_complaint(form, fields))


def _complaint(form: _Form, fields: tuple[Any, ...]) -> str:
    if len(fields) < len(form.types):
        return f"{form.cls.__name__} has {len(form.types)} fields, not {len(fields)}"
    bad = [
        number
        for number, (kind, value) in enumerate(zip(form.types, fields, strict=True))
        if type(value) is not kind or (kind is int and not is_int(value))
    ]
    bad = bad or [number for number, check in zip(form.checked, form.checks, strict=True) if not check(fields[number])]
    return f"{form.cls.__name__}.{form.cls._fields[bad[0]]} is not what it should be"


def is_int(value: Any) -> bool:
    """Whether it is a whole number, from 0 and below INT_LIMIT."""
    return type(value) is int and 0 <= value < INT_LIMIT


def is_capacity(value: Any) -> bool:
    """Whether it is a number of slots."""
    return type(value) is int and 0 <= value <= 100_000


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and isfinite(value)


def is_seconds(value: Any) -> bool:
    """Whether it is a delay or grace."""
    return _is_number(value) and 0 <= value <= SECONDS_LIMIT


def is_bytes(value: Any) -> bool:
    """Whether it is bytes."""
    return type(value) is bytes


def _is_short(text: str) -> bool:
    return len(text) <= STR_LIMIT


def is_ints(value: Any) -> bool:
    """Whether it is a list of what `is_int` is true of."""
    return type(value) is tuple and are_ints(value)


def are_strings(column: Sequence[Any]) -> bool:
    """Whether these are strings, none too long."""
    if len(column) == 1:  # a single call
        return type(column[0]) is str and len(column[0]) <= STR_LIMIT
    return not column or (set(map(type, column)) == {str} and max(map(len, column)) <= STR_LIMIT)


def _are_tuples(column: tuple[Any, ...]) -> bool:
    if len(column) == 1:
        return type(column[0]) is tuple
    return set(map(type, column)) <= {tuple}


def rows_of(*types: type) -> Check:
    """A list of rows whose cells have these types; ints are not negative, floats finite, strings short.

    Many are looked at as one list of cells, so that the work is done in C: 0.5 µs a row of ten in a batch. Few are
    looked at one by one: 0.9 µs for one row where its columns would take 4.4.
    """
    width, of_row = len(types), list(types)
    columns = [(number, _COLUMN_CHECKS[kind]) for number, kind in enumerate(types) if kind in _COLUMN_CHECKS]
    ints = [number for number, kind in enumerate(types) if kind is int]
    are_good = _cells_of([(number, _CELL_CHECKS[kind]) for number, kind in enumerate(types) if kind in _CELL_CHECKS])

    def is_row(row: Any) -> bool:
        if type(row) is not tuple or tuple(map(type, row)) != types:
            return False
        for number in ints:
            if not 0 <= row[number] < INT_LIMIT:
                return False
        return are_good(row)

    def check(rows: Any) -> bool:
        if type(rows) is not tuple:
            return False
        if len(rows) <= _FEW_ROWS:
            return not rows or all(map(is_row, rows))
        if set(map(type, rows)) != {tuple} or set(map(len, rows)) != {width}:
            return False
        cells = list(chain.from_iterable(rows))
        if list(map(type, cells)) != of_row * len(rows):
            return False
        return all(is_column(cells[number::width]) for number, is_column in columns)

    return check


def _cells_of(checks: Sequence[tuple[int, Check]]) -> Check:
    """Whether each of these cells of a row is what it should be; in C, for half the time of a loop over them."""
    if len(checks) < 2:
        return lambda row: all(is_cell(row[number]) for number, is_cell in checks)
    pick, cells = itemgetter(*[number for number, _ in checks]), [is_cell for _, is_cell in checks]
    return lambda row: all(map(call, cells, pick(row)))


#: Up to so many rows are checked one by one.
_FEW_ROWS = 8

_CELL_CHECKS: dict[type, Check] = {float: isfinite, str: _is_short}

_COLUMN_CHECKS: dict[type, Callable[[Sequence[Any]], bool]] = {
    int: are_in_range,
    # A sum is finite only if every part of it is (and times do not add up to 1e308): half of the time of asking each.
    float: lambda column: isfinite(sum(column)),
    str: are_strings,
}

are_amounts = rows_of(str, int)

#: Of each field its type, exactly (an int is no float), or what is to be true of it: of a tuple, where `_TYPE_OF` names
#: no other type.
_FIELDS: dict[str, tuple[type | Check, ...]] = {
    "Register": (
        int, str, str, str, int, str, is_capacity, is_capacity, is_capacity, int,
        are_amounts,
    ),
    "Heartbeat": (int, int, are_ints, int, float, float, int),
    "Outcomes": (int, are_outcomes),
    "Notes": (rows_of(int, int),),
    "CancelsAsked": (int,),
    "Leaving": (int,),
    "Welcome": (int, float, str, int),
    "Refused": (int, str, int),
    "Assign": (
        int, int, int, rows_of(int, bytes), rows_of(int, str),
        are_blocks,
    ),
    "GiveBack": (are_ints, int),
    "Reply": (int, int, are_ints),
    "Forget": (are_ints, are_ints),
    "Cancels": (int, int, are_ints, are_ints),
    "Hello": (int, str, str, bytes),
    "Submit": (
        bytes, str, str, str, int, are_ints, int, int, int, bytes, bytes,
        str, is_seconds, int,
    ),
    "Extend": (int, int, bytes), "CancelCalls": (int, are_ints),
    "ExtendLike": (int, int, int, are_strings, are_bytes, _are_tuples),
    "CancelRun": (int, str, int),
    "CloseRun": (int,),
    "Attach": (int, str),
    "Cursors": (rows_of(int, int, int),),
    "Query": (int, str, int, int),
    "Accepted": (bytes, int, str),
    "Rejected": (bytes, int, int, str),
    "Attached": (int, int, str, str, str, bytes, bytes, str, int),
    "Facts": (int, int, int, float, rows_of(int, str), bytes, are_bytes),
    "Answer": (int, bytes),
    "Printed": (int, rows_of(int, bytes)), "Progress": (rows_of(int, float, float, str),),
}  # fmt: skip

_TYPE_OF: dict[Check, type] = {is_capacity: int, is_seconds: float}


class _Form(NamedTuple):
    """What a message looks like, so that it is quickly compared: each single call has two."""

    cls: type[Message]
    #: Of its fields.
    types: tuple[type, ...]
    #: Picks its ints, or a 0 if it has none.
    ints_of: Callable[[Any], tuple[int, ...]]
    #: What is to be true of some fields, which they are, and what picks them.
    checks: tuple[Check, ...]
    checked: tuple[int, ...]
    checked_of: Callable[[Any], tuple[Any, ...]]


def _form_of(cls: type[Message]) -> _Form:
    fields = _FIELDS[cls.__name__]
    types = tuple([field if isinstance(field, type) else _TYPE_OF.get(field, tuple) for field in fields])
    ints = [number for number, kind in enumerate(types) if kind is int]
    checked = [number for number, field in enumerate(fields) if field not in (int, bytes)]
    checks = [_CELL_CHECKS[field] if isinstance(field, type) else field for field in map(fields.__getitem__, checked)]
    return _Form(cls, types, _picker(ints) if ints else lambda _: (0,), tuple(checks), tuple(checked), _picker(checked))


def _picker(numbers: Sequence[int]) -> Callable[[Any], tuple[Any, ...]]:
    """Picks cells of a row. `itemgetter` would give a single one not as a tuple; of a slice it does."""
    first = numbers[0] if numbers else 0
    return itemgetter(*numbers) if len(numbers) > 1 else itemgetter(slice(first, first + len(numbers)))


#: By number.
_FORMS = [_form_of(cls) for cls in MESSAGES]


def pack(value: Any) -> bytes:
    """Packs plain data (reports for people and scripts)."""
    return msgpack.packb(value)
