"""What runs and their local cluster are like: one record, and the places where its values come from.

Each value comes from the first place that has it: a keyword, the variable `PFW_<FIELD>`, the TOML file, the default.
This module must not know how a run is carried out.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, Self

from pfw.checks import check_count, check_number, check_slots, check_timeout, checked_bytes, checked_priority
from pfw.errors import ConfigError, did_you_mean
from pfw.lifecycle import MODES, ON_FAILURE
from pfw.node import Deferred, MapNode, Node
from pfw.retry import RETRIES_LIMIT, Retry
from pfw.stepfunction import StepDefaults
from pfw.trackers import Progress, Tracker, trackers_of

#: Names the TOML file.
FILE_VARIABLE = "PFW_CONFIG"
#: Of the variables that give one field: `PFW_CPU`.
PREFIX = "PFW_"
#: The largest number of steps of a run that are assigned at once.
STEPS_LIMIT = 1_000_000

Keep = str | Iterable[str | Node | MapNode]


# ---------------------------------------------------------------- what each field can be


def _one_of(choices: tuple[str, ...]) -> Callable[[str, Any], Any]:
    def check(label: str, value: Any) -> Any:
        if value not in choices:
            close = did_you_mean(value, choices) if isinstance(value, str) else ""
            raise ConfigError(f"{label} is one of {', '.join(choices)}, not {value!r}{close}")
        return value

    return check


def _seconds(label: str, value: Any) -> float:
    check_number(label, value)
    return float(value)


def _timeout(label: str, value: Any) -> float | None:
    check_timeout(label, value)
    return None if value is None else float(value)


def _slots(label: str, value: Any) -> Any:
    return None if value is None else check_slots(label, value)


def _memory(label: str, value: Any) -> Any:
    return None if value is None else checked_bytes(label, value)


def _steps(label: str, value: Any) -> Any:
    if value is not None:
        check_count(label, value, STEPS_LIMIT)
    return value


def _retry(label: str, value: Any) -> Retry:
    if isinstance(value, Retry):
        return value
    if type(value) is not int or not 0 <= value <= RETRIES_LIMIT:
        raise ConfigError(f"{label} is a number of attempts from 0 to {RETRIES_LIMIT:,}, or a Retry, not {value!r}")
    return Retry(retries=value)


def _keep(label: str, value: Any) -> Any:
    if isinstance(value, str):
        wanted: Any = value if value in ("leaves", "all") else None
    elif isinstance(value, Deferred) or not isinstance(value, Iterable):
        wanted = None
    else:
        wanted = tuple(value)  # what can be walked over once has several readers
    if wanted is None or not (wanted is value or all(isinstance(item, str | Deferred) for item in wanted)):
        raise ConfigError(f"{label} is 'leaves', 'all' or a list of ids and nodes, not {value!r}")
    return wanted


# ---------------------------------------------------------------- how a variable's text is read


def _number(text: str) -> Any:
    """The number that a text is; a text that is none stays what it is, for the check to refuse."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _names(text: str) -> Any:
    return text if text in ("leaves", "all") else tuple(name.strip() for name in text.split(","))


class _Rule(NamedTuple):
    """What a field can be: gets what to call it in an error, and the value; returns the value to keep."""

    check: Callable[[str, Any], Any]
    #: Reads a variable's text; None: the field can be given in code only.
    read: Callable[[str], Any] | None


# ---------------------------------------------------------------- the record


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """How runs are done, and what the local cluster is like.

    `Config(...)` is what its keywords say, and defaults; `Config.load` also looks at variables and the file.

    Raises:
        ConfigError: A field has a value that it cannot have; it is named.

    >>> from pfw import Config
    >>> careful = Config(retry=2, on_failure="continue")
    >>> careful.replace(mode="waves").on_failure
    'continue'
    """

    #: "parallel", "waves" or "sequential".
    mode: str = "parallel"
    #: CPU slots of the local cluster; None: the cores this process may use.
    cpu: int | None = None
    #: IO slots of the local cluster; None: 4 for each CPU slot.
    io: int | None = None
    #: Memory of all steps of the local cluster together, bytes or a text such as "8GB" (kept as bytes); None: what this
    #: process may use.
    memory: int | str | None = None
    #: For steps that set none: how many attempts may follow the first one, or a Retry.
    retry: int | Retry = 0
    #: For steps that set none: time between the request to stop and the end by force, s.
    grace: float = 2.0
    #: For steps that set none: how long an attempt may run, s; None: as long as it takes.
    step_timeout: float | None = None
    #: How long a run may take, s; None: as long as it takes.
    timeout: float | None = None
    #: After a step has failed for good: "stop", "continue" or "abort".
    on_failure: str = "stop"
    #: Outputs kept for the caller: "leaves", "all", or ids and nodes.
    keep: Keep = "leaves"
    #: Runs of a higher priority get free slots first.
    priority: int = 0
    #: So many steps of a run are assigned at once at most; None: as many as there is room for.
    max_parallel_steps: int | None = None
    #: Who is told of events: a function, "bar", "console", a path that ends in .jsonl, a tracker, or several of them.
    progress: Progress | None = None

    def __post_init__(self) -> None:
        for name, rule in _RULES.items():
            object.__setattr__(self, name, rule.check(name, getattr(self, name)))

    @classmethod
    def load(cls, path: str | os.PathLike[str] | None = None, /, **keywords: Any) -> Self:
        """The config that keywords, variables, the file and defaults give, in this order.

        Args:
            path: The TOML file; None: the one that the variable PFW_CONFIG names, if it is set.
            keywords: Fields.

        Raises:
            ConfigError: A value cannot be, or the file cannot be read; it says which one, and where it stands.
        """
        file = path or os.environ.get(FILE_VARIABLE)
        values = _of_file(Path(file)) if file else {}
        return cls(**{**values, **_of_environment(), **keywords})

    def replace(self, **changes: Any) -> Self:
        """A copy with other values in these fields.

        Raises:
            ConfigError: As for Config itself.
        """
        return dataclasses.replace(self, **changes)

    @property
    def trackers(self) -> tuple[Tracker, ...]:
        """Who is told of events."""
        assert isinstance(self.progress, tuple)  # made one by its check
        return self.progress

    @property
    def memory_bytes(self) -> int | None:
        """`memory` as it is kept."""
        assert not isinstance(self.memory, str)  # made bytes by its check
        return self.memory

    @property
    def step_defaults(self) -> StepDefaults:
        """For options that steps do not set."""
        assert isinstance(self.retry, Retry)  # made one by its check
        return StepDefaults(self.retry, self.grace, self.step_timeout)


_RULES = {
    "mode": _Rule(_one_of(MODES), str),
    "cpu": _Rule(_slots, _number),
    "io": _Rule(_slots, _number),
    "memory": _Rule(_memory, str),
    "retry": _Rule(_retry, _number),
    "grace": _Rule(_seconds, _number),
    "step_timeout": _Rule(_timeout, _number),
    "timeout": _Rule(_timeout, _number),
    "on_failure": _Rule(_one_of(ON_FAILURE), str),
    "keep": _Rule(_keep, _names),
    "priority": _Rule(checked_priority, _number),
    "max_parallel_steps": _Rule(_steps, _number),
    "progress": _Rule(trackers_of, str),
}


def settle(config: Config | None, **given: Any) -> Config:
    """The config of one run.

    Args:
        config: What the caller has; None: it is loaded.
        given: Fields that were given by keyword, which win; None where none was.

    Raises:
        ConfigError: A value cannot be; the message says which one.
    """
    changes = {name: value for name, value in given.items() if value is not None}
    found = checked_config(config)
    if found is None:
        return Config.load(**changes)
    return found.replace(**changes) if changes else found


def checked_config(config: Any) -> Config | None:
    """Returns what was given as `config`.

    Raises:
        ConfigError: It is neither a Config nor None.
    """
    if config is not None and not isinstance(config, Config):
        raise ConfigError(f"config is a Config, not {config!r}")
    return config


# ---------------------------------------------------------------- places of values


def _of_environment() -> dict[str, Any]:
    """{field: its value} of the variables that are set and not empty."""
    values = {}
    for name, rule in _RULES.items():
        variable = PREFIX + name.upper()
        text = os.environ.get(variable)
        if text and rule.read:
            values[name] = rule.check(f"the variable {variable}", rule.read(text))
    return values


def _of_file(path: Path) -> dict[str, Any]:
    """{field: its value} of a TOML file."""
    values = {}
    known = [name for name, rule in _RULES.items() if rule.read]
    for name, value in _parsed(path).items():
        label = f"{name} in {path}"
        _check_known(str(path), name, known)
        values[name] = _RULES[name].check(label, _retry_of(label, value) if name == "retry" else value)
    return values


def _parsed(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        # A syntax error names its line.
        raise ConfigError(f"the config file {path} cannot be read: {error}") from error


def _retry_of(label: str, value: Any) -> Any:
    """A table is what a Retry is made of; its `on` and `give_up` can be said in code only."""
    if not isinstance(value, dict):
        return value
    known = [field.name for field in dataclasses.fields(Retry) if field.name not in ("on", "give_up")]
    for name in value:
        _check_known(label, name, known)
    try:
        return Retry(**value)
    except ConfigError as error:
        raise ConfigError(f"{label}: {error}") from None


def _check_known(place: str, name: str, known: list[str]) -> None:
    if name not in known:
        raise ConfigError(
            f"{place}: there is no {name!r}{did_you_mean(name, known)} (there can be: {', '.join(known)})"
        )
