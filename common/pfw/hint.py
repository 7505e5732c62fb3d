"""What a step uses: its lane, and what it needs of its worker and of the cluster. The user's words for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pfw.checks import SLOTS_LIMIT, check_count, checked_bytes, checked_text
from pfw.demand import GPU, HEAVY_IO, MEMORY, RESERVED_NAMES
from pfw.errors import ConfigError, did_you_mean
from pfw.graph import LANE_ASYNC, LANE_CPU, LANE_IO

#: `{kind: (lane, heavy)}`
HINTS = {
    "light_cpu": (LANE_CPU, 0),
    "heavy_cpu": (LANE_CPU, 1),
    "light_io": (LANE_IO, 0),
    "heavy_io": (LANE_IO, 1),
    "async_io": (LANE_ASYNC, 0),
}

#: The largest number of a resource or limit.
COUNT_LIMIT = 1 << 53


@dataclass(frozen=True, slots=True)
class Hint:
    """What a step uses. Hints, and the names of kinds, are joined by `+`.

    >>> Hint.resource("licence") + Hint.limit("api", 5)
    Hint.resource('licence', 1) + Hint.limit('api', 5)
    >>> "light_io" + Hint.limit("api", 5)
    'light_io' + Hint.limit('api', 5)
    """

    #: One of HINTS; None: "light_cpu", for `async def` steps "async_io".
    kind: str | None = None
    #: CPU slots of one worker, 0 if nothing was said of them.
    slots: int = 0
    #: (name, number) of what is reserved on the worker, in the order of the names.
    needs: tuple[tuple[str, int], ...] = ()
    #: (name, number): so many steps with this name at once in the whole cluster, in the order of the names.
    limits: tuple[tuple[str, int], ...] = ()

    @staticmethod
    def cpu(n: int) -> Hint:
        """`n` CPU slots of one worker, for a step with threads of its own.

        OMP_NUM_THREADS and its kin are `n` in it (in all other steps 1).

        Raises:
            ConfigError: `n` is no whole number from 1 to 10,000.
        """
        check_count("Hint.cpu", n, SLOTS_LIMIT)
        return Hint(slots=n)

    @staticmethod
    def memory(size: int | str) -> Hint:
        """So much memory of one worker: reserved, and the most that the step may hold.

        Args:
            size: Bytes, or a text such as "500MB" or "2GiB" (GB is 10**9, GiB is 2**30).

        Raises:
            ConfigError: `size` is no such number or text.
        """
        return Hint(needs=((MEMORY, checked_bytes("Hint.memory", size)),))

    @staticmethod
    def gpu(n: int = 1) -> Hint:
        """`n` GPUs of one worker: CUDA_VISIBLE_DEVICES names them in the step.

        Raises:
            ConfigError: `n` is no whole number from 1 to 10,000.
        """
        check_count("Hint.gpu", n, SLOTS_LIMIT)
        return Hint(needs=((GPU, n),))

    @staticmethod
    def resource(name: str, n: int = 1) -> Hint:
        """`n` of what workers offer under this name (`pfw-worker --resource NAME=N`).

        Raises:
            ConfigError: `name` is no such name, or `n` no whole number from 1.
        """
        check_count("Hint.resource", n, COUNT_LIMIT)
        return Hint(needs=((checked_resource(name), n),))

    @staticmethod
    def limit(name: str, n: int) -> Hint:
        """At most `n` steps with this name execute at once in the whole cluster.

        Raises:
            ConfigError: `name` is no such name, or `n` no whole number from 1.
        """
        check_count("Hint.limit", n, COUNT_LIMIT)
        return Hint(limits=((_checked_name("Hint.limit", name), n),))

    @staticmethod
    def of(hint: str | Hint) -> Hint:
        """The Hint that a kind's name stands for; a Hint is given back.

        Raises:
            ConfigError: It is neither.
        """
        if isinstance(hint, Hint):
            return hint
        if not isinstance(hint, str) or hint not in HINTS:
            close = did_you_mean(hint, HINTS) if isinstance(hint, str) else ""
            raise ConfigError(f"hint is a Hint, or one of {', '.join(HINTS)}, not {hint!r}{close}")
        return Hint(hint)

    def __add__(self, other: str | Hint) -> Hint:
        if not isinstance(other, str | Hint):
            return NotImplemented
        more = Hint.of(other)
        if self.slots and more.slots:
            raise ConfigError(f"{self!r} and {more!r} both say how many CPU slots: say it once")
        return Hint(
            _joined_kind(self.kind, more.kind),
            self.slots or more.slots,
            _joined("resource", self.needs, more.needs),
            _joined("limit", self.limits, more.limits),
        )

    def __radd__(self, other: str) -> Hint:
        if not isinstance(other, str):
            return NotImplemented
        return Hint.of(other) + self

    def __repr__(self) -> str:
        parts = [repr(self.kind)] if self.kind else []
        parts += [f"Hint.cpu({self.slots})"] if self.slots else []
        parts += [_named.get(name, f"Hint.resource({name!r}, {{}})").format(n) for name, n in self.needs]
        parts += [f"Hint.limit({name!r}, {n})" for name, n in self.limits]
        return " + ".join(parts) or "Hint()"

    def resolved(self, fn_name: str, *, is_async: bool) -> Hint:
        """The hint with its kind, for a function of this name.

        Raises:
            ConfigError: The function cannot have this hint.
        """
        kind = self.kind or ("async_io" if is_async else "heavy_cpu" if self.slots else "light_cpu")
        lane = HINTS[kind][0]
        if is_async and kind != "async_io":
            raise ConfigError(f'{fn_name} is `async def`, so its hint is "async_io" (or left out), not {self!r}')
        if kind == "async_io" and not is_async:
            raise ConfigError(f'{fn_name} is not `async def`: its hint can be "light_io", not "async_io"')
        if self.slots and lane != LANE_CPU:
            raise ConfigError(f"{fn_name}: Hint.cpu is for steps that compute, not for {kind!r}: {self!r}")
        alone = [name for name, _ in self.needs if name in RESERVED_NAMES]
        if is_async and alone:
            raise ConfigError(
                f"{fn_name} is `async def` and shares its process with others, so it can have no {alone[0]} of its own"
            )
        return Hint(kind, self.slots, self.needs, self.limits)

    @property
    def lane(self) -> int:
        """LANE_CPU, LANE_IO or LANE_ASYNC."""
        return HINTS[self.kind or "light_cpu"][0]

    @property
    def memory_bytes(self) -> int:
        """The memory that was asked for, 0 if none was."""
        return dict(self.needs).get(MEMORY, 0)

    @property
    def heavy(self) -> int:
        """1: never sent ahead in a batch."""
        is_large = self.slots or any(name in RESERVED_NAMES for name, _ in self.needs)
        return 1 if is_large else HINTS[self.kind or "light_cpu"][1]

    @property
    def reserved(self) -> tuple[tuple[str, int], ...]:
        """`needs`, with the permit that a "heavy_io" step needs."""
        return _joined("resource", self.needs, ((HEAVY_IO, 1),)) if self.kind == "heavy_io" else self.needs


_named = {GPU: "Hint.gpu({})", MEMORY: "Hint.memory({})"}


def _joined_kind(one: str | None, other: str | None) -> str | None:
    if one and other and one != other:
        raise ConfigError(f"a step is {one!r} or {other!r}, not both")
    return one or other


def _joined(what: str, some: tuple[tuple[str, int], ...], more: tuple[tuple[str, int], ...]) -> Any:
    found = dict(some)
    for name, n in more:
        if found.setdefault(name, n) != n:
            raise ConfigError(f"the {what} {name!r} is asked for twice, {found[name]} and {n}: say it once")
    return tuple(sorted(found.items()))


def checked_resource(name: Any) -> str:
    """Returns the name of a resource that workers may offer.

    Raises:
        ConfigError: It is no str, or one that has a meaning of its own.
    """
    if _checked_name("a resource", name) in RESERVED_NAMES:
        raise ConfigError(f"{name!r} is no name for a resource: it has a hint and an option of its own")
    return str(name)


def parse_resource(text: str) -> tuple[str, int]:
    """Returns the name and number that NAME=N on a command line says.

    Raises:
        ConfigError: It is not that.
    """
    name, _, number = text.rpartition("=")
    if not number.isdecimal():
        raise ConfigError(f"--resource is NAME=N with a whole number, not {text!r}")
    return checked_resource(name), int(number)


def _checked_name(what: str, name: Any) -> str:
    if not checked_text(f"the name of {what}", name) or "/" in name or "=" in name:
        raise ConfigError(f"the name of {what} is a text without / and =, not {name!r}")
    return str(name)
