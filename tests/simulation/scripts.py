from __future__ import annotations

from typing import Any, NamedTuple


class Script(NamedTuple):
    count: int


SCRIPTS: dict[str, Script] = {}


def play_script(options: Any) -> Any: ...
