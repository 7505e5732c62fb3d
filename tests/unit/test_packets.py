"""Frames between two processes of one machine."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from pfw import host, packets
from pfw.errors import ProtocolError
from pfw.packets import PACKET_BYTES, Packets

Ends = tuple[Packets, Packets]


@pytest.fixture
def ends() -> Iterator[Ends]:
    first, second = (Packets(end) for end in host.seqpacket_pair())
    yield first, second
    first.close()
    second.close()


def test_nothing_blocks_and_all_arrives_in_order(ends: Ends) -> None:
    first, second = ends
    sent = [b"short", b"l" * 3_000_000, b"", b"p" * PACKET_BYTES, b"last"]
    assert first.send_frames(sent)
    assert first.wants_write
    found: list[bytes] = []
    while len(found) < len(sent):
        found += second.receive_frames()
        first.flush()
    assert found == sent
    assert not first.wants_write
    assert second.receive_frames() == []
    assert not second.at_end


def test_what_is_sent_after_something_that_waits_waits_too(ends: Ends) -> None:
    first, second = ends
    first.send_frames([b"l" * 3_000_000])
    assert not first.try_send_frame(b"short")
    arrived = second.receive_frames()
    assert arrived == []  # the long one is not whole yet, and the short one has not overtaken it


def test_a_turn_takes_so_many_frames(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packets, "FRAMES_PER_TURN", 3)
    first, second = ends
    first.send_frames([b"%d" % number for number in range(5)])
    assert [second.receive_frames(), second.receive_frames()] == [[b"0", b"1", b"2"], [b"3", b"4"]]


def test_the_end_comes_after_what_was_sent(ends: Ends) -> None:
    first, second = ends
    first.send_frames([b"one", b"two"])
    first.close()
    assert second.receive_frames() == [b"one", b"two"]
    assert second.receive_frames() == []
    assert second.at_end
    assert not second.send_frames([b"for nobody", b"l" * 3_000_000])
    assert not second.wants_write


def test_a_frame_without_an_end_is_refused(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packets, "FRAME_LIMIT", 2 * PACKET_BYTES)
    first, second = ends
    raw = socket.socket(fileno=first.fileno())
    try:
        for _ in range(3):
            raw.send(b"\x01" + b"x" * PACKET_BYTES)
    finally:
        raw.detach()
    with pytest.raises(ProtocolError):
        second.receive_frames()
