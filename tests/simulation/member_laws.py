"""S3, S7 and S12 across changes of the membership: who decides a height, and who learns of it.

The members of every height are computed once more from the updates in the blocks, and approvals
are counted once more.  At the end somebody who knows the genesis only follows the handovers, and
forged ones lead nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from milepost_consensus import crypto
from milepost_consensus.blocks import Block, Certificate
from milepost_consensus.encoding import encode
from milepost_consensus.errors import InvalidInput
from milepost_consensus.light import Handover, Trust, follow_handovers, make_trust
from milepost_consensus.members import (
    Member,
    compute_fault_limit,
    compute_quorum,
    compute_validators_hash,
    get_validators,
)
from milepost_consensus.payloads import MemberUpdate
from milepost_consensus.state import LedgerState
from milepost_consensus.transactions import decode_payload
from tests.simulation.monitor import Violation

Link = tuple[Block, Certificate, LedgerState]


class MemberLaws:
    """Follows the chain from block to block."""

    def __init__(self, genesis: LedgerState) -> None:
        self._genesis = genesis
        self._members = dict(genesis.members)
        self._coming: MemberUpdate | None = None
        self._changes: list[tuple[int, tuple[bytes, ...], tuple[bytes, ...]]] = []
        """Height, and who signs up to it and after it."""

    def on_block(self, block: Block, after: LedgerState) -> None:
        """A block is final."""
        height, validators = block.header.height, get_validators(self._members.values())
        for tx in block.txs:
            payload = decode_payload(tx)
            if isinstance(payload, MemberUpdate):
                self._check_update(payload, validators, height)
                self._coming = payload
        if self._coming is not None and self._coming.effective_height == height + 1:
            self._members.update({member.id: member for member in self._coming.members})
            self._coming = None
        following = get_validators(self._members.values())
        hashes = [compute_validators_hash(each) for each in (validators, following)]
        if [block.header.validators_hash, block.header.next_validators_hash] != hashes:
            raise Violation(f"S7: block {height} names other validators than were agreed on")
        if dict(after.members) != self._members:
            raise Violation(f"S7: other members follow block {height} than were agreed on")
        ids = [tuple(member.id for member in each) for each in (validators, following)]
        if ids[0] != ids[1]:
            self._changes.append((height, ids[0], ids[1]))

    def _check_update(
        self, update: MemberUpdate, validators: Sequence[Member], height: int
    ) -> None:
        ids = {member.id for member in validators}
        body = encode(replace(update, approvals=()))
        approving = set()
        for approval in update.approvals:
            crypto.verify_signature(
                approval.sender,
                approval.signature,
                kind="approval",
                body=body,
                network=self._genesis.network,
            )
            approving.add(approval.sender)
        if len(approving & ids) < compute_quorum(len(ids)):
            raise Violation(f"S3: {len(approving & ids)} of {len(ids)} approve of a change")
        if self._coming is not None or update.effective_height < height + 2:
            raise Violation("S3: a change comes before another is in effect, or too soon")
        after = {**self._members, **{member.id: member for member in update.members}}
        changed = ids ^ {member.id for member in get_validators(after.values())}
        if len(changed) > max(1, compute_fault_limit(len(ids))):
            raise Violation(f"S3: {len(changed)} of {len(ids)} validators change at once")

    # The end -------------------------------------------------------------------------------------

    def check_end(self, chain: Sequence[Link]) -> tuple[Handover, ...]:
        """What an auditor is told about the changes holds; returns it."""
        trust = make_trust(self._genesis.genesis)
        handovers = tuple(
            Handover(chain[height - 1][0].header, chain[height - 1][1], *ids)
            for height, *ids in self._changes
            if height <= len(chain)
        )
        told = [(change.height, change.before, change.after) for change in chain[-1][2].set_changes]
        if told != self._changes[: len(handovers)]:
            raise Violation("S7: the state lists other changes of the validators than there were")
        try:
            reached = follow_handovers(trust, handovers)
        except InvalidInput as error:
            raise Violation(f"S7: the chain's own handovers do not verify: {error}") from error
        ids = [member.id for member in chain[-1][2].validators]
        if [member.id for member in reached] != ids:
            raise Violation("S7: the handovers lead to other validators than the chain has")
        for position, handover in enumerate(handovers):
            self._check_forgeries(trust, handovers[:position], handover)
            self._check_skip(trust, handovers[position:], ids)
        return handovers

    def _check_forgeries(
        self, trust: Trust, known: tuple[Handover, ...], handover: Handover
    ) -> None:
        certificate = handover.certificate
        few = compute_quorum(len(handover.signers)) - 1
        stranger = (*handover.following[:-1], b"\xff" * 32)
        forge: Callable[..., Handover] = lambda **changes: replace(handover, **changes)  # noqa: E731
        for forged in (
            forge(following=stranger),
            forge(header=replace(handover.header, time_ms=handover.header.time_ms + 1)),
            forge(
                certificate=replace(
                    certificate,
                    signers=certificate.signers[:few],
                    signatures=certificate.signatures[:few],
                )
            ),
        ):
            try:
                follow_handovers(trust, (*known, forged))
            except InvalidInput:
                continue
            raise Violation("S12: a forged change of the validators is taken for the chain's")

    def _check_skip(
        self, trust: Trust, handovers: tuple[Handover, ...], ids: Sequence[bytes]
    ) -> None:
        """Whoever leaves out the first changes is refused or gets to the same validators."""
        try:
            reached = follow_handovers(trust, handovers)
        except InvalidInput:
            return
        if [member.id for member in reached] != list(ids):
            raise Violation("S12: leaving out changes leads to other validators")
