"""A run folder as a person reads it: what was recorded, how far each interval moved the weights.

Everything here comes from files for people (`run.json`, `journal.jsonl`, `selfcheck.json`), which
nobody trusts: verifiers recompute the numbers from the snapshots.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, NamedTuple

from milepost.errors import WrongUsage
from milepost_consensus.flagging import compute_flags
from milepost_consensus.params import MAX_INTERVALS

SCORE_UNIT: Final = 2**24
"""Change scores count in units of 2^-24, the journal in plain numbers."""
MAX_LINE_BYTES: Final = 64 * 1024


class JournalLine(NamedTuple):
    """One interval: mean loss, the four metrics, and whether weight analysis flags it."""

    interval: int
    steps: int
    loss: float
    absolute: float
    l2: float
    percent: float
    cosine: float
    seconds: float
    flagged: bool


class RunFolder(NamedTuple):
    """What the files for people say."""

    folder: Path
    about: dict[str, Any]
    """The contents of run.json."""
    journal: tuple[JournalLine, ...]
    selfcheck: dict[str, Any] | None
    proof: Path | None

    def to_view(self) -> dict[str, Any]:
        return {
            "run": self.about,
            "journal": [line._asdict() for line in self.journal],
            "flagged": [line.interval for line in self.journal if line.flagged],
            "selfcheck": self.selfcheck,
            "proof": str(self.proof) if self.proof is not None else None,
        }


def read_run(folder: Path, *, flag_rule: str = "robust") -> RunFolder:
    """Read a run folder; raises WrongUsage (slug no-such-thing or bad-run) if it is none."""
    if not (folder / "run.json").is_file():
        raise WrongUsage(f"{folder} is not a run folder: it has no run.json.", slug="no-such-thing")
    proof = folder / "model.proof.json"
    about = _read_json(folder / "run.json")
    selfcheck = folder / "selfcheck.json"
    return RunFolder(
        folder=folder,
        about=about,
        journal=_read_journal(folder / "journal.jsonl", flag_rule),
        selfcheck=_read_json(selfcheck) if selfcheck.is_file() else None,
        proof=proof if proof.is_file() else None,
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise WrongUsage(f"{path} cannot be read: {error}", slug="bad-run") from error
    if not isinstance(value, dict):
        raise WrongUsage(f"{path} holds no JSON object.", slug="bad-run")
    return value


def _read_journal(path: Path, flag_rule: str) -> tuple[JournalLine, ...]:
    if not path.is_file():
        return ()
    rows: list[dict[str, Any]] = []
    try:
        with path.open() as file:
            for text in file:
                if len(text) > MAX_LINE_BYTES or len(rows) >= MAX_INTERVALS:
                    raise WrongUsage(f"{path} is no journal of a run.", slug="bad-run")
                rows.append(json.loads(text))
        flags = set(
            compute_flags(
                [round(row["absolute"] * SCORE_UNIT) for row in rows],
                [int(row["rate_sum"]) for row in rows],
                flag_rule,
            )
        )
        return tuple(
            JournalLine(
                interval=int(row["interval"]),
                steps=int(row["steps"]),
                loss=float(row["loss"]),
                absolute=float(row["absolute"]),
                l2=float(row["l2"]),
                percent=float(row["percent"]),
                cosine=float(row["cosine"]),
                seconds=float(row["seconds"]),
                flagged=i in flags,
            )
            for i, row in enumerate(rows)
        )
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise WrongUsage(f"{path} cannot be read: {error}", slug="bad-run") from error
