"""Whatever members send in whatever order: the ledger stays one, lawful, and comes to an end.

Random transactions, sound and unsound, are put into blocks on one copy of the chain and validated
on a second one that is rebuilt from its entries before every block, as a node is after a restart.
Laws S3, S6, S8, S9, S10, S11 and L5 of the protocol are asserted after each block.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import suppress
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from milepost_consensus.encoding import decode, encode
from milepost_consensus.errors import InvalidInput
from milepost_consensus.members import compute_quorum
from milepost_consensus.params import Params
from milepost_consensus.payloads import (
    Attest,
    Hold,
    PanelVote,
    Register,
    Serve,
    compute_submission_id,
)
from milepost_consensus.rules import build_block, check_tx, get_proposer, validate_block
from milepost_consensus.state import LedgerState
from milepost_consensus.step_digests import compute_work_digest
from milepost_consensus.submissions import (
    AGREES,
    ANCHORED,
    DECIDED,
    DISMISSED,
    LAZY,
    PANEL,
    RETRACING,
    SEEDING,
    WITNESSING,
    Duty,
    Submission,
)
from milepost_consensus.transactions import Payload, Tx
from milepost_consensus.verdicts import Verdict
from milepost_consensus.worklist import get_accusations, get_comparable, get_duties, get_unheld
from tests.support.ledger import (
    Ledger,
    Record,
    make_genesis,
    make_hash,
    make_record,
    make_signer,
    rebuild,
)

T = TypeVar("T")
WINDOWS = {"hold_window": 4, "attest_window": 3, "witness_window": 1, "panel_window": 3}
PARAMS = [
    Params(**WINDOWS, quorum_size=3, sub_quorum_size=3),  # type: ignore[arg-type]
    Params(**WINDOWS, max_extensions=0),  # type: ignore[arg-type]
    Params(**WINDOWS, audit_permille=400, jail_heights=3),  # type: ignore[arg-type]
    Params(**WINDOWS, rule="majority", audit_permille=500),  # type: ignore[arg-type]
]
SCORES = [10**9 // (k + 1) * (6 if k == 4 else 1) for k in range(8)]
RECORDS = [
    make_record(name, intervals=8, steps_per_interval=2, change_scores=SCORES, profile=profile)
    for name, profile in (("run-0", "class"), ("run-1", "exact"))
]
# Longest way: held, seeded, elected, retraced, extended twice with witnesses and panels in between.
LONGEST = 2 * 4 + 1 + 3 * (3 + 1 + 3)

SERVED = ((), ("exact/1",), ("exact/1", "test"), ("test", "exact/1"))
"""Statements of what a verifier serves; the last one is out of order."""
SUBMITTER = make_signer("submitter").public
NUMBERS = st.integers(0, 10**6)
ACTIONS = st.sampled_from(
    [
        *("submit", "hold", "work", "work", "work", "witness", "vote", "attest", "stray", "pass"),
        *("register", "refute", "serve"),
    ]
)
STEPS = st.lists(st.lists(st.tuples(ACTIONS, NUMBERS, NUMBERS), max_size=12), max_size=14)


def pick(items: Sequence[T], number: int) -> T:
    return items[number % len(items)]


class World:
    """The chain under test, and what members could say next."""

    def __init__(self, params: Params) -> None:
        self.ledger = Ledger(make_genesis(5, params=params))
        self.verifiers = self.ledger.verifiers
        self.ledger.serve("exact/1", "test")

    def make_submit(self, record: Record, number: int) -> Tx:
        """A submission, every third of them of a registered run if there is a registration."""
        ledger, keys = self.ledger, sorted(self.ledger.state.registrations)
        if keys and number % 3 == 0:
            record = record.register(pick(keys, number))
        key = compute_submission_id(SUBMITTER, record.submit, ledger.state.network)
        ledger.records[key] = record
        return ledger.sign(record.submit, "submitter")

    def make_register(self, number: int) -> Tx:
        """The next registration, or one that counts wrong."""
        made = self.ledger.state.standings[SUBMITTER].registrations
        submit = RECORDS[0].submit
        register = Register(
            make_hash(number % 2), submit.dataset_root, submit.records, b"", made + number % 2
        )
        return self.ledger.sign(register, "submitter")

    def make_refutations(self, member: bytes) -> list[Tx]:
        """What a member that retraced can show of others."""
        return [
            self.ledger.sign(
                self.ledger.records[submission.id].make_refutation(submission.id, duty), member
            )
            for submission, _, duty in get_comparable(self.ledger.state, member)
            if is_made_up(duty, self.ledger.records[submission.id])
        ]

    def make_tx(self, action: str, a: int, b: int) -> Tx | None:
        """A transaction of this kind; unsound ones are wanted too."""
        ledger, state = self.ledger, self.ledger.state
        record, member = pick(RECORDS, a), pick(self.verifiers, b)
        if action == "submit":
            return self.make_submit(record, b)
        if action == "register":
            return self.make_register(a)
        if action == "serve":
            made = state.standings[member].statements
            return ledger.sign(Serve(made - made % 2 * (a % 2), pick(SERVED, b)), member)
        if not state.submissions:
            return None
        submission = pick(sorted(state.submissions.values(), key=lambda s: s.id), a)
        own = ledger.records[submission.id]
        if action == "hold":
            return ledger.sign(Hold(submission.id), member)
        if action == "work":
            return self.make_honest_tx(member, a)
        payload = self.make_payload(action, submission, own, a, b)
        tx = ledger.sign(payload, member)
        return replace(tx, signature=tx.signature[::-1]) if action == "stray" and a % 5 == 0 else tx

    def make_payload(
        self, action: str, submission: Submission, record: Record, a: int, b: int
    ) -> Payload:
        step = (a + b) % (record.submit.steps + 1)
        if action == "witness" and step < record.submit.steps:
            return record.make_witness(submission.id, step, recomputed=make_hash(a % 3))
        if action == "vote" and submission.accusations:
            accusation = pick(submission.accusations, a)
            answer = pick([accusation.leaf, make_hash(0), make_hash(1)], b)
            return PanelVote(submission.id, accusation.interval, accusation.step, answer)
        if action == "refute" and submission.duties:
            return record.make_refutation(submission.id, pick(submission.duties, a))
        if action == "attest" and submission.duties:
            duty = pick(submission.duties, a)
            return Attest(
                submission.id, duty.interval, b % 2, duty.work_step, make_hash(b), b % 1_000
            )
        return PanelVote(make_hash(a) if a % 2 else submission.id, a, b, make_hash(b))

    def make_honest_tx(self, member: bytes, number: int) -> Tx | None:
        """What the worklist asks of a member, answered as an honest one would."""
        ledger, state = self.ledger, self.ledger.state
        for unheld in get_unheld(state, member):
            return ledger.sign(Hold(unheld.id), member)
        for asked in get_accusations(state, member):
            accusation = asked.accusation
            return ledger.sign(
                PanelVote(
                    asked.submission.id, accusation.interval, accusation.step, accusation.leaf
                ),
                member,
            )
        duties = get_duties(state, member)
        if not duties:
            return None
        chosen = pick(duties, number)
        return ledger.attest(chosen.submission.id, chosen.duty)

    def append(self, txs: Sequence[Tx]) -> None:
        """One block, built here and validated by a node that has just restarted."""
        state = self.ledger.state
        for tx in txs:
            # Anything but InvalidInput fails the test.
            with suppress(InvalidInput):
                check_tx(state, tx)
        proposer = get_proposer(state, state.height + 1, 0).id
        reveal = self.ledger.get_reveal(proposer)
        block, built = build_block(
            state, round=0, proposer=proposer, txs=txs, time_ms=0, reveal=reveal
        )
        other = validate_block(rebuild(state), decode(type(block), encode(block)), now_ms=None)
        assert (other.root, other.last_id) == (built.root, built.last_id)
        assert len({encode(tx) for tx in block.txs}) == len(block.txs)
        check_laws(state, other)
        self.check_lazy(other)
        self.ledger.state = other
        self.ledger.blocks.append(block)

    def check_lazy(self, state: LedgerState) -> None:
        """Nobody is called lazy that gave no false work digest."""
        for submission in state.submissions.values():
            guilty = {
                duty.verifier
                for duty in submission.duties
                if duty.work_digest and is_made_up(duty, self.ledger.records[submission.id])
            }
            lazy = {duty.verifier for duty in submission.duties if duty.answer == LAZY}
            assert lazy <= guilty


def is_made_up(duty: Duty, record: Record) -> bool:
    return duty.work_digest != compute_work_digest(duty.verifier, record.get_gradient(duty))


def check_laws(before: LedgerState, after: LedgerState) -> None:
    assert before.submissions.keys() <= after.submissions.keys()
    assert before.verdicts.items() <= after.verdicts.items()
    check_standings(before, after)
    for submission in after.submissions.values():
        old = before.submissions.get(submission.id)
        if old is not None:
            check_progress(old, submission)
        decided = submission.phase == DECIDED
        assert decided == (submission.id in after.verdicts)
        if decided:
            check_verdict(submission, after.verdicts[submission.id], after)
        else:
            # L5: nobody can keep a submission open.
            assert after.height <= submission.anchored_height + LONGEST
            assert after.height <= submission.deadline


def check_standings(before: LedgerState, after: LedgerState) -> None:
    for key, old in before.standings.items():
        new = after.standings[key]
        assert old.strikes <= new.strikes
        assert old.lies <= new.lies
        assert old.registrations <= new.registrations
        assert old.statements <= new.statements
        assert new.lies <= new.strikes
        assert new.missed_duties < after.params.max_missed_duties
    made = after.standings[SUBMITTER].registrations
    assert made == len(after.registrations)
    attempts = sorted(each.register.attempt for each in after.registrations.values())
    assert attempts == list(range(made))
    for key, registration in before.registrations.items():
        assert registration.seed in (b"", after.registrations[key].seed)


def check_progress(old: Submission, new: Submission) -> None:
    order = [ANCHORED, SEEDING, RETRACING, WITNESSING, PANEL, DECIDED]
    assert order.index(new.phase) >= order.index(old.phase) or (
        new.phase == RETRACING and new.extensions == old.extensions + 1
    )
    assert new.extensions <= 2
    assert new.holders[: len(old.holders)] == old.holders
    # S8: a seed is for ever, and so is the assignment that it fixes.
    if old.seed:
        assert new.seed == old.seed
    if old.quorum:
        assert (new.quorum, new.flagged) == (old.quorum, old.flagged)
        assert new.extensions > old.extensions or len(new.duties) == len(old.duties)
    for was, now in zip(old.accusations, new.accusations, strict=False):
        # Only what was dismissed can open again, and only for another accuser.
        reopened = was.outcome == DISMISSED and len(now.accusers) > len(was.accusers)
        assert reopened or was.outcome in ("", now.outcome)
        assert now.answers[: len(was.answers)] == was.answers
    for duty, later in zip(old.duties, new.duties, strict=False):
        if later.answer == LAZY and duty.answer != LAZY:
            # Only when no duty was open could a gradient be revealed.
            assert duty.answer == AGREES
            assert old.phase in (WITNESSING, PANEL)
        assert duty.answer != LAZY or later == duty
    pairs = [(duty.interval, duty.verifier) for duty in new.duties]
    assert len(set(pairs)) == len(pairs)


def check_verdict(submission: Submission, verdict: Verdict, state: LedgerState) -> None:
    outcomes = [accusation.outcome for accusation in submission.accusations]
    assert "" not in outcomes
    assert "" not in [duty.answer for duty in submission.duties]
    assert len(verdict.reason) <= 128
    agreed = {row.interval: row.agreed for row in verdict.retraced}
    if verdict.outcome == "VALID":
        # S9, S10: covered as promised, and nothing upheld or left open.
        assert set(outcomes) <= {"refuted", DISMISSED}
        assert len(submission.holders) >= compute_quorum(len(state.validators))
        if verdict.rule == "witness":
            assert {0, 7} | set(submission.flagged) <= set(agreed)
            assert all(count >= 1 for count in agreed.values())
            size = min(state.params.sub_quorum_size, len(submission.quorum))
            for interval in submission.flagged:
                assert agreed[interval] >= size - size // 3
        else:
            assert all(row.agreed > row.differed for row in verdict.retraced)
    if verdict.outcome == "INVALID":
        if verdict.rule == "witness":
            named = {(r.interval, r.step) for r in verdict.refuted}
            upheld = {(a.interval, a.step) for a in submission.accusations if a.outcome == "upheld"}
            assert named == upheld
        assert verdict.refuted
        assert f"interval {min(r.interval for r in verdict.refuted)} " in verdict.reason
    whole = verdict.assurance in ("FULL", "FULL+REGISTERED")
    assert whole <= (len(agreed) == verdict.intervals)
    assert (verdict.assurance == "FULL+REGISTERED") == (whole and bool(verdict.registration))
    assert (verdict.registrations > 0) == bool(verdict.registration)
    assert (verdict.assurance == "ANCHORED") == (verdict.outcome == "UNDECIDED")


@pytest.mark.slow
@pytest.mark.parametrize("params", PARAMS, ids=["small quorum", "no extension", "sampled", "paper"])
@settings(max_examples=40, deadline=None)
@given(steps=STEPS)
def test_any_transactions_keep_the_ledger_one_and_lawful(
    params: Params, steps: list[list[tuple[str, int, int]]]
) -> None:
    world = World(params)
    for actions in steps:
        made = [world.make_tx(*action) for action in actions]
        world.append([tx for tx in made if tx is not None])
    for _ in range(LONGEST + 1):
        world.append(())
    # S11: every submission on the chain has its verdict.
    assert world.ledger.state.open_submissions == ()


@pytest.mark.slow
def test_long_random_walks_are_lawful_and_see_every_outcome() -> None:
    seen: set[tuple[str, str]] = set()
    for seed in range(48):
        draw, params = random.Random(seed), PARAMS[seed % len(PARAMS)]
        words = ["submit", "hold", "attest", "stray", "register", "refute"]
        words += ["work"] * draw.choice([0, 6, 12, 30])
        words += ["witness"] * draw.choice([0, 1, 4])
        words += ["vote"] * draw.choice([0, 1, 4])
        world = World(params)
        for _ in range(LONGEST):
            actions = draw.choices(words, k=draw.randrange(40))
            made = [world.make_tx(w, draw.randrange(1000), draw.randrange(1000)) for w in actions]
            world.append([tx for tx in made if tx is not None])
        for _ in range(LONGEST + 1):
            world.append(())
        assert world.ledger.state.open_submissions == ()
        seen |= {(params.rule, v.outcome) for v in world.ledger.state.verdicts.values()}
    outcomes = ("VALID", "INVALID", "UNDECIDED")
    assert seen == {(rule, outcome) for rule in ("witness", "majority") for outcome in outcomes}


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), liars=st.integers(0, 2), steps=st.integers(1, 3))
def test_two_liars_of_five_never_sink_a_clean_model_nor_get_struck_together_with_honest_members(
    seed: int, liars: int, steps: int
) -> None:
    """The worst two liars can do to a clean model is to leave it undecided, never INVALID."""
    world = World(PARAMS[0])
    crooks = world.verifiers[:liars]
    submission = world.ledger.start(RECORDS[seed % 2])
    for turn in range(LONGEST):
        txs: list[Tx] = []
        for member in world.verifiers:
            if member in crooks:
                action = pick(["witness", "vote", "attest", "pass"], seed + turn)
                tx = world.make_tx(action, seed + turn * steps, world.verifiers.index(member))
            else:
                txs += world.make_refutations(member)
                tx = world.make_honest_tx(member, seed)
            txs += [tx] if tx is not None else []
        world.append(txs)
        if submission in world.ledger.state.verdicts:
            break
    verdict = world.ledger.get_verdict(submission)
    assert verdict.outcome != "INVALID"
    assert set(verdict.overruled) <= set(crooks)
    standings = world.ledger.state.standings
    assert not any(standings[member].strikes for member in world.verifiers[liars:])
    duties = world.ledger.get(submission).duties
    record = world.ledger.records[submission]
    honest = {d.interval for d in duties if d.answer == AGREES and not is_made_up(d, record)}
    # No answer without work counts beside an honest one.
    assert not any(
        d.interval in honest and is_made_up(d, record) for d in duties if d.answer == AGREES
    )
    if not liars:
        assert verdict.outcome == "VALID"
