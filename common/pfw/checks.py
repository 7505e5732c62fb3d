"""Checks of what users give as options: a clear error at once, naming the option."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from pfw.errors import ConfigError
from pfw.graph import PRIORITY_LIMIT

#: Longest name or id, in characters.
NAME_LIMIT = 1_000
#: Largest number: a month in s.
NUMBER_LIMIT = 31 * 24 * 3600
#: Most slots of one kind that a worker of a local cluster has.
SLOTS_LIMIT = 10_000


def check_number(field: str, value: Any) -> None:
    """Checks that an option is a finite number, 0 or more.

    Raises:
        ConfigError: it is not.
    """
    if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
        raise ConfigError(f"{field} is a number, 0 or more, not {value!r}")
    if value > NUMBER_LIMIT:
        raise ConfigError(f"{field} is a number up to {NUMBER_LIMIT:,} (a month in s), not {value!r}")


def check_slots(field: str, value: Any) -> int:
    """Returns a number of slots.

    Raises:
        ConfigError: it is no whole number from 1 to 10,000.
    """
    if type(value) is not int or not 1 <= value <= SLOTS_LIMIT:
        raise ConfigError(f"{field} is a number of slots from 1 to {SLOTS_LIMIT:,}, not {value!r}")
    return value


def check_timeout(field: str, value: Any) -> None:
    """Checks that an option is a number of seconds greater than 0, or None.

    Raises:
        ConfigError: it is not.
    """
    if value is not None:
        check_number(field, value)
        if not value:
            raise ConfigError(f"{field} is greater than 0, or None for no limit, not {value!r}")


def check_wait(field: str, value: Any) -> None:
    """Checks that an option is how many seconds to wait, 0 or more, or None.

    Raises:
        ConfigError: it is not.
    """
    if value is not None:
        check_number(field, value)


def checked_priority(field: str, value: Any) -> int:
    """Returns a priority of a run or step.

    Raises:
        ConfigError: it is no whole number in the range.
    """
    if type(value) is not int or not 0 <= value < PRIORITY_LIMIT:
        raise ConfigError(f"{field} is a whole number from 0 to 2**31 - 1, not {value!r}")
    return value


def checked_tags(tags: Any) -> tuple[str, ...]:
    """Returns tags, each once; a single str is one tag.

    Raises:
        ConfigError: one of them is no text that can be sent.
    """
    if isinstance(tags, str):
        tags = (tags,)
    if not isinstance(tags, Iterable):
        raise ConfigError(f"tags are some strings, not {tags!r}")
    return tuple(dict.fromkeys(checked_text("a tag", tag) for tag in tags))


def check_count(field: str, value: Any, most: int, least: int = 1) -> None:
    """Checks that an option is a whole number from `least` to `most`.

    Raises:
        ConfigError: it is not.
    """
    if type(value) is not int or not least <= value <= most:
        raise ConfigError(f"{field} is a whole number from {least} to {most:,}, not {value!r}")


_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS.update({"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40})


def checked_bytes(field: str, size: Any) -> int:
    """Returns a number of bytes, of an int or a text with a unit; GB is 10**9, GiB is 2**30.

    Raises:
        ConfigError: it is neither, or less than 1.

    >>> checked_bytes("memory", "1.5 GiB")
    1610612736
    """
    found = re.fullmatch(r"(\d{1,16}(?:\.\d+)?) ?([A-Za-z]+)", size.strip()) if isinstance(size, str) else None
    unit = _UNITS.get(found[2].upper(), 0) if found else 0
    count = int(float(found[1]) * unit) if found else size
    if type(count) is not int or not 1 <= count < 1 << 53:
        raise ConfigError(
            f'{field} is a number of bytes, or a text with its unit such as "500MB" or "2GiB", not {size!r}'
        )
    return count


def checked_text(option: str, text: Any) -> str:
    """Returns a text that can be sent and shown.

    Raises:
        ConfigError: it is no str, too long, or holds a surrogate.
    """
    if not isinstance(text, str):
        raise ConfigError(f"{option} is a str, not {text!r}")
    if len(text) > NAME_LIMIT:
        raise ConfigError(f"{option} has {len(text):,} characters, the limit is {NAME_LIMIT:,}")
    if not text.isascii() and not _is_utf8(text):
        raise ConfigError(f"{option} {text!r} holds a surrogate, which cannot be sent: use another character")
    return text


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
