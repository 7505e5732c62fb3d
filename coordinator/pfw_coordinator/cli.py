"""The command `pfw-coordinator`: the daemon that owns the runs."""

from __future__ import annotations

import fcntl
import ipaddress
import logging
import os
import re
import sys
from pathlib import Path
from typing import IO

import click

from pfw import host
from pfw.errors import ConfigError, InternalError, PfwError
from pfw.version import __version__

logger = logging.getLogger(__name__)

EXAMPLE = """
\b
Example:
  pfw-coordinator --bind tcp://127.0.0.1:7700
  pfw-worker tcp://127.0.0.1:7700 --cpu 4
"""


@click.command(epilog=EXAMPLE, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--bind", default="tcp://127.0.0.1:7700", show_default=True, help="Where clients and workers connect.")
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
@click.version_option(__version__, prog_name="pfw-coordinator")
def main(bind: str, verbose: bool) -> None:
    """Own runs and give their steps to workers. Ends with SIGTERM or Ctrl-C."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s pfw-coordinator %(levelname)s %(message)s",
    )
    try:
        sys.exit(_serve(bind))
    except InternalError:
        logger.exception("a bug in pfw, please report it")
        sys.exit(70)
    except PfwError as error:
        click.echo(f"pfw-coordinator: {error}", err=True)
        sys.exit(2)
    except Exception:
        # Nothing runs on half-changed state: the daemon ends, its peers go on without it.
        logger.exception("a bug in pfw, please report it")
        sys.exit(70)


def _serve(bind: str) -> int:
    from pfw import connection
    from pfw_coordinator.server import Server

    bind = absolute(bind)
    lock = lock_path(bind)
    host.allow_descriptors()  # one for each peer, and one for each worker on this machine
    server = Server(bind, publish_address(bind))
    path = connection.write_connection(server.address, os.getpid())
    where = f"also named in {path}" if connection.is_ours(os.getpid()) else f"{path} names another one that is alive"
    click.echo(f"pfw-coordinator listens at {server.address} ({where})")
    try:
        return server.run()
    finally:
        connection.remove_connection(os.getpid())
        lock.close()


def absolute(bind: str) -> str:
    """The address with its ipc path made absolute: peers have working directories of their own."""
    return f"ipc://{Path(bind[6:]).absolute()}" if bind.startswith("ipc://") else bind


def lock_path(bind: str) -> IO[bytes]:
    """Holds the lock of an ipc path until it is closed: a second bind would silently take the path over.

    Raises:
        ConfigError: Another coordinator listens there.
    """
    if not bind.startswith("ipc://"):
        return open(os.devnull, "rb")
    path = f"{bind[6:]}.lock"
    try:
        lock = open(path, "ab")  # noqa: SIM115  # held as long as the daemon runs
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"another coordinator listens at {bind}") from None
    except OSError as error:
        raise ConfigError(f"cannot listen at {bind}: {error.strerror}") from None
    return lock


def publish_address(bind: str) -> str:
    """Where cancels are published: beside the ipc path, or a free port of the same host.

    Raises:
        ConfigError: The address is none, or other machines could reach it: whoever reaches this socket can run code.
    """
    if bind.startswith("ipc://"):
        return f"{bind}.pub"
    found = re.fullmatch(r"tcp://(\[[0-9a-fA-F:]+\]|[^:/]+):(\d+|\*)", bind)
    if found is None:
        raise ConfigError(f"{bind!r} is no address to listen at: tcp://127.0.0.1:PORT or ipc://PATH")
    name = found[1]
    if name != "localhost" and not _is_loopback(name.strip("[]")):
        raise ConfigError(
            f"{bind} can be reached by other machines, and whoever reaches it can run code here: bind to 127.0.0.1"
        )
    return f"tcp://{name}:*"


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
