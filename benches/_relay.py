"""What the form itself costs: a local cluster, in one process, and a slot, that only pass messages on.

The same sockets, as many processes and hops as in pfw, msgpack at each, one wait at a time: no graph, no checks, no
credit, no heartbeats, nothing that survives a loss. What it needs for a step is what this machine charges for waking
processes, and pfw can be faster on it only with fewer hops: a chain goes to its slot whole.
"""

from __future__ import annotations

import multiprocessing
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgpack
import zmq


@contextmanager
def relay() -> Iterator[Callable[[int, int], int]]:
    """Gives `call(steps, number)`: a chain of so many steps, each of which adds one to the number before it."""
    with tempfile.TemporaryDirectory(prefix="pfw-bench-") as folder:
        address = f"ipc://{folder}/relay"
        fork = multiprocessing.get_context("fork")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        processes = [
            fork.Process(target=_be_slot, args=(theirs, ours), daemon=True),
            fork.Process(target=_be_cluster, args=(address, ours), daemon=True),
        ]
        for process in processes:
            process.start()
        ours.close()
        theirs.close()
        context = zmq.Context()
        client = context.socket(zmq.DEALER)
        client.connect(address)
        try:
            yield lambda steps, number: _ask(client, steps, number)
        finally:
            context.destroy(linger=0)
            for process in processes:
                process.kill()
                process.join()


def _ask(client: zmq.Socket[bytes], steps: int, number: int) -> int:
    client.send(msgpack.packb((steps, number)))
    value: int = msgpack.unpackb(client.recv())
    return value


def _be_cluster(address: str, slot: socket.socket) -> None:
    router = zmq.Context().socket(zmq.ROUTER)
    router.bind(address)
    while True:
        client, request = router.recv_multipart()
        steps, value = msgpack.unpackb(request)
        for _ in range(steps):
            slot.send(msgpack.packb(value))
            value = msgpack.unpackb(slot.recv(100))
        router.send_multipart((client, msgpack.packb(value)))


def _be_slot(cluster: socket.socket, other_end: socket.socket) -> None:
    other_end.close()
    while call := cluster.recv(100):
        cluster.send(msgpack.packb(msgpack.unpackb(call) + 1))
