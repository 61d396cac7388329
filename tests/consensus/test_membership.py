"""The agreement machine across a change of the validators."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from milepost_consensus.blocks import Certificate
from milepost_consensus.errors import InvalidInput
from milepost_consensus.events import (
    BlockFetched,
    Broadcast,
    GossipDue,
    ReceivedProposal,
    ReceivedVote,
    Start,
    TimeoutFired,
    Timer,
    TimerKind,
)
from milepost_consensus.governance import sign_update
from milepost_consensus.inbox import Inbox
from milepost_consensus.keyguard import Signing
from milepost_consensus.machine import Machine, Step
from milepost_consensus.members import VALIDATOR
from milepost_consensus.payloads import MemberUpdate
from milepost_consensus.rules import get_proposer
from milepost_consensus.state import LedgerState
from milepost_consensus.votes import NIL, PREVOTE, Proposal, Vote, sign_proposal, sign_vote
from tests.consensus.test_governance import make_member
from tests.consensus.test_handovers import sign_block
from tests.support.ledger import Ledger, make_genesis, make_signer
from tests.support.validators import make_onion


def join() -> tuple[Ledger, list[LedgerState], bytes]:
    """A chain whose fifth validator signs from height 3 on; the states after each height."""
    ledger = Ledger(make_genesis(4))
    states = [ledger.state]
    member = make_member("joining", VALIDATOR)
    ledger.signers[member.id] = make_signer("joining")
    bare = MemberUpdate((member,), 3)
    signers = [ledger.signers[each.id] for each in ledger.state.validators]
    update = sign_update(bare, signers, ledger.state.network)
    for txs in ([ledger.sign(update, "node-0")], [], [], []):
        ledger.apply(txs)
        states.append(ledger.state)
    return ledger, states, member.id


def certify(ledger: Ledger, states: list[LedgerState], height: int) -> Certificate:
    ids = tuple(member.id for member in states[height - 1].validators)
    return sign_block(ledger, ledger.blocks[height - 1], ids)


def make_machine(state: LedgerState, name: str, certificate: Certificate | None = None) -> Machine:
    signer = make_signer(name)
    return Machine(state, signer, make_onion(signer), last_certificate=certificate)


def test_a_joining_validator_is_heard_from_its_first_height_on_and_not_before() -> None:
    ledger, states, joining = join()
    signer = ledger.signers[joining]
    votes = {
        height: sign_vote(Vote(height, 0, PREVOTE, NIL, joining), signer, ledger.state.network)
        for height in (2, 3)
    }
    inbox = Inbox(states[1], ())
    with pytest.raises(InvalidInput, match="not a validator"):
        inbox.receive(ReceivedVote(votes[2]), round_=0)
    inbox.receive(ReceivedVote(votes[3]), round_=0)
    inbox.open(states[2], ())
    assert inbox.tally.count(0, PREVOTE) == 1


def test_early_proposals_are_judged_by_the_turns_of_their_own_height() -> None:
    ledger, states, _ = join()
    block = ledger.blocks[2]
    proposer = get_proposer(states[2], 3, 0).id
    bare = Proposal(3, 0, 0, block, (), proposer)
    proposal = sign_proposal(bare, ledger.signers[proposer], ledger.state.network)
    inbox = Inbox(states[1], ())
    inbox.receive(ReceivedProposal(proposal, ledger.state.last_time_ms), round_=0)
    inbox.open(states[2], ())
    assert inbox.tally.proposals[0].proposal == proposal


def test_a_machine_follows_the_change_and_then_takes_part() -> None:
    ledger, states, joining = join()
    machine = make_machine(states[0], "joining")
    machine.handle(Start(0))
    for height in (1, 2):
        machine.handle(BlockFetched(ledger.blocks[height - 1], certify(ledger, states, height)))
    assert machine.state.root == states[2].root
    assert len(machine.state.validators) == 5
    old = tuple(member.id for member in states[1].validators)
    with pytest.raises(InvalidInput, match="does not verify"):
        machine.handle(BlockFetched(ledger.blocks[2], sign_block(ledger, ledger.blocks[2], old)))
    machine.handle(BlockFetched(ledger.blocks[2], certify(ledger, states, 3)))
    others = [member for member in states[3].validators if member.id != joining]
    effects = [
        effect
        for other in others[:2]
        for effect in machine.handle(
            ReceivedVote(
                sign_vote(
                    Vote(4, 1, PREVOTE, NIL, other.id),
                    ledger.signers[other.id],
                    ledger.state.network,
                )
            )
        )
    ]
    assert machine.round == 1  # f + 1 of five validators speak of it
    assert any(isinstance(effect, Broadcast) for effect in effects) or machine.step.value >= 1


def test_a_machine_that_restarts_at_the_change_repeats_what_the_old_validators_signed() -> None:
    ledger, states, _ = join()
    certificate = certify(ledger, states, 2)
    machine = make_machine(states[2], "node-0", certificate)
    machine.handle(Start(0))
    machine.handle(GossipDue())
    late = make_signer("node-1")
    machine.handle(
        ReceivedVote(sign_vote(Vote(2, 0, PREVOTE, NIL, late.public), late, ledger.state.network))
    )
    repeated = [e.message for e in machine.handle(GossipDue()) if isinstance(e, Broadcast)]
    assert {m.sender for m in repeated} == {member.id for member in states[1].validators}


def test_a_validator_that_left_says_nothing_any_more() -> None:
    ledger = Ledger(make_genesis(5))
    states = [ledger.state]
    leaving = next(m for m in ledger.state.validators if m.name == "node-3")
    bare = MemberUpdate((replace(leaving, roles=0),), 3)
    signers = [ledger.signers[each.id] for each in ledger.state.validators]
    update = sign_update(bare, signers, ledger.state.network)
    machine = make_machine(ledger.state, "node-3")
    machine.handle(Start(0))
    for height, txs in ((1, [ledger.sign(update, "node-0")]), (2, [])):
        ledger.apply(txs)
        states.append(ledger.state)
        machine.handle(BlockFetched(ledger.blocks[-1], certify(ledger, states, height)))
    assert machine.signing is Signing.ACTIVE
    said = []
    for other in ledger.state.validators[:3]:
        vote = Vote(3, 1, PREVOTE, NIL, other.id)
        signed = sign_vote(vote, ledger.signers[other.id], ledger.state.network)
        said += machine.handle(ReceivedVote(signed))
    assert machine.round == 1
    said += machine.handle(TimeoutFired(Timer(TimerKind.PROPOSE, 3, 1)))
    assert machine.step is Step.PRECOMMIT  # three prevotes for NIL are there
    assert not [e for e in said if isinstance(e, Broadcast) and e.message.sender == leaving.id]
