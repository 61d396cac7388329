"""Running the `milepost` command as people do: in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

MODULES = """
import sys
from milepost.cli.main import main
sys.argv[0] = "milepost"
try:
    main()
finally:
    import json
    print("MODULES " + json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


class Outcome(NamedTuple):
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def modules(self) -> set[str]:
        """What the process had imported when it ended; for `run_cli(..., modules=True)`."""
        line = next(line for line in self.err.splitlines() if line.startswith("MODULES "))
        return set(json.loads(line.removeprefix("MODULES ")))


def get_command(arguments: Sequence[str | Path]) -> list[str]:
    """The command line of `milepost` with these arguments, in this environment."""
    start = "from milepost.cli.main import main; import sys; sys.argv[0] = 'milepost'; main()"
    return [sys.executable, "-c", start, *map(str, arguments)]


def run_cli(
    *arguments: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    modules: bool = False,
    timeout: float = 300.0,
) -> Outcome:
    """Run `milepost` to its end."""
    command = get_command(arguments)
    if modules:
        command[2] = MODULES
    clean = {key: value for key, value in os.environ.items() if key != "MILEPOST_NETWORK"}
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**clean, "TERM": "dumb", "COLUMNS": "120", **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)
