"""Options that several commands share, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object.")]
Nodes = Annotated[
    list[str] | None,
    typer.Option("--node", metavar="URL", help="Ask this node; may be given several times."),
]
Network = Annotated[
    Path | None,
    typer.Option(
        "--network",
        metavar="DIR|TOML",
        help="Network folder or its milepost.toml. Otherwise $MILEPOST_NETWORK, ./milepost.toml,"
        " ./milepost-dev.",
    ),
]
