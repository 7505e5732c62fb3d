"""Text for people and programs: tables, figures with units, JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence

import click


def table(header: Sequence[str], rows: Sequence[Sequence[str]], empty: str) -> str:
    """Returns rows in aligned columns under their header, or `empty` if there are none.

    >>> print(table(["run", "steps"], [["a1", "7"], ["b22", "1,000"]], "no runs"))
    run  steps
    a1   7
    b22  1,000
    """
    if not rows:
        return empty
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (header, *rows)]
    return "\n".join(line.rstrip() for line in lines)


def bytes_text(count: int) -> str:
    """Returns a size in the unit in which it is easily read.

    >>> bytes_text(999), bytes_text(64_729_088)
    ('999 B', '64.7 MB')
    """
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"


def shares_text(free: Mapping[str, int], whole: Mapping[str, int]) -> str:
    """Returns how much is left of each thing that there is.

    >>> shares_text({"memory": 5_000_000, "gpu": 1, "licence": 0}, {"memory": 8_000_000, "gpu": 2, "licence": 0})
    '5.0 MB of 8.0 MB memory, 1 of 2 gpu'
    """
    texts = {name: bytes_text if name == "memory" else "{:,}".format for name in whole}
    return ", ".join(
        f"{texts[name](free[name])} of {texts[name](count)} {name}" for name, count in whole.items() if count
    )


def seconds_text(seconds: float) -> str:
    """Returns a duration in the unit in which it is easily read.

    >>> seconds_text(0.25), seconds_text(75), seconds_text(7_380)
    ('0.25 s', '1 min 15 s', '2 h 3 min')
    """
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def time_text(timestamp: float) -> str:
    """Returns seconds since 1970 as date and time here."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(timestamp))


def print_json(value: object) -> None:
    """Prints a value as JSON; what JSON has not, as its `repr`."""
    click.echo(json.dumps(plain(value), indent=2))


def plain(value: object) -> object:
    """Returns what JSON can say of a value: itself where it can be said, `repr`s where not."""
    try:
        return json.loads(json.dumps(value, default=repr))
    except (TypeError, ValueError, RecursionError):  # keys that JSON has not, or a structure that holds itself
        return repr(value)
