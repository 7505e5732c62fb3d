"""`run`, `start` and `arun`: one door to every mode and every cluster."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Any

from pfw.cancellation import CancellationToken
from pfw.config import Config, Keep, settle
from pfw.context import current
from pfw.errors import ConfigError, PfwError
from pfw.interrupts import Interrupts
from pfw.progress import open_all, report
from pfw.results import Meaning
from pfw.runs import Run

if TYPE_CHECKING:
    from pfw.client import Client
    from pfw.trackers import Progress
    from pfw.workflow import Workflow

#: How long a run that is ended by force is waited for.
KILL_S = 1.0


def run(
    wf: Workflow,
    /,
    *,
    mode: str | None = None,
    on: Client | str | None = None,
    cpu: int | None = None,
    io: int | None = None,
    memory: int | str | None = None,
    config: Config | None = None,
    token: CancellationToken | None = None,
    progress: Progress | None = None,
    timeout: float | None = None,
    on_failure: str | None = None,
    keep: Keep | None = None,
    check: bool = True,
    priority: int | None = None,
) -> Run:
    """Runs a workflow and waits for its end.

    What is not given, or None, is as `config` says: `mode`, `cpu`, `io`, `memory`, `progress`, `timeout`, `on_failure`,
    `keep`, `priority`.

    Args:
        wf: The workflow.
        mode: "parallel" (a step starts as soon as its own dependencies are done), "waves" (a depth starts when the one
            before has ended) or "sequential" (in this process).
        on: Where: None for a local cluster, kept from run to run; a Client or LocalCluster; or a coordinator's address.
        cpu: CPU slots of the local cluster; None: the cores this process may use.
        io: IO slots of the local cluster; None: 4 for each CPU slot.
        memory: Memory of all steps of the local cluster, in bytes or as "8GB"; None: what this process may use.
        config: What holds for options that are not given, and for steps; None: what `on` was made with, else
            `Config.load()`.
        token: Cancelling it cancels the run; if it is cancelled already nothing is executed.
        progress: Who is told of events: a function, "bar", "console", a path that ends in .jsonl, a tracker, or a list
            of them; on a thread of their own.
        timeout: How long the run may take, s; then its running steps are stopped and it has timed out.
        on_failure: After a step has failed for good: "stop" (running steps finish, nothing else starts), "continue"
            (only what depends on it is skipped), "abort" (running steps are stopped too).
        keep: Outputs kept for the caller: "leaves", "all", or ids and nodes.
        check: Whether a failure raises.
        priority: Runs of a higher priority get free slots first.

    Raises:
        GraphError: The workflow is not valid (cycle, unknown dependency, empty).
        TypeError: It is no Workflow.
        UnpicklableError: A function or an argument cannot be sent.
        ConfigError: An option has a value that it cannot have.
        StepFailedError: A step failed; with `.run`, and what the step raised as `__cause__`.
        RunCancelledError: The run was cancelled.
        RunTimeoutError: Its `timeout` was over first; also a RunCancelledError.
        ClusterError: There is no coordinator, or it was lost.
        StalledError: The local cluster can start no slots any more.
        KeyboardInterrupt: Ctrl-C; the run was cancelled. With `.run`.

    >>> from pfw import Workflow, run, step
    >>> @step
    ... def double(x):
    ...     return 2 * x
    >>> with Workflow() as wf:
    ...     four = double(double(1))
    >>> run(wf, mode="sequential").value
    4
    """
    _refuse_event_loop()
    settled = _settle(
        config, on, mode=mode, cpu=cpu, io=io, memory=memory, progress=progress, timeout=timeout,
        on_failure=on_failure, keep=keep, priority=priority,
    )  # fmt: skip
    with Interrupts() as interrupts:
        found = _begin(wf, on, settled, token, interrupts)
        _wait(found, interrupts)
    return found.check() if check else found


def start(
    wf: Workflow,
    /,
    *,
    mode: str | None = None,
    on: Client | str | None = None,
    cpu: int | None = None,
    io: int | None = None,
    memory: int | str | None = None,
    config: Config | None = None,
    token: CancellationToken | None = None,
    progress: Progress | None = None,
    timeout: float | None = None,
    on_failure: str | None = None,
    keep: Keep | None = None,
    check: bool = True,
    priority: int | None = None,
) -> Run:
    """Starts a workflow and returns at once; arguments and errors as for `run`. The run ends with this process.

    `check` is there so that the same options can be given to `run` and `start`: what has only been started has not
    failed yet. `Run.check` and `Run.value` raise what `run` would.
    """
    settled = _settle(
        config, on, mode=mode, cpu=cpu, io=io, memory=memory, progress=progress, timeout=timeout,
        on_failure=on_failure, keep=keep, priority=priority,
    )  # fmt: skip
    return _begin(wf, on, settled, token)


async def arun(
    wf: Workflow,
    /,
    *,
    mode: str | None = None,
    on: Client | str | None = None,
    cpu: int | None = None,
    io: int | None = None,
    memory: int | str | None = None,
    config: Config | None = None,
    token: CancellationToken | None = None,
    progress: Progress | None = None,
    timeout: float | None = None,
    on_failure: str | None = None,
    keep: Keep | None = None,
    check: bool = True,
    priority: int | None = None,
) -> Run:
    """As `run`, for use in an event loop, which it does not block. If its task is cancelled, so is the run."""
    settled = _settle(
        config, on, mode=mode, cpu=cpu, io=io, memory=memory, progress=progress, timeout=timeout,
        on_failure=on_failure, keep=keep, priority=priority,
    )  # fmt: skip
    import asyncio

    end = CancellationToken()

    def begin() -> Run:
        found = _begin(wf, on, settled, token)
        found.obey(end)  # also if the task was cancelled meanwhile
        return found

    try:
        # Starting a cluster and waiting block, so they are done on a thread.
        found = await asyncio.to_thread(begin)
        await asyncio.to_thread(_wait, found, Interrupts())
    except asyncio.CancelledError:
        end.cancel("its task was cancelled")
        raise
    return found.check() if check else found


def _settle(config: Config | None, on: Client | str | None, **given: Any) -> Config:
    # An address has no config; what a Client is need not be known here, which would load what it rests on.
    return settle(getattr(on, "config", None) if config is None else config, **given)


def _begin(
    wf: Workflow,
    on: Client | str | None,
    config: Config,
    token: CancellationToken | None,
    interrupts: Interrupts | None = None,
) -> Run:
    """Begins a run; with `interrupts` for who waits for it next, on this thread."""
    if current().run_id:
        raise PfwError("a running step cannot run a workflow of its own: return it, and it runs in the step's place")
    from pfw.client import kept_steps
    from pfw.workflow import checked_workflow

    checked_workflow(wf)
    if token is not None and not isinstance(token, CancellationToken):
        raise ConfigError(f"token is a CancellationToken, not {token!r}")
    if config.mode == "sequential" or (token is not None and token.cancelled):
        # Of a run that is cancelled already no cluster needs to hear.
        return _begin_here(wf, config, token, is_inline=interrupts is not None)
    # Before a cluster is started for it: what can be said of the workflow is said at once.
    compiled = wf.compile(config.step_defaults)
    if not isinstance(config.keep, str):
        kept_steps(compiled, config.keep)
    client = _client(on, config)
    if interrupts is not None:
        interrupts.hold()
    found = client.submit_run(wf, config)
    if token is not None:
        found.obey(token)
    return found


def _client(on: Client | str | None, config: Config) -> Client:
    from pfw.client import Client
    from pfw.cluster import shared_cluster

    if on is None:
        return shared_cluster(config)
    return on if isinstance(on, Client) else _client_at(str(on))


def _client_at(address: str) -> Client:
    """The client of an address, kept from run to run as the local cluster is."""
    from pfw.client import Client

    key = (address, os.getpid())
    with _clients_lock:
        found = _clients.get(key)
        if found is None or found.is_closed:
            if found is not None:
                found.close()
            found = _clients[key] = Client(address)
        return found


_clients: dict[tuple[str, int], Client] = {}
_clients_lock = threading.Lock()


def _begin_here(wf: Workflow, config: Config, token: CancellationToken | None, *, is_inline: bool) -> Run:
    from pfw.client import kept_steps
    from pfw.lifecycle import RunLife
    from pfw.record import RunRecord
    from pfw.sequential import Sequential, start_thread

    compiled = wf.compile(config.step_defaults)
    kept = kept_steps(compiled, config.keep)
    meaning = Meaning(compiled.value, compiled.leaves, compiled.maps)
    record = RunRecord(wf.name, config.mode, compiled.graph, meaning, version=wf.version or "")
    life = RunLife(
        mode=config.mode, on_failure=config.on_failure, keep=kept or (), keep_all=kept is None,
        timeout_s=config.timeout or 0.0,
    )  # fmt: skip
    engine = Sequential(record, life)
    found = Run(record, meaning, engine)
    if token is not None:
        found.obey(token)
    open_all(config.trackers)
    report(found, config.trackers)
    if is_inline:
        try:
            engine.execute()
        except KeyboardInterrupt as interrupt:
            interrupt.run = found  # type: ignore[attr-defined]
            sys.stderr.write("pfw: interrupted, the run was cancelled\n")
            found.join_reporters()
            raise
    else:
        start_thread(engine)
    return found


def _wait(found: Run, interrupts: Interrupts) -> None:
    """Waits for the end; Ctrl-C cancels the run, a second one kills at once."""
    try:
        interrupts.release()
        found.wait()
    except KeyboardInterrupt as interrupt:
        interrupt.run = found  # type: ignore[attr-defined]
        end_interrupted(found)
        raise
    finally:
        found.join_reporters()


def end_interrupted(found: Run) -> None:
    """What Ctrl-C does to a run: it is cancelled, and by force when Ctrl-C is pressed once more.

    Raises:
        KeyboardInterrupt: It was pressed once more. With `.run`.
    """
    try:
        sys.stderr.write("pfw: interrupted, cancelling the run (Ctrl-C again to kill what runs)\n")
        found.cancel("interrupted")
    except KeyboardInterrupt as interrupt:
        interrupt.run = found  # type: ignore[attr-defined]
        found.ask_to_end("interrupted", is_urgent=True)
        found.wait(KILL_S)
        raise


def _refuse_event_loop() -> None:
    # Who runs a loop has loaded asyncio; loading it for this would take 15 ms. Another thread may be at it just now.
    running_loop = getattr(sys.modules.get("asyncio"), "_get_running_loop", None)
    if running_loop is not None and running_loop() is not None:
        raise RuntimeError("run() would block the running event loop: use `await pfw.arun(wf)`")
