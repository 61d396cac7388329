"""What the chain waits for from one member, at every point of a submission's way."""

from __future__ import annotations

from msgspec.structs import replace

from milepost_consensus.answers import apply_work_refutation
from milepost_consensus.draft import get_terms
from milepost_consensus.params import Params
from milepost_consensus.state import apply_entries
from milepost_consensus.worklist import get_accusations, get_comparable, get_duties, get_unheld
from tests.support.ledger import Ledger, make_genesis, make_hash, make_record, make_signer

RECORD = make_record()
OUTSIDER = make_signer("submitter").public


def test_validators_are_asked_to_hold_until_they_do() -> None:
    ledger = Ledger(make_genesis(4))
    first, second = ledger.submit(make_record("a")), ledger.submit(make_record("b"))
    one, two = (member.id for member in ledger.state.validators[:2])
    assert [s.id for s in get_unheld(ledger.state, one)] == [first, second]
    ledger.hold(first, 1)
    assert [s.id for s in get_unheld(ledger.state, one)] == [second]
    assert [s.id for s in get_unheld(ledger.state, two)] == [first, second]
    assert get_unheld(ledger.state, OUTSIDER) == ()


def test_every_duty_is_somebodys_until_it_is_answered() -> None:
    ledger = Ledger(make_genesis(4))
    submission = ledger.start(RECORD)
    dealt = [each.duty for v in ledger.verifiers for each in get_duties(ledger.state, v)]
    assert sorted(dealt, key=str) == sorted(ledger.get(submission).duties, key=str)
    for verifier in ledger.verifiers:
        intervals = [each.duty.interval for each in get_duties(ledger.state, verifier)]
        assert intervals == sorted(intervals)
    duty = ledger.get(submission).duties[0]
    ledger.apply([ledger.attest(submission, duty)])
    assert duty.interval not in [d.duty.interval for d in get_duties(ledger.state, duty.verifier)]
    assert get_duties(ledger.state, OUTSIDER) == ()


def test_missed_duties_are_asked_of_the_replacement() -> None:
    ledger = Ledger(make_genesis(4, params=Params(attest_window=3)))
    submission = ledger.start(RECORD)
    silent = ledger.get(submission).duties[0].verifier
    ledger.attest_open(submission, silent=[silent])
    while not ledger.get(submission).extensions:
        ledger.apply()
    assert get_duties(ledger.state, silent) == ()
    added = [d for v in ledger.verifiers for d in get_duties(ledger.state, v)]
    assert added
    ledger.run_until(submission, "witnessing")
    assert [d for v in ledger.verifiers for d in get_duties(ledger.state, v)] == []


def test_answers_are_compared_by_those_who_retraced_the_interval_too() -> None:
    ledger = Ledger(make_genesis(5, params=Params(auditors=2, witness_window=3)))
    submission = ledger.start(RECORD)
    duties = ledger.get(submission).duties
    me, colleague = (d.verifier for d in duties if d.interval == 0)
    ledger.apply([ledger.attest(submission, d) for d in duties if d.interval == 0])
    assert get_comparable(ledger.state, me) == ()  # a gradient revealed now would help others
    ledger.attest_open(submission)
    found = get_comparable(ledger.state, me)
    mine = {d.interval for d in duties if d.verifier == me}
    theirs = [d for d in duties if d.interval in mine and d.verifier != me]
    assert [(d.interval, d.verifier) for _, _, d in found] == [
        (d.interval, d.verifier) for d in theirs
    ]
    assert all(ledger.get(submission).duties[each.number] == each.duty for each in found)
    assert get_comparable(ledger.state, OUTSIDER) == ()
    lazy = next(d for d in ledger.get(submission).duties if (d.interval, d.verifier) == (0, me))
    wrong = replace(lazy, work_digest=make_hash("invented"))
    changed = replace(
        ledger.get(submission),
        duties=tuple(wrong if d is lazy else d for d in ledger.get(submission).duties),
    )
    state = apply_entries(ledger.state, submissions={submission: changed})
    refuted = apply_work_refutation(
        changed, RECORD.make_refutation(submission, wrong), get_terms(state), sender=colleague
    )
    state = apply_entries(state, submissions={submission: refuted})
    # Who was found lazy is neither compared with anybody nor compares.
    assert get_comparable(state, me) == ()
    assert all(each.duty.verifier != me for each in get_comparable(state, colleague))
    ledger.run_until(submission, "decided")
    assert get_comparable(ledger.state, colleague) == ()


def test_accusations_are_asked_of_everybody_who_has_not_answered() -> None:
    genesis = make_genesis(5)
    first, *rest = genesis.members
    ledger = Ledger(replace(genesis, members=(replace(first, roles=7), *rest)))
    submission = ledger.start(RECORD, first.name)
    accuser, voter, *others = [v for v in ledger.verifiers if v != first.id]
    witness = RECORD.make_witness(submission, 9, recomputed=make_hash("x"))
    assert get_accusations(ledger.state, voter) == ()
    ledger.apply([ledger.sign(witness, accuser)])
    (asked,) = get_accusations(ledger.state, voter)
    assert (asked.submission.id, asked.accusation.step) == (submission, 9)
    # The accuser and the submitter have answered by what they claim; strangers are not asked.
    for member in (accuser, first.id, OUTSIDER):
        assert get_accusations(ledger.state, member) == ()
    ledger.apply([ledger.vote(submission, witness, make_hash("x"), voter)])
    assert get_accusations(ledger.state, voter) == ()
    ledger.apply([ledger.vote(submission, witness, make_hash("x"), others[0])])
    # Three of five agree: settled.
    assert get_accusations(ledger.state, others[1]) == ()


def test_nothing_is_asked_about_decided_submissions() -> None:
    ledger = Ledger(make_genesis(4, params=Params(hold_window=2)))
    ledger.run_until(ledger.submit(RECORD), "decided")
    member = ledger.verifiers[0]
    assert get_unheld(ledger.state, member) == ()
    assert get_duties(ledger.state, member) == ()
    assert get_accusations(ledger.state, member) == ()
