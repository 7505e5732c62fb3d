"""The file of a slot's output, read by its supervisor."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pfw import host
from pfw.printed import CHATTY_BYTES, LOG_PIECE_BYTES, PIECE_EVERY_S, SHORT_LOG_PIECE_BYTES
from pfw_worker.output import (
    FLOOD_BYTES,
    FLOOD_LOOK_S,
    FREE_BYTES,
    LAST_BYTES,
    LOOK_S,
    QUIET_LOOK_S,
    Output,
    Outputs,
    open_output,
)
from pfw_worker.page import PAGE_BYTES, PRINTED, StatusPage
from pfw_worker.spawner import SlotHandle

NOTHING = (0, b"")


class Slot:
    """A slot's side, and the supervisor's output."""

    def __init__(self) -> None:
        self.fd = open_output()
        self.output = Output(os.dup(self.fd))
        page_fd = host.shared_memory("test-page", PAGE_BYTES)
        self.page = StatusPage(page_fd)
        os.close(page_fd)

    def print(self, text: bytes) -> None:
        while text:
            text = text[os.write(self.fd, text) :]

    def end(self) -> int:
        """The executing step ends and has printed; where the file ends then."""
        size = os.fstat(self.fd).st_size
        self.page.words[PRINTED] = size
        return size

    def live(self, now: float = 0.0) -> tuple[int, bytes]:
        return self.output.take_live(self.page, now)

    def close(self) -> None:
        os.close(self.fd)
        self.output.close()
        self.page.close()


@pytest.fixture
def slot() -> Iterator[Slot]:
    found = Slot()
    yield found
    found.close()


def test_what_a_running_step_prints_is_told_now_and_then(slot: Slot) -> None:
    slot.page.begin(7, 1)
    assert slot.live() == NOTHING
    slot.print(b"one")
    assert slot.live(1.0) == (7, b"one")
    slot.print(b"two")
    assert slot.live(1.0 + PIECE_EVERY_S / 2) == NOTHING
    assert slot.live(1.0 + PIECE_EVERY_S) == (7, b"two")
    assert slot.live(9.0) == NOTHING


def test_a_character_that_is_not_complete_waits(slot: Slot) -> None:
    slot.page.begin(7, 1)
    slot.print("aé".encode()[:2])
    assert slot.live(1.0) == (7, b"a")
    slot.print("é".encode()[1:])
    assert slot.live(2.0) == (7, "é".encode())


def test_what_was_printed_is_told_of_the_step_that_printed_it(slot: Slot) -> None:
    slot.page.begin(7, 1)
    slot.print(b"seven")
    end = slot.end()
    slot.page.begin(8, 2)
    slot.print(b"eight")
    assert slot.live(1.0) == NOTHING
    assert slot.output.take_until(7, end, 1.0) == b"seven"
    assert slot.live(1.0) == (8, b"eight")
    assert slot.output.take_until(8, slot.end(), 1.0) == b""


def test_a_slot_that_claims_more_than_there_is_gets_what_there_is(slot: Slot) -> None:
    slot.print(b"text")
    assert slot.output.take_until(7, 1 << 60, 0.0) == b"text"
    assert slot.output.take_until(7, 0, 0.0) == b""


def test_of_a_flood_beginning_and_end_are_told_and_its_memory_is_freed(slot: Slot) -> None:
    slot.page.begin(7, 1)
    half = LOG_PIECE_BYTES // 2
    for now in (1.0, 1.001):  # the second one is not due yet, but too much to leave
        slot.print(b"<" * half + b"." * FLOOD_BYTES + b">" * half)
        attempt, text = slot.live(now)
        assert attempt == 7
        assert text == b"<" * half + b"\n[... %d bytes left out ...]\n" % FLOOD_BYTES + b">" * half
    assert os.fstat(slot.fd).st_blocks * 512 <= 3 << 20


def test_who_prints_much_is_cut_short(slot: Slot) -> None:
    slot.page.begin(7, 1)
    for now in range(CHATTY_BYTES // LOG_PIECE_BYTES):
        slot.print(b"." * LOG_PIECE_BYTES)
        assert slot.live(now)[1] == b"." * LOG_PIECE_BYTES
    slot.print(b"." * LOG_PIECE_BYTES)
    assert len(slot.live(100.0)[1]) < SHORT_LOG_PIECE_BYTES + 100
    end = slot.end()
    assert slot.output.take_until(7, end, 101.0) == b""
    slot.page.begin(8, 1)
    slot.print(b"." * LOG_PIECE_BYTES)
    assert slot.output.take_until(8, slot.end(), 102.0) == b"." * LOG_PIECE_BYTES


def test_a_file_that_a_step_has_truncated_is_read_from_its_beginning(slot: Slot) -> None:
    slot.page.begin(7, 1)
    slot.print(b"before")
    assert slot.live(1.0) == (7, b"before")
    os.ftruncate(slot.fd, 0)
    slot.print(b"now")
    assert slot.output.take_rest(slot.page, 2.0) == b"now"


def test_the_last_output_of_a_process_that_died(slot: Slot) -> None:
    slot.page.begin(7, 1)
    slot.print(b"seven")
    assert slot.output.take_until(7, slot.end(), 0.0) == b"seven"
    slot.page.begin(8, 1)
    assert slot.output.last(slot.page) == ""
    slot.print(b"last words \xff")
    assert slot.live(5.0) == (8, b"last words \xff"[:-1])
    assert slot.output.last(slot.page) == "last words \ufffd"
    slot.print(b"." * 100_000)
    assert slot.output.take_rest(slot.page, 5.0).endswith(b"." * 1_000)
    assert slot.output.last(slot.page) == "." * LAST_BYTES


def test_of_a_process_that_died_nothing_of_earlier_steps_is_told(slot: Slot) -> None:
    slot.page.begin(7, 1)
    slot.print(b"seven, whose outcome has not been told")
    slot.end()
    slot.page.begin(8, 1)
    slot.print(b"eight")
    assert slot.output.take_rest(slot.page, 1.0) == b"eight"


def test_what_nobody_prints_who_executes_is_skipped_and_freed(slot: Slot) -> None:
    slot.page.begin(7, 1)
    slot.print(b"seven")
    end = slot.end()
    slot.page.end()
    assert slot.live(1.0) == NOTHING, "it is told as seven's, when the slot says so"
    assert slot.output.take_until(7, end, 1.0) == b"seven"
    slot.print(b"." * 10 * FLOOD_BYTES)
    assert slot.live(1.0) == NOTHING
    assert os.fstat(slot.fd).st_blocks * 512 <= 3 << 20
    slot.page.begin(8, 2)
    slot.print(b"eight")
    assert slot.live(2.0) == (8, b"eight")


def test_a_flood_is_looked_at_more_often(slot: Slot) -> None:
    outputs = Outputs()
    handle = SlotHandle(1, "sync", None, slot.page, 0, slot.output, 0)  # type: ignore[arg-type]
    slot.page.begin(7, 1)
    for text, told, wait_s in (
        (b"", [], QUIET_LOOK_S), (b"text", [(7, b"text")], LOOK_S), (b"more", [], LOOK_S), (b"", [], QUIET_LOOK_S),
        (b"." * FREE_BYTES, [], FLOOD_LOOK_S),
    ):  # fmt: skip
        slot.print(text)
        assert outputs.read([handle], 5.0) == told
        assert outputs.due == 5.0 + wait_s
    flooded = handle._replace(kind="async")
    slot.print(b"." * FREE_BYTES)
    assert outputs.read([flooded], 6.0) == []
    assert outputs.due == 6.0 + FLOOD_LOOK_S


def test_what_is_of_no_single_step_is_skipped(slot: Slot) -> None:
    slot.print(b"somebody")
    slot.output.skip()
    slot.page.begin(7, 1)
    assert slot.live(1.0) == NOTHING
