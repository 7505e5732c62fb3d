"""The command `pfw-worker`: offers the slots of this machine to a coordinator."""

from __future__ import annotations

import logging
import sys

import click

from pfw import host
from pfw.checks import check_number, checked_bytes
from pfw.connection import find_address
from pfw.demand import GPU, HEAVY_IO, HEAVY_IO_PERMITS, MEMORY
from pfw.errors import InternalError, PfwError
from pfw.hint import parse_resource
from pfw.version import __version__
from pfw_worker.registration import make_registration
from pfw_worker.spawner import Spawner

logger = logging.getLogger(__name__)

EXAMPLE = """
\b
Example, with a coordinator on this machine:
  pfw-worker tcp://127.0.0.1:7700 --cpu 4 --io 16
"""


@click.command(epilog=EXAMPLE, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("address", required=False)
@click.option("--cpu", type=click.IntRange(0, 10_000), help="CPU slots. Default: the cores this process may use.")
@click.option("--io", type=click.IntRange(0, 10_000), help="IO slots, started on demand. Default: 4 for each CPU slot.")
@click.option("--memory", metavar="SIZE", help='Memory, as "8GB" or "16GiB". Default: what this process may use.')
@click.option("--gpu", type=click.IntRange(0, 10_000), help="GPUs it offers. Default: those this process may use.")
@click.option("--resource", "resources", multiple=True, metavar="NAME=N", help="What else it offers. May be repeated.")
@click.option(
    "--heavy-io", type=click.IntRange(0, 10_000), default=HEAVY_IO_PERMITS, show_default=True,
    help='"heavy_io" steps at a time.',
)  # fmt: skip
@click.option("--name", help="Name in reports. Default: host name and process id.")
@click.option("--drain-s", default=20.0, show_default=True, help="How long running steps may go on after SIGTERM.")
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
@click.version_option(__version__, prog_name="pfw-worker")
def main(
    address: str | None,
    cpu: int | None,
    io: int | None,
    memory: str | None,
    gpu: int | None,
    resources: tuple[str, ...],
    heavy_io: int,
    name: str | None,
    drain_s: float,
    verbose: bool,
) -> None:
    """Run steps for the coordinator at ADDRESS (default: $PFW_ADDRESS, else this user's coordinator).

    SIGTERM drains: steps that run may finish, all others go back. A second SIGTERM ends the worker at once.
    """
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, format="%(asctime)s pfw-worker %(levelname)s %(message)s"
    )
    try:
        check_number("--drain-s", drain_s)
        spawner = Spawner.start()  # before anything imports zmq: what it forks must not hold it
        host.allow_descriptors()  # five for each slot
        offered = _offered(memory, gpu, heavy_io, resources)
        cpu = host.cpu_capacity() if cpu is None else cpu
        registration = make_registration(name, cpu, 4 * max(cpu, 1) if io is None else io, offered)
        from pfw_worker.agent import Agent
        from pfw_worker.daemon import Daemon

        sys.exit(Daemon(find_address(address), Agent(registration, spawner), drain_s=drain_s).run())
    except InternalError:
        logger.exception("a bug in pfw, please report it")
        sys.exit(70)
    except PfwError as error:
        click.echo(f"pfw-worker: {error}", err=True)
        sys.exit(2)
    except Exception:
        # Nothing runs on half-changed state: the daemon ends, its peers go on without it.
        logger.exception("a bug in pfw, please report it")
        sys.exit(70)


def _offered(memory: str | None, gpu: int | None, heavy_io: int, resources: tuple[str, ...]) -> dict[str, int]:
    """What this worker offers beside slots."""
    size = host.memory_capacity() if memory is None else checked_bytes("--memory", memory)
    own = dict(map(parse_resource, resources))
    return {MEMORY: size, GPU: host.gpu_capacity(gpu), HEAVY_IO: heavy_io, **own}
