"""Facts on the wire: what was packed comes back, and what is none is refused."""

from __future__ import annotations

import struct
from math import inf, nan

import msgpack
import pytest

from helpers.session_rig import ENDED, STARTED, SessionRig, fact, facts
from pfw.columns import INT_LIMIT, pack_facts, unpack_facts
from pfw.errors import ProtocolError
from pfw.facts import FACT_SUCCEEDED
from pfw.messages import FactRow
from pfw.wire import decode, encode

FIRST: FactRow = (2, 0, 1.5, 3, 4, 1.0, 1.25, 0.25, b"out", 15, INT_LIMIT - 1)
SECOND: FactRow = (9, 70_000, 0.0, 1, 0, -1.0, 1e300, 0.0, b"", 0, 0)


@pytest.mark.parametrize("rows", [(), (FIRST,), (FIRST, SECOND), (SECOND,) * 3_000])
def test_facts_come_back_as_they_were(rows: tuple[FactRow, ...]) -> None:
    assert unpack_facts(*pack_facts(rows)) == rows


@pytest.mark.parametrize("count", [1, 2, 50])
@pytest.mark.parametrize("place", range(10))
def test_a_number_out_of_its_range_is_refused(count: int, place: int) -> None:
    numbers, payloads = pack_facts([FIRST] * count)
    cells = list(struct.unpack(f"<{6 * count}Q{4 * count}d", numbers))
    for odd in (INT_LIMIT, (1 << 64) - 1) if place < 6 else (nan, inf, -inf, 2.0**1009):
        cells[place * count + count - 1] = odd
        with pytest.raises(ProtocolError):
            unpack_facts(struct.pack(f"<{6 * count}Q{4 * count}d", *cells), payloads)


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_more_or_fewer_numbers_than_payloads_have_are_refused(count: int) -> None:
    numbers, payloads = pack_facts([FIRST] * count)
    for odd in (numbers + b"\0", numbers + numbers[:80] + b"\0" * 80, numbers[:-1] or b"x"):
        with pytest.raises(ProtocolError):
            unpack_facts(odd, payloads)
    with pytest.raises(ProtocolError):
        unpack_facts(numbers, (*payloads, b""))


def test_facts_that_are_none_change_nothing() -> None:
    rig = SessionRig().join()
    record = rig.start()
    good = facts(0, STARTED, fact(FACT_SUCCEEDED, 0, payload=b"out"))
    with pytest.raises(ProtocolError):
        rig.hear(good._replace(numbers=good.numbers[:-8]))
    assert (record.position, list(record.rows), record.outputs) == (0, [], {})
    rig.hear(good, facts(2, ENDED))
    assert (record.position, record.outputs) == (3, {0: b"out"})


@pytest.mark.parametrize(
    ("field", "odd", "said"),
    [
        ("run", "1", "Facts.run is not"),
        ("steps", 2**62, "Facts.steps is not"),
        ("position", -1, "Facts.position is not"),
        ("epoch_s", 1, "Facts.epoch_s is not"),
        ("epoch_s", nan, "Facts.epoch_s is not"),
        ("payloads", (b"", 7), "Facts.payloads is not"),
        ("workers", ((1, 2),), "Facts.workers is not"),
    ],
)
def test_the_error_names_the_field(field: str, odd: object, said: str) -> None:
    (frame,) = encode([facts(0, FIRST)._replace(**{field: odd})])
    with pytest.raises(ProtocolError, match=said):
        decode(frame)


def test_the_error_says_how_many_fields_are_there() -> None:
    number, *fields = msgpack.unpackb(encode([facts(0, FIRST)])[0])[0]
    with pytest.raises(ProtocolError, match="Facts has 7 fields, not 3"):
        decode(msgpack.packb([(number, *fields[:3])]))
