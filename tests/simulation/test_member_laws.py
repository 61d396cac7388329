"""Changes of the membership: they come into effect, and whatever breaks a law shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from msgspec.structs import replace

from milepost_consensus import governance
from milepost_consensus.blocks import Block
from milepost_consensus.keyguard import Place
from milepost_consensus.light import Handover, Trust
from milepost_consensus.machine import Machine
from milepost_consensus.members import VALIDATOR, Member
from milepost_consensus.tally import Tally
from milepost_consensus.votes import Vote, sign_vote
from tests.simulation import member_laws
from tests.simulation.member_laws import MemberLaws
from tests.simulation.monitor import Violation
from tests.simulation.options import Change, Fault, Options, Run
from tests.simulation.play import find_violation
from tests.simulation.simulation import Simulation
from tests.support.validators import Validators

Patch = pytest.MonkeyPatch
FOUR = Validators(4)
SWAP = Options(
    "swap",
    1,
    candidates=1,
    verifiers=("honest",) * 4,
    runs=(Run("made", 900),),
    changes=(Change("join", 20, 4), Change("leave", 200, 0), Change("move", 300, 1)),
    calm_ms=400,
)


def get_ids(simulation: Simulation) -> list[int]:
    state = simulation.honest[0].state
    return [simulation.validators.get_index(member.id) for member in state.validators]


def test_one_joins_and_one_leaves_and_both_go_on() -> None:
    simulation = Simulation(SWAP)
    simulation.run()
    assert sorted(get_ids(simulation)) == [1, 2, 3, 4]
    state = simulation.nodes[0].state
    assert len(state.set_changes) == 2
    assert state.members[simulation.validators.signers[1].public].operator == "new-2"
    height = state.set_changes[-1].height
    said = [(sender, at) for sender, _, at, _ in simulation.monitor._signed]
    joined, left = (simulation.validators.signers[i].public for i in (4, 0))
    assert max(at for sender, at in said if sender == joined) > height
    assert max(at for sender, at in said if sender == left) <= height


def test_a_node_that_comes_late_joins_after_its_quarantine() -> None:
    late = replace(SWAP, late=(4,), changes=(Change("join", 300, 4),), runs=())
    simulation = Simulation(late)
    simulation.run()
    assert len(get_ids(simulation)) == 5
    assert simulation.nodes[4].height >= simulation.goal


def test_one_that_left_comes_back() -> None:
    changes = (Change("leave", 20, 0), Change("join", 100, 0))
    simulation = Simulation(replace(SWAP, candidates=0, changes=changes, runs=()))
    simulation.run()
    assert sorted(get_ids(simulation)) == [0, 1, 2, 3]
    assert len(simulation.honest[0].state.set_changes) == 2


def test_an_unknown_change_is_refused() -> None:
    with pytest.raises(ValueError, match="no change is called promote"):
        Simulation(replace(SWAP, changes=(Change("promote", 0, 1),))).run()


# The laws ----------------------------------------------------------------------------------------


def test_s3_a_change_that_too_few_approve_of(monkeypatch: Patch) -> None:
    monkeypatch.setattr(governance, "_verify_approvals", lambda *_: None)
    usurped = Options("usurped", 1, liars=(0,), habits=("usurp",), calm_ms=900)
    assert "S3: 1 of 4 approve" in (find_violation(usurped) or "missed")


def test_s4_a_leaver_that_goes_on_voting(monkeypatch: Patch) -> None:
    def vote(self: Machine, type_: int, block_id: bytes) -> None:
        _VOTE(self, type_, block_id)
        signer = self._voice._signer
        me = signer.public
        if all(member.id != me for member in self.state.validators):
            bare = Vote(self.height, self.round, type_, block_id, me)
            self._guard.on_signed(Place(self.height, self.round, type_))
            self._outbox.send_signed(sign_vote(bare, signer, self.state.network))

    monkeypatch.setattr(Machine, "_vote", vote)
    assert "S4: an honest node signs at height" in (find_violation(SWAP) or "missed")


def test_a_joiner_that_nobody_listens_to_is_missed(monkeypatch: Patch) -> None:
    """With one of five down, the network needs the voice of the one that came."""
    joined = Options(
        "joined", 1, liars=(0,), silent=True, candidates=1, calm_ms=1_500, heights=2,
        changes=(Change("join", 20, 4),),
    )  # fmt: skip
    assert find_violation(joined) is None
    founders = frozenset(signer.public for signer in Simulation(joined).validators.signers[:4])

    def add_vote(self: Tally, vote: Vote) -> None:
        if vote.sender in founders:
            _ADD_VOTE(self, vote)

    monkeypatch.setattr(Tally, "add_vote", add_vote)
    assert find_violation(joined) is not None


def test_s7_other_validators_than_were_agreed_on() -> None:
    block, after = FOUR.make_block()
    MemberLaws(FOUR.state).on_block(block, after)
    strange = Block(replace(block.header, next_validators_hash=bytes(32)), ())
    with pytest.raises(Violation, match="S7: block 1 names other validators"):
        MemberLaws(FOUR.state).on_block(strange, after)
    others = Validators(4, candidates=1)
    laws = MemberLaws(others.state)
    laws._members[others.signers[0].public] = Member(
        others.signers[0].public, "moved", VALIDATOR, "elsewhere"
    )
    block, after = others.make_block()
    with pytest.raises(Violation, match="S7: other members follow block 1"):
        laws.on_block(block, after)


def _follow_nobody(trust: Trust, handovers: Sequence[Handover]) -> tuple[Member, ...]:
    return trust.validators


def _follow_anybody(trust: Trust, handovers: Sequence[Handover]) -> tuple[Member, ...]:
    known = {member.id: member for member in Simulation(SWAP).validators.members}
    ids = handovers[-1].following if handovers else ()
    return tuple(known.get(each, Member(each, "x", VALIDATOR, "x")) for each in ids)


@pytest.mark.parametrize(
    ("follow", "law"),
    [
        (_follow_nobody, "S7: the handovers lead to other"),
        (_follow_anybody, "S12: a forged change"),
    ],
)
def test_an_offline_check_that_goes_astray(
    monkeypatch: Patch, follow: Callable[..., tuple[Member, ...]], law: str
) -> None:
    simulation = Simulation(SWAP)
    simulation.run()
    monkeypatch.setattr(member_laws, "follow_handovers", follow)
    with pytest.raises(Violation, match=law):
        simulation.laws.members.check_end(simulation.nodes[0].chain)


def test_changes_under_a_partition() -> None:
    """The change is approved while nobody hears of it, and in effect once the cut is healed."""
    links = tuple((a, b) for a in range(5) for b in range(5) if (a < 2) != (b < 2))
    cut = replace(SWAP, faults=(Fault("cut", 0, 400, links=links),), runs=())
    simulation = Simulation(cut)
    simulation.run()
    assert simulation.council.is_done()


_VOTE = Machine._vote
_ADD_VOTE = Tally.add_vote
