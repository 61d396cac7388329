"""What verifiers serve: who is elected for which arithmetic, and who settles what about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
from msgspec.structs import replace

from milepost_consensus.errors import InvalidInput
from milepost_consensus.members import Member
from milepost_consensus.params import MAX_DEVICE_CLASSES, Params
from milepost_consensus.payloads import PanelVote, Serve
from milepost_consensus.rules import check_tx
from milepost_consensus.transactions import Payload
from milepost_consensus.verdicts import Verdict
from milepost_consensus.worklist import get_accusations
from tests.support.ledger import Ledger, Record, make_genesis, make_hash, make_record

SHORT = Params(hold_window=8, attest_window=6, witness_window=2, panel_window=4)
TRUTH = make_hash("truth")
TEST = "test"
"""The device class of records of profile `class`."""


def start(count: int = 7, *, params: Params = SHORT, operators: list[str] | None = None) -> Ledger:
    return Ledger(make_genesis(count, params=params, operators=operators))


def make_class_record(name: str = "run") -> Record:
    return make_record(name, profile="class")


def refuse(ledger: Ledger, payload: Payload, sender: bytes | str) -> str:
    with pytest.raises(InvalidInput) as caught:
        check_tx(ledger.state, ledger.sign(payload, sender))
    return caught.value.slug


def get_elected(ledger: Ledger, submission: bytes) -> set[bytes]:
    found = ledger.get(submission)
    return {*found.quorum, *found.standbys}


def decide(
    ledger: Ledger, submission: bytes, *, silent: Iterable[bytes] = (), heights: int = 200
) -> Verdict:
    for _ in range(heights):
        if ledger.get(submission).phase == "decided":
            return ledger.get_verdict(submission)
        ledger.attest_open(submission, silent=silent)
    raise AssertionError("no verdict")


# Statements --------------------------------------------------------------------------------------


def test_a_statement_replaces_the_one_before_and_is_counted() -> None:
    ledger = start()
    me = ledger.verifiers[0]
    assert (ledger.state.standings[me].device_classes, ledger.state.standings[me].statements) == (
        (),
        0,
    )
    ledger.serve("exact/1", "rounded/1", only=[me])
    ledger.serve("rounded/1", only=[me])
    standing = ledger.state.standings[me]
    assert (standing.device_classes, standing.statements) == (("rounded/1",), 2)


@pytest.mark.parametrize("number", [0, 2, 3])
def test_an_old_statement_cannot_be_said_again_nor_one_skipped(number: int) -> None:
    ledger = start()
    me = ledger.verifiers[0]
    ledger.serve("exact/1", only=[me])
    assert refuse(ledger, Serve(number, ("rounded/1",)), me) == "wrong-attempt"
    check_tx(ledger.state, ledger.sign(Serve(1, ("rounded/1",)), me))


@pytest.mark.parametrize(
    "names",
    [
        ("rounded/1", "exact/1"),
        ("exact/1", "exact/1"),
        ("",),
        ("tab\t",),
        ("x" * 129,),
        tuple(f"class-{i:02}" for i in range(MAX_DEVICE_CLASSES + 1)),
    ],
)
def test_statements_are_short_ordered_lists_of_printable_texts(names: tuple[str, ...]) -> None:
    ledger = start()
    refuse(ledger, Serve(0, names), ledger.verifiers[0])


def test_as_many_classes_as_allowed_and_any_printable_text_are_a_statement() -> None:
    ledger = start()
    names = tuple(f"tensorflow-2.{i:02}/x86_64" for i in range(MAX_DEVICE_CLASSES))
    check_tx(ledger.state, ledger.sign(Serve(0, names), ledger.verifiers[0]))
    check_tx(ledger.state, ledger.sign(Serve(0, ()), ledger.verifiers[0]))


def test_only_verifiers_say_what_they_retrain() -> None:
    assert refuse(start(), Serve(0, ("exact/1",)), "submitter") == "not-a-member"


# Elections ---------------------------------------------------------------------------------------


def test_who_said_nothing_serves_what_every_machine_can_and_no_class_of_machines() -> None:
    ledger = start()
    assert refuse(ledger, make_class_record().submit, "submitter") == "not-served"
    for profile in ("exact", "rounded"):
        submission = ledger.start(make_record(profile, profile=profile))
        assert get_elected(ledger, submission) == set(ledger.verifiers)


def test_only_who_serves_a_device_class_is_elected_for_it() -> None:
    ledger = start()
    able = ledger.verifiers[:3]
    ledger.serve("exact/1", TEST, only=able)
    ledger.serve("exact/1", "other", only=ledger.verifiers[3:5])
    submission = ledger.start(make_class_record())
    found = ledger.get(submission)
    assert get_elected(ledger, submission) == set(able)
    assert (found.panel, found.verifiers) == (able, 7)
    verdict = decide(ledger, submission)
    assert (verdict.outcome, verdict.eligible, verdict.verifiers) == ("VALID", 3, 7)
    exact = ledger.start(make_record("exact", profile="exact"))
    assert get_elected(ledger, exact) == set(ledger.verifiers)
    assert decide(ledger, exact).eligible == 7


def test_who_leaves_a_portable_class_out_is_not_elected_for_it() -> None:
    ledger = start()
    broken = ledger.verifiers[2]
    ledger.serve("rounded/1", only=[broken])
    exact = ledger.start(make_record(profile="exact"))
    assert get_elected(ledger, exact) == {*ledger.verifiers} - {broken}
    rounded = ledger.start(make_record("rounded", profile="rounded"))
    assert get_elected(ledger, rounded) == set(ledger.verifiers)


def test_what_nobody_of_another_operator_serves_is_refused_at_once() -> None:
    ledger = start(3, operators=["of-submitter", "b", "c"])
    record = make_class_record()
    own = next(m.id for m in ledger.state.genesis.members if m.operator == "of-submitter")
    ledger.serve(TEST, only=[own])
    assert refuse(ledger, record.submit, "submitter") == "not-served"
    other = next(v for v in ledger.verifiers if v != own)
    ledger.serve(TEST, only=[other])
    submission = ledger.start(record)
    assert get_elected(ledger, submission) == {other}
    assert set(ledger.get(submission).panel) == {own, other}


def test_a_statement_counts_from_the_next_block_on() -> None:
    ledger = start()
    me = ledger.verifiers[0]
    record = make_class_record()
    ledger.apply([ledger.sign(Serve(0, (TEST,)), me)])
    check_tx(ledger.state, ledger.sign(record.submit, "submitter"))
    with pytest.raises(AssertionError):
        ledger.apply([ledger.sign(Serve(1, ()), me), ledger.sign(Serve(0, (TEST,)), me)])
    ledger.apply([ledger.sign(record.submit, "submitter"), ledger.sign(Serve(1, ()), me)])
    assert refuse(ledger, make_class_record("b").submit, "submitter") == "not-served"


def test_a_class_that_all_withdrew_before_the_election_leaves_it_undecided() -> None:
    ledger = start()
    ledger.serve(TEST)
    submission = ledger.submit(make_class_record())
    ledger.serve()
    ledger.hold(submission)
    ledger.run_until(submission, "decided")
    verdict = ledger.get_verdict(submission)
    assert (verdict.outcome, verdict.eligible, verdict.verifiers) == ("UNDECIDED", 0, 7)
    assert verdict.reason.startswith("no verifier can be elected: all who retrain this")


def test_missed_duties_do_not_pass_to_who_withdrew_in_the_middle() -> None:
    ledger = start(6, params=replace(SHORT, quorum_size=2))
    ledger.serve(TEST)
    submission = ledger.start(make_class_record())
    found = ledger.get(submission)
    ledger.serve(only=[found.standbys[0], found.quorum[0]])
    while not (passed := ledger.get(submission).extensions):
        ledger.attest_open(submission, silent=found.quorum)
    assert passed == 1
    late = ledger.get(submission).duties[len(found.duties) :]
    assert late
    assert not {duty.verifier for duty in late} & {found.standbys[0], found.quorum[0]}
    verdict = decide(ledger, submission)
    assert (verdict.outcome, verdict.eligible) == ("VALID", 6)


# The panel ---------------------------------------------------------------------------------------


def accuse(ledger: Ledger, record: Record, able: Sequence[bytes]) -> bytes:
    """A submission that the first of those who serve accuses."""
    ledger.serve(TEST, only=able)
    submission = ledger.start(record)
    witness = record.make_witness(submission, 5, recomputed=TRUTH)
    ledger.apply([ledger.sign(witness, able[0])])
    return submission


def test_who_does_not_serve_the_class_neither_accuses_nor_votes() -> None:
    ledger, record = start(), make_class_record()
    able, others = ledger.verifiers[:3], ledger.verifiers[3:]
    submission = accuse(ledger, record, able)
    witness = record.make_witness(submission, 1, recomputed=TRUTH)
    vote = PanelVote(submission, 1, 5, TRUTH)
    for other in others:
        assert refuse(ledger, witness, other) == "not-on-panel"
        assert refuse(ledger, vote, other) == "not-on-panel"
        assert get_accusations(ledger.state, other) == ()
    assert [a.submission.id for a in get_accusations(ledger.state, able[1])] == [submission]
    check_tx(ledger.state, ledger.sign(vote, able[1]))


def test_half_of_those_who_serve_the_class_is_a_majority_of_nobody_else() -> None:
    """Two of three settle it, where four of seven would be needed of all."""
    ledger, record = start(), make_class_record()
    able = ledger.verifiers[:3]
    submission = accuse(ledger, record, able)
    assert [a.outcome for a in ledger.get(submission).accusations] == [""]
    ledger.apply([ledger.sign(PanelVote(submission, 1, 5, TRUTH), able[1])])
    assert [a.outcome for a in ledger.get(submission).accusations] == ["upheld"]
    verdict = decide(ledger, submission)
    assert (verdict.outcome, verdict.eligible) == ("INVALID", 3)


def test_a_panel_of_which_all_have_answered_differently_is_unsettled() -> None:
    ledger, record = start(), make_class_record()
    able = ledger.verifiers[:3]
    submission = accuse(ledger, record, able)
    votes = [PanelVote(submission, 1, 5, make_hash(v)) for v in able[1:]]
    ledger.apply([ledger.sign(v, sender) for v, sender in zip(votes, able[1:], strict=True)])
    assert [a.outcome for a in ledger.get(submission).accusations] == ["unsettled"]
    verdict = decide(ledger, submission)
    assert verdict.outcome == "UNDECIDED"
    assert "no result reached 2 of 3" in verdict.reason


def test_the_panel_is_fixed_by_the_election() -> None:
    """Who states a class later does not get on it, and who withdraws does not make it smaller."""
    ledger, record = start(), make_class_record()
    able, others = ledger.verifiers[:3], ledger.verifiers[3:]
    submission = accuse(ledger, record, able)
    ledger.serve(TEST, only=others)
    ledger.serve(only=able[1:])
    ledger.run(1)
    found = ledger.get(submission)
    assert (found.panel, found.panel_majority) == (able, 2)
    assert [a.outcome for a in found.accusations] == [""]
    assert refuse(ledger, PanelVote(submission, 1, 5, TRUTH), others[0]) == "not-on-panel"
    # Its own machine may still know the answer.
    check_tx(ledger.state, ledger.sign(PanelVote(submission, 1, 5, TRUTH), able[2]))


def test_a_submitter_that_is_on_the_panel_has_answered_by_its_leaf_and_only_then() -> None:
    for served, answers in (((TEST,), 2), (("exact/1",), 1)):
        genesis = make_genesis(4, params=SHORT)
        members = tuple(_let_submit(m) if m.name == "node-0" else m for m in genesis.members)
        ledger, record = Ledger(replace(genesis, members=members)), make_class_record()
        own = next(m.id for m in members if m.name == "node-0")
        ledger.serve(*served, only=[own])
        others = [v for v in ledger.verifiers if v != own]
        ledger.serve(TEST, only=others)
        submission = ledger.start(record, "node-0")
        witness = record.make_witness(submission, 5, recomputed=TRUTH)
        ledger.apply([ledger.sign(witness, others[0])])
        assert len(ledger.get(submission).accusations[0].answers) == answers
        assert (own in ledger.get(submission).panel) == (served == (TEST,))


def _let_submit(member: Member) -> Member:
    return replace(member, roles=7)
