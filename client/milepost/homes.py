"""The home of one node as its operator's commands see it: a folder, or the URL that it answers at.

Only the few lines of `node.toml` that say where the node listens are read here; whether the whole
file is right is for the node to say when it starts.
"""

from __future__ import annotations

import ipaddress
import tomllib
from pathlib import Path
from typing import Final

from milepost.errors import WrongUsage

SETTINGS: Final = "node.toml"
_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what a node listens on
"""A node that listens on every address is asked on this machine's own."""


def find_url(where: str) -> str:
    """The URL of the node that `where` names: a URL itself, or the home of a node.

    Raises WrongUsage if it is neither.
    """
    if where.startswith(("http://", "https://")):
        return where.rstrip("/")
    table = read_home(Path(where))
    host, port = table.get("host", "127.0.0.1"), table.get("port")
    if not isinstance(host, str) or type(port) is not int:
        raise WrongUsage(
            f"{Path(where) / SETTINGS}: host must be text and port a whole number.",
            slug="bad-config",
        )
    host = _ANY.get(host, host)
    return f"http://{f'[{host}]' if _is_v6(host) else host}:{port}"


def read_home(home: Path) -> dict[str, object]:
    """What stands in the `node.toml` of a home; raises WrongUsage where there is no such file."""
    file = home / SETTINGS
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise WrongUsage(
            f"{home} is not the home of a node: there is no {SETTINGS} in it. Name the folder"
            " that the node is started with, or the URL that it answers at."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise WrongUsage(f"{file} cannot be read: {error}", slug="bad-config") from error


def _is_v6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False
