"""How a node that is told to lie answers, for demonstrations and experiments.

The two modes are those of the Diffusion paper, section on maliciousness, and act when the node is
elected to retrain an interval (and on the panel, which the paper does not have):

`ordered`: "the bad node will attempt to validate any invalid interval that it is assigned to".
`chaotic`: "will attempt to invalidate any valid interval in addition to reporting invalid
intervals as valid".

A lying node retrains like any other, since it must know what to contradict, and follows the
ledger protocol: only its statements about training are false.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from milepost_consensus.crypto import compute_digest


@dataclass(frozen=True)
class Behaviour:
    """What a node states, given what it found."""

    name: str
    """Empty for an honest node."""
    hides_faults: bool = False
    """Vouches for what does not retrace."""
    invents_faults: bool = False
    """Accuses what does retrace."""

    def claims_agreement(self, agrees: bool) -> bool:
        """Whether it states that an interval retraces, where in truth it does (`agrees`) or not."""
        return not self.invents_faults if agrees else self.hides_faults

    def get_panel_answer(self, *, committed: bytes, recomputed: bytes) -> bytes:
        """The digest it states for an accused step."""
        if self.claims_agreement(recomputed == committed):
            return committed
        return recomputed if recomputed != committed else compute_false_digest(committed)


def compute_false_digest(committed: bytes) -> bytes:
    """A step digest that nobody computed.  All liars name the same, which helps them most."""
    return compute_digest("false-step", committed)


BEHAVIOURS: Final = {
    "": Behaviour(""),
    "ordered": Behaviour("ordered", hides_faults=True),
    "chaotic": Behaviour("chaotic", hides_faults=True, invents_faults=True),
}
