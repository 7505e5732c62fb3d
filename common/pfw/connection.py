"""Where this user's coordinator is: the connection file, and who may write it."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from pathlib import Path

from pfw.errors import ClusterError, ConfigError
from pfw.host import is_alive

#: Names the coordinator for clients and workers that are given no address.
ADDRESS_VARIABLE = "PFW_ADDRESS"


def runtime_dir() -> Path:
    """This user's private folder for sockets and the connection file, mode 0700; made if it is missing.

    Raises:
        ConfigError: The folder belongs to somebody else or others may look into it.
    """
    base = os.environ.get("XDG_RUNTIME_DIR")
    path = Path(base) / "pfw" if base else Path(tempfile.gettempdir()) / f"pfw-{os.getuid()}"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_private(path)
    return path


def _check_private(path: Path) -> None:
    found = path.lstat()
    if found.st_uid != os.getuid():
        raise ConfigError(f"{path} belongs to user {found.st_uid}, not to you: remove it or set XDG_RUNTIME_DIR")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise ConfigError(f"{path} is open to other users: chmod go-rwx {path}")


def connection_file() -> Path:
    """The file in which the coordinator of this user says where it listens."""
    return runtime_dir() / "coordinator.json"


def write_connection(address: str, pid: int) -> Path:
    """Says where the coordinator listens; replaces the file as a whole, mode 0600.

    A file that names another coordinator of this user that is still alive stays as it is.
    """
    path = connection_file()
    if path.exists() and is_alive(int(str(_read(path).get("pid", 0)))):
        return path
    aside = path.with_suffix(f".{pid}")
    aside.touch(mode=0o600)
    aside.write_text(json.dumps({"address": address, "pid": pid}))
    aside.replace(path)
    return path


def is_ours(pid: int) -> bool:
    """Whether the file names the coordinator with this process id."""
    path = connection_file()
    return path.exists() and _read(path).get("pid") == pid


def remove_connection(pid: int) -> None:
    """Removes the file if it is still the one this process wrote."""
    if is_ours(pid):
        connection_file().unlink()


def find_address(address: str | None = None) -> str:
    """The address to connect to: the one given, else $PFW_ADDRESS, else the connection file.

    Raises:
        ClusterError: There is none of them.
        ConfigError: The file is not private.
    """
    found = address or os.environ.get(ADDRESS_VARIABLE)
    if found:
        return found
    path = connection_file()
    if not path.exists():
        raise ClusterError(
            f"no address given, {ADDRESS_VARIABLE} is not set and there is no {path}: "
            f"start `pfw-coordinator`, or name its address"
        )
    _check_private(path)
    return str(_read(path)["address"])


def _read(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, dict) or "address" not in found:
            raise ValueError("no address in it")
    except ValueError as error:
        raise ConfigError(
            f"{path} is no connection file ({error}): remove it and start the coordinator again"
        ) from None
    return found
