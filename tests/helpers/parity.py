"""Step functions of the parity scenarios; workers of their own import them like any installed package."""

from __future__ import annotations

import time
from pathlib import Path

from helpers.steps import LOOK_S, meet
from pfw import current


def extract(count: int) -> list[dict[str, int]]:
    return [{"id": n, "value": n * n} for n in range(count)]


def transform(rows: list[dict[str, int]]) -> list[dict[str, int]]:
    return [{**row, "value": row["value"] + 1} for row in rows if row["id"] % 2 == 0]


def load(rows: list[dict[str, int]], target: str) -> int:
    Path(target).write_text("\n".join(f"{row['id']},{row['value']}" for row in rows))
    return len(rows)


def ingest(name: str, folder: str, together: int, pause_s: float) -> dict[str, int]:
    """Waits until so many of its kind have come to the folder, and then as for a source; gives what it has."""
    meet(folder, name, together)
    time.sleep(pause_s)
    return {name: len(name)}


def merge(parts: list[dict[str, int]]) -> dict[str, int]:
    return {name: size for part in parts for name, size in part.items()}


def join(*values: object) -> str:
    """Names what it got, so that a result shows the way it came."""
    return f"({' '.join(map(str, values))})"


def sign(file: str, *values: object) -> str:
    """As `join`; leaves a file."""
    Path(file).touch()
    return join(*values)


def linger(file: str, pause_s: float, value: object) -> str:
    """As `join` of one, once the file is there, or after a while."""
    until = time.monotonic() + pause_s
    while time.monotonic() < until and not Path(file).exists():
        time.sleep(LOOK_S)
    return join(value)


def connect(attempts: int) -> str:
    """Fails as a network does, until the attempt of this number."""
    if current().attempt < attempts:
        raise ConnectionError(f"attempt {current().attempt} of {attempts}")
    return f"connected at attempt {current().attempt}"


def burn(cpu_s: float) -> float:
    """Uses a core for so long."""
    began = time.process_time()
    while (used := time.process_time() - began) < cpu_s:
        pass
    return used


def pause(name: str, folder: str, together: int, pause_s: float) -> str:
    meet(folder, name, together)
    time.sleep(pause_s)
    return name


def divide(numerator: int, denominator: int) -> float:
    return numerator / denominator


def square(number: int) -> int:
    return number * number


def total(numbers: list[int]) -> int:
    return sum(numbers)
