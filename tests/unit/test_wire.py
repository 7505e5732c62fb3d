"""Messages on the wire: what is sent arrives as it was, and whatever else arrives is a ProtocolError."""

from __future__ import annotations

import struct
from math import inf, nan
from random import Random
from typing import Any

import msgpack
import pytest

from helpers.samples import SAMPLES, graph_of, spec
from pfw import messages as m
from pfw import wire
from pfw.errors import ProtocolError
from pfw.graph import Graph
from pfw.graphs import pack_graph, unpack_graph
from pfw.messages import MESSAGES, Message
from pfw.wire import Assembler, decode, encode

NUMBERS = {cls: number for number, cls in enumerate(MESSAGES)}
#: Values of every type there is on the wire, and beyond what a field may be.
ODD: tuple[Any, ...] = (
    None, True, False, -1, 2**62, 2**64 - 1, 1.5, nan, inf, "text", b"bytes", (), (1,), ((),), ("x",), {}, {"a": 1}
)  # fmt: skip


def frame_of(message: object, **changes: Any) -> bytes:
    """A frame with one message, fields changed without any check."""
    fields = {**message._asdict(), **changes}  # type: ignore[attr-defined]
    return bytes(msgpack.packb([(NUMBERS[type(message)], *fields.values())]))  # type: ignore[index]


def is_refused(frame: bytes) -> bool:
    with pytest.raises(ProtocolError):
        decode(frame)
    return True


# -- what is sent arrives ----------------------------------------------------------------------------------------------


def test_there_is_a_sample_of_every_message() -> None:
    assert {type(sample) for sample in SAMPLES} == set(MESSAGES)


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
def test_a_message_arrives_as_it_was_sent(message: Message) -> None:
    (frame,) = encode([message])
    (decoded,) = decode(frame)
    assert decoded == message
    assert type(decoded) is type(message)


def test_messages_of_one_frame_keep_their_order() -> None:
    (frame,) = encode(SAMPLES)
    assert decode(frame) == list(SAMPLES)


def test_a_frame_without_messages_is_empty() -> None:
    assert decode(encode([])[0]) == []


# -- fields ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
def test_a_missing_field_is_refused_and_an_unknown_one_is_ignored(message: Message) -> None:
    number = NUMBERS[type(message)]
    assert is_refused(msgpack.packb([(number, *message[:-1])]))
    assert decode(msgpack.packb([(number, *message, "of a later version", 1)])) == [message]


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
def test_a_field_of_another_type_is_refused(message: Message) -> None:
    for name, value in message._asdict().items():
        for odd in ODD:
            try:
                (decoded,) = decode(frame_of(message, **{name: odd}))
            except ProtocolError:
                continue
            taken = getattr(decoded, name)
            is_number = isinstance(value, float) and type(taken) in (int, float) and taken not in (inf, nan)
            assert type(taken) is type(value) or is_number, f"{name} = {odd!r} was taken"
            assert type(taken) is not int or 0 <= taken < 2**62 or is_number, f"{name} = {odd!r} was taken"


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
def test_an_odd_cell_of_a_row_is_refused(message: Message) -> None:
    for name, value in message._asdict().items():
        if not (isinstance(value, tuple) and value and isinstance(value[0], tuple)) or name == "inputs":
            continue
        good = value[0]
        assert is_refused(frame_of(message, **{name: (good[:-1],)})), "a cell too few"
        assert is_refused(frame_of(message, **{name: (*value, (*good, 0))})), "a cell too many"
        assert is_refused(frame_of(message, **{name: (list(good), 7)})), "no row at all"
        for at, cell in enumerate(good):
            for odd in ODD:
                if type(odd) is type(cell) and odd not in (-1, nan, inf, (1,), ((),), ("x",), 2**62, 2**64 - 1):
                    continue
                row = (*good[:at], odd, *good[at + 1 :])
                assert is_refused(frame_of(message, **{name: (*value, row)})), f"{name}[{at}] = {odd!r}"


@pytest.mark.parametrize("capacity", [-1, 10**9, "4", True, 4.0, None])
@pytest.mark.parametrize("lane", ["cpu", "io", "permits"])
def test_a_capacity_out_of_range_is_refused(lane: str, capacity: object) -> None:
    register = next(sample for sample in SAMPLES if isinstance(sample, m.Register))
    assert is_refused(frame_of(register, **{lane: capacity}))
    assert decode(frame_of(register, **{lane: 0}))


def test_a_text_over_the_limit_is_refused() -> None:
    assert is_refused(frame_of(m.CancelRun(1, "x" * (wire.STR_LIMIT + 1))))
    assert decode(frame_of(m.CancelRun(1, "x" * wire.STR_LIMIT)))


@pytest.mark.parametrize(
    "message",
    [None, 7, "x", (), {}, (None,), ("0",), (True,), (-1,), (len(MESSAGES),), (2**64 - 1,), (1.0,), ((),), {0: 1}],
)
def test_what_has_no_number_is_no_message(message: object) -> None:
    assert is_refused(msgpack.packb([message]))


@pytest.mark.parametrize("frame", [None, 7, "x", b"x", True, 1.5, {}, {1: 2}])
def test_what_is_no_list_is_no_frame(frame: object) -> None:
    assert is_refused(msgpack.packb(frame))


# -- bytes -------------------------------------------------------------------------------------------------------------


def test_random_bytes_are_refused() -> None:
    random = Random(1)
    for _ in range(3_000):
        noise = random.randbytes(random.randrange(60))
        try:
            assert decode(noise) == [], noise
        except ProtocolError:
            pass


def test_a_damaged_frame_is_refused_or_still_a_message() -> None:
    random = Random(2)
    for sample in SAMPLES:
        (frame,) = encode([sample])
        for _ in range(150):
            damaged = bytearray(frame)
            damaged[random.randrange(len(damaged))] ^= 1 << random.randrange(8)
            try:
                decoded = decode(bytes(damaged))
            except ProtocolError:
                continue
            assert all(type(message) in NUMBERS for message in decoded)


def test_every_cut_and_every_appendix_is_refused() -> None:
    for sample in SAMPLES:
        (frame,) = encode([sample])
        assert all(is_refused(frame[:length]) for length in range(len(frame)))
        assert is_refused(frame + b"\xc0")
        assert is_refused(frame + frame)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc1",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f",
        b"\x91" * 100_000,
        b"\x81\x01" * 100_000,
        b"\xdd\xff\xff\xff\xff",
        b"\xdc\xff\xff\x00",
        b"\xdf\xff\xff\xff\xff",
        b"\x91\xdb\xff\xff\xff\xffabc",
        b"\x91\xc6\xff\xff\xff\xffabc",
        b"\x91\xc9\xff\xff\xff\xff\x01abc",
        b"\x91\xd4\x05\x00",
        b"\x91\xc7\x00\x05",
        b"\x91\xd6\xff\x00\x00\x00\x01",
        b"\x91\x92\x04\xc7\x00\x05",
        b"\x91\x93\x10\x01\xa2\xff\xfe",
        b"\x91\x82\x01\x02\x01\x03",
    ],
    ids=lambda frame: repr(frame[:12]),
)
def test_hostile_bytes_are_refused(frame: bytes) -> None:
    assert is_refused(frame)


def test_declared_lengths_take_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    import tracemalloc

    frame = b"\xdd" + struct.pack(">I", 500_000)
    frame = frame * 400 + b"\xc0" * 500_000
    tracemalloc.start()
    try:
        assert is_refused(frame)
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


# -- pieces ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "PIECE_BYTES", 40)


LONG = m.Answer(1, b"x" * 100)
SHORT = m.CloseRun(5)


@pytest.mark.usefixtures("small_pieces")
def test_a_long_frame_goes_in_pieces() -> None:
    pieces = encode([LONG, SHORT])
    assert len(pieces) == 3
    assert all(len(piece) <= 40 + 64 for piece in pieces)
    assembler = Assembler()
    assert [assembler.feed(piece) for piece in pieces] == [[], [], [LONG, SHORT]]
    assert assembler.feed(encode([SHORT])[0]) == [SHORT]


@pytest.mark.usefixtures("small_pieces")
def test_a_whole_frame_ends_a_row_of_pieces_that_broke_off() -> None:
    assembler = Assembler()
    for piece in encode([LONG])[:-1]:
        assert assembler.feed(piece) == []
    assert assembler.feed(encode([SHORT])[0]) == [SHORT]
    pieces = encode([LONG])
    assert [assembler.feed(piece) for piece in pieces] == [[], [], [LONG]]


@pytest.mark.usefixtures("small_pieces")
def test_lost_pieces_never_make_a_message_that_was_not_sent() -> None:
    first, second = m.Answer(1, b"x" * 100), m.Answer(1, b"y" * 100)
    stream = [*encode([first]), *encode([second]), *encode([second])]
    for start in range(len(stream)):
        for end in range(start, len(stream) + 1):
            assembler = Assembler()
            got = feed_all(assembler, stream[:start] + stream[end:])
            assert set(got) <= {first, second}
            assert len(got) >= (start // 3) + (len(stream) - end) // 3
            assert feed_all(assembler, encode([first])) == [first], "what was lost costs no later message"


def feed_all(assembler: Assembler, frames: list[bytes]) -> list[Message]:
    got: list[Message] = []
    for frame in frames:
        try:
            got.extend(assembler.feed(frame))
        except ProtocolError:
            continue
    return got


@pytest.mark.parametrize("frame", [b"\xc1", b"\xc1\x07x", b"\xc1\xff", b"\xc1\xc1", b"\xc1\x00" + b"x" * 20])
def test_a_piece_of_no_known_kind_is_refused(frame: bytes) -> None:
    assembler = Assembler()
    with pytest.raises(ProtocolError):
        assembler.feed(frame)
    assert assembler.feed(encode([SHORT])[0]) == [SHORT]


def test_pieces_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "PIECE_BYTES", 50)
    pieces = encode([m.Answer(1, b"x" * 1_000)])
    monkeypatch.setattr(wire, "MESSAGE_BYTES", 200)
    assembler = Assembler()
    refused = 0
    for piece in pieces:
        try:
            assert assembler.feed(piece) == []
        except ProtocolError:
            refused += 1
    assert refused
    assert assembler.feed(encode([SHORT])[0]) == [SHORT]


def test_what_is_over_the_limit_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "PIECE_BYTES", 50)
    monkeypatch.setattr(wire, "MESSAGE_BYTES", 200)
    assert encode([m.Answer(1, b"x" * 150)])
    with pytest.raises(ProtocolError, match="over the limit"):
        encode([m.Answer(1, b"x" * 250)])


# -- graphs ------------------------------------------------------------------------------------------------------------


def test_a_graph_arrives_as_it_was_sent() -> None:
    graph = graph_of([(), (0,), (0, 1)], after=[(), (), ()])
    assert unpack_graph(pack_graph(graph)) == graph


def test_a_fragment_may_depend_on_earlier_steps() -> None:
    fragment = graph_of([(3,), (7, 2)])
    assert unpack_graph(pack_graph(fragment), first=7) == fragment
    with pytest.raises(ProtocolError):
        unpack_graph(pack_graph(fragment), first=3)


def test_a_repeated_edge_is_no_error() -> None:
    assert unpack_graph(pack_graph(graph_of([(), (0, 0)]))).inputs == [(), (0, 0)]


def test_a_long_chain_needs_no_recursion() -> None:
    graph = graph_of([(), *((step,) for step in range(100_000))])
    assert len(unpack_graph(pack_graph(graph)).ids) == 100_001


@pytest.mark.parametrize(
    "changes",
    [
        {"ids": ["a"]},
        {"ids": ["a", 7]},
        {"ids": ["a", None]},
        {"ids": "ab"},
        {"ids": ["a", "x" * (wire.STR_LIMIT + 1)]},
        {"functions": ["text"]},
        {"functions": []},
        {"function_of": [0, 1]},
        {"function_of": [0, -1]},
        {"function_of": [0, True]},
        {"function_of": [0, 0.0]},
        {"spec_of": [0, 1]},
        {"specs": []},
        {"calls": [b"", "x"]},
        {"calls": [b""]},
        {"inputs": [(), (1,)]},
        {"inputs": [(), (2,)]},
        {"inputs": [(), (-1,)]},
        {"inputs": [(), (True,)]},
        {"inputs": [(), (0.0,)]},
        {"inputs": [(), 0]},
        {"inputs": [(), None]},
        {"inputs": [(0,), ()]},
        {"after": [(), ("0",)]},
        {"after": [(), ((0,),)]},
        {"after": {}},
    ],
    ids=str,
)
def test_an_odd_graph_is_refused(changes: dict[str, Any]) -> None:
    columns = {**graph_of([(), (0,)])._asdict(), **changes}
    with pytest.raises(ProtocolError):
        unpack_graph(msgpack.packb(list(columns.values())))


@pytest.mark.parametrize("blob", [b"", b"\xc0", b"\x90", b"\x97", b"noise", msgpack.packb([[]] * 7)])
def test_what_is_no_graph_is_refused(blob: bytes) -> None:
    with pytest.raises(ProtocolError):
        unpack_graph(blob)


@pytest.mark.parametrize("blob", [pack_graph(graph_of([()])) + b"\x00", pack_graph(graph_of([()]))[:-1]])
def test_a_graph_that_is_longer_or_shorter_is_refused(blob: bytes) -> None:
    with pytest.raises(ProtocolError):
        unpack_graph(blob)


@pytest.mark.parametrize("timeout", [-1.0, 1e9, nan, inf, "1", None, True])
def test_a_timeout_out_of_range_is_refused(timeout: object) -> None:
    assert is_refused(frame_of(next(s for s in SAMPLES if isinstance(s, m.Submit)), timeout=timeout))


@pytest.mark.parametrize("value", [None, True, -1, -0.5, nan, inf, "0", b"0", (), 1e18])
@pytest.mark.parametrize("field", ["timeout", "retries_timeouts", "reruns"])
def test_odd_limits_of_a_spec_are_refused(field: str, value: object) -> None:
    values = {**spec()._asdict(), field: value}
    graph = Graph(["a"], [b"f"], [list(values.values())], [0], [0], [b"c"], [()], [()])  # type: ignore[list-item]
    with pytest.raises(ProtocolError):
        unpack_graph(pack_graph(graph))


@pytest.mark.parametrize("field", range(8))
@pytest.mark.parametrize("value", [None, True, -1, -0.5, nan, inf, "0", b"0", (), 2**62 - 1, 1e18])
def test_an_odd_spec_is_refused(field: int, value: object) -> None:
    values: list[Any] = list(spec())
    values[field] = value
    graph = Graph(["a"], [b"f"], [values], [0], [0], [b"c"], [()], [()])  # type: ignore[list-item]
    if field in (1, 2, 6) and value == 2**62 - 1:
        assert unpack_graph(pack_graph(graph)), "flags and retries may be any whole number"
        return
    with pytest.raises(ProtocolError):
        unpack_graph(pack_graph(graph))


@pytest.mark.parametrize("field", [0, 1, 2, 6])
def test_a_spec_with_a_float_for_a_whole_number_is_refused(field: int) -> None:
    values: list[Any] = list(spec())
    values[field] = float(values[field])
    with pytest.raises(ProtocolError):
        unpack_graph(pack_graph(Graph(["a"], [b"f"], [values], [0], [0], [b"c"], [()], [()])))  # type: ignore[list-item]
