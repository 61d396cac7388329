"""Brings the packages of an extra into this environment, saying so first."""

from __future__ import annotations

from milepost.cli import output
from milepost.errors import MachineCannot


def provide_extra(extra: str, need: str, *, install: bool) -> None:
    """Install what is missing, or raise MachineCannot (missing-extra) where that is not wanted.

    `need` begins the sentence that names the packages: "The demo needs".
    """
    from milepost import extras

    missing = extras.find_missing(extra)
    if not missing:
        return
    command = extras.get_install_line(extra)
    if not install:
        raise MachineCannot(f"{need} {', '.join(missing)}. Install them: {command}")
    output.tell(f"{need} {', '.join(missing)}; installing into this environment:")
    output.tell(f"  {command}")
    extras.install(extra)
