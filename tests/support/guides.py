"""The examples under docs/guides: each a script of a framework before and after it records."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Final

GUIDES: Final = Path(__file__).parent.parent.parent / "docs" / "guides"


def diff_guide(name: str) -> list[str]:
    """What one example changes, as the lines of a unified diff without headers."""
    before, after = (
        (GUIDES / name / file).read_text().splitlines() for file in ("before.py", "after.py")
    )
    lines = list(difflib.unified_diff(before, after, n=0, lineterm=""))
    return [line for line in lines[2:] if not line.startswith("@@")]


def count_changed(name: str) -> int:
    """The lines that somebody types; one that replaces another counts once."""
    diff = diff_guide(name)
    added = sum(line.startswith("+") for line in diff)
    return max(added, len(diff) - added)
