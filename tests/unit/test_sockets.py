"""Sockets as pfw sets them up."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import zmq

from helpers import wait_until
from pfw import sockets


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
