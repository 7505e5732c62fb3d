"""Whether and when a step that failed is tried again: the user's rule. Who obeys it is no matter of this module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pfw.checks import check_number
from pfw.errors import ConfigError, MemoryLimitError

#: A class of exceptions, several of them, or a function that decides.
Selector = type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], object]


#: How many retries can be asked for.
RETRIES_LIMIT = 1_000_000


@dataclass(frozen=True)
class Retry:
    """Whether and when a step that failed is tried again.

    The delay before retry n is `min(max_delay, backoff * factor ** (n - 1))`, drawn from 0 to that with full jitter.

    Raises:
        ConfigError: a field has a value that it cannot have.
    """

    #: How many attempts may follow the first one.
    retries: int = 3
    #: Delay before the first retry, s.
    backoff: float = 0.1
    #: What the delay is multiplied with from retry to retry.
    factor: float = 2.0
    #: Bound of the delay, s.
    max_delay: float = 30.0
    #: "full" or "none".
    jitter: str = "full"
    #: What is worth another attempt: a class, a tuple of classes, or `callable(exception) -> bool`.
    on: Selector = (Exception,)
    #: What is not, even if `on` says so; of the same forms.
    give_up: Selector = ()

    def __post_init__(self) -> None:
        if type(self.retries) is not int or not 0 <= self.retries <= RETRIES_LIMIT:
            raise ConfigError(
                f"Retry.retries is a number of attempts from 0 to {RETRIES_LIMIT:,}, not {self.retries!r}"
            )
        check_number("Retry.backoff", self.backoff)
        check_number("Retry.factor", self.factor)
        check_number("Retry.max_delay", self.max_delay)
        if self.jitter not in ("full", "none"):
            raise ConfigError(f'Retry.jitter is "full" or "none", not {self.jitter!r}')
        for field in ("on", "give_up"):
            object.__setattr__(self, field, _selector(f"Retry.{field}", getattr(self, field)))

    def is_retryable(self, exception: BaseException) -> bool:
        """Returns whether another attempt may help after `exception`.

        False if `on` or `give_up` raises itself; that is then noted in `exception`.
        """
        try:
            return _is_match(self.on, exception) and not _is_match(self.give_up, exception)
        except Exception as error:
            exception.add_note(f"not retried, because the step's Retry raised {error!r}")
            return False

    def allows_memory(self, limit: int) -> bool:
        """Returns whether a step may be tried again that held too much memory; its process was killed then.

        Args:
            limit: What the step had asked for; 0: nothing, so that a neighbour may be to blame, and no function of
                the user is asked.
        """
        if not limit and (callable(self.on) or callable(self.give_up)):
            return self.retries > 0
        return self.retries > 0 and self.is_retryable(MemoryLimitError("it held more memory than it may"))


def _is_match(wanted: Selector, exception: BaseException) -> bool:
    if isinstance(wanted, tuple):
        return isinstance(exception, wanted)
    return bool(wanted(exception))


def _selector(field: str, value: Any) -> Selector:
    """Returns `value` as a tuple of classes or as a function."""
    classes = value if isinstance(value, tuple) else (value,)
    if all(isinstance(item, type) and issubclass(item, BaseException) for item in classes):
        return classes
    if callable(value) and not isinstance(value, type):
        return value  # type: ignore[no-any-return]
    raise ConfigError(f"{field} is a class of exceptions, a tuple of them, or a function, not {value!r}")
