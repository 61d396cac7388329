"""Whether this environment has what an extra of the distribution asks for, and how to get it.

The requirements are read from the installed distribution's own metadata, so there is no second
list to keep in step.
"""

from __future__ import annotations

import importlib.metadata
import re
import shlex
import subprocess
import sys
from typing import Final

from milepost.errors import MachineCannot

DISTRIBUTION: Final = "milepost"
_REQUIREMENT: Final = re.compile(r"^([A-Za-z0-9._-]+)(?:\[([^\]]*)\])?\s*\(?([^;()]*)\)?$")
_EXTRA: Final = re.compile(r"""extra\s*==\s*['"]([^'"]+)['"]""")


def get_requirements(extra: str) -> tuple[str, ...]:
    """The requirements of an extra, extras of this distribution that it names resolved."""
    declared = importlib.metadata.requires(DISTRIBUTION) or []
    found: list[str] = []
    pending, seen = [extra], set()
    while pending:
        wanted = pending.pop(0)
        seen.add(wanted)
        for line in declared:
            requirement, _, marker = (part.strip() for part in line.partition(";"))
            if wanted not in _EXTRA.findall(marker):
                continue
            match = _REQUIREMENT.match(requirement)
            assert match is not None, requirement
            if match[1] == DISTRIBUTION:
                names = [name.strip() for name in (match[2] or "").split(",")]
                pending += [name for name in names if name not in seen]
            elif requirement not in found:
                found.append(requirement)
    return tuple(sorted(found))


def find_missing(extra: str) -> tuple[str, ...]:
    """Those requirements of an extra that this environment does not meet."""
    return tuple(line for line in get_requirements(extra) if not _is_met(line))


def _is_met(requirement: str) -> bool:
    match = _REQUIREMENT.match(requirement)
    assert match is not None, requirement
    try:
        version = importlib.metadata.version(match[1])
    except importlib.metadata.PackageNotFoundError:
        return False
    # Only the two kinds of bounds that our own metadata uses; local labels (+cpu) do not count.
    have = version.partition("+")[0]
    for bound in filter(None, (part.strip() for part in match[3].split(","))):
        if bound.startswith("=="):
            if have != bound[2:].strip():
                return False
        elif bound.startswith(">=") and _release(have) < _release(bound[2:]):
            return False
    return True


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:4])


def get_install_command(extra: str) -> list[str]:
    """The pip call that brings exactly the requirements of an extra into this environment."""
    return [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        *get_requirements(extra),
    ]


def get_install_line(extra: str) -> str:
    """The same call as a person would type it: `>=` quoted, so that no shell takes it for more."""
    return shlex.join(get_install_command(extra))


def install(extra: str) -> None:
    """Run that call; raises MachineCannot (slug missing-extra) if pip fails.  Talks to stderr."""
    command = get_install_command(extra)
    done = subprocess.run([*command, "--quiet"], stdout=sys.stderr, check=False)
    missing = find_missing(extra)
    if done.returncode or missing:
        raise MachineCannot(
            f"pip could not install what the extra {extra!r} needs"
            f" ({', '.join(missing) or 'see above'}). Try by hand: {get_install_line(extra)}"
        )
