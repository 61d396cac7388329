"""The state of a submission on the chain: its phase, who is to retrain what, what was answered."""

from __future__ import annotations

from typing import Final

from milepost_consensus.encoding import Uint, Wire
from milepost_consensus.payloads import Submit

ANCHORED: Final = "anchored"
"""Waiting until 2f+1 validators hold the record."""
SEEDING: Final = "seeding"
"""Held; the election follows at the start of the block after the one that gave its seed."""
RETRACING: Final = "retracing"
"""Duties are assigned and answers come in."""
WITNESSING: Final = "witnessing"
"""All duties are answered; the last chance to point at a wrong step."""
PANEL: Final = "panel"
"""The verifiers of its device class recompute the accused steps."""
DECIDED: Final = "decided"

OPEN: Final = ""
"""A duty without an answer, an accusation without an outcome."""
AGREES: Final = "agrees"
DIFFERS: Final = "differs"
MISSED: Final = "missed"
LAZY: Final = "lazy"
"""Agreement whose work digest was refuted: the interval was not retrained."""
UPHELD: Final = "upheld"
REFUTED: Final = "refuted"
UNSETTLED: Final = "unsettled"
"""No digest reached a majority of the panel."""
DISMISSED: Final = "dismissed"
"""Never settled: a panel about another step proved everybody wrong who made it."""


class Duty(Wire, frozen=True):
    """One verifier's assignment to retrain one interval, and what came of it."""

    interval: Uint
    verifier: bytes
    flagged: Uint
    """1 for a sub-quorum of a flagged interval, 0 for an audit."""
    work_step: Uint
    """The step whose gradient the work digest must cover, drawn by the seed."""
    answer: str = ""
    """"" (open), "agrees", "differs", "missed" or "lazy"."""
    work_digest: bytes = b""
    """Of an answer that agrees."""
    distance_ppb: Uint = 0
    height: Uint = 0
    """Where the answer stands."""


class PanelAnswer(Wire, frozen=True):
    """What one verifier got for the accused step."""

    verifier: bytes
    recomputed: bytes


class Accusation(Wire, frozen=True):
    """One accused step: the committed digest, who accuses, what the panel got, the outcome."""

    interval: Uint
    step: Uint
    leaf: bytes
    pre_state: bytes
    accusers: tuple[bytes, ...]
    answers: tuple[PanelAnswer, ...]
    outcome: str = ""
    """"" (open), "upheld", "refuted", "unsettled" (no majority of the panel) or "dismissed"."""


class Submission(Wire, frozen=True):
    """A submission as the ledger sees it."""

    id: bytes
    sender: bytes
    submit: Submit
    anchored_height: Uint
    phase: str = ANCHORED
    deadline: Uint = 0
    """Last height of the current phase."""
    holders: tuple[bytes, ...] = ()
    held_height: Uint = 0
    """The height at which enough validators held the record; without a beacon its block id seeds
    the election."""
    seed: bytes = b""
    """Of the election, fixed by the beacon whether or not the record is held by then."""
    flagged: tuple[Uint, ...] = ()
    quorum: tuple[bytes, ...] = ()
    standbys: tuple[bytes, ...] = ()
    """Verifiers not in the quorum, in the order in which they take over missed duties."""
    panel: tuple[bytes, ...] = ()
    """Verifiers that served the device class at the election, by id: they settle accusations."""
    verifiers: Uint = 0
    """How many verifiers the network had at the election."""
    duties: tuple[Duty, ...] = ()
    accusations: tuple[Accusation, ...] = ()
    extensions: Uint = 0
    registrations: Uint = 0
    """How many registrations the sender had made when this was anchored; 0 without one."""

    @property
    def panel_majority(self) -> int:
        """Equal answers that settle an accusation: more than half of the panel."""
        return len(self.panel) // 2 + 1
