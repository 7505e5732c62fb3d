"""The command `pfw`: what can be said on its command line, and its exit codes."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import click

from pfw import __version__
from pfw.errors import (
    ClusterError,
    ConfigError,
    GraphError,
    OutputNotKeptError,
    RunCancelledError,
    StalledError,
    StepFailedError,
    UnknownRunError,
    UnschedulableError,
)
from pfw.facts import STATE_NAMES
from pfw.lifecycle import MODES, ON_FAILURE
from pfw.table import bytes_text, print_json, seconds_text, shares_text, table, time_text

#: Exit codes: what `pfw` says to scripts. 1 and 4 are also the ends of runs (pfw.launch).
OK, USAGE, NOT_CONNECTED, CANCELLED, BUG, INTERRUPTED = 0, 2, 3, 4, 70, 130

_EPILOG = """
\b
Example:
  pfw run examples/code_census.py -p limit=200

\b
Exit codes: 0 succeeded, 1 a step failed, 2 usage, 3 could not connect,
4 cancelled or timed out, 70 a bug in pfw, 130 interrupted.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    try:
        code = cli.main(arguments, prog_name="pfw", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return USAGE
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except Exception as error:
        code = code_of(error)
        if code == BUG:
            traceback.print_exception(error)
        click.echo(f"pfw: {'a bug in pfw, please report it: ' if code == BUG else ''}{error}", err=True)
    return int(code or OK)


#: Steps that fail in a run are dealt with: what is left of them is a function or an argument that cannot be sent.
_MISTAKES = (GraphError, ConfigError, UnschedulableError, UnknownRunError, OutputNotKeptError, StepFailedError)


def code_of(error: Exception) -> int:
    """The exit code for an error that no command has dealt with."""
    if isinstance(error, RunCancelledError):
        return CANCELLED
    if isinstance(error, ClusterError | StalledError):
        return NOT_CONNECTED
    return USAGE if isinstance(error, _MISTAKES) else BUG


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG)
@click.version_option(__version__, prog_name="pfw")
def cli() -> None:
    """Workflows of plain Python functions, on local processes or a cluster."""


Command = Callable[..., Any]


def _on(command: Command) -> Command:
    text = "The coordinator. Default: $PFW_ADDRESS, else this user's coordinator on this machine."
    return click.option("--on", metavar="ADDRESS", help=text)(command)


def _json(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def _progress(command: Command) -> Command:
    text = "On stderr: a bar, a line for each event, or nothing. Default: a counter, renewed in place on a terminal."
    command = click.option("--events", metavar="FILE", help="Write each event to this file, as a line of JSON.")(
        command
    )
    return click.option("--progress", type=click.Choice(["bar", "console", "none"]), help=text)(command)


def _example(*lines: str) -> str:
    return "\n".join(["\b", "Example:", *(f"  {line}" for line in lines)])


# ---------------------------------------------------------------------------------------------------- pfw run


_RUN_EXAMPLE = _example(
    "pfw run examples/code_census.py -p limit=200",
    "pfw run render.py --cpu 4 --memory 8GB --gpu 1 --resource licence=2",
    "pfw run montage.json --time-scale 0.01 --io 8",
)


@cli.command(epilog=_RUN_EXAMPLE)
@click.argument("file", metavar="FILE.py[:NAME]|FILE.json")
@click.option("-p", "parameters", metavar="KEY=VALUE", multiple=True, help="A parameter of the function in FILE.py.")
@click.option("--mode", type=click.Choice(MODES), help="How steps are ordered. Default: parallel.")
@click.option("--on", metavar="ADDRESS", help="Run on this coordinator. Default: a cluster of this command's own.")
@click.option("--cpu", type=click.IntRange(1, 10_000), help="CPU slots. Default: the cores this process may use.")
@click.option("--io", type=click.IntRange(1, 10_000), help="IO slots. Default: 4 for each CPU slot.")
@click.option("--memory", metavar="SIZE", help='Memory of all steps, as "8GB". Default: what this process may use.')
@click.option("--gpu", type=click.IntRange(0, 10_000), help="GPUs. Default: those this process may use.")
@click.option("--resource", "resources", multiple=True, metavar="NAME=N", help="What else steps ask for; repeatable.")
@click.option("--heavy-io", type=click.IntRange(0, 10_000), help='"heavy_io" steps at a time. Default: 4.')
@click.option("--timeout", type=float, metavar="S", help="Stop the run after so many seconds. Default: never.")
@click.option(
    "--on-failure",
    type=click.Choice(ON_FAILURE),
    help="What to do with the rest after a step has failed. Default: stop.",
)
@click.option(
    "--retry", type=int, metavar="N", help="Attempts after the first one, of steps that set none. Default: 0."
)
@click.option("--step-timeout", type=float, metavar="S", help="Longest run time of steps that set none. Default: any.")
@click.option("--grace", type=float, metavar="S", help="From stop to kill, of steps that set none. Default: 2.")
@click.option("--max-parallel-steps", type=int, metavar="N", help="Steps assigned at once. Default: as there is room.")
@click.option("--priority", type=int, metavar="N", help="Runs of a higher one get free slots first. Default: 0.")
@click.option("--keep", multiple=True, metavar="leaves|all|STEP", help="Outputs to keep; may be repeated.")
@click.option("--detach", is_flag=True, help="Start it on the coordinator, print its id, and leave it there.")
@click.option("--time-scale", type=float, help="FILE.json: recorded times are multiplied by this. Default: 1.")
@click.option("--bytes-scale", type=float, help="FILE.json: recorded sizes are multiplied by this. Default: 0.")
@click.option("--lane", type=click.Choice(["io", "cpu"]), help="FILE.json: all tasks wait (io), or burn CPU (cpu).")
@_progress
@_json
def run(
    file: str, parameters: tuple[str, ...], on: str | None, gpu: int | None, resources: tuple[str, ...],
    heavy_io: int | None, keep: tuple[str, ...], detach: bool, time_scale: float | None, bytes_scale: float | None,
    lane: str | None, progress: str | None, events: str | None, as_json: bool, **fields: Any,
) -> int:  # fmt: skip
    """Run the workflow in a Python file, or replay a recorded one.

    FILE.py is imported as the module __pfw__. NAME is a Workflow or a function that returns one; default: main, make,
    or the only one. -p values are converted by the annotations of its parameters; lists and dicts are written in JSON.

    FILE.json is a recorded workflow in WfFormat (WfCommons 1.0 to 1.5). Each task waits (if it used less than half a
    core, or with --lane io) or burns CPU for its recorded time, and with --bytes-scale passes on the bytes it wrote
    times that.

    Defaults can be set in the environment (PFW_MODE, PFW_CPU, ...) and in the TOML file that PFW_CONFIG names.
    """
    from pfw.config import settle
    from pfw.hint import parse_resource
    from pfw.launch import Order, launch, trackers_for, wants_counter
    from pfw.source import load_source

    kept = keep[0] if keep in (("leaves",), ("all",)) else keep or None
    shown = trackers_for(progress, events)
    config = settle(None, keep=kept, progress=shown, **fields)  # all other options are named as their fields
    offer = {"gpu": gpu, "resources": dict(map(parse_resource, resources)) or None, "heavy_io": heavy_io}
    sizes = {**{name: fields[name] for name in ("cpu", "io", "memory")}, **offer}
    _check_place(config.mode, on, [_FLAGS.get(name, f"--{name}") for name in sizes if sizes[name] is not None], detach)
    if detach and shown:
        raise click.UsageError("--detach follows nothing: give --progress and --events to `pfw attach`")
    scales = {"time_scale": time_scale, "bytes_scale": bytes_scale, "lane": lane}
    replay, workflow = load_source(file, parameters, scales)
    return launch(Order(workflow, replay, on, config, offer, wants_counter(progress, config), as_json), detach=detach)


#: {size of a cluster: its option} where that is not its name.
_FLAGS = {"resources": "--resource", "heavy_io": "--heavy-io"}


def _check_place(mode: str, on: str | None, sizes: Sequence[str], detach: bool) -> None:
    is_elsewhere = on is not None or detach
    if is_elsewhere and sizes:
        raise click.UsageError(f"{sizes[0]} is for a cluster of this command's own; workers have their own sizes")
    if mode == "sequential" and (is_elsewhere or sizes):
        raise click.UsageError(
            f"--mode sequential runs in this process: leave out {', '.join(['--on', '--detach', *sizes])}"
        )


# ---------------------------------------------------------------------------------------------------- runs elsewhere


@cli.command(epilog=_example("pfw attach 3f2a9c01de", "pfw attach 3f2a9c01de --progress console"))
@click.argument("run_id", metavar="RUN")
@_on
@_progress
@_json
def attach(run_id: str, on: str | None, progress: str | None, events: str | None, as_json: bool) -> int:
    """Follow a run to its end. Then say how it went; the exit code is the run's. Ctrl-C leaves it running."""
    from pfw.client import Client
    from pfw.config import settle
    from pfw.launch import attach_to, trackers_for, wants_counter

    config = settle(None, progress=trackers_for(progress, events))
    with Client(on) as client:
        return attach_to(client, run_id, config.trackers, has_counter=wants_counter(progress, config), as_json=as_json)


@cli.command(epilog=_example("pfw output 3f2a9c01de total --json"))
@click.argument("run_id", metavar="RUN")
@click.argument("step", metavar="STEP")
@_on
@_json
def output(run_id: str, step: str, on: str | None, as_json: bool) -> None:
    """Print what a step returned, once it has ended. Only outputs that the run keeps are there (pfw run --keep)."""
    from pfw.client import Client
    from pfw.launch import output_of

    with Client(on) as client:
        value = output_of(client, run_id, step)
    if as_json:
        print_json(value)
    else:
        click.echo(repr(value))


@cli.command(epilog=_example("pfw logs 3f2a9c01de total"))
@click.argument("run_id", metavar="RUN")
@click.argument("step", metavar="STEP")
@_on
@_json
def logs(run_id: str, step: str, on: str | None, as_json: bool) -> None:
    """Print what a step has printed and logged. Also while it runs: what it has so far."""
    from pfw.client import Client

    with Client(on) as client:
        text = client.attach(run_id).logs(step)
    if as_json:
        print_json({"run": run_id, "step": step, "log": text})
    else:
        click.echo(text, nl=False)


@cli.command(epilog=_example("pfw explain 3f2a9c01de total", "pfw explain 3f2a9c01de"))
@click.argument("run_id", metavar="RUN")
@click.argument("step", metavar="[STEP]", required=False)
@_on
@_json
def explain(run_id: str, step: str | None, on: str | None, as_json: bool) -> None:
    """Say what a step waits for, or how it ended. Without STEP: of those that hold up the run.

    These are the steps that have failed, and those that have not ended although all they depend on has.
    """
    from pfw.client import Client

    with Client(on) as client:
        text = client.attach(run_id).explain(step)
    if as_json:
        print_json({"run": run_id, "step": step, "text": text})
    else:
        click.echo(text)


@cli.command(epilog=_example("pfw replay 3f2a9c01de total --pdb"))
@click.argument("run_id", metavar="RUN")
@click.argument("step", metavar="STEP")
@click.option("--pdb", "debug", is_flag=True, help="If it fails, look at it with Python's debugger.")
@_on
@_json
def replay(run_id: str, step: str, debug: bool, on: str | None, as_json: bool) -> int:
    """Call a step again here, with the same arguments. The exit code says whether it fails here too.

    Code that the run was sent by value comes with it; other modules must be importable here.
    """
    from pfw.client import Client
    from pfw.launch import replay_step

    with Client(on) as client:
        found = client.attach(run_id)
    return replay_step(found, step, debug=debug, as_json=as_json)


@cli.command(epilog=_example("pfw cancel 3f2a9c01de --reason 'wrong input'"))
@click.argument("run_id", metavar="RUN")
@click.option("--reason", default="cancelled with pfw cancel", help="Is part of the run's error.")
@_on
@_json
def cancel(run_id: str, reason: str, on: str | None, as_json: bool) -> None:
    """End a run and wait for its end. Nothing starts any more, what runs is stopped. Says how each step ended."""
    from pfw.client import Client
    from pfw.launch import tell_receipt

    with Client(on) as client:
        tell_receipt(client.cancel(run_id, reason), as_json=as_json)


@cli.command(epilog=_example("pfw runs", "pfw runs --json"))
@_on
@_json
def runs(on: str | None, as_json: bool) -> None:
    """List the runs that the coordinator knows."""
    from pfw.client import Client

    with Client(on) as client:
        found = client.runs()
    if as_json:
        print_json(found)
        return
    rows = [
        [
            run["id"], run["name"], run["version"], run["status"], run["mode"], f"{run['steps']:,}", _states_text(run),
            time_text(run["started_at"]), seconds_text(run["duration_s"]),
        ]
        for run in found
    ]  # fmt: skip
    header = ["run", "name", "version", "status", "mode", "steps", "states", "started", "duration"]
    click.echo(table(header, rows, "no runs"))


def _states_text(run: dict[str, Any]) -> str:
    states = (name.lower() for name in STATE_NAMES)
    text = ", ".join(f"{run[state]:,} {state}" for state in states if run.get(state))
    return text + (f"; a step cannot start: {run['waits_for']}" if run["waits_for"] else "")


# ---------------------------------------------------------------------------------------------------- the cluster


@cli.command(epilog=_example("pfw workers --on tcp://127.0.0.1:7700"))
@_on
@_json
def workers(on: str | None, as_json: bool) -> None:
    """List the workers of the coordinator."""
    from pfw.client import Client

    with Client(on) as client:
        found = client.workers()
    if as_json:
        print_json(found)
        return
    rows = [
        [
            worker["name"], str(worker["pid"]), worker["state"], f"{worker['cpu']:,}", f"{worker['io']:,}",
            shares_text(worker["free"], worker["resources"]), f"{worker['held']:,}", bytes_text(worker["rss_bytes"]),
            f"{worker['cpu_percent']:.0f} %", f"{worker['load']:.2f}", seconds_text(worker["seen_s"]),
        ]
        for worker in found
    ]  # fmt: skip
    header = [
        "worker", "pid", "state", "cpu slots", "io slots", "free", "held steps", "memory", "cpu use", "load",
        "heard of",
    ]  # fmt: skip
    click.echo(table(header, rows, "no workers"))


@cli.command(epilog=_example("pfw status", "pfw status --json"))
@_on
@_json
def status(on: str | None, as_json: bool) -> None:
    """Say in a few numbers how the coordinator is."""
    from pfw.client import Client

    with Client(on) as client:
        found = {"address": client.address, **client.status()}
    if as_json:
        print_json(found)
        return
    rows = [
        ["coordinator", f"{found['address']}, pfw {found['pfw']}, Python {found['python']}"],
        ["workers", f"{found['workers']:,} with {found['cpu']:,} cpu and {found['io']:,} io slots"],
        ["runs", f"{found['runs']:,} going on, workers hold {found['held']:,} steps"],
        ["waiting", f"{found['waiting']:,} runs for what no worker offers"],
        ["clients", f"{found['clients']:,}, this one included"],
        ["odd messages", f"{found['oddities']:,}, which were dropped"],
    ]
    click.echo("\n".join(f"{label:<13} {text}" for label, text in rows))


@cli.command(epilog=_example("pfw version --json"))
@_json
def version(as_json: bool) -> None:
    """Say which versions these are. Of pfw, its protocol, Python and ZeroMQ."""
    import zmq

    from pfw.messages import PROTOCOL

    python = ".".join(map(str, sys.version_info[:3]))
    found = {"pfw": __version__, "protocol": PROTOCOL, "python": python, "zmq": zmq.zmq_version()}
    if as_json:
        print_json(found)
    else:
        click.echo(f"pfw {__version__} (protocol {PROTOCOL}, Python {python}, ZeroMQ {found['zmq']})")
