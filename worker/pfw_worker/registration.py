"""What a worker says of itself when it registers."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from pfw import host
from pfw import messages as m
from pfw.version import __version__

#: `async def` steps that one worker runs at a time.
ASYNC_PERMITS = 1_000


def make_registration(name: str | None, cpu: int, io: int, resources: Mapping[str, int]) -> m.Register:
    """What a worker of this process offers.

    Args:
        name: In reports; None: host name and process id.
        cpu: CPU slots.
        io: IO slots.
        resources: {name: number} of what else it offers.
    """
    return m.Register(
        m.PROTOCOL,
        f"{sys.version_info.major}.{sys.version_info.minor}",
        __version__,
        name or f"{os.uname().nodename}-{os.getpid()}",
        os.getpid(),
        host.host_identity(),
        cpu,
        io,
        ASYNC_PERMITS,
        0,
        tuple(resources.items()),
    )
