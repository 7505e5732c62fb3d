"""The facts of a run as a client keeps them."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from pfw.columns import PackedFacts, pack_facts
from pfw.facts import FACT_SUCCEEDED
from pfw.history import History
from pfw.messages import FactRow


def rows(first: int, count: int) -> tuple[FactRow, ...]:
    return tuple(
        [(FACT_SUCCEEDED, step, 1.0, 1, 1, 0.5, 0.75, 0.25, b"out", 3, 4) for step in range(first, first + count)]
    )


def packed(first: int, count: int) -> PackedFacts:
    return PackedFacts(*pack_facts(rows(first, count)))


def test_facts_are_read_in_the_order_in_which_they_came() -> None:
    history = History()
    assert (len(history), list(history)) == (0, [])
    history.extend(packed(0, 3))
    history.extend(rows(3, 2))
    assert len(history) == 5
    assert history[1:] == list(rows(1, 4))
    assert history[::-2] == list(rows(0, 5))[::-2]
    with pytest.raises(IndexError):
        history[5]
    history.extend(packed(5, 1))
    assert (len(history), history[5], history[-1]) == (6, *rows(5, 1), *rows(5, 1))
    assert list(history) == list(rows(0, 6))


def blanked(row: FactRow) -> FactRow:
    return (*row[:8], b"", *row[9:])


def test_a_fact_that_has_lost_its_payload_stays_so() -> None:
    history = History()
    history.extend(packed(0, 2))
    history.blank(1)
    history.extend(packed(2, 1))
    assert list(history) == [*rows(0, 1), *map(blanked, rows(1, 1)), *rows(2, 1)]


def test_a_payload_that_is_taken_out_while_another_thread_unpacks_is_gone() -> None:
    history = History()

    class Interrupted(PackedFacts):
        """Another thread has its turn when this one has unpacked the facts, and has not put them in their places."""

        turns = 0

        def __iter__(self) -> Iterator[FactRow]:
            unpacked = list(super().__iter__())
            Interrupted.turns += 1
            if Interrupted.turns == 1:
                history.blank(1)
            return iter(unpacked)

    history.extend(Interrupted(*pack_facts(rows(0, 3))))
    assert list(history) == [*rows(0, 1), *map(blanked, rows(1, 1)), *rows(2, 1)]
    assert Interrupted.turns == 2


def test_readers_on_several_threads_find_each_fact_once() -> None:
    history, found = History(), list[list[FactRow]]()
    for part in range(200):
        history.extend(packed(10 * part, 10))
    readers = [threading.Thread(target=lambda: found.append(list(history))) for _ in range(8)]
    for reader in readers:
        reader.start()
    for part in range(200, 300):
        history.extend(packed(10 * part, 10))
    for reader in readers:
        reader.join()
    for facts in found:
        assert len(facts) >= 2_000
        assert [row[1] for row in facts] == list(range(len(facts)))
    assert list(history) == list(rows(0, 3_000))
