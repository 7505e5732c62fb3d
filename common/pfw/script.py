"""Workflows in Python files: finding one in a file, and making a template's arguments of text.

The file is imported as the module `__pfw__`, so code under `if __name__ == "__main__"` is left alone. What it and the
modules beside it define is sent to workers by value.
"""

from __future__ import annotations

import enum
import importlib.util
import inspect
import json
import sys
import traceback
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from pfw import codec
from pfw.errors import ConfigError, did_you_mean
from pfw.workflow import Workflow

#: What the file's module is called while it is run.
MODULE = "__pfw__"
#: Names that are looked for when none is given.
DEFAULT_NAMES = ("main", "make")

_BOOLS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_NOTHING = ("none", "null", "")
_CONTAINERS: tuple[type, ...] = (list, tuple, set, frozenset, dict)


class ScriptError(ConfigError):
    """The user's file, or the template in it, raised; the message is the traceback from the file on."""


def load_workflow(path: Path, name: str | None, parameters: Mapping[str, str]) -> Workflow:
    """Returns the workflow in a file.

    Args:
        path: The file.
        name: A Workflow or a function that returns one; None: `main`, `make`, or the only one there is.
        parameters: {parameter of the function: its value as text}

    Raises:
        ConfigError: There is no such file, name or parameter, or a value does not fit.
        ScriptError: The file or the function raised.
    """
    module = import_file(path)
    found, label = _find(module, path, name)
    if isinstance(found, Workflow):
        if parameters:
            raise ConfigError(f"{label} is a Workflow and takes no parameters: -p is for functions that return one")
        return found
    args, kwargs = bind(found, label, parameters)
    try:
        workflow = found(*args, **kwargs)
    except Exception as error:
        raise ScriptError(_traceback_from(error, path)) from error
    if not isinstance(workflow, Workflow):
        raise ConfigError(f"{label} returned {type(workflow).__name__}, not a Workflow: name another one, FILE.py:NAME")
    return workflow


def import_file(path: Path) -> ModuleType:
    """Runs a file as the module MODULE, with its folder first on `sys.path`.

    Raises:
        ConfigError: There is no such file.
        ScriptError: It raised.
    """
    path = path.resolve()
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    folder = str(path.parent)
    spec = importlib.util.spec_from_file_location(MODULE, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses, pickle and typing look a module up by its name, so it is there before its code runs.
    sys.modules[MODULE] = module
    sys.path.insert(0, folder)
    codec.add_source_root(folder)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ScriptError(_traceback_from(error, path)) from error
    except SystemExit as error:
        raise ConfigError(f"{path} ended itself (SystemExit: {error}) when it was imported") from error
    return module


def _traceback_from(error: Exception, path: Path) -> str:
    """The traceback without our own frames above the user's file."""
    found = traceback.TracebackException.from_exception(error)
    names = [frame.filename for frame in found.stack]
    file = str(path.resolve())
    start = names.index(file) if file in names else len(names)
    found.stack = traceback.StackSummary.from_list(found.stack[start:])
    return "".join(found.format()).rstrip()


# ---------------------------------------------------------------- which one


def _find(module: ModuleType, path: Path, name: str | None) -> tuple[Any, str]:
    """Returns the Workflow or template, and what it is called in messages."""
    known = candidates(module)
    if name is not None:
        found = getattr(module, name, None)
        if not (isinstance(found, Workflow) or callable(found)):
            what = "nothing named" if found is None else "no Workflow or function named"
            raise ConfigError(f"{path.name} has {what} {name!r}{did_you_mean(name, known)}{_listed(known)}")
        return found, f"{path.name}:{name}"
    chosen = next((default for default in DEFAULT_NAMES if default in known), None)
    if chosen is None and len({id(value) for value in known.values()}) == 1:
        chosen = next(iter(known))
    if chosen is None:
        which = "has no Workflow and no function that returns one" if not known else "has several"
        raise ConfigError(f"{path.name} {which}{_listed(known)}: name one, {path.name}:NAME")
    return known[chosen], f"{path.name}:{chosen}"


def candidates(module: ModuleType) -> dict[str, Any]:
    """The Workflows and templates of a module by name.

    A template is a function that is annotated as returning a Workflow; `main` and `make` may lack the annotation.
    """
    return {name: value for name, value in vars(module).items() if _is_candidate(module, name, value)}


def _is_candidate(module: ModuleType, name: str, value: object) -> bool:
    if isinstance(value, Workflow):
        return True
    if not inspect.isfunction(value) or (name not in DEFAULT_NAMES and value.__module__ != module.__name__):
        return False
    annotation = value.__annotations__.get("return", inspect.Parameter.empty)
    if annotation is inspect.Parameter.empty:
        return name in DEFAULT_NAMES
    annotation = _resolved(value, annotation)
    if isinstance(annotation, str):
        return annotation.rpartition(".")[2] == Workflow.__name__
    return isinstance(annotation, type) and issubclass(annotation, Workflow)


def _listed(known: Mapping[str, object]) -> str:
    return f" (there is: {', '.join(known)})" if known else ""


# ---------------------------------------------------------------- its arguments


def bind(function: Any, label: str, parameters: Mapping[str, str]) -> tuple[list[Any], dict[str, Any]]:
    """Makes the arguments of a function of text.

    Args:
        function: What is to be called.
        label: What it is called in messages.
        parameters: {parameter: its value as text}

    Raises:
        ConfigError: A parameter is unknown or missing, or its text does not fit; the message names it.
    """
    known = dict(inspect.signature(function).parameters)
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
    named = {name: p for name, p in known.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    for name in parameters:
        if name not in named and not takes_any:
            takes = ", ".join(named) or "none"
            raise ConfigError(f"{label} has no parameter {name!r}{did_you_mean(name, named)} (it has: {takes})")
    missing = [name for name, p in named.items() if p.default is p.empty and name not in parameters]
    if missing:
        raise ConfigError(f"{label} needs {', '.join(missing)}: " + " ".join(f"-p {name}=VALUE" for name in missing))
    values = {name: _argument(function, p, parameters.get(name)) for name, p in named.items()}
    positional = [name for name, p in named.items() if p.kind is p.POSITIONAL_ONLY]
    others = {name: text for name, text in parameters.items() if name not in named}
    return [values.pop(name) for name in positional], {**values, **others}


def _argument(function: Any, parameter: inspect.Parameter, text: str | None) -> Any:
    if text is None:
        return parameter.default
    annotation = _resolved(function, parameter.annotation)
    if annotation is parameter.empty and parameter.default not in (parameter.empty, None):
        annotation = type(parameter.default)
    try:
        return convert(text, annotation)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"parameter {parameter.name!r}: {error}") from None


def _resolved(function: Any, annotation: Any) -> Any:
    """Evaluates an annotation that is a string; one that names what is only there for type checkers stays a string."""
    if not isinstance(annotation, str):
        return annotation
    try:
        found = eval(annotation, getattr(inspect.unwrap(function), "__globals__", {}))
    except Exception:  # whatever the user's own annotation raises
        return annotation
    # With `from __future__ import annotations` one that was written as a string is a string in a string.
    return _resolved(function, found) if found != annotation else found


def convert(text: str, annotation: Any) -> Any:
    """Makes a value of text.

    Args:
        text: As given on the command line.
        annotation: What the value is to be: str, int, float, bool, Path, bytes, an enumeration, a Literal, a list,
            tuple, set or dict (written in JSON), or a union of these. Anything else that can be called gets the text.

    Raises:
        ValueError: The text does not fit; the message says what would.

    >>> convert("3", int | None), convert("none", int | None), convert("[1, 2]", list[int])
    (3, None, [1, 2])
    """
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return convert(text, typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return _convert_union(text, typing.get_args(annotation))
    if origin is typing.Literal:
        return _convert_choice(text, {str(choice): choice for choice in typing.get_args(annotation)})
    kind = origin or annotation
    # Any is a class from Python 3.11 on, but not one of values.
    if not isinstance(kind, type) or kind in (inspect.Parameter.empty, Any, object, str):
        return text
    return _convert_type(text, kind, typing.get_args(annotation))


def _convert_union(text: str, members: Sequence[Any]) -> Any:
    if type(None) in members and text.lower() in _NOTHING:
        return None
    reasons = []
    # Every text is a str, so that is tried last.
    for member in sorted((m for m in members if m is not type(None)), key=lambda m: m is str):
        try:
            return convert(text, member)
        except (ValueError, TypeError) as error:
            reasons.append(str(error))
    raise ValueError("; ".join(reasons))


def _convert_choice(text: str, choices: Mapping[str, Any]) -> Any:
    if text not in choices:
        raise ValueError(f"{text!r} is none of {', '.join(choices)}{did_you_mean(text, choices)}")
    return choices[text]


def _convert_type(text: str, kind: type, members: Sequence[Any]) -> Any:
    if kind is bool:
        if text.lower() not in _BOOLS:
            raise ValueError(f"{text!r} is neither true nor false")
        return _BOOLS[text.lower()]
    if issubclass(kind, enum.Enum):
        return _convert_choice(text, kind.__members__)
    if kind is bytes:
        return text.encode()
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise ValueError(f"{text!r} is no {'whole ' if kind is int else ''}number") from None
    container = next((c for c in _CONTAINERS if issubclass(c, kind)), None) if kind is not type(None) else None
    if container is not None:
        return _convert_container(text, container, members)
    return typing.cast(Callable[[str], Any], kind)(text)


def _convert_container(text: str, container: Callable[[Any], Any], members: Sequence[Any]) -> Any:
    """Reads JSON; texts in it are made what the container's items are annotated as."""
    try:
        value: Any = json.loads(text)
    except ValueError:
        value = None
    if container is dict and type(value) is dict:
        return {key: _item(item, members[1:2]) for key, item in value.items()}
    if container is not dict and type(value) is list:
        return container([_item(item, members[:1]) for item in value])
    example = "an object in JSON, as '{\"a\": 1}'" if container is dict else "a list in JSON, as '[1, 2]'"
    raise ValueError(f"{text!r} is not {example}")


def _item(value: Any, annotation: Sequence[Any]) -> Any:
    return convert(value, annotation[0]) if annotation and isinstance(value, str) else value
