"""The client's connection."""

from __future__ import annotations

import zmq

from pfw.link import Link


def test_what_was_posted_is_done_before_the_connection_ends() -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.linger = 0
        port = router.bind_to_random_port("tcp://127.0.0.1")
        for number in range(20):
            done: list[int] = []
            link = Link(f"tcp://127.0.0.1:{port}")
            link.post(lambda session, now, done=done, number=number: done.append(number))
            link.close()
            assert done == [number]
