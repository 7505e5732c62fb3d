"""What stands for the output of a step that did not succeed, where a tolerant step (`run_if`) asks for it.

A record that supervisors and the coordinator may make and pass on; what a step sees of it is the business of
`pfw.tolerance`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgpack


class Absence(NamedTuple):
    """Why there is no output."""

    step_id: str
    #: The state in which the step ended, one of `pfw.facts`.
    state: int
    #: The packed `Failure` of the step, or of the one because of which it was skipped; b"" where nothing failed.
    failure: bytes

    def pack(self) -> bytes:
        """Returns the bytes that travel in the output's place."""
        packed: bytes = msgpack.packb(tuple(self))
        return packed


def is_absence(payload: bytes) -> bool:
    """Returns whether these bytes are an absence: a pickle begins with another byte than a msgpack list."""
    return payload[:1] != b"\x80"


def unpack_absence(packed: bytes) -> Absence:
    """Returns what `pack` made these bytes of."""
    fields: Any = msgpack.unpackb(packed, use_list=False)
    return Absence(*fields)
