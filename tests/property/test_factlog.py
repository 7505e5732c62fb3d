"""The facts of a run, rows and packed ones, against a plain list."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pfw.columns import FACT_BYTES, PackedFacts, pack_alike, pack_facts
from pfw.factlog import FactLog
from pfw.facts import FACT_STARTED, FACT_SUCCEEDED, Fact


def row(number: int) -> Fact:
    return Fact(FACT_STARTED, number, number / 2, 1, 3, 0.5, 0.75, 0.25, b"r" * (number % 5), 7, 8)


def successes(first: int, count: int) -> tuple[PackedFacts, list[Fact]]:
    """The same facts in both forms."""
    steps = list(range(first, first + count))
    payloads = [b"p" * (step % 7) for step in steps]
    columns = [1 + step % 3 for step in steps], [step / 4 for step in steps]
    packed = pack_alike(
        FACT_SUCCEEDED, 9.5, 4, steps, columns[0], columns[1], columns[1], columns[1], payloads, steps, columns[0]
    )
    rows = zip(steps, *columns, payloads, strict=True)
    return packed, [
        Fact(FACT_SUCCEEDED, step, 9.5, attempt, 4, at, at, at, payload, step, attempt)
        for step, attempt, at, payload in rows
    ]


parts = st.lists(st.tuples(st.booleans(), st.integers(1, 6)), max_size=8)


def log_of(plan: list[tuple[bool, int]]) -> tuple[FactLog, list[Fact]]:
    log, plain = FactLog(), list[Fact]()
    for is_packed, count in plan:
        if is_packed:
            packed, rows = successes(len(plain), count)
            log.add_packed(packed)
        else:
            rows = [row(len(plain) + number) for number in range(count)]
            log.extend(rows[:-1])
            log.append(rows[-1])
        plain += rows
    return log, plain


@given(parts, st.integers(0, 40), st.integers(0, 40))
def test_what_was_added_is_there_until_it_is_dropped(plan: list[tuple[bool, int]], first: int, second: int) -> None:
    log, plain = log_of(plan)
    end = len(plain)
    for upto in sorted((min(first, end), min(second, end))):
        dropped = plain[log.first : upto]
        assert log.drop(upto) == [(fact.kind, fact.step) for fact in dropped]
        assert (log.first, log.end, len(log)) == (upto, end, end - upto)
        assert list(log) == plain[upto:]
        assert log.payload_bytes == sum(len(fact.payload) for fact in plain[upto:])
    assert not log or log.last == plain[-1]
    log.append(row(end))
    assert list(log) == [*plain[log.first :], row(end)]


@given(parts, st.integers(0, 40), st.integers(1, 20), st.integers(0, 1_500), st.integers(0, 40))
def test_what_is_read_is_what_a_list_would_give(
    plan: list[tuple[bool, int]], position: int, most: int, room: int, dropped: int
) -> None:
    log, plain = log_of(plan)
    if position >= len(plain):
        return
    log.drop(min(dropped, position))
    wanted, size = list[Fact](), 0
    for fact in plain[position : position + most]:
        wanted.append(fact)
        size += FACT_BYTES + len(fact.payload)
        if size > room:
            break
    found, total = log.read(position, most, room)
    assert (list(found), total) == (wanted, size)
    assert (found.numbers, found.payloads) == pack_facts(wanted)
    assert found.workers() == {fact.worker for fact in wanted}


@given(parts, st.integers(0, 40), st.integers(0, 40))
def test_a_part_of_packed_facts(plan: list[tuple[bool, int]], first: int, end: int) -> None:
    _, plain = log_of(plan)
    packed = PackedFacts(*pack_facts(plain))
    assert list(packed[first:end]) == plain[first:end]


@given(parts, st.integers(0, 40))
def test_a_row_can_lose_its_payload(plan: list[tuple[bool, int]], position: int) -> None:
    log, plain = log_of(plan)
    if position < len(plain) and plain[position].kind == FACT_STARTED:
        log.blank(position)
        plain[position] = plain[position]._replace(payload=b"")
    assert list(log) == plain
