"""What a supervisor takes from a slot, and what it does not."""

from __future__ import annotations

from array import array
from math import inf, nan
from typing import Any

import pytest

from pfw.columns import are_outcomes, pack_outcome, pack_outcomes, unpack_outcomes
from pfw.messages import OutcomeColumns
from pfw_worker.channel import are_notes


@pytest.mark.parametrize("message", [((1, 5),), ((1, b"text"), (2, (0.5, 0.0, "it"))), ((0, (0.0, 1e12, "")),)])
def test_notes(message: tuple[Any, ...]) -> None:
    assert are_notes(message)
    assert unpack_outcomes(message) is None


@pytest.mark.parametrize(
    "what", ["text", None, (1.0, 2.0), (1, 2.0, "it"), (-1.0, 2.0, ""), (nan, 1.0, ""), (1.0, nan, ""), (inf, 1.0, ""),
             (1.0, 1.0, "x" * 201), (1.0, 1.0, b"it")],
)  # fmt: skip
def test_what_is_no_note(what: Any) -> None:
    assert not are_notes(((1, 5), (1, what)))
    assert not are_notes((("1", 5),))
    assert not are_notes(())


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 64])
def test_outcomes(count: int) -> None:
    columns = outcomes(count)
    assert are_outcomes(columns)
    assert not are_notes(pack_outcomes(columns))
    assert columns_of(unpack_outcomes(pack_outcomes(columns))) == columns
    for place, column in enumerate(columns):
        assert not are_outcomes((*columns[:place], *columns[place + 1 :]))
        for odd in (column[:-1], column + column[:1], list(column), None, 5, "x" * count, bytes(count), (), {}):
            if odd != column and not (place == 1 and type(odd) is bytes and len(odd) == count):
                assert not are_outcomes((*columns[:place], odd, *columns[place + 1 :])), (place, odd)
    assert not are_outcomes((*columns, columns[0]))
    assert not are_outcomes(list(columns))


@pytest.mark.parametrize("count", [1, 2, 8, 9, 64])
@pytest.mark.parametrize("bad", [None, -1, "x", 1.5, True, (), [b"x"], {}, b"x", 7, 2**62, 2**63, 2**64 - 1])
def test_outcomes_with_a_cell_that_is_none(count: int, bad: Any) -> None:
    columns = outcomes(count)
    for place in (0, 2, 3, 4, 5, 6):
        for row in (0, count - 1):
            column = columns[place]
            changed = (*columns[:place], (*column[:row], bad, *column[row + 1 :]), *columns[place + 1 :])
            is_good = type(bad) is bytes if place == 4 else bad == 7
            assert are_outcomes(changed) == is_good, (place, row)


@pytest.mark.parametrize("message", [(), None, 5, b"1234567", "1234567", {}, ((),) * 7, ((), b"", (), (), (), (), ())])
def test_what_is_no_outcomes(message: Any) -> None:
    assert not are_outcomes(message)


@pytest.mark.parametrize("count", [1, 64])
def test_what_is_no_packed_outcomes(count: int) -> None:
    ints, codes, payloads = pack_outcomes(outcomes(count))
    over = array("Q", [0] * (5 * count - 1) + [2**62]).tobytes()
    for bad in (
        (ints[:-1], codes, payloads), (ints + bytes(8), codes, payloads), (ints, codes + b"x", payloads),
        (ints, codes, payloads[:-1]), (ints, codes, (*payloads[:-1], "x")), (over, codes, payloads), (ints, codes),
        (codes, ints, payloads), (ints, codes, list(payloads)), (b"", b"", ()), (ints, codes, payloads, payloads),
    ):  # fmt: skip
        assert unpack_outcomes(bad) is None


def test_a_clock_that_was_set_back_makes_no_negative_times() -> None:
    attempts, codes, starts_us, _, payloads, _, peaks_bytes = outcomes(2)
    packed = pack_outcomes((attempts, codes, starts_us, (-5, 7), payloads, (-1, 2), peaks_bytes))
    found = unpack_outcomes(packed)
    assert found is not None
    assert (found[3], found[5]) == ([0, 7], [0, 2])
    for odd in ((-1, 4, 5), (3, -1, 5), (3, 4, -1)):
        start_us, run_us, cpu_us = (max(0, cell) for cell in odd)
        assert columns_of(unpack_outcomes(pack_outcome(7, 1, odd[0], odd[1], b"x", odd[2], 9))) == (
            (7,), b"\1", (start_us,), (run_us,), (b"x",), (cpu_us,), (9,)
        )  # fmt: skip


def test_one_outcome_travels_as_many_do() -> None:
    columns = (1,), b"\2", (3,), (4,), (b"5",), (6,), (7,)
    assert pack_outcome(1, 2, 3, 4, b"5", 6, 7) == pack_outcomes(columns)


def columns_of(found: OutcomeColumns | None) -> tuple[Any, ...]:
    assert found is not None
    return tuple([column if type(column) is bytes else tuple(column) for column in found])


def outcomes(count: int) -> tuple[Any, ...]:
    """Columns of so many rows."""
    ints = tuple(range(count))
    return ints, bytes(count), (2**62 - 1,) * count, ints, (b"x",) * count, ints, ints
