"""Sockets as pfw sets them up."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
import zmq

from helpers import wait_until
from pfw import ConfigError, sockets


def test_a_peer_is_heard_that_is_back_before_its_old_connection_is_known_to_be_broken(tmp_path: Path) -> None:
    address, identity = f"ipc://{tmp_path}/s", b"the same"
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with ExitStack() as stack:
        stack.callback(context.term)
        router = stack.enter_context(sockets.make_router(context, address))
        for number in range(3):  # the earlier ones stay open: nobody has noticed yet that they are broken
            dealer = stack.enter_context(sockets.make_dealer(context, address, identity))
            text = b"%d" % number
            wait_until(lambda dealer=dealer, text=text: sockets.send(dealer, [text]), what="it is connected")
            assert wait_until(lambda: sockets.receive(router), 3.0, what="it is heard") == [[identity, text]]
            assert sockets.send(router, [b"answer"], identity)
            answer = wait_until(lambda dealer=dealer: sockets.receive(dealer), 3.0, what="it hears")
            assert answer == [[b"answer"]]


@pytest.mark.parametrize(
    ("address", "end"), [("localhost:7700", "; did you mean tcp://localhost:7700?"), ("nonsense", "ipc://PATH)")]
)
def test_what_is_no_address_is_refused_with_what_may_be_meant(address: str, end: str) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        with pytest.raises(ConfigError) as caught:
            sockets.make_dealer(context, address, b"me")
    finally:
        context.destroy(linger=0)
    assert str(caught.value).startswith(f"{address!r} is no address to connect to")
    assert str(caught.value).endswith(end)
