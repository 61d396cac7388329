"""The ledger rules: which transactions and blocks follow from a state, and what they make of it.

A block is applied in four movements: submissions whose record is held get their election, the
transactions take effect in order, the proposer's turn is noted and its reveal mixed in, the height
passes for every open submission and for a change of the membership.  `build_block`
leaves out transactions that do not apply; in a block of somebody else one such transaction makes
the whole block invalid.  Rule numbers refer to docs/spec/rules.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from milepost_consensus.beacon import compute_link, compute_mix
from milepost_consensus.blocks import VERSION, Block, Header, compute_block_id, compute_tx_root
from milepost_consensus.draft import Draft
from milepost_consensus.encoding import MAX_UINT, encode
from milepost_consensus.errors import InvalidBlock, InvalidInput
from milepost_consensus.members import Member, compute_fault_limit
from milepost_consensus.params import (
    BEACON,
    MAX_BLOCK_BYTES,
    MAX_BLOCK_TRANSACTIONS,
    Params,
)
from milepost_consensus.registrations import Registration
from milepost_consensus.standings import owes_reveal
from milepost_consensus.state import LedgerState, SetChange
from milepost_consensus.submissions import ANCHORED, SEEDING, Submission
from milepost_consensus.transactions import Tx

HEADER_BYTES: Final = 1_024
"""Room for the header and framing in a block's byte limit."""


def check_tx(state: LedgerState, tx: Tx) -> None:
    """Raises InvalidInput unless the next block could carry the transaction."""
    Draft(state).apply_tx(tx)


def build_block(
    state: LedgerState,
    *,
    round: int,  # noqa: A002  the word of the protocol
    proposer: bytes,
    txs: Iterable[Tx],
    time_ms: int,
    reveal: bytes = b"",
) -> tuple[Block, LedgerState]:
    """The block that a proposer makes of the transactions at hand, and the state after it.

    Transactions that do not apply or do not fit are left out.  The time is the clock's, or the
    earliest that R3 allows.  `reveal` is what R21 asks for.
    """
    height = state.height + 1
    assert proposer == get_proposer(state, height, round).id
    assert bool(reveal) == owes(state, proposer, round)
    draft, chosen = Draft(state), list[Tx]()
    size_bytes = HEADER_BYTES
    for tx in txs:
        tx_bytes = len(encode(tx))
        if len(chosen) == MAX_BLOCK_TRANSACTIONS or size_bytes + tx_bytes > MAX_BLOCK_BYTES:
            continue
        try:
            draft.apply_tx(tx)
        except InvalidInput:
            continue
        chosen.append(tx)
        size_bytes += tx_bytes
    draft.close(round_=round, reveal=reveal)
    body = tuple(chosen)
    after = draft.get_state()
    header = Header(
        version=VERSION,
        height=height,
        round=round,
        time_ms=max(time_ms, get_earliest_time_ms(state, empty=not body)),
        prev_id=state.last_id,
        proposer=proposer,
        reveal=reveal,
        mix=compute_mix(state.mix, reveal, height),
        tx_root=compute_tx_root(body, state.network),
        state_root=after.root,
        validators_hash=state.validators_hash,
        next_validators_hash=after.validators_hash,
    )
    return Block(header, body), _seal(state, after, header)


def validate_block(state: LedgerState, block: Block, *, now_ms: int | None) -> LedgerState:
    """The state after a block; raises InvalidBlock unless it is valid in this state (R1 to R6).

    `now_ms` is the local clock, against which a proposal's time is checked; None for a block that
    its certificate already made final.
    """
    header = block.header
    _validate_place(state, header)
    _validate_beacon(state, header)
    _validate_size(block)
    # R5, first half: the header commits to the transactions.
    if header.tx_root != compute_tx_root(block.txs, state.network):
        raise InvalidBlock("the transactions are not those of the header's tx_root")
    _validate_time(state, block, now_ms=now_ms)
    draft = Draft(state)
    for position, tx in enumerate(block.txs):
        try:
            draft.apply_tx(tx)
        except InvalidInput as error:
            raise InvalidBlock(f"transaction {position} does not apply: {error}") from error
    draft.close(round_=header.round, reveal=header.reveal)
    after = draft.get_state()
    # R5, second half: and to the state that they lead to.
    if header.state_root != after.root:
        raise InvalidBlock("the state after the block is not that of the header's state_root")
    if header.next_validators_hash != after.validators_hash:
        raise InvalidBlock("other validators follow than those of next_validators_hash")
    return _seal(state, after, header)


def get_proposer(state: LedgerState, height: int, round_: int) -> Member:
    """R2: validators take turns in the epoch's order, one step per height and per round."""
    return state.proposers[(height + round_) % len(state.proposers)]


def owes(state: LedgerState, proposer: bytes, round_: int) -> bool:
    """R21: whether a block that `proposer` first proposes in a round carries a reveal."""
    if round_ or state.params.seed_source != BEACON:
        return False
    fault_limit = compute_fault_limit(len(state.validators))
    return owes_reveal(state.standings[proposer], state.standings.values(), fault_limit)


def get_block_delay_ms(state: LedgerState) -> int | None:
    """How long after the last block an empty one is due; None while nothing waits for heights."""
    if any(_awaits_election(submission, state.params) for submission in state.open_submissions):
        return state.params.min_block_ms
    if any(_awaits_seed(registration, state) for registration in state.seedless_registrations):
        return state.params.min_block_ms
    if state.open_submissions or state.membership.effective_height:
        return state.params.idle_block_ms
    return None


def _awaits_election(submission: Submission, params: Params) -> bool:
    """Whether nothing but the next blocks can bring the election nearer."""
    if submission.phase == SEEDING:
        return True
    return params.seed_source == BEACON and submission.phase == ANCHORED and not submission.seed


def _awaits_seed(registration: Registration, state: LedgerState) -> bool:
    """Whether blocks are made for the seed of a run; not for ever, where nobody reveals."""
    return state.height < registration.height + state.params.hold_window


def get_earliest_time_ms(state: LedgerState, *, empty: bool) -> int:
    """R3: the earliest time of the next block.  Empty blocks must not race through windows."""
    pause_ms = state.params.min_block_ms
    if empty:
        pause_ms = max(pause_ms, get_block_delay_ms(state) or state.params.idle_block_ms)
    return state.last_time_ms + pause_ms


def _validate_place(state: LedgerState, header: Header) -> None:
    """R1, R2: the block follows the last one, under the same validators, from whose turn it is."""
    if header.version != VERSION:
        raise InvalidBlock(f"block version {header.version}, this release knows {VERSION}")
    if header.height != state.height + 1 or header.prev_id != state.last_id:
        raise InvalidBlock(
            f"block {header.height} after {header.prev_id.hex()[:8]} does not follow block"
            f" {state.height}, {state.last_id.hex()[:8]}"
        )
    if header.validators_hash != state.validators_hash:
        raise InvalidBlock("the header commits to other validators")
    if not 0 <= header.round <= MAX_UINT:
        raise InvalidBlock(f"round {header.round}")
    if header.proposer != get_proposer(state, header.height, header.round).id:
        raise InvalidBlock(f"it is not the turn of {header.proposer.hex()[:8]}")


def _validate_beacon(state: LedgerState, header: Header) -> None:
    """R21: the proposer says the one thing that fits its onion, and the mix takes it in."""
    due = owes(state, header.proposer, header.round)
    standing = state.standings[header.proposer]
    if not due and header.reveal:
        raise InvalidBlock("a reveal where none is owed")
    if due and (
        len(header.reveal) != 32
        or compute_link(standing.id, standing.onion_left, header.reveal) != standing.onion
    ):
        raise InvalidBlock("the reveal is not the next layer of the proposer's onion")
    if header.mix != compute_mix(state.mix, header.reveal, header.height):
        raise InvalidBlock("the mix does not follow from the last one")


def _validate_time(state: LedgerState, block: Block, *, now_ms: int | None) -> None:
    """R3: time passes between blocks, and no faster than clocks drift apart."""
    time_ms = block.header.time_ms
    earliest_ms = get_earliest_time_ms(state, empty=not block.txs)
    if not earliest_ms <= time_ms <= MAX_UINT:
        raise InvalidBlock(f"time {time_ms} ms, the earliest allowed is {earliest_ms} ms")
    if now_ms is not None and time_ms > now_ms + state.params.max_clock_drift_ms:
        raise InvalidBlock(f"time {time_ms} ms lies too far ahead of the local {now_ms} ms")


def _validate_size(block: Block) -> None:
    """R4: a block stays within the limits of count and bytes."""
    if len(block.txs) > MAX_BLOCK_TRANSACTIONS:
        raise InvalidBlock(f"{len(block.txs)} transactions, allowed are {MAX_BLOCK_TRANSACTIONS}")
    size_bytes = HEADER_BYTES + sum(len(encode(tx)) for tx in block.txs)
    if size_bytes > MAX_BLOCK_BYTES:
        raise InvalidBlock(f"{size_bytes} bytes of transactions, allowed are {MAX_BLOCK_BYTES}")


def _seal(state: LedgerState, after: LedgerState, header: Header) -> LedgerState:
    set_changes = state.set_changes
    if header.validators_hash != header.next_validators_hash:
        sets = [tuple(m.id for m in each.validators) for each in (state, after)]
        set_changes = (*set_changes, SetChange(header.height, *sets))
    epoch_over = (header.height + 1) % state.params.epoch_blocks == 0
    return replace(
        after,
        mix=header.mix,
        order_seed=header.mix if epoch_over else state.order_seed,
        set_changes=set_changes,
        height=header.height,
        last_id=compute_block_id(header, after.network),
        last_time_ms=header.time_ms,
    )
