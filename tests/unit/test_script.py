"""Finding workflows in files, and arguments made of text."""

from __future__ import annotations

import enum
import sys
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import pytest

from pfw.errors import ConfigError
from pfw.script import MODULE, ScriptError, bind, convert, load_workflow


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop(MODULE, None)


def write(folder: Path, *lines: str) -> Path:
    file = folder / "flow.py"
    file.write_text("\n".join(["from pfw import Workflow, step", "one = step(lambda: 1, name='one')", *lines]))
    return file


def template(name: str, result: str = " -> Workflow") -> str:
    return f"def {name}(){result}:\n    wf = Workflow({name!r})\n    wf.add(one)\n    return wf\n"


# ---------------------------------------------------------------- which one


@pytest.mark.parametrize(
    ("lines", "name", "found"),
    [
        ([template("make"), template("main")], None, "main"),
        ([template("make", ""), template("other")], None, "make"),
        ([template("only")], None, "only"),
        ([template("only", " -> 'Workflow'"), template("helper", " -> int")], None, "only"),
        (["wf = Workflow('data')", "wf.add(one)"], None, "data"),
        (["wf = same = Workflow('data')"], None, "data"),
        (["wf = Workflow('data')", "def main() -> None: pass"], None, "data"),
        ([template("main"), template("other", "")], "other", "other"),
    ],
)
def test_the_workflow_is_found(tmp_path: Path, lines: list[str], name: str | None, found: str) -> None:
    assert load_workflow(write(tmp_path, *lines), name, {}).name == found


@pytest.mark.parametrize(
    ("lines", "name", "message"),
    [
        ([template("a"), template("b")], None, r"has several \(there is: a, b\): name one, flow.py:NAME"),
        ([template("a", "")], None, "has no Workflow and no function that returns one"),
        ([template("alpha")], "alhpa", r"has nothing named 'alhpa'; did you mean \"alpha\""),
        ([template("alpha"), "x = 3"], "x", "no Workflow or function named 'x'"),
        (["def main(): return 3"], None, "flow.py:main returned int, not a Workflow"),
    ],
)
def test_what_is_not_found_is_said_with_what_is_there(
    tmp_path: Path, lines: list[str], name: str | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_workflow(write(tmp_path, *lines), name, {})


def test_a_workflow_takes_no_parameters(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="takes no parameters"):
        load_workflow(write(tmp_path, "wf = Workflow('data')"), None, {"x": "1"})


def test_the_file_is_a_module_like_others(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_flow.py").write_text("NAME = 'beside'")
    lines = [
        "import sys, neighbour_of_flow",
        f"assert __name__ == {MODULE!r} and sys.modules[__name__].__file__ == __file__",
        "wf = Workflow(neighbour_of_flow.NAME)",
    ]
    assert load_workflow(write(tmp_path, *lines), None, {}).name == "beside"
    del sys.modules["neighbour_of_flow"]


def test_a_traceback_begins_in_the_file(tmp_path: Path) -> None:
    with pytest.raises(ScriptError) as caught:
        load_workflow(write(tmp_path, "def main():", "    return 1 / 0"), None, {})
    lines = str(caught.value).splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert "flow.py" in lines[1]
    assert lines[-1] == "ZeroDivisionError: division by zero"


def test_a_file_that_is_no_python_or_ends_itself(tmp_path: Path) -> None:
    with pytest.raises(ScriptError, match="SyntaxError"):
        load_workflow(write(tmp_path, "def main(:"), None, {})
    with pytest.raises(ConfigError, match="ended itself"):
        load_workflow(write(tmp_path, "raise SystemExit(3)"), None, {})
    with pytest.raises(ConfigError, match="there is no file"):
        load_workflow(tmp_path / "nothing.py", None, {})


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [
        ("3", int, 3),
        ("-3", "int | None", "-3"),
        ("1e3", float, 1000.0),
        ("Yes", bool, True),
        ("0", bool, False),
        ("a b", str, "a b"),
        ("x/y", Path, Path("x/y")),
        ("äb", bytes, "äb".encode()),
        ("3", int | None, 3),
        ("none", int | None, None),
        ("none", Optional[str], None),  # noqa: UP045  (both spellings are met)
        ("3", str | int, 3),
        ("x", int | str, "x"),
        ("[1, 2]", list[int], [1, 2]),
        ('["a", "b"]', list[Path], [Path("a"), Path("b")]),
        ("[1, 2]", tuple[int, ...], (1, 2)),
        ("[1, 1]", set, {1}),
        ("[1]", Sequence[int], [1]),
        ('{"a": 1}', dict[str, int], {"a": 1}),
        ("b", Literal["a", "b"], "b"),
        ("2", Literal[1, 2], 2),
        ("RED", Colour, Colour.RED),
        ("3", Annotated[int, "unit"], 3),
        ("1.5", Decimal, Decimal("1.5")),
        ("3", Any, "3"),
        ("3", object, "3"),
    ],
)
def test_text_becomes_what_the_annotation_says(text: str, annotation: Any, value: Any) -> None:
    found = convert(text, annotation)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "annotation", "message"),
    [
        ("x", int, "'x' is no whole number"),
        ("1.5", int | None, "'1.5' is no whole number"),
        ("x", float, "'x' is no number"),
        ("2", bool, "neither true nor false"),
        ("1, 2", list[int], "is not a list in JSON"),
        ("[1]", dict, "is not an object in JSON"),
        ("c", Literal["a", "b"], "is none of a, b"),
        ("REDD", Colour, 'did you mean "RED"'),
    ],
)
def test_text_that_does_not_fit_is_refused(text: str, annotation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convert(text, annotation)


def test_arguments_are_made_by_annotation_then_by_default() -> None:
    def function(a: int, /, b: "int | None" = None, c=2.5, *, d: "Unknown" = None, **others: str) -> None: ...  # type: ignore[name-defined,no-untyped-def]  # noqa: F821, UP037

    found = bind(function, "f", {"a": "1", "b": "2", "c": "3", "d": "4", "e": "5"})
    assert found == ([1], {"b": 2, "c": 3.0, "d": "4", "e": "5"})
    assert bind(function, "f", {"a": "1"}) == ([1], {"b": None, "c": 2.5, "d": None})


def test_parameters_that_are_missing_or_unknown_are_named() -> None:
    def function(first: int, second: int = 1) -> None: ...

    with pytest.raises(ConfigError, match="f needs first: -p first=VALUE"):
        bind(function, "f", {})
    with pytest.raises(ConfigError, match=r"no parameter 'secnd'; did you mean \"second\"\? \(it has: first, second\)"):
        bind(function, "f", {"first": "1", "secnd": "1"})
    with pytest.raises(ConfigError, match="parameter 'first': 'x' is no whole number"):
        bind(function, "f", {"first": "x"})
