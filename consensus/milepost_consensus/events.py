"""What the machine is told, and what it asks for in answer.

The adapter hands one event at a time to `Machine.handle` and carries out the effects that come
back in their order, each one finished before the next begins: what is to be persisted is on disk
before the message that it covers leaves.  All times are milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from milepost_consensus.blocks import Block, Certificate
from milepost_consensus.state import LedgerState
from milepost_consensus.transactions import Tx
from milepost_consensus.votes import Proposal, Vote

Message = Proposal | Vote


class TimerKind(StrEnum):
    """What a timer waits for."""

    NEW_HEIGHT = "new-height"
    """The least distance between blocks has passed."""
    IDLE = "idle"
    """An empty block is due, because windows of the ledger count heights."""
    PROPOSE = "propose"
    PREVOTE = "prevote"
    PRECOMMIT = "precommit"


@dataclass(frozen=True, slots=True)
class Timer:
    """The name of a timer.  Several may run at once; one of a past round is ignored."""

    kind: TimerKind
    height: int
    round: int


# Events ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Take part from now on; once.  Before it the machine listens, follows and signs nothing."""

    now_ms: int


@dataclass(frozen=True, slots=True)
class ReceivedProposal:
    """A peer passed on a proposal.  `now_ms` is the local clock when it came."""

    proposal: Proposal
    now_ms: int


@dataclass(frozen=True, slots=True)
class ReceivedVote:
    """A peer passed on a vote."""

    vote: Vote


@dataclass(frozen=True, slots=True)
class TimeoutFired:
    """A timer that a SetTimer asked for ran out."""

    timer: Timer


@dataclass(frozen=True, slots=True)
class TransactionsWaiting:
    """The mempool is not empty: at the first transaction, and again after every decision."""


@dataclass(frozen=True, slots=True)
class ProposalInput:
    """The answer to NeedTransactions: what the mempool holds, oldest first, and the clock."""

    height: int
    round: int
    txs: tuple[Tx, ...]
    now_ms: int


@dataclass(frozen=True, slots=True)
class BlockFetched:
    """A final block that a peer served."""

    block: Block
    certificate: Certificate


@dataclass(frozen=True, slots=True)
class GossipDue:
    """Time to say again what was said; every few hundred milliseconds."""


Event = (
    Start
    | ReceivedProposal
    | ReceivedVote
    | TimeoutFired
    | TransactionsWaiting
    | ProposalInput
    | BlockFetched
    | GossipDue
)

# Effects -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PersistJournal:
    """Replace the journal by `data`, durably, before any later effect."""

    data: bytes


@dataclass(frozen=True, slots=True)
class PersistDecision:
    """Append a final block, its certificate and the state after it, durably, in one piece."""

    block: Block
    certificate: Certificate
    state: LedgerState


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Send a message to all other validators.  It is not to be handed back to this machine."""

    message: Message


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Fire TimeoutFired(timer) after `delay_ms`."""

    timer: Timer
    delay_ms: int


@dataclass(frozen=True, slots=True)
class NeedTransactions:
    """This node is to propose: answer with a ProposalInput of the same height and round."""

    height: int
    round: int


@dataclass(frozen=True, slots=True)
class Behind:
    """`sender` works on `height`, which is above ours: fetch the final blocks below it."""

    height: int
    sender: bytes


@dataclass(frozen=True, slots=True)
class Equivocation:
    """Two messages signed by one validator of which an honest one signs at most one."""

    first: Message
    second: Message


@dataclass(frozen=True, slots=True)
class KeyInUse:
    """The own key signed what this machine did not sign, as `message` tells an operator.

    The machine signs nothing more.  To be remembered durably: it is to be made anew with
    `key_in_use` until an operator has acted.
    """

    message: str


Effect = (
    PersistJournal
    | PersistDecision
    | Broadcast
    | SetTimer
    | NeedTransactions
    | Behind
    | Equivocation
    | KeyInUse
)
