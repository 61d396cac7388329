"""Every law that the monitors watch can be broken, and they say so."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from milepost_consensus.blocks import Block, Certificate
from milepost_consensus.events import Equivocation, PersistDecision
from milepost_consensus.state import LedgerState, apply_entries
from milepost_consensus.submissions import DECIDED, Submission
from milepost_consensus.votes import PRECOMMIT, PREVOTE
from tests.simulation import chain_laws
from tests.simulation.chain_laws import ChainLaws
from tests.simulation.monitor import Monitor, Violation, compute_limit, measure
from tests.simulation.nodes import Node
from tests.simulation.options import Options, Run
from tests.simulation.signing import use_signatures
from tests.simulation.simulation import Simulation
from tests.simulation.truth import get_truth, make_name
from tests.support.validators import Validators

FOUR = Validators(4)
OTHER_ID = b"\1" * 32


def watch() -> Monitor:
    """A monitor of four honest validators, to whom every message counts as journalled."""
    monitor = Monitor(FOUR, range(4))
    for index, signer in enumerate(FOUR.signers):
        monitor._journals[signer.public] = [Everything(str(index).encode())]
    return monitor


class Everything(bytes):
    """A journal that holds whatever one looks for."""

    def __contains__(self, signature: object) -> bool:
        return True


def decide(
    block: Block, after: LedgerState, senders: tuple[int, ...] = (0, 1, 2)
) -> PersistDecision:
    return PersistDecision(block, FOUR.make_certificate(block, senders), after)


# Agreement ---------------------------------------------------------------------------------------


def test_s1_two_blocks_of_a_height() -> None:
    monitor = watch()
    monitor.on_decision(decide(*FOUR.make_block()))
    with pytest.raises(Violation, match="S1"):
        monitor.on_decision(decide(*FOUR.make_block(later_ms=1)))


def test_s2_two_blocks_that_could_get_certificates() -> None:
    monitor = Monitor(FOUR, [])
    ids = [FOUR.get_id(FOUR.make_block(later_ms=later)[0]) for later in (0, 1)]
    for sender in (0, 1, 2):
        monitor.on_broadcast(FOUR.make_vote(sender, PRECOMMIT, ids[0]))
    for sender in (1, 2):
        monitor.on_broadcast(FOUR.make_vote(sender, PRECOMMIT, ids[1], round_=1))
    with pytest.raises(Violation, match="S2"):
        monitor.on_broadcast(FOUR.make_vote(3, PRECOMMIT, ids[1], round_=1))


def test_s4_two_votes_of_one_validator() -> None:
    monitor = watch()
    block_id = FOUR.get_id(FOUR.make_block()[0])
    monitor.on_broadcast(FOUR.make_vote(0, PREVOTE, block_id))
    monitor.on_broadcast(FOUR.make_vote(0, PREVOTE, block_id))
    with pytest.raises(Violation, match="signed twice"):
        monitor.on_broadcast(FOUR.make_vote(0, PREVOTE, OTHER_ID))


def test_s4_two_proposals_of_one_validator() -> None:
    monitor = watch()
    monitor.on_broadcast(FOUR.make_proposal(FOUR.make_block()[0]))
    with pytest.raises(Violation, match="signed twice"):
        monitor.on_broadcast(FOUR.make_proposal(FOUR.make_block(later_ms=1)[0]))


def test_s4_a_message_that_no_journal_holds() -> None:
    monitor = Monitor(FOUR, range(4))
    monitor.on_journal(0, b"something else")
    with pytest.raises(Violation, match="no journal"):
        monitor.on_broadcast(FOUR.make_vote(0, PREVOTE, OTHER_ID))


def test_s4_a_message_passed_on_that_its_sender_does_not_remember() -> None:
    monitor = Monitor(FOUR, range(4))
    monitor.on_journal(1, FOUR.make_vote(0, PREVOTE, OTHER_ID).signature)
    with pytest.raises(Violation, match="no journal"):
        monitor.on_broadcast(FOUR.make_vote(0, PREVOTE, OTHER_ID))


def test_s4_a_message_of_somebody_who_does_not_decide_the_height() -> None:
    five = Validators(4, candidates=1)
    monitor = Monitor(five, range(5))
    monitor._journals[five.signers[4].public] = [Everything()]
    with pytest.raises(Violation, match="S4: an honest node signs at height 1, not its own"):
        monitor.on_broadcast(five.make_vote(4, PREVOTE, OTHER_ID))


def test_s5_a_broken_lock() -> None:
    monitor = watch()
    block_id = FOUR.get_id(FOUR.make_block()[0])
    monitor.on_broadcast(FOUR.make_vote(0, PRECOMMIT, block_id, round_=1))
    # Signed before the lock, said after it: no violation.
    monitor.on_broadcast(FOUR.make_vote(0, PREVOTE, OTHER_ID, round_=0))
    for sender in (1, 2, 3):
        vote = FOUR.make_vote(sender, PREVOTE, OTHER_ID, round_=2)
        monitor.on_broadcast(vote)
    monitor.on_broadcast(FOUR.make_vote(0, PREVOTE, OTHER_ID, round_=3))
    with pytest.raises(Violation, match="S5"):
        monitor.on_broadcast(FOUR.make_vote(0, PREVOTE, b"\2" * 32, round_=4))


def test_s12_an_honest_validator_accused() -> None:
    votes = (FOUR.make_vote(0, PREVOTE, OTHER_ID), FOUR.make_vote(0, PREVOTE, b"\2" * 32))
    Monitor(FOUR, [1, 2, 3]).on_equivocation(Equivocation(*votes))
    with pytest.raises(Violation, match="S12"):
        watch().on_equivocation(Equivocation(*votes))


def test_s13_a_machine_that_keeps_everything() -> None:
    monitor, machine = watch(), FOUR.make_machine(0)
    monitor.check_memory(machine)
    machine.hoard = {i: i for i in range(compute_limit(4))}  # type: ignore[attr-defined]
    with pytest.raises(Violation, match="S13"):
        monitor.check_memory(machine)


def test_s13_counts_what_is_nested() -> None:
    machine = FOUR.make_machine(0)
    before = measure(machine)
    machine._inbox._early = {(1, 2, b""): [1, 2, 3]}  # type: ignore[dict-item]
    assert measure(machine) == before + 4


# The chain ---------------------------------------------------------------------------------------


def follow(*, honest: range = range(4), options: Options | None = None) -> ChainLaws:
    return ChainLaws(FOUR, honest, options or Options("made", 1))


def test_s2_a_certificate_that_is_none() -> None:
    block, after = FOUR.make_block()
    good = FOUR.make_certificate(block, (0, 1, 2))
    too_few = Certificate(1, 0, good.block_id, good.signers[:2], good.signatures[:2])
    with pytest.raises(Violation, match="S2"):
        follow().on_decision(FOUR.state, PersistDecision(block, too_few, after))


def test_s3_a_final_block_that_breaks_a_rule() -> None:
    block, after = FOUR.make_block()
    bad = Block(replace(block.header, time_ms=0), ())
    with pytest.raises(Violation, match="S3: an invalid block"):
        follow().on_decision(FOUR.state, decide(bad, after))


def test_s6_a_state_that_does_not_follow() -> None:
    block, _ = FOUR.make_block()
    with pytest.raises(Violation, match="S6"):
        follow().on_decision(FOUR.state, decide(block, FOUR.state))


def test_s7_a_block_without_its_parent() -> None:
    first, after = FOUR.make_block()
    second, last = FOUR.make_block(state=after)
    with pytest.raises(Violation, match="S7"):
        follow().on_decision(FOUR.state, decide(second, last))
    with pytest.raises(Violation, match="S7: block 2 came before"):
        follow().on_decision(after, decide(second, last))
    follow().on_decision(FOUR.state, decide(first, after))


def test_s7_a_broken_chain_on_disk() -> None:
    node = Node(0, 0, FOUR.state, honest=True)
    block, after = FOUR.make_block()
    broken = Block(replace(block.header, prev_id=OTHER_ID), ())
    node.chain.append((broken, FOUR.make_certificate(block, (0, 1, 2)), after))
    with pytest.raises(Violation, match="S7: the chain breaks"):
        follow().check_end([node])


# Submissions -------------------------------------------------------------------------------------


def play_run(**changes: object) -> tuple[Simulation, ChainLaws, Submission]:
    """A poisoned run that was carried to its verdict, and laws that have followed it so far."""
    run = Run("made", 5, poisoned=(1,), flagged=(1,))
    options = Options("made", 1, verifiers=("honest",) * 4, calm_ms=0, heights=1, runs=(run,))
    simulation = Simulation(options)
    simulation.run()
    (submission,) = simulation.honest[0].state.submissions.values()
    return simulation, simulation.laws, replace(submission, **changes)


def check_verdict(laws: ChainLaws, submission: Submission, **changes: object) -> None:
    verdict = laws._state.verdicts[submission.id]
    laws._check_verdict(submission, replace(verdict, **changes))


def test_a_poisoned_run_is_found_out() -> None:
    simulation, laws, submission = play_run()
    verdict = simulation.honest[0].state.verdicts[submission.id]
    assert verdict.outcome == "INVALID"
    check_verdict(laws, submission)


def test_s8_duties_that_the_seed_did_not_deal() -> None:
    _, laws, submission = play_run(phase="retracing")
    laws._check_election(submission)
    with pytest.raises(Violation, match="S8"):
        laws._check_election(replace(submission, duties=submission.duties[::-1]))


def test_s9_invalid_without_an_upheld_witness() -> None:
    _, laws, submission = play_run(accusations=())
    with pytest.raises(Violation, match="S9: INVALID with 0 upheld"):
        check_verdict(laws, submission)


def test_s9_valid_without_coverage() -> None:
    _, laws, submission = play_run(accusations=())
    lazy = replace(submission, duties=tuple(replace(duty, answer="") for duty in submission.duties))
    with pytest.raises(Violation, match="S9: VALID without coverage"):
        check_verdict(laws, lazy, outcome="VALID")


def test_s9_valid_with_an_open_accusation() -> None:
    _, laws, submission = play_run()
    open_ones = tuple(replace(each, outcome="unsettled") for each in submission.accusations)
    with pytest.raises(Violation, match="S9: VALID with an accusation"):
        check_verdict(laws, replace(submission, accusations=open_ones), outcome="VALID")


def test_s9_an_accusation_dismissed_for_no_reason() -> None:
    simulation, laws, submission = play_run()
    laws._check_dismissed(submission)
    liar = simulation.validators.signers[0].public
    laws._honest_verifiers -= {liar}
    (accusation, *_) = submission.accusations
    dropped = replace(accusation, accusers=(liar,), answers=(), outcome="dismissed")
    with pytest.raises(Violation, match="S9: an accusation is dismissed before"):
        laws._check_dismissed(replace(submission, accusations=(dropped,)))
    refuted = replace(accusation, accusers=(liar,), answers=(), outcome="refuted")
    laws._check_dismissed(replace(submission, accusations=(dropped, refuted)))


def test_s10_an_honest_accusation_dismissed() -> None:
    _, laws, submission = play_run()
    dropped = tuple(replace(each, outcome="dismissed") for each in submission.accusations)
    with pytest.raises(Violation, match="S10: what an honest verifier accuses is dismissed"):
        laws._check_dismissed(replace(submission, accusations=dropped))


def test_s9_an_honest_verifier_overruled() -> None:
    simulation, laws, submission = play_run()
    honest = simulation.validators.signers[0].public
    with pytest.raises(Violation, match="S9: an honest verifier was overruled"):
        check_verdict(laws, submission, overruled=(honest,))


def test_s9_a_clean_run_condemned() -> None:
    _, laws, submission = play_run()
    clean = get_truth(make_name(Run("clean", 5), 1)).record.submit
    with pytest.raises(Violation, match="S9: a clean run is INVALID"):
        check_verdict(laws, replace(submission, submit=clean))


def test_s9_an_honest_verifier_that_attests_poison() -> None:
    _, laws, submission = play_run()
    duties = tuple(replace(duty, answer="agrees") for duty in submission.duties)
    with pytest.raises(Violation, match="S9: an honest verifier attested"):
        laws._check_submission(submission, replace(submission, duties=duties))


def test_s10_poison_with_an_honest_assignee_passes() -> None:
    _, laws, submission = play_run(accusations=())
    with pytest.raises(Violation, match="S10"):
        check_verdict(laws, agree(submission), outcome="VALID")


def test_s9_lazy_work_beside_honest_work_counts() -> None:
    _, laws, submission = play_run(accusations=())
    agreed = agree(submission)
    first = next(duty for duty in agreed.duties if duty.interval == 1)
    made_up = replace(first, work_digest=bytes(32))
    lazy = replace(
        agreed, duties=tuple(made_up if duty is first else duty for duty in agreed.duties)
    )
    with pytest.raises(Violation, match="S9: lazy work"):
        check_verdict(laws, lazy, outcome="VALID")


def agree(submission: Submission) -> Submission:
    """The submission if everybody had retrained and agreed."""
    truth = get_truth(submission.submit.name)
    duties = tuple(
        replace(
            duty, answer="agrees", work_digest=truth.compute_work(duty.work_step, duty.verifier)
        )
        for duty in submission.duties
    )
    return replace(submission, duties=duties)


def test_s9_an_honest_verifier_is_struck_for_what_it_said() -> None:
    simulation, laws, _ = play_run()
    state = simulation.honest[0].state
    member = simulation.validators.signers[0].public
    standing = replace(state.standings[member], lies=1)
    struck = apply_entries(state, standings={member: standing})
    with pytest.raises(Violation, match="S9: an honest verifier is struck"):
        laws._check_standings(struck)


def test_s11_a_submission_without_the_verdict_it_should_have() -> None:
    _, laws, submission = play_run()
    assert submission.phase == DECIDED
    with pytest.raises(Violation, match="S11"):
        laws._check_submission(submission, replace(submission, phase="panel"))


def test_l5_a_submission_that_takes_for_ever() -> None:
    _, laws, submission = play_run(phase="panel", anchored_height=-1_000)
    with pytest.raises(Violation, match="L5"):
        laws._check_deadline(submission)


def test_s11_a_record_that_hardly_anybody_has() -> None:
    _, laws, submission = play_run()
    laws._check_holders(submission)
    with pytest.raises(Violation, match="S11: a record counts as held, and 1 honest"):
        laws._check_holders(replace(submission, holders=submission.holders[:1]))


def test_s12_an_honest_validator_convicted() -> None:
    guilty = FOUR.signers[0].public
    standing = replace(FOUR.state.standings[guilty], offence=1)
    state = apply_entries(FOUR.state, standings={guilty: standing})
    follow(honest=range(1, 4))._check_standings(state)
    with pytest.raises(Violation, match="S12"):
        follow()._check_standings(state)


def test_s12_an_offline_check_that_takes_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    simulation, laws, _ = play_run()
    nothing: Callable[..., None] = lambda *_: None  # noqa: E731
    monkeypatch.setattr(chain_laws, "verify_bundle", nothing)
    with pytest.raises(Violation, match="S12"):
        laws.check_end(simulation.honest)


def test_l2_a_submission_that_is_never_taken() -> None:
    """Every node holds it, heights go by, and it is in none of them."""
    run = Run("made", 5)
    options = Options("made", 1, verifiers=("honest",) * 4, calm_ms=0, heights=40, runs=(run,))
    simulation = Simulation(options)
    simulation.mempools.get_transactions = lambda node: ()  # type: ignore[method-assign]
    with pytest.raises(Violation, match="L2"):
        simulation.run()


def test_s3_one_answer_in_two_transactions() -> None:
    """The ledger refuses it; here the laws are told that they have seen the answer before."""
    simulation, _, _ = play_run()
    laws = ChainLaws(simulation.validators, range(4), simulation.options)
    with use_signatures(real=False):
        for block, certificate, after in simulation.honest[0].chain:
            laws._txs.update(tx.sender + tx.kind.encode() + tx.payload for tx in block.txs)
            if block.txs:
                with pytest.raises(Violation, match="S3: a transaction is in the chain twice"):
                    laws._follow(PersistDecision(block, certificate, after))
                return
            laws._follow(PersistDecision(block, certificate, after))
