"""What the form itself costs: a local cluster, in one process, and a slot, that only pass messages on.

The same sockets, as many processes and hops as in pfw, msgpack at each, one wait at a time: no graph, no checks, no
credit, no heartbeats, nothing that survives a loss. What it needs for a step is what this machine charges for waking
processes, and pfw can be faster on it only with fewer hops: a chain goes to its slot whole.
"""

from __future__ import annotations

import multiprocessing
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgpack


@contextmanager
def relay() -> Iterator[Callable[[int, int], int]]:
    """Gives `call(steps, number)`: a chain of so many steps, each of which adds one to the number before it."""
    fork = multiprocessing.get_context("fork")
    client, near = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    far, slot = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    processes = [
        fork.Process(target=_be_slot, args=(slot,), daemon=True),
        fork.Process(target=_be_cluster, args=(near, far), daemon=True),
    ]
    for process in processes:
        process.start()
    for end in (near, far, slot):
        end.close()
    try:
        yield lambda steps, number: _ask(client, steps, number)
    finally:
        client.close()
        for process in processes:
            process.kill()
            process.join()


def _ask(client: socket.socket, steps: int, number: int) -> int:
    client.send(msgpack.packb((steps, number)))
    value: int = msgpack.unpackb(client.recv(100))
    return value


def _be_cluster(client: socket.socket, slot: socket.socket) -> None:
    while request := client.recv(100):
        steps, value = msgpack.unpackb(request)
        for _ in range(steps):
            slot.send(msgpack.packb(value))
            value = msgpack.unpackb(slot.recv(100))
        client.send(msgpack.packb(value))


def _be_slot(cluster: socket.socket) -> None:
    while call := cluster.recv(100):
        cluster.send(msgpack.packb(msgpack.unpackb(call) + 1))
