"""Four ways for a run to end early: its time is over, Ctrl-C, a condition, and a shutdown that loses no work.

Run it with `python examples/cancellation.py`. Each part prints what became of the steps: the receipt of the cancel.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
import time
from pathlib import Path
from types import FrameType

from pfw import CancellationToken, Event, Run, RunTimeoutError, Workflow, current, run, step

#: How long each of the slow steps would take if nobody stopped them, s.
LONG_S = 60.0
ITEMS = 200


@step(hint="light_io")
def wait(seconds: float) -> None:
    """Waits, and checks its token meanwhile: it stops itself."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        current().check()
        time.sleep(0.005)


@step(hint="light_io", grace=0.5)
def sleep(seconds: float) -> None:
    """Sleeps and looks at nothing: it is interrupted half a grace later."""
    time.sleep(seconds)


@step(hint="light_io")
def search(number: int) -> int:
    """Looks for the answer; who finds it needs no time."""
    if number != 3:
        time.sleep(LONG_S)
    return number


@step(hint="light_io")
def work(file: str) -> int:
    """Does one item after another, and saves how far it has come when it is told to stop."""
    path = Path(file)
    done: int = json.loads(path.read_text("utf-8"))["done"] if path.exists() else 0
    token = current().token
    while done < ITEMS and not token.cancelled:
        time.sleep(0.002)
        done += 1
        path.with_suffix(".started").touch()
    path.write_text(json.dumps({"done": done}), "utf-8")
    return done


def slow() -> Workflow:
    """Makes a workflow that nobody wants to wait for."""
    with Workflow("slow") as workflow:
        wait.map([LONG_S] * 2)
        last = sleep(LONG_S)
        wait.options(id="last")(LONG_S).after(last)
    return workflow


def show(found: Run, began: float) -> None:
    """Prints how a run has ended, when, and what became of its steps."""
    receipt = found.cancel()  # it has ended: this only asks what became of it
    print(f"  {found.status} after {time.monotonic() - began:.2f} s: {receipt.reason}")
    for step_id, end in receipt.steps.items():
        print(f"    {step_id:8} {end.how}" + (f" after {end.after_ms} ms" if end.after_ms else ""))


def timeout() -> None:
    """The run may take a second; a token with `cancel_after` would do the same for several runs."""
    print("timeout")
    began = time.monotonic()
    try:
        run(slow(), timeout=1.0)
    except RunTimeoutError as error:
        show(error.run, began)


def ctrl_c() -> None:
    """Ctrl-C while `run` waits; here it is pressed as soon as the third step has started."""
    print("Ctrl-C")
    started = []

    def on_event(event: Event) -> None:
        if event.type == "Started":
            started.append(event.step_id)
            if len(started) == 3:
                os.kill(os.getpid(), signal.SIGINT)

    began = time.monotonic()
    try:
        run(slow(), progress=on_event)
    except KeyboardInterrupt as interrupt:
        show(interrupt.run, began)  # type: ignore[attr-defined]


def condition() -> None:
    """The run is cancelled when one of many has found what all are looking for."""
    print("condition")
    token = CancellationToken()

    def on_event(event: Event) -> None:
        if event.type == "Completed":
            token.cancel(f"{event.step_id} has found it")

    began = time.monotonic()
    with Workflow("search") as workflow:
        search.options(grace=0.2).map(range(6))
    found = run(workflow, token=token, progress=on_event, keep="all", check=False)
    show(found, began)
    print(f"  the answer is {found.outputs['search[3]']}")


def shutdown() -> None:
    """SIGTERM cancels the token; the step saves how far it has come, and the next run goes on from there."""
    print("graceful shutdown")
    token = CancellationToken()

    def on_signal(number: int, frame: FrameType | None) -> None:
        token.cancel("SIGTERM")

    before = signal.signal(signal.SIGTERM, on_signal)
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "state.json")
            with Workflow("work") as workflow:
                work(str(file))
            threading.Thread(target=terminate_when_there, args=(file.with_suffix(".started"),)).start()
            began = time.monotonic()
            show(run(workflow, token=token, check=False), began)
            saved = json.loads(file.read_text("utf-8"))["done"]
            print(f"  saved: {saved} of {ITEMS} items" if 0 < saved < ITEMS else "  nothing was saved")
            print(f"  the next run completes them: {run(workflow).value}")
    finally:
        signal.signal(signal.SIGTERM, before)


def terminate_when_there(file: Path) -> None:
    """Ends this process as an operator would, once there is something to be saved."""
    while not file.exists():
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    timeout()
    ctrl_c()
    condition()
    shutdown()
