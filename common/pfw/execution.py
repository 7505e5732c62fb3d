"""Runs one step's call: the only place that does, for slots, the async process and sequential mode alike.

A call is bytes and so are its inputs and its output, so every mode passes values through the same codec.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from pfw import codec, context, outcome
from pfw.call import Call, bind
from pfw.codec import LoadedFunction
from pfw.context import Entry
from pfw.errors import GraphError, MissingModuleError, StepInterrupt, UnpicklableError
from pfw.failure import FAIL_CANCELLED, FAIL_ERROR, FAIL_MODULE, FAIL_UNPICKLABLE
from pfw.fragment import make_fragment
from pfw.remote import describe
from pfw.tolerance import bind_some
from pfw.workflow import Workflow

#: Largest output of a step, in bytes: what one message can carry.
OUTPUT_LIMIT = 2 << 30

#: Values of these types between these numbers are small outputs.
_SMALL: Final = codec.SMALL
_LEAST, _MOST = -codec.SMALL_LIMIT, codec.SMALL_LIMIT

#: The output of a step that returns nothing, as many do.
_NONE: Final = codec.dump(None)

#: Whether a step's own code runs on this process's main thread, so that a signal may raise `StepInterrupt` in it.
_is_interruptible = False


@contextmanager
def uninterrupted() -> Iterator[None]:
    """What the step's own thread does inside for pfw is done whole; for other threads this changes nothing."""
    global _is_interruptible
    if not _is_interruptible or threading.current_thread() is not threading.main_thread():
        yield
        return
    _is_interruptible = False
    try:
        yield
    finally:
        _is_interruptible = True


class _Unsendable(Exception):
    """The step returned something that cannot be sent; `__cause__` says why."""


def is_interruptible() -> bool:
    """Return whether `StepInterrupt` raised by a signal now would end the step and nothing else."""
    return _is_interruptible


def load_function(pickled: bytes, entry: Entry) -> tuple[LoadedFunction, bool]:
    """Load a step's function for one attempt; raises whatever its unpickling raises.

    Returns:
        The function, and whether it serves other attempts too: not if it holds a token, which became this attempt's.
    """
    given = context.tokens_given
    previous = context.enter(entry)
    try:
        loaded = codec.load_function(pickled)
    finally:
        context.leave(previous)
    return loaded, context.tokens_given == given


def execute(loaded: LoadedFunction, call: bytes | Call, inputs: Sequence[bytes], entry: Entry) -> tuple[int, bytes]:
    """Run a synchronous step, as `run` does, with its entry as the running one of this thread meanwhile."""
    previous = context.enter(entry)
    try:
        code, payload = run(loaded, call, inputs, entry)
        return code, codec.dumped(payload)
    finally:
        context.leave(previous)


def run(
    loaded: LoadedFunction, call: bytes | Call, inputs: Sequence[bytes], entry: Entry
) -> tuple[int, bytes | codec.Small]:
    """Run a synchronous step, whose entry is the running one.

    Args:
        loaded: The step's function.
        call: The step's call, as bytes or already loaded.
        inputs: The pickled outputs of the step's inputs.
        entry: What the step's context says; its `step_id` is filled in here.

    Returns:
        `(code, payload)`: one of OK, EXPANDED, ERROR, RETRYABLE, STOPPED of `pfw.outcome`, and the pickled output, the
        packed fragment or the packed `Failure`; a small value as it is, for `codec.dumped`. Whatever the step raises,
        nothing is raised here.
    """
    global _is_interruptible
    fn, _, _, run_if, inherited = loaded
    try:
        _is_interruptible = True
        try:
            entry.step_id, args, kwargs = codec.load_call(call) if isinstance(call, bytes) else call
            if inherited:
                entry.inherited = inherited
            if run_if:
                args, kwargs = bind_some(run_if, args, kwargs, inputs)
            elif inputs:
                args, kwargs = bind(args, kwargs, codec.load_all(inputs))
            value = fn(*args or (), **kwargs) if kwargs else fn(*args or ())
            if value is None:
                return outcome.OK, _NONE
            # Many are pickled at once: after a step of some ms none of pickle is in the processor's caches (16 µs).
            if type(value) in _SMALL and _LEAST < value < _MOST:
                return outcome.OK, value
            return _expand(value, entry) if isinstance(value, Workflow) else (outcome.OK, _dump_output(value))
        finally:
            _is_interruptible = False
    except BaseException as error:  # SystemExit, KeyboardInterrupt and StepInterrupt end the step, not its slot
        _is_interruptible = False  # an interrupt may have come just before the line above
        return _conclude(loaded, error, entry)


async def execute_async(
    loaded: LoadedFunction, call: bytes, inputs: Sequence[bytes], entry: Entry
) -> tuple[int, bytes]:
    """Run an `async def` step, as `execute` does; the calling task must be the step's own.

    A cancelled task ends the step with STOPPED if the entry's token is cancelled.
    """
    context.enter_task(entry)
    try:
        entry.step_id, args, kwargs = codec.load_call(call)
        entry.inherited = loaded.inherited
        if loaded.run_if:
            args, kwargs = bind_some(loaded.run_if, args, kwargs, inputs)
        else:
            args, kwargs = bind(args, kwargs, codec.load_all(inputs))
        value = await loaded.fn(*args, **kwargs)
        return _expand(value, entry) if isinstance(value, Workflow) else (outcome.OK, _dump_output(value))
    except BaseException as error:  # as above
        return _conclude(loaded, error, entry)


def report_load_error(error: BaseException) -> tuple[int, bytes]:
    """Return the outcome, `(code, payload)`, of a step whose function could not be loaded."""
    code = FAIL_MODULE if isinstance(error, MissingModuleError) else FAIL_ERROR
    return outcome.ERROR, describe(error, code).pack()


def _expand(workflow: Workflow, entry: Entry) -> tuple[int, bytes]:
    """Return the outcome of a step that returned a Workflow, whose steps take its place."""
    try:
        fragment = make_fragment(workflow, entry.step_id, codec.load_inherited(entry.inherited))
    except (GraphError, UnpicklableError) as error:
        raise _Unsendable from error
    return outcome.EXPANDED, fragment


def _dump_output(value: Any) -> bytes:
    try:
        pickled = codec.dump(value)
        if len(pickled) > OUTPUT_LIMIT:
            raise UnpicklableError(
                f"it has {len(pickled):,} bytes, the limit is {OUTPUT_LIMIT:,}: return a path instead"
            )
        return pickled
    except UnpicklableError as error:
        if inspect.iscoroutine(value):
            value.close()  # never awaited: without this Python warns about it, at some later step
        raise _Unsendable from error


def _conclude(loaded: LoadedFunction, error: BaseException, entry: Entry) -> tuple[int, bytes]:
    """Return the outcome of a step that ended with an exception."""
    if entry.is_cancelled() and _is_stop(error):
        return outcome.STOPPED, describe(error, FAIL_CANCELLED).pack()
    if isinstance(error, _Unsendable):
        cause = error.__cause__ or error
        code = FAIL_ERROR if isinstance(cause, GraphError) else FAIL_UNPICKLABLE
        return outcome.ERROR, describe(cause, code)._replace(message=f"its output: {cause}").pack()
    if isinstance(error, MissingModuleError):
        return report_load_error(error)
    entry.note_raised(error)
    code = outcome.RETRYABLE if loaded.is_retryable(error) else outcome.ERROR
    return code, describe(error, FAIL_ERROR).pack()


def _is_stop(error: BaseException) -> bool:
    from asyncio import CancelledError  # here: it takes 30 ms to import, and only the async process needs it always

    return isinstance(error, StepInterrupt | CancelledError)
