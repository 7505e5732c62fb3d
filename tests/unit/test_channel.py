"""Messages over the socket pair of a slot."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from pfw import host
from pfw.errors import ProtocolError
from pfw.packets import PACKET_BYTES
from pfw_worker.channel import Channel

Ends = tuple[Channel, Channel]


@pytest.fixture
def ends() -> Iterator[Ends]:
    first, second = (Channel(end) for end in host.seqpacket_pair())
    yield first, second
    first.close()
    second.close()


@pytest.fixture
def raw() -> Iterator[tuple[Channel, socket.socket]]:
    ours, theirs = host.seqpacket_pair()
    channel = Channel(ours)
    yield channel, theirs
    channel.close()
    theirs.close()


def test_messages_arrive_whole_and_in_order(ends: Ends) -> None:
    first, second = ends
    first.send(())
    first.send([[1, 0, 5, 6, b"x"], "text", None])
    assert second.recv() == [(), ((1, 0, 5, 6, b"x"), "text", None)]
    assert second.recv() == []
    assert not second.at_end


@pytest.mark.parametrize("size", [PACKET_BYTES - 6, PACKET_BYTES - 5, PACKET_BYTES - 4, PACKET_BYTES, 5_000_000])
def test_a_message_of_any_size_is_cut_and_put_together(ends: Ends, size: int) -> None:
    first, second = ends
    payload = b"p" * size
    sender = threading.Thread(target=first.send, args=([payload],))
    sender.start()
    assert second.recv_one() == (payload,)
    sender.join()


def test_what_the_socket_does_not_take_waits_in_the_backlog(ends: Ends) -> None:
    supervisor, slot = ends
    payload = b"p" * 5_000_000
    assert not supervisor.try_send([payload])
    assert not supervisor.try_send(["next"])
    assert supervisor.wants_write
    received: list[tuple[Any, ...]] = []
    while not received:
        received = slot.recv()
        supervisor.flush()
    assert received[0] == (payload,)
    assert supervisor.flush()
    assert [*received[1:], *slot.recv()] == [("next",)]


def test_the_end_is_told_after_what_had_been_sent(ends: Ends) -> None:
    supervisor, slot = ends
    slot.send([1])
    slot.close()
    assert supervisor.recv() == [(1,)]
    assert supervisor.recv() == []
    assert supervisor.at_end
    assert supervisor.recv_one() is None


def test_what_was_sent_survives_an_end_with_unread_messages(ends: Ends) -> None:
    supervisor, slot = ends
    assert supervisor.try_send(["never read"])
    slot.send([1])
    slot.close()
    assert supervisor.recv() == [(1,)]
    assert supervisor.recv() == []
    assert supervisor.at_end


def test_a_message_to_an_end_that_is_gone_is_dropped(ends: Ends) -> None:
    supervisor, slot = ends
    slot.close()
    assert supervisor.try_send(["for nobody"])
    assert not supervisor.wants_write
    with pytest.raises(OSError, match="Broken pipe"):
        supervisor.send(["for nobody"])


@pytest.mark.parametrize("packet", [b"\x00\xc1", b"\x00", b"\x00\x01", b"\x00\x81\x01\x02", b"\x00\x90\x90"])
def test_what_is_no_message_is_refused(raw: tuple[Channel, socket.socket], packet: bytes) -> None:
    channel, other = raw
    other.send(packet)
    with pytest.raises(ProtocolError):
        channel.recv()


def test_a_message_without_its_last_packet_is_not_delivered(raw: tuple[Channel, socket.socket]) -> None:
    channel, other = raw
    other.send(b"\x01\x91\xa4ab")
    assert channel.recv() == []
    other.send(b"\x00cd")
    assert channel.recv() == [("abcd",)]
