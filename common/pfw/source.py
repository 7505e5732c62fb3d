"""What `pfw run` is told to run: the workflow in FILE.py[:NAME], or a recorded one in FILE.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pfw.replay import Replay
    from pfw.workflow import Workflow


def load_source(file: str, parameters: Sequence[str], scales: Mapping[str, Any]) -> tuple[Replay | None, Workflow]:
    """Returns the recording, if it is one, and the workflow.

    Args:
        file: FILE.py, FILE.py:NAME or FILE.json.
        parameters: `KEY=VALUE` of the function in FILE.py.
        scales: {option of FILE.json: its value, None where it was not given}

    Raises:
        UsageError: It is none of these files, or an option is not for this one.
        ConfigError: The file, the name, a parameter or the recording is not good.
    """
    path, name = Path(file), None
    if not path.exists() and ":" in file:
        head, _, name = file.rpartition(":")
        path = Path(head)
    given = {key: value for key, value in scales.items() if value is not None}
    if path.suffix == ".json" and name is None:
        if parameters:
            raise click.UsageError("-p is for FILE.py: a recorded workflow has no parameters")
        from pfw.replay import load_replay

        replay = load_replay(path, **given)
        return replay, replay.workflow()
    if path.suffix != ".py":
        raise click.UsageError(f"{file!r} is neither FILE.py, FILE.py:NAME nor FILE.json")
    if given:
        raise click.UsageError(f"--{next(iter(given)).replace('_', '-')} is for FILE.json, a recorded workflow")
    from pfw.script import load_workflow

    return None, load_workflow(path, name, _pairs(parameters))


def _pairs(parameters: Sequence[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in parameters:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise click.UsageError(f"-p {text!r}: write -p KEY=VALUE")
        if key in pairs:
            raise click.UsageError(f"-p {key} is given twice")
        pairs[key] = value
    return pairs
