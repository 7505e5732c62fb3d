"""The worker of a client's own cluster: it lives in the process of its coordinator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pfw import host
from pfw_worker.registration import make_registration
from pfw_worker.spawner import Spawner

if TYPE_CHECKING:
    from pfw_worker.agent import Agent


def start(cpu: int, io: int, resources: Mapping[str, int]) -> Agent:
    """Starts a worker; the caller must have one thread and must not have imported zmq.

    Args:
        cpu: CPU slots.
        io: IO slots.
        resources: What else it offers.
    """
    spawner = Spawner.start()
    from pfw_worker.agent import Agent  # what is loaded before the fork, the spawner has to carry

    host.allow_descriptors()  # five for each slot
    return Agent(make_registration(None, cpu, io, resources), spawner, is_embedded=True)
