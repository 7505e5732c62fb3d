"""The status page, seen from its two sides."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pfw import host
from pfw_worker.page import GENERATION, PAGE_BYTES, RING_SIZE, STOP_INTERRUPT, STOP_TOKEN, StatusPage

Sides = tuple[StatusPage, StatusPage]


@pytest.fixture
def sides() -> Iterator[Sides]:
    fd = host.shared_memory("test-page", PAGE_BYTES)
    supervisor, slot = StatusPage(fd), StatusPage(fd)
    os.close(fd)
    yield supervisor, slot
    supervisor.close()
    slot.close()


def test_a_new_page_names_nothing(sides: Sides) -> None:
    supervisor, slot = sides
    assert supervisor.executing() == (0, 0)
    assert slot.stop_level() == 0
    assert slot.cancelled_runs() == frozenset()


def test_the_supervisor_sees_what_executes_and_since_when(sides: Sides) -> None:
    supervisor, slot = sides
    slot.begin(2**40, 123_456_789)
    assert supervisor.executing() == (2**40, 123_456_789)
    slot.end()
    assert supervisor.executing()[0] == 0


def test_a_stop_concerns_only_the_attempt_that_it_names(sides: Sides) -> None:
    supervisor, slot = sides
    slot.begin(7, 1)
    supervisor.stop(8, STOP_INTERRUPT)
    assert slot.stop_level() == 0
    supervisor.stop(7, STOP_TOKEN)
    assert slot.stop_level() == STOP_TOKEN
    supervisor.stop(7, STOP_INTERRUPT)
    assert slot.stop_level() == STOP_INTERRUPT
    slot.end()
    assert slot.stop_level() == 0


def test_cancelled_runs_are_read_again_when_the_generation_has_changed(sides: Sides) -> None:
    supervisor, slot = sides
    before = slot.words[GENERATION]
    supervisor.cancel_run(0)
    supervisor.cancel_run(41)
    assert slot.words[GENERATION] != before
    assert slot.cancelled_runs() == {0, 41}


def test_the_newest_cancelled_runs_are_kept(sides: Sides) -> None:
    supervisor, slot = sides
    for run in range(RING_SIZE + 3):
        supervisor.cancel_run(run)
    assert slot.cancelled_runs() == set(range(3, RING_SIZE + 3))


def test_forgotten_runs_are_no_longer_cancelled(sides: Sides) -> None:
    supervisor, slot = sides
    supervisor.cancel_run(5)
    before = slot.words[GENERATION]
    supervisor.forget_runs()
    assert slot.cancelled_runs() == frozenset()
    assert slot.words[GENERATION] != before


def test_the_supervisor_reads_the_last_progress(sides: Sides) -> None:
    supervisor, slot = sides
    assert supervisor.progress()[0] == 0
    slot.show_progress(7, 1.0, 4.0, "first")
    slot.show_progress(7, 2.5, 0.0, "zweite Hälfte \ud800")
    assert supervisor.progress() == (7, 2.5, 0.0, "zweite Hälfte ?")
    slot.show_progress(7, 3.0, 0.0, "ü" * 5_000)
    assert supervisor.progress() == (7, 3.0, 0.0, "ü" * 400)


def test_progress_that_is_being_written_or_is_none_is_not_read(sides: Sides) -> None:
    supervisor, slot = sides
    slot.show_progress(7, 1.0, 4.0, "it")
    place = next(index for index, word in enumerate(slot.words) if word == 7)
    slot.words[place - 1] += 1  # as where a writer was interrupted
    assert supervisor.progress()[0] == 0
    slot.show_progress(7, 2.0, 4.0, "again")
    assert supervisor.progress() == (7, 2.0, 4.0, "again")
    slot.words[place + 1] = (1 << 64) - 1  # not a number
    assert supervisor.progress()[0] == 0
    slot.show_progress(7, 2.0, 4.0, "again")
    slot.words[place + 3] = 1 << 60  # a length that cannot be
    assert supervisor.progress()[0] == 7
