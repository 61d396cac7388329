"""Verifiers that save themselves the work, and submitters that keep their records back."""

from __future__ import annotations

from random import Random

import pytest
from msgspec.structs import replace

from milepost_consensus.payloads import Attest, Witness
from milepost_consensus.submissions import Submission
from tests.simulation.behaviours import BEHAVIOURS, Case, Honest
from tests.simulation.monitor import Violation
from tests.simulation.options import Options, Run
from tests.simulation.play import find_violation
from tests.simulation.simulation import Simulation
from tests.simulation.truth import get_truth
from tests.support.ledger import make_hash

POISONED = Run("made", 5, poisoned=(1,), flagged=(1,))
OPTIONS = Options(
    "made", 1, 5, verifiers=("honest",) * 3 + ("lazy", "copycat"), calm_ms=0, heights=1,
    runs=(POISONED,),
)  # fmt: skip
ME = make_hash("me")


def play_to_end(options: Options) -> tuple[Simulation, str]:
    """The simulation and the outcome of its one verdict."""
    simulation = Simulation(options)
    simulation.run()
    (verdict,) = simulation.honest[0].state.verdicts.values()
    return simulation, verdict.outcome


@pytest.fixture(scope="module", name="submission")
def fixture_submission() -> Submission:
    simulation, _ = play_to_end(OPTIONS)
    (submission,) = simulation.honest[0].state.submissions.values()
    return submission


def make_case(submission: Submission, *heard: Attest | Witness, height: int = 1) -> Case:
    truth = get_truth(submission.submit.name)
    return Case(ME, submission, truth, height, lambda: heard, Random(1))


# Verifiers ---------------------------------------------------------------------------------------


def test_the_honest_point_at_what_does_not_follow(submission: Submission) -> None:
    duties = {duty.interval: duty for duty in submission.duties}
    case = make_case(submission)
    for interval, duty in duties.items():
        answer = Honest().answer(case, duty)
        assert isinstance(answer, Witness if interval == 1 else Attest)


def test_the_lazy_make_up_their_digest(submission: Submission) -> None:
    case, duty = make_case(submission), submission.duties[0]
    lazy, honest = (BEHAVIOURS[kind].answer(case, duty) for kind in ("lazy", "ordered"))
    assert isinstance(lazy, Attest)
    assert isinstance(honest, Attest)
    assert honest.work_digest == case.truth.compute_work(duty.work_step, ME)
    assert lazy.work_digest != honest.work_digest


def test_a_copycat_says_what_it_hears(submission: Submission) -> None:
    copycat, duty = BEHAVIOURS["copycat"], submission.duties[0]
    bare = replace(submission, duties=(), accusations=(), deadline=100)
    assert copycat.answer(make_case(bare), duty) is None
    said = Honest().answer(make_case(submission), duty)
    assert isinstance(said, Attest)
    copied = copycat.answer(make_case(bare, said), duty)
    assert copied == said
    witness = make_case(submission).truth.record.make_witness(
        submission.id, duty.interval * 2, recomputed=ME
    )
    assert copycat.answer(make_case(bare, witness), duty) == witness
    assert isinstance(copycat.answer(make_case(bare, height=98), duty), Attest)
    (accusation,) = submission.accusations
    assert copycat.recompute(make_case(submission), accusation) is not None


def test_one_honest_assignee_is_enough_against_the_lazy() -> None:
    for seed in range(4):
        simulation, outcome = play_to_end(replace(OPTIONS, seed=seed))
        (submission,) = simulation.honest[0].state.submissions.values()
        honest = {simulation.validators.signers[i].public for i in range(3)}
        assigned = {duty.verifier for duty in submission.duties if duty.interval == 1}
        assert assigned & honest
        assert outcome == "INVALID"


def test_s10_poison_that_passes_with_the_answers_of_the_lazy() -> None:
    simulation, _ = play_to_end(OPTIONS)
    (submission,) = simulation.honest[0].state.submissions.values()
    verdict = simulation.laws._state.verdicts[submission.id]
    truth = get_truth(submission.submit.name)
    agreed = tuple(
        replace(
            duty, answer="agrees", work_digest=truth.compute_work(duty.work_step, duty.verifier)
        )
        for duty in submission.duties
    )
    passed = replace(submission, duties=agreed, accusations=())
    with pytest.raises(Violation, match="S10"):
        simulation.laws._check_verdict(passed, replace(verdict, outcome="VALID", overruled=()))


def test_a_majority_of_one_lets_false_accusers_overrule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Submission, "panel_majority", property(lambda submission: 1))
    liars = replace(OPTIONS, verifiers=("honest",) * 3 + ("accuser", "lazy"))
    found = (find_violation(replace(liars, seed=seed)) for seed in range(10))
    assert any(" S9: " in (each or "missed") for each in found)


# Submitters --------------------------------------------------------------------------------------


def test_a_record_given_to_one_honest_node_reaches_all_and_stays() -> None:
    given = replace(POISONED, served=(0,), until_held=True)
    simulation, outcome = play_to_end(replace(OPTIONS, runs=(given,)))
    assert outcome == "INVALID"
    assert all(node.records for node in simulation.honest)


def test_a_record_that_only_a_liar_has_is_not_held() -> None:
    given = replace(POISONED, served=(4,))
    kept = replace(OPTIONS, verifiers=("honest",) * 5, liars=(4,), runs=(given,))
    simulation, outcome = play_to_end(kept)
    assert outcome == "UNDECIDED"
    assert not any(node.records for node in simulation.honest)


def test_s11_a_record_that_counts_as_held_and_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one holder were enough, the liar's word would be."""
    monkeypatch.setattr("milepost_consensus.draft.compute_quorum", lambda count: 1)
    given = replace(POISONED, served=(4,))
    kept = replace(OPTIONS, verifiers=("honest",) * 5, liars=(4,), runs=(given,))
    assert "S11: a record counts as held, and 0 honest" in (find_violation(kept) or "missed")


def test_l5_nobody_withholds_a_verdict_by_withholding_the_record() -> None:
    for seed in range(3):
        given = replace(POISONED, served=(seed,), until_held=True)
        silent = ("honest",) * 3 + ("withholds", "withholds")
        _, outcome = play_to_end(replace(OPTIONS, seed=seed, verifiers=silent, runs=(given,)))
        assert outcome in ("INVALID", "UNDECIDED")
