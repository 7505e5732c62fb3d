"""Private folders: theirs as long as they live, and swept afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pfw.errors import ConfigError
from pfw.folders import FOLDER_VARIABLE, make_folder, remove_folder


@pytest.fixture(autouse=True)
def _temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def age(folder: Path) -> None:
    os.utime(folder, (1, 1))


def test_a_folder_is_private_and_swept_when_its_lock_is_free() -> None:
    folder, lock_fd = make_folder("worker")
    assert folder.stat().st_mode & 0o777 == 0o700
    age(folder)
    other, other_fd = make_folder("local")
    assert folder.exists(), "its owner lives"
    os.close(lock_fd)
    age(folder)
    third, third_fd = make_folder("worker")
    assert not folder.exists()
    for left, fd in ((other, other_fd), (third, third_fd)):
        remove_folder(left)
        os.close(fd)


def test_a_new_folder_and_those_of_others_are_left_alone(tmp_path: Path) -> None:
    folder, lock_fd = make_folder("worker")
    os.close(lock_fd)
    foreign = tmp_path / "pfw-bench-1"
    foreign.mkdir()
    age(foreign)
    _, other_fd = make_folder("worker")
    os.close(other_fd)
    assert folder.exists()
    assert foreign.exists()


def test_what_bears_the_mark_of_a_swept_folder_is_ended() -> None:
    folder, lock_fd = make_folder("worker")
    os.close(lock_fd)
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    marked = subprocess.Popen(command, env={FOLDER_VARIABLE: str(folder)})
    other = subprocess.Popen(command, env={FOLDER_VARIABLE: f"{folder}-other"})
    try:
        age(folder)
        _, other_fd = make_folder("worker")
        os.close(other_fd)
        assert marked.wait(20) < 0
        assert other.poll() is None
    finally:
        for process in (marked, other):
            process.kill()
            process.wait()


def test_without_a_place_for_it_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(ConfigError, match="TMPDIR"):
        make_folder("worker")
