"""Blocks and transactions: what is refused, under which name, and that refusing changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from msgspec.structs import replace

from milepost_consensus import rules
from milepost_consensus.blocks import Block, compute_tx_root
from milepost_consensus.encoding import encode
from milepost_consensus.envelopes import MAX_VALID_AHEAD
from milepost_consensus.errors import InvalidBlock, InvalidInput, InvalidSignature
from milepost_consensus.params import Params
from milepost_consensus.payloads import Attest, Hold, PanelVote, Witness
from milepost_consensus.rules import (
    build_block,
    check_tx,
    get_block_delay_ms,
    get_proposer,
    validate_block,
)
from milepost_consensus.transactions import Payload, Tx, make_tx
from tests.support.ledger import (
    TIME_MS,
    Ledger,
    make_genesis,
    make_hash,
    make_record,
    make_signer,
)

RECORD = make_record()


def refuse(ledger: Ledger, tx: Tx, slug: str, match: str = "") -> None:
    """The transaction is refused under this slug, by itself and in a block, and changes nothing."""
    before = ledger.state
    with pytest.raises(InvalidInput, match=match or None) as caught:
        check_tx(before, tx)
    assert caught.value.slug == slug
    block, _ = make_block(ledger, [tx])
    assert block.txs == ()
    forced = replace(
        block,
        txs=(tx,),
        header=replace(block.header, tx_root=compute_tx_root((tx,), before.network)),
    )
    with pytest.raises(InvalidBlock, match="transaction 0"):
        validate_block(before, forced, now_ms=None)
    assert ledger.state is before


def make_block(
    ledger: Ledger, txs: Sequence[Tx] = (), *, round_: int = 0, time_ms: int = 0
) -> tuple[Block, object]:
    state = ledger.state
    proposer = get_proposer(state, state.height + 1, round_).id
    return build_block(
        state,
        round=round_,
        proposer=proposer,
        txs=txs,
        time_ms=time_ms,
        reveal=ledger.get_reveal(proposer, round_),
    )


def start(**params: object) -> tuple[Ledger, bytes]:
    ledger = Ledger(make_genesis(params=Params(**params)))  # type: ignore[arg-type]
    return ledger, ledger.start(RECORD)


# Envelopes (R7) ----------------------------------------------------------------------------------


def test_only_members_with_the_role_are_heard() -> None:
    ledger = Ledger(make_genesis())
    submission = ledger.submit(RECORD)
    other = make_record("other").submit
    stranger = make_signer("stranger")
    outside = make_tx(other, signer=stranger, valid_until=9, network=ledger.state.network)
    refuse(ledger, outside, "not-a-member")
    refuse(ledger, ledger.sign(other, "node-0"), "not-a-member", "may send submit")
    witness = RECORD.make_witness(submission, 1, recomputed=make_hash("x"))
    payloads: list[Payload] = [
        Hold(submission),
        Attest(submission, 0, 1, 0, bytes(32), 0),
        witness,
        PanelVote(submission, 0, 0, bytes(32)),
    ]
    for payload in payloads:
        refuse(ledger, ledger.sign(payload, "submitter"), "not-a-member")


def test_a_wrong_signature_is_refused() -> None:
    ledger = Ledger(make_genesis())
    tx = ledger.sign(RECORD.submit, "submitter")
    broken = bytearray(tx.signature)
    broken[5] ^= 1
    refuse(ledger, replace(tx, signature=bytes(broken)), "bad-signature")
    refuse(ledger, replace(tx, signature=b""), "bad-signature")
    refuse(ledger, replace(tx, valid_until=tx.valid_until - 1), "bad-signature")
    foreign = make_tx(
        RECORD.submit, signer=make_signer("submitter"), valid_until=9, network=make_hash("other")
    )
    refuse(ledger, foreign, "bad-signature")
    with pytest.raises(InvalidSignature):
        check_tx(ledger.state, foreign)


def test_transactions_live_between_now_and_a_limit_ahead() -> None:
    ledger = Ledger(make_genesis())
    ledger.submit(make_record("first"))
    ledger.run(3)
    following = ledger.state.height + 1
    for valid_until in (following, following + MAX_VALID_AHEAD):
        check_tx(ledger.state, ledger.sign(RECORD.submit, "submitter", valid_until=valid_until))
    for valid_until in (0, following - 1, following + MAX_VALID_AHEAD + 1):
        tx = ledger.sign(RECORD.submit, "submitter", valid_until=valid_until)
        refuse(ledger, tx, "expired")


def test_unknown_kinds_and_damaged_payloads_are_refused() -> None:
    ledger = Ledger(make_genesis())
    good = ledger.sign(RECORD.submit, "submitter")
    refuse(ledger, replace(good, kind="coin"), "bad-transaction", "unknown")
    signer = make_signer("submitter")
    for payload in (b"", good.payload + b"\x00", b"\xff" * 40):
        bare = replace(good, payload=payload, signature=b"")
        signature = signer.sign("tx", encode(bare), ledger.state.network)
        refuse(ledger, replace(bare, signature=signature), "bad-encoding")


# Submit (R8) -------------------------------------------------------------------------------------


def test_the_same_submission_or_model_is_a_duplicate_until_it_failed() -> None:
    ledger = Ledger(make_genesis(params=Params(hold_window=3)))
    submission = ledger.submit(RECORD)
    same = make_record("renamed", model="run")
    refuse(ledger, ledger.sign(RECORD.submit, "submitter"), "duplicate", "very submission")
    refuse(ledger, ledger.sign(same.submit, "submitter"), "duplicate", "same model")
    ledger.run_until(submission, "decided")
    assert ledger.get_verdict(submission).outcome == "UNDECIDED"
    refuse(ledger, ledger.sign(RECORD.submit, "submitter"), "duplicate", "very submission")
    again = ledger.start(same)
    ledger.attest_open(again)
    ledger.run_until(again, "decided")
    third = make_record("third", model="run")
    refuse(ledger, ledger.sign(third.submit, "submitter"), "duplicate", "same model")


def test_two_submissions_of_one_model_in_one_block_are_told_apart() -> None:
    ledger = Ledger(make_genesis(submitters=("submitter", "rival")))
    first = ledger.sign(RECORD.submit, "submitter")
    second = ledger.sign(RECORD.submit, "rival")
    block, _ = make_block(ledger, [first, first, second])
    assert block.txs == (first,)


def test_malformed_submissions_are_refused() -> None:
    ledger = Ledger(make_genesis())
    bad = replace(RECORD.submit, change_scores=())
    refuse(ledger, ledger.sign(bad, "submitter"), "bad-record")
    refuse(ledger, ledger.sign(replace(RECORD.submit, profile="magic"), "submitter"), "bad-profile")


# Answers (R9 to R12) -----------------------------------------------------------------------------


def test_answers_about_unknown_submissions_are_refused() -> None:
    ledger = Ledger(make_genesis())
    nowhere = make_hash("nowhere")
    payloads: list[Payload] = [
        Hold(nowhere),
        Attest(nowhere, 0, 1, 0, bytes(32), 0),
        RECORD.make_witness(nowhere, 1, recomputed=make_hash("x")),
        PanelVote(nowhere, 0, 0, bytes(32)),
    ]
    for payload in payloads:
        refuse(ledger, ledger.sign(payload, "node-1"), "unknown-submission")


def test_holds_count_once_and_until_the_verdict() -> None:
    ledger = Ledger(make_genesis(params=Params(hold_window=3)))
    submission = ledger.submit(RECORD)
    ledger.apply([ledger.sign(Hold(submission), "node-1")])
    refuse(ledger, ledger.sign(Hold(submission), "node-1"), "already-said")
    ledger.run_until(submission, "decided")
    refuse(ledger, ledger.sign(Hold(submission), "node-2"), "closed")


def test_late_holders_are_noted_while_others_retrace() -> None:
    ledger = Ledger(make_genesis())
    submission = ledger.submit(RECORD)
    ledger.hold(submission, 5)
    ledger.run_until(submission, "retracing")
    late = ledger.state.validators[6].id
    ledger.apply([ledger.sign(Hold(submission), late)])
    assert ledger.get(submission).holders[-1] == late
    assert ledger.get(submission).phase == "retracing"


def test_an_attest_answers_an_own_open_duty_as_dealt() -> None:
    ledger, submission = start(attest_window=4)
    duty = ledger.get(submission).duties[0]
    stranger = next(v for v in ledger.verifiers if v != duty.verifier)
    good = Attest(submission, duty.interval, 1, duty.work_step, make_hash("work"), 0)
    refuse(ledger, ledger.sign(good, stranger), "not-your-duty")
    changed: list[tuple[dict[str, object], str]] = [
        ({"interval": 99}, "not-your-duty"),
        ({"work_step": duty.work_step + 1}, "bad-transaction"),
        ({"agrees": 0}, "bad-transaction"),
        ({"agrees": 2}, "bad-transaction"),
        ({"work_digest": b"short"}, "bad-encoding"),
        ({"distance_ppb": 1}, "bad-transaction"),
    ]
    for changes, slug in changed:
        refuse(ledger, ledger.sign(replace(good, **changes), duty.verifier), slug)
    ledger.apply([ledger.sign(good, duty.verifier)])
    refuse(ledger, ledger.sign(good, duty.verifier), "already-said")
    answered = ledger.get(submission).duties[0]
    assert (answered.answer, answered.height) == ("agrees", ledger.state.height)


def test_an_attest_after_the_deadline_is_too_late() -> None:
    ledger, submission = start(attest_window=4, max_extensions=0)
    duty = ledger.get(submission).duties[0]
    ledger.run_until(submission, "witnessing")
    refuse(ledger, ledger.attest(submission, duty), "closed")


def test_a_witness_must_point_into_the_record() -> None:
    ledger, submission = start()
    good = RECORD.make_witness(submission, 9, recomputed=make_hash("x"))
    other = make_record("other").make_witness(submission, 9, recomputed=make_hash("x"))
    changed: list[tuple[dict[str, object], str]] = [
        ({"interval": 3}, "bad-transaction"),
        ({"interval": 10**6}, "bad-transaction"),
        ({"step": 10}, "bad-path"),
        ({"step": 10**6}, "bad-transaction"),
        ({"leaf": make_hash("leaf")}, "bad-path"),
        ({"path": good.path[:-1]}, "bad-path"),
        ({"path": other.path}, "bad-path"),
        ({"leaf": other.leaf, "path": other.path}, "bad-path"),
        ({"recomputed": good.leaf}, "bad-transaction"),
        ({"recomputed": b""}, "bad-encoding"),
        ({"distance_ppb": 10**15 + 1}, "bad-encoding"),
        ({"distance_ppb": 1}, "bad-transaction"),
    ]
    for changes, slug in changed:
        refuse(ledger, ledger.sign(replace(good, **changes), "node-1"), slug)
    ledger.apply([ledger.sign(good, "node-1")])
    refuse(ledger, ledger.sign(good, "node-1"), "already-said")
    elsewhere = RECORD.make_witness(submission, 8, recomputed=make_hash("x"))
    refuse(ledger, ledger.sign(elsewhere, "node-1"), "already-said")


def test_witnesses_are_heard_only_while_retracing_and_witnessing() -> None:
    ledger = Ledger(make_genesis(params=Params(witness_window=2, panel_window=5)))
    submission = ledger.submit(RECORD)
    witness = RECORD.make_witness(submission, 9, recomputed=make_hash("x"))
    refuse(ledger, ledger.sign(witness, "node-1"), "closed", "anchored")
    ledger.hold(submission)
    ledger.run_until(submission, "retracing")
    ledger.apply([ledger.sign(witness, "node-1")])
    ledger.attest_open(submission)
    ledger.run_until(submission, "panel")
    refuse(ledger, ledger.sign(witness, "node-2"), "closed", "panel")
    ledger.run_until(submission, "decided")
    refuse(ledger, ledger.sign(witness, "node-2"), "closed", "decided")


def test_a_submitter_that_verifies_cannot_accuse_itself() -> None:
    genesis = make_genesis()
    first, *rest = genesis.members
    ledger = Ledger(replace(genesis, members=(replace(first, roles=7), *rest)))
    submission = ledger.start(RECORD, first.name)
    witness = RECORD.make_witness(submission, 9, recomputed=make_hash("x"))
    refuse(ledger, ledger.sign(witness, first.id), "bad-transaction", "own record")


def test_panel_votes_answer_an_open_accusation_once() -> None:
    ledger, submission = start()
    truth = make_hash("x")
    witness = RECORD.make_witness(submission, 9, recomputed=truth)
    early = PanelVote(submission, witness.interval, 9, truth)
    refuse(ledger, ledger.sign(early, "node-2"), "unknown-accusation")
    ledger.apply([ledger.sign(witness, "node-1")])
    refuse(ledger, ledger.sign(early, "node-1"), "already-said")
    refuse(ledger, ledger.sign(replace(early, step=8), "node-2"), "unknown-accusation")
    refuse(ledger, ledger.sign(replace(early, recomputed=b"x"), "node-2"), "bad-encoding")
    ledger.apply([ledger.sign(early, "node-2")])
    refuse(ledger, ledger.sign(early, "node-2"), "already-said")
    ledger.apply([ledger.sign(early, "node-3"), ledger.sign(early, "node-4")])
    assert ledger.get(submission).accusations[0].outcome == "upheld"
    refuse(ledger, ledger.sign(early, "node-5"), "closed")


def test_replaying_any_transaction_of_the_chain_is_refused() -> None:
    ledger, submission = start()
    witness = RECORD.make_witness(submission, 9, recomputed=make_hash("x"))
    ledger.apply([ledger.sign(witness, "node-1")])
    ledger.apply([ledger.vote(submission, witness, make_hash("x"), ledger.verifiers[0])])
    ledger.attest_open(submission)
    said = [tx for block in ledger.blocks for tx in block.txs]
    assert {tx.kind for tx in said} == {"submit", "hold", "attest", "witness", "panel-vote"}
    for tx in said:
        with pytest.raises(InvalidInput):
            check_tx(ledger.state, tx)
    block, _ = make_block(ledger, said)
    assert block.txs == ()


# Blocks (R1 to R5) -------------------------------------------------------------------------------


def test_a_built_block_validates_to_the_same_state_in_every_round() -> None:
    ledger = Ledger(make_genesis())
    tx = ledger.sign(RECORD.submit, "submitter")
    for round_ in range(9):
        block, built = make_block(ledger, [tx], round_=round_, time_ms=TIME_MS + 5_000)
        validated = validate_block(ledger.state, block, now_ms=TIME_MS + 5_000)
        assert validated.root == built.root  # type: ignore[attr-defined]
        assert (validated.height, validated.last_time_ms) == (1, TIME_MS + 5_000)


def test_proposers_take_turns_by_height_and_round() -> None:
    state = Ledger(make_genesis(4)).state
    for height in range(1, 9):
        turns = [get_proposer(state, height, round_).id for round_ in range(4)]
        assert sorted(turns) == [v.id for v in state.validators]
        assert get_proposer(state, height + 1, 0).id == turns[1]


@pytest.mark.parametrize(
    ("name", "match", "change"),
    [
        ("version", "version", lambda h: 2),
        ("height", "follow", lambda h: h.height + 1),
        ("prev_id", "follow", lambda h: make_hash("x")),
        ("validators_hash", "validators", lambda h: make_hash("x")),
        ("round", "turn", lambda h: 1),
        ("round", "round", lambda h: -1),
        ("proposer", "turn", lambda h: make_hash("x")),
        ("reveal", "layer", lambda h: make_hash("x")),
        ("reveal", "layer", lambda h: b""),
        ("mix", "mix", lambda h: make_hash("x")),
        ("next_validators_hash", "follow", lambda h: make_hash("x")),
        ("time_ms", "earliest", lambda h: h.time_ms - 1),
        ("time_ms", "earliest", lambda h: 2**63),
        ("tx_root", "tx_root", lambda h: make_hash("x")),
        ("state_root", "state_root", lambda h: make_hash("x")),
    ],
)
def test_every_field_of_a_header_is_checked(
    name: str, match: str, change: Callable[[object], object]
) -> None:
    ledger = Ledger(make_genesis())
    block, _ = make_block(ledger, [ledger.sign(RECORD.submit, "submitter")])
    validate_block(ledger.state, block, now_ms=None)
    bad = replace(block, header=replace(block.header, **{name: change(block.header)}))
    with pytest.raises(InvalidBlock, match=match):
        validate_block(ledger.state, bad, now_ms=None)


def test_a_block_with_other_transactions_than_its_header_names_is_refused() -> None:
    ledger = Ledger(make_genesis())
    txs = [ledger.sign(make_record(f"run-{i}").submit, "submitter") for i in range(3)]
    block, _ = make_block(ledger, txs)
    assert block.txs == tuple(txs)
    unsigned = (replace(txs[0], signature=bytes(64)), *txs[1:])
    for body in ((), tuple(txs[:2]), (txs[1], txs[0], txs[2]), (*txs, txs[0]), unsigned):
        with pytest.raises(InvalidBlock, match="tx_root"):
            validate_block(ledger.state, replace(block, txs=body), now_ms=None)


def test_time_passes_at_least_by_the_pause_and_stays_near_the_clock() -> None:
    params = Params(min_block_ms=100, idle_block_ms=1_000, max_clock_drift_ms=30_000)
    ledger = Ledger(make_genesis(params=params))
    block, _ = make_block(ledger, [ledger.sign(RECORD.submit, "submitter")], time_ms=0)
    assert block.header.time_ms == TIME_MS + 100
    empty, _ = make_block(ledger, time_ms=TIME_MS + 500)
    assert empty.header.time_ms == TIME_MS + 1_000
    early = replace(empty, header=replace(empty.header, time_ms=TIME_MS + 999))
    with pytest.raises(InvalidBlock, match="earliest"):
        validate_block(ledger.state, early, now_ms=None)
    validate_block(ledger.state, block, now_ms=block.header.time_ms - 30_000)
    with pytest.raises(InvalidBlock, match="ahead"):
        validate_block(ledger.state, block, now_ms=block.header.time_ms - 30_001)


def test_empty_blocks_are_due_only_while_a_window_is_open() -> None:
    ledger = Ledger(make_genesis(params=Params(min_block_ms=100, idle_block_ms=1_000)))
    assert get_block_delay_ms(ledger.state) is None
    submission = ledger.submit(RECORD)
    assert get_block_delay_ms(ledger.state) == 100  # the beacon is waited for
    ledger.hold(submission)
    assert ledger.get(submission).phase == "seeding"
    assert get_block_delay_ms(ledger.state) == 100
    ledger.apply()
    assert ledger.blocks[-1].header.time_ms - ledger.blocks[-2].header.time_ms == 100
    while ledger.get(submission).phase == "seeding":  # the seed known, the election to come
        assert get_block_delay_ms(ledger.state) == 100
        ledger.apply()
    assert get_block_delay_ms(ledger.state) == 1_000
    ledger.attest_open(submission)
    ledger.run_until(submission, "decided")
    assert get_block_delay_ms(ledger.state) is None


def test_blocks_are_limited_in_count_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(make_genesis())
    txs = [ledger.sign(make_record(f"run-{i}").submit, "submitter") for i in range(4)]
    whole, _ = make_block(ledger, txs)
    size_bytes = rules.HEADER_BYTES + sum(len(encode(tx)) for tx in txs)
    for name, limit, fitting, match in (
        ("MAX_BLOCK_TRANSACTIONS", 3, 3, "4 transactions"),
        ("MAX_BLOCK_BYTES", size_bytes - 1, 3, "bytes"),
        ("MAX_BLOCK_BYTES", size_bytes, 4, ""),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(rules, name, limit)
            block, _ = make_block(ledger, txs)
            assert block.txs == tuple(txs[:fitting])
            if fitting < 4:
                with pytest.raises(InvalidBlock, match=match):
                    validate_block(ledger.state, whole, now_ms=None)


def test_a_proposer_leaves_out_what_does_not_apply() -> None:
    ledger = Ledger(make_genesis())
    good = ledger.sign(RECORD.submit, "submitter")
    bad = [
        ledger.sign(Hold(make_hash("nowhere")), "node-1"),
        replace(good, signature=b""),
        ledger.sign(RECORD.submit, "node-1"),
    ]
    block, _ = make_block(ledger, [bad[0], good, bad[1], bad[2]])
    assert block.txs == (good,)


def test_transactions_of_one_block_build_on_each_other() -> None:
    ledger, submission = start()
    witness = RECORD.make_witness(submission, 9, recomputed=make_hash("x"))
    vote = ledger.vote(submission, witness, make_hash("x"), ledger.verifiers[0])
    accuser = next(v for v in ledger.verifiers if v != ledger.verifiers[0])
    block, _ = make_block(ledger, [vote, ledger.sign(witness, accuser), vote])
    assert [tx.kind for tx in block.txs] == ["witness", "panel-vote"]


def test_replayed_blocks_give_the_same_chain() -> None:
    ledger, submission = start()
    ledger.attest_open(submission)
    ledger.run_until(submission, "decided")
    copy = Ledger(ledger.state.genesis)
    for block in ledger.blocks:
        copy.state = validate_block(copy.state, block, now_ms=None)
    assert (copy.state.last_id, copy.state.root) == (ledger.state.last_id, ledger.state.root)
    assert copy.state.verdicts == ledger.state.verdicts


def test_witness_of_another_kind_of_rule_is_refused() -> None:
    ledger, submission = start(rule="majority")
    witness: Witness = RECORD.make_witness(submission, 9, recomputed=make_hash("x"))
    refuse(ledger, ledger.sign(witness, "node-1"), "bad-transaction", "no witnesses")
