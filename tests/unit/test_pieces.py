"""What attempts have printed, on its way to the coordinator."""

from __future__ import annotations

from pfw.messages import Printed
from pfw.printed import LAST_BYTES
from pfw.wire import PIECE_BYTES
from pfw_worker.pieces import Pieces


def test_messages_are_numbered() -> None:
    pieces = Pieces()
    pieces.add(1, b"one", keeps_end=False)
    pieces.add(2, b"two", keeps_end=False)
    assert list(pieces.take()) == [Printed(1, ((1, b"one"), (2, b"two")))]
    assert not pieces.rows
    large = bytes(PIECE_BYTES + 1)
    for text in (large, b"after"):
        pieces.add(1, text, keeps_end=False)
    assert list(pieces.take()) == [Printed(2, ((1, large),)), Printed(3, ((1, b"after"),))]


def test_what_nobody_wants_to_hear_has_no_number() -> None:
    pieces = Pieces()
    pieces.add(1, b"text", keeps_end=True)
    pieces.clear()
    assert (pieces.rows, pieces.end(1)) == ([], "")
    pieces.add(1, b"more", keeps_end=False)
    assert [message.number for message in pieces.take()] == [1]


def test_the_end_of_what_an_attempt_printed_is_kept_until_it_has_ended() -> None:
    pieces = Pieces()
    for text in (b"x" * LAST_BYTES, b"last ", "words é".encode()):
        pieces.add(1, text, keeps_end=True)
        list(pieces.take())
    pieces.add(2, b"of no timeout", keeps_end=False)
    assert pieces.end(1).endswith("xlast words é")
    assert len(pieces.end(1).encode()) == LAST_BYTES
    assert pieces.end(2) == ""
    pieces.keep([1])
    assert pieces.end(1)
    pieces.keep([2])
    assert pieces.end(1) == ""
