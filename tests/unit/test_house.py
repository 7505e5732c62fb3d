from __future__ import annotations

import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import ROOT, SOURCE_ROOTS

sys.path.append(str(ROOT / "scripts"))
import budgets

MODULES = sorted(
    ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
    for root in SOURCE_ROOTS
    for file in root.rglob("*.py")
)

DEPENDENCIES = ("zmq", "msgpack", "cloudpickle", "psutil", "click")


def test_importing_pfw_imports_no_dependency() -> None:
    code = f"import pfw, sys; print([name for name in {DEPENDENCIES} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_doctests(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_a_long_function_is_found_and_its_docstring_does_not_count() -> None:
    body = "\n".join(f"    x = {number}" for number in range(budgets.FUNCTION_LINES))
    doc = '    """' + "\n" * 20 + '    """'
    assert list(budgets.check_budgets("m.py", f"class A:\n  def f(self):\n{body}\n".replace("    x", "      x")))
    assert not list(budgets.check_budgets("m.py", f"def f():\n{doc}\n{body[: body.rindex(chr(10))]}\n"))


def test_a_long_file_is_found() -> None:
    assert list(budgets.check_budgets("m.py", "\n" * (budgets.FILE_LINES + 1)))
    assert not list(budgets.check_budgets("m.py", "\n" * budgets.FILE_LINES))


def test_the_pointer_of_a_second_work_tree_is_no_file_of_the_project(tmp_path: Path) -> None:
    for name in (".git", "a.py"):
        (tmp_path / name).write_text("")
    assert list(budgets.tree_files(tmp_path)) == [tmp_path / "a.py"]


@pytest.mark.parametrize("text", ["# TO" + "DO later", "x = '/ho" + "me/me/x'", "see /wo" + "rk/main"])
def test_leftovers_and_paths_of_one_machine_are_found(text: str) -> None:
    assert len(list(budgets.check_text("m.py", text))) == 1


@pytest.mark.parametrize("text", ["../work/main", "f'{root}/work/x'", "a/home/b", "the rest"])
def test_other_text_is_let_pass(text: str) -> None:
    assert not list(budgets.check_text("m.py", text))
