"""The waiting room: what gets in, in which order it leaves, and that it never overflows."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from milepost_consensus.errors import InvalidInput, InvalidSignature
from milepost_consensus.payloads import Hold, Submit
from milepost_consensus.transactions import Tx, compute_tx_id
from milepost_node.errors import InvalidRequest
from milepost_node.mempool import MAX_ANSWER_BYTES, SUBMITS_PER_SENDER, Mempool
from tests.support.ledger import Ledger, make_genesis, make_record


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(make_genesis(4))


def open_mempool(ledger: Ledger, *, limit: int = 1_000, per_sender: int = 1_000) -> Mempool:
    return Mempool(ledger.state.network, limit=limit, per_sender=per_sender)


def sign_submit(ledger: Ledger, name: str, **options: int) -> Tx:
    return ledger.sign(make_record(name).submit, "submitter", **options)


def test_order_of_arrival_is_kept_and_taking_removes_nothing(ledger: Ledger) -> None:
    mempool = open_mempool(ledger)
    txs = tuple(sign_submit(ledger, name) for name in "cab")
    assert all(mempool.add(ledger.state, tx) for tx in txs)
    assert mempool.take() == txs
    assert mempool.take() == txs
    assert mempool.get_submits() == [make_record(name).submit for name in "cab"]


def test_second_copy_is_not_new(ledger: Ledger) -> None:
    mempool = open_mempool(ledger)
    tx = sign_submit(ledger, "run")
    assert mempool.add(ledger.state, tx)
    assert not mempool.add(ledger.state, tx)
    assert len(mempool) == 1
    assert compute_tx_id(tx, ledger.state.network) in mempool


def test_what_the_rules_refuse_does_not_get_in(ledger: Ledger) -> None:
    mempool = open_mempool(ledger)
    good = sign_submit(ledger, "run")
    for bad in (
        replace(good, signature=bytes(64)),
        ledger.sign(Hold(b"\x01" * 32), ledger.verifiers[0]),
        ledger.sign(make_record().submit, ledger.verifiers[0]),
        sign_submit(ledger, "late", valid_until=0),
    ):
        with pytest.raises(InvalidInput):
            mempool.add(ledger.state, bad)
    assert len(mempool) == 0


def test_forged_copy_does_not_keep_the_genuine_one_out(ledger: Ledger) -> None:
    mempool = open_mempool(ledger)
    tx = sign_submit(ledger, "run")
    with pytest.raises(InvalidSignature):
        mempool.add(ledger.state, replace(tx, signature=bytes(64)))
    assert mempool.add(ledger.state, tx)


def test_two_submissions_of_one_model(ledger: Ledger) -> None:
    mempool = open_mempool(ledger)
    mempool.add(ledger.state, sign_submit(ledger, "run"))
    twin = ledger.sign(make_record("other", model="run").submit, "submitter")
    # Its optimizer differs, the model is the same.
    with pytest.raises(InvalidInput) as caught:
        mempool.add(ledger.state, twin)
    assert caught.value.slug == "duplicate"


def test_limits(ledger: Ledger) -> None:
    full = open_mempool(ledger, limit=2)
    greedy = open_mempool(ledger, per_sender=1)
    for mempool, count in ((full, 2), (greedy, 1), (open_mempool(ledger), SUBMITS_PER_SENDER)):
        for number in range(count):
            mempool.add(ledger.state, sign_submit(ledger, f"run {number}"))
        with pytest.raises(InvalidRequest) as caught:
            mempool.add(ledger.state, sign_submit(ledger, "one more"))
        assert caught.value.slug == "mempool-full"
        assert len(mempool) == count


def test_oversized_answer_is_refused_before_it_is_checked(ledger: Ledger) -> None:
    tx = Tx("hold", ledger.verifiers[0], 10, bytes(MAX_ANSWER_BYTES), bytes(64))
    with pytest.raises(InvalidRequest) as caught:
        open_mempool(ledger).add(ledger.state, tx)
    assert caught.value.slug == "too-large"


def test_block_takes_away_what_it_carried_what_expired_and_what_no_longer_applies(
    ledger: Ledger,
) -> None:
    mempool = open_mempool(ledger)
    carried = sign_submit(ledger, "carried")
    short = sign_submit(ledger, "short", valid_until=1)
    stays = sign_submit(ledger, "stays")
    for tx in (carried, short, stays):
        mempool.add(ledger.state, tx)
    block = ledger.apply([carried])
    mempool.apply_block(block, ledger.state)
    assert mempool.take() == (stays,)
    # Another node put the same run on the chain under a longer life: ours is a duplicate now.
    block = ledger.apply([sign_submit(ledger, "stays", valid_until=500)])
    mempool.apply_block(block, ledger.state)
    assert len(mempool) == 0
    # Nothing of what left is counted against its sender, and the models are free again.
    assert mempool.add(ledger.state, sign_submit(ledger, "short"))


def test_take_stops_where_a_block_is_full(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    mempool = open_mempool(ledger)
    txs = [sign_submit(ledger, name) for name in "abc"]
    for tx in txs:
        mempool.add(ledger.state, tx)
    monkeypatch.setattr("milepost_node.mempool.MAX_BLOCK_TRANSACTIONS", 2)
    assert mempool.take() == tuple(txs[:2])
    monkeypatch.setattr("milepost_node.mempool.MAX_BLOCK_BYTES", len(txs[0].payload))
    assert mempool.take() == tuple(txs[:1])


def test_pending_submissions_are_listed(ledger: Ledger) -> None:
    mempool = open_mempool(ledger)
    mempool.add(ledger.state, sign_submit(ledger, "run"))
    assert all(isinstance(each, Submit) for each in mempool.get_submits())
    block = ledger.apply(mempool.take())
    mempool.apply_block(block, ledger.state)
    assert mempool.get_submits() == []
