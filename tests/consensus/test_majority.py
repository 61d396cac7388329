"""Scenarios of rule majority: the decision of the Diffusion paper."""

from __future__ import annotations

import pytest

from milepost_consensus.params import Params
from milepost_consensus.verdicts import Verdict
from tests.support.ledger import Ledger, make_genesis, make_record

INTERVALS = 10


def start(count: int = 10, **params: object) -> tuple[Ledger, bytes]:
    fields = {"rule": "majority", "audit_permille": 500, "attest_window": 5, **params}
    chosen = Params(**fields)  # type: ignore[arg-type]
    ledger = Ledger(make_genesis(count, params=chosen))
    return ledger, ledger.start(make_record(intervals=INTERVALS))


def vote(ledger: Ledger, submission: bytes, disagreeing: dict[int, int]) -> Verdict:
    """Everybody answers; `disagreeing` says how many differ per interval."""
    left, txs = dict(disagreeing), []
    for duty in ledger.get(submission).duties:
        differs = left.get(duty.interval, 0) > 0
        left[duty.interval] = left.get(duty.interval, 0) - 1
        txs.append(ledger.attest(submission, duty, agrees=int(not differs)))
    ledger.apply(txs)
    return ledger.get_verdict(submission)


def get_selected(ledger: Ledger, submission: bytes) -> list[int]:
    return sorted({duty.interval for duty in ledger.get(submission).duties})


def test_half_of_the_intervals_are_put_to_the_vote() -> None:
    ledger, submission = start()
    assert len(get_selected(ledger, submission)) == 5
    verdict = vote(ledger, submission, {})
    assert (verdict.outcome, verdict.assurance, verdict.rule) == ("VALID", "SAMPLED", "majority")
    assert verdict.reason == "5 of 10 intervals were retraced and agree"


def test_the_verdict_falls_with_the_last_answer() -> None:
    ledger, submission = start()
    vote(ledger, submission, {})
    assert ledger.get_verdict(submission).height == ledger.state.height


@pytest.mark.parametrize(
    ("voters", "disagreeing", "outcome"),
    [(3, 1, "VALID"), (3, 2, "INVALID"), (4, 1, "VALID"), (4, 2, "INVALID"), (2, 1, "INVALID")],
)
def test_a_strict_majority_must_agree(voters: int, disagreeing: int, outcome: str) -> None:
    ledger, submission = start(voters * 5)
    interval = get_selected(ledger, submission)[2]
    verdict = vote(ledger, submission, {interval: disagreeing})
    assert verdict.outcome == outcome
    if outcome == "INVALID":
        assert [(r.interval, r.step) for r in verdict.refuted] == [(interval, interval * 4)]
        agreed = voters - disagreeing
        assert verdict.reason == (
            f"interval {interval} does not retrace: {agreed} of {voters} verifiers agree"
        )


def test_all_outvoted_intervals_are_listed_and_the_first_is_named() -> None:
    ledger, submission = start()
    selected = get_selected(ledger, submission)
    verdict = vote(ledger, submission, {selected[4]: 2, selected[1]: 2})
    assert [r.interval for r in verdict.refuted] == [selected[1], selected[4]]
    assert verdict.reason.startswith(f"interval {selected[1]} ")
    assert verdict.overruled == ()


def test_silence_on_an_interval_counts_against_it() -> None:
    ledger, submission = start()
    selected = get_selected(ledger, submission)
    ledger.attest_open(submission, intervals=selected[1:])
    opened = ledger.state.height
    ledger.run_until(submission, "decided")
    verdict = ledger.get_verdict(submission)
    assert [r.interval for r in verdict.refuted] == [selected[0]]
    assert verdict.height == opened + 4
    assert ledger.get(submission).extensions == 0


def test_those_who_answered_decide_for_those_who_did_not() -> None:
    ledger, submission = start()
    silent = {duty.verifier for duty in ledger.get(submission).duties[::2]}
    ledger.attest_open(submission, silent=silent)
    ledger.run_until(submission, "decided")
    assert ledger.get_verdict(submission).outcome == "VALID"


def test_two_liars_of_three_defeat_the_vote() -> None:
    # What the rule cannot do, and why it is not the default: the honest third is overruled.
    ledger, submission = start(15)
    poisoned = get_selected(ledger, submission)[0]
    ledger_honest = {poisoned: 1}
    assert vote(ledger, submission, ledger_honest).outcome == "VALID"


def test_flagged_intervals_are_always_put_to_the_vote() -> None:
    scores = [10**9 // (k + 1) * (6 if k == 7 else 1) for k in range(INTERVALS)]
    params = Params(rule="majority", audit_permille=0)
    ledger = Ledger(make_genesis(6, params=params))
    submission = ledger.start(make_record(intervals=INTERVALS, change_scores=scores))
    assert get_selected(ledger, submission) == [6, 7]
    assert [r.flagged for r in vote(ledger, submission, {}).retraced] == [1, 1]


def test_every_interval_put_to_the_vote_gives_full_assurance() -> None:
    ledger, submission = start(audit_permille=1_000)
    verdict = vote(ledger, submission, {})
    assert (verdict.assurance, verdict.reason) == ("FULL", "all 10 intervals retrace")


def test_without_an_independent_verifier_the_submission_is_undecided() -> None:
    ledger = Ledger(make_genesis(3, params=Params(rule="majority")))
    submission = ledger.submit(make_record())
    ledger.serve()
    ledger.hold(submission)
    ledger.run_until(submission, "decided", limit=3)
    assert ledger.get_verdict(submission).outcome == "UNDECIDED"
