"""The command `pfw-coordinator`: the daemon that owns the runs."""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import sys

import click

from pfw.errors import ConfigError, PfwError
from pfw.version import __version__

EXAMPLE = """
\b
Example:
  pfw-coordinator --bind tcp://127.0.0.1:7700
  pfw-worker tcp://127.0.0.1:7700 --cpu 4
"""


@click.command(epilog=EXAMPLE, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--bind", default="tcp://127.0.0.1:7700", show_default=True, help="Where clients and workers connect.")
@click.option("--parent-pid", type=int, default=0, hidden=True, help="End at once when this process has ended.")
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
@click.version_option(__version__, prog_name="pfw-coordinator")
def main(bind: str, parent_pid: int, verbose: bool) -> None:
    """Own runs and give their steps to workers. Ends with SIGTERM or Ctrl-C."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.WARNING if parent_pid else logging.INFO,
        format="%(asctime)s pfw-coordinator %(levelname)s %(message)s",
    )
    try:
        sys.exit(_serve(bind, parent_pid))
    except PfwError as error:
        click.echo(f"pfw-coordinator: {error}", err=True)
        sys.exit(2)


def _serve(bind: str, parent_pid: int) -> int:
    from pfw import connection
    from pfw_coordinator.server import Server

    server = Server(bind, publish_address(bind), parent_pid=parent_pid)
    if parent_pid:
        return server.run()
    path = connection.write_connection(server.address, os.getpid())
    click.echo(f"pfw-coordinator listens at {server.address} (also named in {path})")
    try:
        return server.run()
    finally:
        connection.remove_connection(os.getpid())


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
