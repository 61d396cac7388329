"""Duties: how many answers an interval needs, and who takes over."""

from __future__ import annotations

import dataclasses

import pytest
from msgspec.structs import replace

from milepost_consensus.duties import (
    Terms,
    find_replacements,
    get_lacking,
    get_required,
    mark_missed,
)
from milepost_consensus.election import compute_work_step
from milepost_consensus.members import get_verifiers
from milepost_consensus.params import Params
from milepost_consensus.submissions import Accusation, Duty, PanelAnswer, Submission
from tests.support.ledger import make_genesis, make_hash, make_record

VERIFIERS = [make_hash("verifier", i) for i in range(6)]
A, B, C, X, Y, Z = VERIFIERS


def make_terms(**params: object) -> Terms:
    genesis = make_genesis(6, params=Params(**params))  # type: ignore[arg-type]
    members = {member.id: member for member in genesis.members}
    return Terms(genesis.params, members, get_verifiers(genesis.members), 5)


def make_submission(*duties: Duty, flagged: tuple[int, ...] = (), step_us: int = 0) -> Submission:
    """Quorum A B C, standbys X Y Z."""
    return Submission(
        id=make_hash("id"),
        sender=make_hash("sender"),
        submit=make_record(intervals=6, step_us=step_us).submit,
        anchored_height=1,
        phase="retracing",
        seed=make_hash("seed"),
        flagged=flagged,
        quorum=(A, B, C),
        standbys=(X, Y, Z),
        duties=duties,
    )


def make_duty(interval: int, verifier: bytes, answer: str = "") -> Duty:
    return Duty(interval, verifier, 0, interval * 4, answer)


def get_names(duties: tuple[Duty, ...]) -> list[tuple[int, str]]:
    return [(duty.interval, "ABCXYZ"[VERIFIERS.index(duty.verifier)]) for duty in duties]


@pytest.mark.parametrize(
    ("size", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 4), (6, 4), (7, 5), (9, 6)]
)
def test_two_thirds_of_a_sub_quorum_must_agree(size: int, needed: int) -> None:
    submission = replace(
        make_submission(flagged=(2,)), quorum=tuple(make_hash(i) for i in range(12))
    )
    terms = make_terms(sub_quorum_size=size)
    assert get_required(submission, 2, terms) == needed
    assert get_required(submission, 3, terms) == 1


def test_a_sub_quorum_is_no_larger_than_the_quorum() -> None:
    assert get_required(make_submission(flagged=(2,)), 2, make_terms(sub_quorum_size=9)) == 2


def test_lacking_counts_agreement_only() -> None:
    submission = make_submission(
        make_duty(1, A, "agrees"),
        make_duty(2, A, "agrees"),
        make_duty(2, B, "differs"),
        make_duty(2, C, "missed"),
        make_duty(4, B, "missed"),
        flagged=(2,),
    )
    assert get_lacking(submission, make_terms()) == {2: 1, 4: 1}


def test_open_duties_are_missed_and_counted() -> None:
    submission = make_submission(
        make_duty(1, A, "agrees"), make_duty(3, B), make_duty(3, C), make_duty(5, A)
    )
    marked, missed = mark_missed(submission)
    assert [duty.answer for duty in marked.duties] == ["agrees", "missed", "missed", "missed"]
    assert missed == {3: 2, 5: 1}
    assert mark_missed(marked) == (marked, {})


def test_standbys_come_first_and_share_the_load_in_their_order() -> None:
    submission = make_submission(make_duty(1, A), make_duty(2, A))
    added = find_replacements(submission, {1: 1, 2: 1, 3: 1, 4: 1}, make_terms())
    assert get_names(added) == [(1, "X"), (2, "Y"), (3, "Z"), (4, "X")]
    assert all(not duty.answer for duty in added)


def test_standbys_that_missed_something_come_after_those_that_did_not() -> None:
    submission = make_submission(make_duty(1, X, "missed"), make_duty(2, Y, "agrees"))
    assert get_names(find_replacements(submission, {3: 3}, make_terms())) == [
        (3, "Z"),
        (3, "Y"),
        (3, "X"),
    ]


def test_the_quorum_follows_the_standbys_and_nobody_gets_an_interval_twice() -> None:
    submission = make_submission(make_duty(1, A, "missed"), make_duty(2, B, "agrees"))
    added = find_replacements(submission, {1: 9}, make_terms())
    assert get_names(added) == [(1, "X"), (1, "Y"), (1, "Z"), (1, "C"), (1, "B")]


def test_whom_a_panel_proved_wrong_is_passed_over() -> None:
    """The accuser and who supports it; not who refuted it, nor anybody where it was upheld."""
    leaf, other = make_hash("leaf"), make_hash("other")
    answers = (PanelAnswer(X, other), PanelAnswer(Y, leaf), PanelAnswer(B, other))
    submission = replace(
        make_submission(make_duty(1, A, "differs")),
        accusations=(
            Accusation(1, 4, leaf, bytes(32), (X,), answers, "refuted"),
            Accusation(2, 8, leaf, bytes(32), (Z,), (PanelAnswer(Z, other),), "upheld"),
        ),
    )
    assert get_names(find_replacements(submission, {1: 4}, make_terms())) == [
        (1, "Y"),
        (1, "Z"),
        (1, "C"),
    ]


def test_who_was_lazy_elsewhere_is_passed_over() -> None:
    submission = make_submission(make_duty(4, X, "lazy"), make_duty(4, Y, "agrees"))
    assert get_names(find_replacements(submission, {1: 2}, make_terms())) == [(1, "Z"), (1, "Y")]


def test_replacements_get_flags_like_everybody_and_work_steps_of_their_extension() -> None:
    submission = replace(make_submission(flagged=(2,)), extensions=1)
    for duty in find_replacements(submission, {1: 1, 2: 2}, make_terms()):
        assert duty.flagged == int(duty.interval == 2)
        assert duty.work_step == compute_work_step(
            submission.seed, submission.submit, duty.interval, duty.verifier, extension=2
        )


def test_who_does_not_serve_the_device_class_any_more_is_passed_over() -> None:
    served = {X: frozenset({"exact/1"}), Y: frozenset({"exact/1", "rounded/1"})}
    terms = dataclasses.replace(make_terms(), served=served)
    added = find_replacements(make_submission(make_duty(1, A, "missed")), {1: 9}, terms)
    assert get_names(added) == [(1, "Y"), (1, "Z"), (1, "B"), (1, "C")]


@pytest.mark.parametrize(("count", "majority"), [(1, 1), (2, 2), (3, 2), (6, 4), (7, 4)])
def test_a_panel_majority_is_more_than_half_of_the_panel(count: int, majority: int) -> None:
    panel = tuple(make_hash(i) for i in range(count))
    assert replace(make_submission(), panel=panel).panel_majority == majority
