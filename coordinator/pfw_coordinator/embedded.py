"""The process of a client's own cluster: its coordinator and its worker in one, which ends with the client.

Whoever runs a first step waits for this process to start, so no command line is loaded.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from pfw.errors import ClusterError, ConfigError
from pfw.messages import EXIT_STALLED
from pfw.packets import Packets

if TYPE_CHECKING:
    from pfw_coordinator.server import EmbeddedWorker

logger = logging.getLogger(__name__)


def serve(path: str, line_fd: int, parent_pid: int, start_worker: Callable[[], EmbeddedWorker]) -> NoReturn:
    """Serves a client until it has ended.

    Args:
        path: In a private folder of the client: at `ipc://path` others may connect.
        line_fd: This side's end of the line to the client.
        parent_pid: The client.
        start_worker: Called before anything imports ZeroMQ: what a worker forks must not hold it.
    """
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s pfw %(levelname)s %(message)s")
    try:
        worker = start_worker()
        from pfw_coordinator.server import Owner, Server

        owner = Owner(parent_pid, Packets(socket.socket(fileno=line_fd)))
        server = Server(f"ipc://{path}", f"ipc://{path}.pub", worker=worker, owner=owner)
        code = server.run()
        # What Python does at its end takes 15 ms, for which the client waits, and gives nothing back that ends with us.
        sys.stderr.flush()
        os._exit(code)
    except ConfigError as error:
        sys.exit(f"pfw: {error}")
    except ClusterError as error:
        logger.error("the local cluster ends: %s", error)
        sys.exit(EXIT_STALLED)
    except Exception:
        # Nothing runs on half-changed state.
        logger.exception("a bug in pfw, please report it")
        sys.exit(70)
