"""The site that scripts/docs builds: whole, and sufficient unto itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import pfw
from helpers import ROOT

REFERENCE = ROOT / "docs" / "reference"

#: What a browser fetches without being asked: sources, style sheets, icons, and what style sheets name.
_FETCHED = re.compile(
    r"""\bsrc=["']?([^"'\s>]+)|<link[^>]*\bhref=["']?([^"'\s>]+)|url\(["']?([^"')]+)|@import\s+["']([^"']+)"""
)
_DIRECTIVE = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        capture_output=True,
        text=True,
        timeout=50,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_is_built_without_a_warning_and_has_every_page(site: Path) -> None:
    pages = {page.relative_to(ROOT / "docs").with_suffix(".html") for page in (ROOT / "docs").rglob("*.md")}
    assert pages <= {page.relative_to(site) for page in site.rglob("*.html")}


def test_nothing_on_the_site_is_fetched_from_elsewhere(site: Path) -> None:
    for file in (*site.rglob("*.html"), *site.rglob("*.css")):
        text = file.read_text("utf-8")
        for found in _FETCHED.findall(text):
            assert not re.match(r"(\w+:)?//", "".join(found)), (file.name, found)
        # The theme would fetch a program that draws such a block; as plain code it is readable too.
        assert 'class="mermaid"' not in text, file.name


def test_a_snippet_that_is_not_run_is_shown_as_code(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert "no-run:" not in page.read_text("utf-8"), page.name


def directives() -> list[str]:
    return [name for page in sorted(REFERENCE.glob("*.md")) for name in _DIRECTIVE.findall(page.read_text("utf-8"))]


@pytest.mark.parametrize("name", [name for name in directives() if name != "pfw.errors"])
def test_the_reference_describes_public_names_only(name: str) -> None:
    module, _, short = name.rpartition(".")
    assert getattr(pfw, short) is getattr(import_module(module), short)


def test_every_public_name_has_its_place_in_the_reference() -> None:
    errors = {name for name in pfw.__all__ if getattr(getattr(pfw, name), "__module__", "") == "pfw.errors"}
    described = {name.rpartition(".")[2] for name in directives()} | errors
    assert set(pfw.__all__) - described == {"__version__"}, "add a `:::` line to a page of docs/reference"
