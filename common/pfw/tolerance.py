"""What a step with `run_if="any"` or `"always"` gets in place of inputs that did not succeed. Used where steps run.

With "any" they are left out of lists, and None elsewhere. With "always" each is a `Failed`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pfw import codec
from pfw.absence import Absence, is_absence, unpack_absence
from pfw.call import bind, rebuild
from pfw.facts import CANCELLED, FAILED, STATE_NAMES, TIMED_OUT
from pfw.graph import IF_ALWAYS

if TYPE_CHECKING:
    from pfw.errors import PfwError


class Failed:
    """Stands for the output of a step that did not succeed, in the arguments of a step with `run_if="always"`.

    An item of it (`node[key]`) is the same object.
    """

    __slots__ = ("error", "step_id")

    #: Id of the step.
    step_id: str
    #: A StepFailedError; for a step that was not carried out a PfwError that says why.
    error: PfwError

    def __init__(self, step_id: str, error: PfwError) -> None:
        self.step_id = step_id
        self.error = error

    def __getitem__(self, key: Any) -> Failed:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Failed, (self.step_id, self.error)

    def __repr__(self) -> str:
        return f"Failed({self.step_id!r}, {self.error!r})"


class _Lost:
    """Stands for an input that is to be left out; so does every item of it."""

    def __getitem__(self, key: Any) -> _Lost:
        return self


_LOST = _Lost()


def bind_some(
    run_if: int, args: tuple[Any, ...] | None, kwargs: dict[str, Any] | None, inputs: Sequence[bytes]
) -> tuple[Sequence[Any], dict[str, Any]]:
    """Returns the arguments to call the function with, as `call.bind`; some inputs may be absences.

    Args:
        run_if: IF_ANY or IF_ALWAYS.
        args: as of `call.bind`.
        kwargs: as of `call.bind`.
        inputs: pickled outputs and packed absences.
    """
    if run_if == IF_ALWAYS:
        return bind(args, kwargs, [_failed(item) if is_absence(item) else codec.load(item) for item in inputs])
    values = [_LOST if is_absence(item) else codec.load(item) for item in inputs]
    found, named = bind(args, kwargs, values)
    if not any(value is _LOST for value in values):
        return found, named
    return [_without_lost(item) for item in found], {key: _without_lost(item) for key, item in named.items()}


def _without_lost(obj: Any) -> Any:
    if obj is _LOST:
        return None
    if type(obj) is list:
        obj = [item for item in obj if item is not _LOST]
    return rebuild(obj, _without_lost)


def _failed(packed: bytes) -> Failed:
    absence = unpack_absence(packed)
    return Failed(absence.step_id, _error_of(absence))


def _error_of(absence: Absence) -> PfwError:
    from pfw.errors import PfwError, RunCancelledError
    from pfw.failure import Failure
    from pfw.remote import to_error

    step_id, state, failure = absence
    if state in (FAILED, TIMED_OUT):
        return to_error(Failure.unpack(failure), step_id, 1, 0)
    if state == CANCELLED:
        return RunCancelledError(f"step {step_id!r} was cancelled")
    why = f": {Failure.unpack(failure).message}" if failure else ""
    return PfwError(f"step {step_id!r} did not run, its state is {STATE_NAMES[state]}{why}")
