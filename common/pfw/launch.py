"""Carrying out `pfw run` and `pfw attach`: start the run, show how it goes, say how it went."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import click

from pfw import running
from pfw.client import Client
from pfw.cluster import LocalCluster
from pfw.config import Config
from pfw.display import CounterLine, follow
from pfw.errors import PfwError, StepFailedError
from pfw.facts import SUCCEEDED
from pfw.interrupts import Interrupts
from pfw.metrics import LANE_NAMES
from pfw.progress import open_all, report
from pfw.receipt import CancelReceipt
from pfw.replay import Replay
from pfw.runs import Run
from pfw.summary import PROCESS, shorten, summarise
from pfw.table import plain, print_json, table
from pfw.trackers import FileProgress, Tracker
from pfw.workflow import Workflow

#: Exit code for each end of a run.
CODES = {"SUCCEEDED": 0, "FAILED": 1, "CANCELLED": 4, "TIMED_OUT": 4}
#: How often a step that has not ended is looked at, s.
_LOOK_S = 0.1
#: So many failed steps are named; the first is shown with its traceback.
FAILURES_NAMED = 10
#: What is only counted of a cancelled run: there may be many, and nothing of them was under way.
_UNTOUCHED = ("already done", "never started", "not started again")


class Order(NamedTuple):
    """What `pfw run` is to do."""

    workflow: Workflow
    replay: Replay | None
    on: str | None
    config: Config
    #: {keyword of LocalCluster: its value} beside what the config says of a cluster of the command's own.
    offer: Mapping[str, Any]
    #: Whether a counter shows how it goes.
    has_counter: bool
    as_json: bool


def trackers_for(progress: str | None, events: str | None) -> list[str | Tracker] | None:
    """Who is told of events with these values of --progress and --events; None where neither was given."""
    if progress is None and events is None:
        return None
    shown = [progress] if progress in ("bar", "console") else []
    return [*shown, FileProgress(events)] if events else [*shown]


def wants_counter(progress: str | None, config: Config) -> bool:
    """Whether nothing else shows on the screen how it goes, and nobody wants to see nothing."""
    return progress is None and all(isinstance(tracker, FileProgress) for tracker in config.trackers)


def launch(order: Order, *, detach: bool) -> int:
    """Runs or starts it; returns the exit code.

    Raises:
        PfwError: It could not be run. That a step failed is no such error but an exit code.
        KeyboardInterrupt: It was cancelled.
    """
    order.workflow.compile(order.config.step_defaults)  # what is wrong with it is said before anything is started
    if detach:
        return _detach(order)
    if order.config.mode == "sequential":
        return _run_here(order)
    if order.on:
        with Client(order.on) as client:
            return _run_on(client, order)
    with LocalCluster(config=order.config, **order.offer) as cluster:
        cluster.echo.write = sys.stderr.write  # stdout is for the result
        return _run_on(cluster, order)


def _detach(order: Order) -> int:
    with Client(order.on) as client:
        _warn_if_empty(client)
        found = client.start(order.workflow, config=order.config.replace(progress=()))
        if order.as_json:
            print_json({"run": found.id, "name": found.name, "address": client.address})
        else:
            click.echo(found.id)
            click.echo(f"pfw: started at {client.address}; `pfw attach {found.id}` follows it", err=True)
    return 0


def _run_here(order: Order) -> int:
    # On this thread, so that Ctrl-C and debuggers reach the step that runs.
    config, line = order.config, None
    if order.has_counter:
        line = CounterLine(sys.stderr, len(order.workflow.compile(config.step_defaults).graph.ids))
        config = config.replace(progress=(*config.trackers, line.on_event))
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for the result
            found = running.run(order.workflow, config=config, check=False)
    except KeyboardInterrupt as interrupt:
        if hasattr(interrupt, "run"):
            tell(interrupt.run, {PROCESS: 1}, order.replay, as_json=order.as_json)
        raise
    finally:
        if line:
            line.finish()
    return tell(found, {PROCESS: 1}, order.replay, as_json=order.as_json)


def _run_on(client: Client, order: Order) -> int:
    if order.on:
        _warn_if_empty(client)
    with Interrupts() as interrupts:
        interrupts.hold()
        found = running.start(order.workflow, on=client, config=order.config)
        try:
            interrupts.release()
            _follow(found, has_counter=order.has_counter)
        except KeyboardInterrupt:
            running.end_interrupted(found)
            tell(found, _slots(client), order.replay, as_json=order.as_json)
            raise
    return tell(found, _slots(client), order.replay, as_json=order.as_json)


def attach_to(client: Client, run_id: str, trackers: Sequence[Tracker], *, has_counter: bool, as_json: bool) -> int:
    """Follows a run to its end; returns the exit code.

    Raises:
        UnknownRunError: The coordinator has no such run.
    """
    found = client.attach(run_id)
    open_all(trackers)
    report(found, trackers)
    _follow(found, has_counter=has_counter)
    return tell(found, _slots(client), None, as_json=as_json)


def output_of(client: Client, run_id: str, step_id: str) -> Any:
    """Waits for a step, or all steps of a map, to end and returns the output, of a map the list.

    Raises:
        UnknownRunError: The coordinator has no such run.
        UnknownDependencyError: The run has no such step.
        OutputNotKeptError: The output was not kept, or there is none.
    """
    found = client.attach(run_id)
    members = found._meaning.maps.get(step_id)
    steps = (found.step_index(step_id),) if members is None else members
    while any(found._record.states[step] < SUCCEEDED for step in steps) and not found.wait(_LOOK_S):
        pass
    return found.outputs[step_id]


def replay_step(found: Run, step_id: str, *, debug: bool, as_json: bool) -> int:
    """Calls a step again in this process and prints what it returns, or how it fails; returns the exit code.

    Raises:
        UnknownDependencyError: The run has no such step.
        OutputNotKeptError: What it was called with is not here.
    """
    blamed = found.blamed(step_id)
    found.inputs(blamed)  # what is missing is said apart from what the step raises
    if blamed != step_id:
        click.echo(f"{step_id} gave way to a workflow, in which {blamed} failed: that is called.", err=True)
    # With --json stdout is for the result; else it is the step's too, as a debugger in it may want.
    shown = contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()
    try:
        with shown:
            value = found.replay(step_id)
    except (Exception, SystemExit) as error:
        traceback.print_exception(error)
        if debug:
            import pdb  # noqa: T100  it was asked for

            pdb.post_mortem(error.__traceback__)
        return CODES["FAILED"]
    if as_json:
        print_json(value)
    else:
        click.echo(repr(value))
    return 0


def _warn_if_empty(client: Client) -> None:
    if not client.workers():
        click.echo(f"pfw: {client.address} has no workers yet, the run waits for one", err=True)


def _slots(client: Client) -> dict[str, int]:
    status = client.status()
    return {lane: status[lane] for lane in LANE_NAMES}


# ---------------------------------------------------------------- how it goes


def _follow(found: Run, *, has_counter: bool) -> None:
    follow(found, CounterLine(sys.stderr, len(found.states)) if has_counter else None)
    found.join_reporters()


# ---------------------------------------------------------------- how it went


def tell(found: Run, slots: Mapping[str, int], replay: Replay | None, *, as_json: bool) -> int:
    """Says how a run has ended: errors on stderr, value and summary on stdout; returns the exit code."""
    summary = summarise(found, slots, replay.bound_s(slots) if replay else None)
    errors = found.errors
    if as_json:
        value = {} if replay else _value_fields(found)
        print_json({**summary.to_dict(), **value, "errors": {step: str(error) for step, error in errors.items()}})
        return CODES[found.status]
    _tell_errors(errors)
    if not replay and found.status == "SUCCEEDED":
        click.echo(_value_text(found))
    click.echo(str(summary))
    return CODES[found.status]


def _tell_errors(errors: Mapping[str, StepFailedError]) -> None:
    for error in list(errors.values())[:1]:
        click.echo(f"{error}\n", err=True)
    others = list(errors)[1:]
    if others:
        more = f" and {len(others) - FAILURES_NAMED:,} more" if len(others) > FAILURES_NAMED else ""
        click.echo(f"These failed as well: {', '.join(others[:FAILURES_NAMED])}{more}\n", err=True)


def _value_fields(found: Run) -> dict[str, Any]:
    try:
        value = found.value
    except (PfwError, ValueError):
        return {"value": None}
    return {"value": plain(value), "repr": shorten(value)}


def _value_text(found: Run) -> str:
    try:
        return shorten(found.value)
    except (PfwError, ValueError) as error:
        return f"(no value: {error})"


def tell_receipt(receipt: CancelReceipt, *, as_json: bool) -> None:
    """Says what a cancel has done."""
    if as_json:
        print_json(receipt.to_dict())
        return
    click.echo(f"{receipt.run_id}: {receipt}")
    rows = [
        [step, end.how, "" if end.after_ms is None else f"{end.after_ms:,} ms"]
        for step, end in receipt.steps.items()
        if end.how not in _UNTOUCHED
    ]
    if rows:
        click.echo(table(["step", "how it ended", "after"], rows, ""))
