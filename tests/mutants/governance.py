"""Bugs in who proposes and who belongs: the beacon, evidence, changes of the membership."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant

BEACON: Final = (
    Mutant(
        "any reveal accepted",
        "rules",
        "or compute_link(standing.id, standing.onion_left, header.reveal) != standing.onion",
        "or False",
        ("beacon",),
        reduced=True,
    ),
    Mutant(
        "reveal left out at will",
        "rules",
        "if due and (\n",
        "if due and header.reveal and (\n",
        ("beacon",),
    ),
    Mutant(
        "mix not compared",
        "rules",
        "if header.mix != compute_mix(state.mix, header.reveal, header.height):",
        "if False:",
        ("beacon", "rules"),
    ),
    Mutant(
        "seed after f reveals",
        "standings",
        "for standing in standings) > fault_limit",
        "for standing in standings) >= fault_limit",
        ("beacon",),
    ),
    Mutant(
        "seed from a reveal that the submitter knew",
        "standings",
        "sum(standing.revealed > since for",
        "sum(standing.revealed >= since for",
        ("beacon",),
    ),
    Mutant(
        "seed without the mix",
        "draft",
        "seed=compute_seed(mix, submission.id)",
        "seed=compute_seed(self._base.network, submission.id)",
        ("beacon",),
    ),
    Mutant(
        "seed chosen again while the record is not held",
        "draft",
        "due = not submission.seed and submission.phase in (ANCHORED, SEEDING)",
        "due = submission.phase in (ANCHORED, SEEDING)",
        ("beacon",),
    ),
    Mutant(
        "seed without the block where there is no beacon",
        "draft",
        "return compute_seed(self._base.last_id, submission.id)",
        "return compute_seed(self._base.network, submission.id)",
        ("beacon",),
    ),
    Mutant(
        "onion promised in view of the mix",
        "standings",
        "return standing.promised == 0 or is_mixed(standing.promised, standings, fault_limit)",
        "return True",
        ("beacon",),
    ),
    Mutant(
        "second onion taken in place of the next",
        "governance",
        "if standing.next_left:",
        "if False:",
        ("beacon",),
    ),
    Mutant(
        "onion promised again once everybody knows it",
        "governance",
        "if refresh.generation != standing.generation + 1:",
        "if False:",
        ("beacon",),
    ),
    Mutant(
        "next onion before the present one is used up",
        "standings",
        "if standing.onion_left or not standing.next_left:",
        "if not standing.next_left:",
        ("beacon",),
    ),
    Mutant(
        "fresh onion for a member that comes back",
        "draft",
        "if member.id not in self._base.standings:",
        "if True:",
        ("governance",),
    ),
    Mutant(
        "joiner reveals what it chose in view of the mix",
        "draft",
        "self._standings[member.id] = make_standing(member, self._height)",
        "self._standings[member.id] = make_standing(member, 0)",
        ("governance",),
    ),
    Mutant(
        "proposers never reshuffled",
        "rules",
        "order_seed=header.mix if epoch_over else state.order_seed,",
        "order_seed=state.order_seed,",
        ("beacon",),
    ),
    Mutant(
        "early proposal out of turn kept",
        "inbox",
        "            if self._is_in_turn(event):\n",
        "            if True:\n",
        ("inbox",),
    ),
)

EVIDENCE: Final = (
    Mutant(
        "one message twice is evidence",
        "governance",
        "if places[0] != other or evidence.first == evidence.second:",
        "if places[0] != other:",
        ("governance",),
    ),
    Mutant(
        "messages of two rounds are evidence",
        "governance",
        "if places[0] != other or evidence.first == evidence.second:",
        "if evidence.first == evidence.second:",
        ("governance",),
    ),
    Mutant(
        "evidence without a signature",
        "governance",
        "    verify_vote(vote, network)\n",
        "",
        ("governance",),
    ),
    Mutant(
        "one offence struck twice",
        "governance",
        "if offence <= standing.offence:",
        "if False:",
        ("governance",),
    ),
)

MEMBERSHIP: Final = (
    Mutant(
        "f+1 approvals change the membership",
        "governance",
        "needed = compute_quorum(len(ids))",
        "needed = compute_fault_limit(len(ids)) + 1",
        ("governance",),
    ),
    Mutant(
        "approvals counted twice",
        "governance",
        "or len(senders) != len(update.approvals) or len(senders) < needed:",
        "or len(update.approvals) < needed:",
        ("governance",),
    ),
    Mutant(
        "two changes of the membership at once",
        "governance",
        "if under_way.effective_height:",
        "if False:",
        ("governance",),
    ),
    Mutant(
        "all validators exchanged at once",
        "governance",
        "if len(changed) > limit:",
        "if False:",
        ("governance",),
    ),
    Mutant(
        "change without notice",
        "governance",
        "low=height + 2,",
        "low=height + 1,",
        ("governance",),
    ),
    Mutant(
        "next validators not compared",
        "rules",
        "if header.next_validators_hash != after.validators_hash:",
        "if False:",
        ("rules",),
    ),
    Mutant(
        "early messages checked against the old validators",
        "inbox",
        "self._state.next_validators if ahead else self._state.validators",
        "self._state.validators",
        ("governance",),
    ),
    Mutant(
        "a third of the known validators hands over",
        "light",
        "needed = len(known) // 3 + 1",
        "needed = len(known) // 3",
        ("handovers",),
    ),
    Mutant(
        "handed over to anybody",
        "light",
        "if header.next_validators_hash != compute_validators_hash(following):",
        "if False:",
        ("handovers",),
    ),
)

GOVERNANCE: Final = (*BEACON, *EVIDENCE, *MEMBERSHIP)
