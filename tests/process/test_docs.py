from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from helpers import ROOT

#: What is written for users and for those who change the code.
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

_FENCE = re.compile(r"^```(\w*)[ ]*([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
_PROMPT = re.compile(r"^\$ (?:./scripts/)?(pfw-worker|pfw-coordinator|pfw)\b(.*?)(?: &)?$", re.MULTILINE)
#: A line of the tables of docs/reliability.md: `NAME`, the package that has it, its value.
_NUMBER = re.compile(r"^\| `([A-Z_]+)` \| (\w+) \| ([\d,.]+)(?: (s|ms|µs|KiB|MiB|GiB))? \|", re.MULTILINE)
_UNITS = {"": 1, "s": 1, "ms": 1e-3, "µs": 1e-6, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> Iterator[tuple[str, str]]:
    """Yields (what stands behind the language, code) of every fenced block in this language."""
    for found, rest, code in _FENCE.findall(page.read_text("utf-8")):
        if found == language:
            yield rest, code


def script_of(page: Path) -> str:
    return "\n".join(code for rest, code in blocks(page, "python") if not rest.startswith("no-run"))


@pytest.mark.parametrize("page", [page for page in PAGES if script_of(page)], ids=name_of)
def test_the_snippets_of_a_page_run_and_print_what_they_say(page: Path, tmp_path: Path) -> None:
    file = tmp_path / "snippets.py"
    file.write_text(script_of(page))
    done = subprocess.run(
        [sys.executable, "-W", "error", str(file)],
        capture_output=True,
        text=True,
        timeout=50,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = iter(done.stdout.splitlines())
    claims = re.findall(r"^ *print\(.*\)  # -> (.*)$", script_of(page), re.MULTILINE)
    assert len(claims) == script_of(page).count("# -> "), (
        "what stands behind `# ->` is only checked after a print(...) on one line"
    )
    for expected in claims:
        assert any(line == expected for line in printed), (
            f"{expected!r} was not printed (in this order):\n{done.stdout}"
        )


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_snippet_that_is_not_run_has_its_reason(page: Path) -> None:
    assert all(re.match(r"(no-run: \w.+)?$", rest) for rest, _ in blocks(page, "python"))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for link in _LINK.findall(page.read_text("utf-8")):
        if "://" not in link:
            assert (page.parent / link).exists(), link


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Yields (program, arguments) of every command of ours that a console block shows."""
    for _, text in blocks(page, "console"):
        for program, rest in _PROMPT.findall(text):
            yield program, shlex.split(rest, comments=True)


def command_of(program: str, arguments: list[str]) -> tuple[click.Command, list[str]]:
    module = importlib.import_module(f"{program.replace('-', '_')}.cli")
    if program != "pfw":
        return module.main, arguments
    command: Any = module.cli
    if arguments[0].startswith("-"):
        return command, arguments
    return command.commands[arguments[0]], arguments[1:]


@pytest.mark.parametrize("page", [page for page in PAGES if list(commands(page))], ids=name_of)
def test_commands_that_are_shown_are_understood(page: Path) -> None:
    for program, arguments in commands(page):
        command, rest = command_of(program, arguments)
        command.make_context(program, rest)


def constants(package: str, name: str) -> set[float]:
    """Returns the values of a constant, wherever in its package it stands."""
    found = set()
    for file in next(ROOT.glob(f"*/{package}")).glob("*.py"):
        for value in re.findall(rf"^{name}(?:: Final)? = ([^#\n]+)", file.read_text("utf-8"), re.MULTILINE):
            found.add(float(eval(value, {"__builtins__": {}})))
    return found


def test_the_numbers_of_the_reliability_page_are_those_of_the_code() -> None:
    rows = _NUMBER.findall((ROOT / "docs" / "reliability.md").read_text("utf-8"))
    assert len(rows) > 15
    for name, package, number, unit in rows:
        scale = 1e-6 if name.endswith("_US") else 1
        said = float(number.replace(",", "")) * _UNITS[unit]
        found = [value * scale for value in constants(package, name)]
        assert found == [pytest.approx(said)], name


def test_the_architecture_names_every_module() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    for root in ("common", "coordinator", "worker"):
        for file in ROOT.glob(f"{root}/*/*.py"):
            assert file.name.startswith("__") or f"`{file.stem}`" in text, name_of(file)


def test_the_architecture_names_every_exception_to_the_budgets() -> None:
    spec = importlib.util.spec_from_file_location("budgets", ROOT / "scripts" / "budgets.py")
    assert spec is not None
    assert spec.loader is not None
    budgets = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(budgets)
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    for name in (*budgets.LONG_FILES, *budgets.LONG_FUNCTIONS):
        assert f"`{name}`" in text, name


def test_every_command_and_its_options_are_described() -> None:
    from pfw.cli import cli

    text = (ROOT / "docs" / "cli.md").read_text("utf-8")
    for program in ("pfw-coordinator", "pfw-worker"):
        assert_described(text, program, command_of(program, [])[0])
    for name, command in cli.commands.items():
        assert_described(text, f"pfw {name}", command)


def assert_described(text: str, name: str, command: click.Command) -> None:
    assert f"## {name}\n" in text, name
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden and parameter.name != "version":
            assert f"`{parameter.opts[-1]}" in text, (name, parameter.opts)
