"""A JSON file whose values know where they stand, so that an error can name the place.

This module must not know what is in the file.
"""

from __future__ import annotations

import json
import math
from typing import NamedTuple

from pfw.errors import ConfigError


class Place(NamedTuple):
    """A value in the file and where it stands; every question about it that fails names the place."""

    #: The kind of error that `error` makes.
    fault: type[ConfigError]
    #: Name of the file.
    file: str
    #: As in `workflow.tasks[3].parents`; "" for the whole file.
    path: str
    #: What stands there, as `json` gives it.
    value: object

    def error(self, problem: str) -> ConfigError:
        """Returns the error to raise when what stands here is wrong."""
        return self.fault(f"{self.file}: {self.path or 'top level'}: {problem}")

    def find(self, *names: str) -> Place | None:
        """Returns the first of the named fields that is there and is not null."""
        if not isinstance(self.value, dict):
            raise self.error("must be an object")
        for name in names:
            if self.value.get(name) is not None:
                return Place(self.fault, self.file, f"{self.path}.{name}" if self.path else name, self.value[name])
        return None

    def field(self, *names: str) -> Place:
        """Returns the first of the named fields that is there, which one of them must be."""
        found = self.find(*names)
        if found is None:
            raise self.error(f'"{names[0]}" is missing')
        return found

    def items(self) -> list[Place]:
        """Returns the items of the list that must stand here."""
        if not isinstance(self.value, list):
            raise self.error("must be a list")
        return [Place(self.fault, self.file, f"{self.path}[{index}]", value) for index, value in enumerate(self.value)]

    def items_of(self, *names: str) -> list[Place]:
        """Returns the items of a list that may be missing."""
        found = self.find(*names)
        return found.items() if found else []

    def text(self) -> str:
        """Returns the text that must stand here."""
        if not isinstance(self.value, str) or not self.value:
            raise self.error("must be a text that is not empty")
        return self.value

    def number(self) -> float:
        """Returns the finite number, 0 or more, that must stand here."""
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise self.error("must be a number")
        if not 0 <= self.value < math.inf:
            raise self.error(f"must be 0 or more, not {self.value}")
        return self.value


def read_json(file: str, fault: type[ConfigError]) -> Place:
    """Reads a file.

    Raises:
        fault: It cannot be read or is not JSON; the message says where.
    """
    try:
        with open(file, encoding="utf-8-sig") as stream:
            return Place(fault, file, "", json.load(stream, parse_constant=_refuse_constant))
    except OSError as error:
        raise fault(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise fault(f"{file}: byte {error.start}: not UTF-8") from error
    except json.JSONDecodeError as error:
        raise fault(f"{file}: line {error.lineno}, column {error.colno}: not JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise fault(f"{file}: not JSON that can be read: {error}") from error


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")
