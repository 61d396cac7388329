"""What a node acknowledged and no block carries yet."""

from __future__ import annotations

from pathlib import Path

import pytest

from milepost_consensus.encoding import encode
from milepost_consensus.errors import InvalidTransaction
from milepost_consensus.transactions import Tx
from milepost_node.accepted import Accepted
from milepost_node.errors import InvalidRequest, StoreError
from tests.support.ledger import Ledger, make_genesis, make_record


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(make_genesis(4))


def open_again(folder: Path, ledger: Ledger) -> tuple[Accepted, list[Tx]]:
    """What a node that starts hands in."""
    accepted, sent = Accepted(folder, ledger.state.network), list[Tx]()
    accepted.hand_in(sent.append)
    return accepted, sent


async def test_handed_in_at_every_start_until_a_block_carries_it(
    ledger: Ledger, tmp_path: Path
) -> None:
    tx = ledger.sign(make_record().submit, "submitter")
    accepted = Accepted(tmp_path / "accepted", ledger.state.network)
    await accepted.keep(encode(tx))
    for _ in range(2):
        accepted, sent = open_again(tmp_path / "accepted", ledger)
        assert sent == [tx]
    accepted.on_decided(ledger.apply(), ledger.state)
    assert len(accepted) == 1
    accepted.on_decided(ledger.apply([tx]), ledger.state)
    assert len(accepted) == 0
    assert open_again(tmp_path / "accepted", ledger)[1] == []


async def test_forgotten_when_it_is_too_late(ledger: Ledger, tmp_path: Path) -> None:
    tx = ledger.sign(make_record().submit, "submitter", valid_until=2)
    accepted = Accepted(tmp_path / "accepted", ledger.state.network)
    await accepted.keep(encode(tx))
    accepted.on_decided(ledger.apply(), ledger.state)
    assert len(accepted) == 1
    accepted.on_decided(ledger.apply(), ledger.state)
    assert open_again(tmp_path / "accepted", ledger)[1] == []


async def test_block_that_is_quicker_than_the_disk(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tx = ledger.sign(make_record().submit, "submitter")
    accepted = Accepted(tmp_path / "accepted", ledger.state.network)
    write = accepted._write

    def write_slowly(tx_id: bytes, data: bytes) -> None:
        accepted.on_decided(ledger.apply([tx]), ledger.state)
        write(tx_id, data)

    monkeypatch.setattr(accepted, "_write", write_slowly)
    await accepted.keep(encode(tx))
    assert open_again(tmp_path / "accepted", ledger)[1] == []


@pytest.mark.parametrize(("slug", "kept"), [("mempool-full", 1), ("duplicate", 0)])
async def test_refusal_at_a_start(ledger: Ledger, tmp_path: Path, slug: str, kept: int) -> None:
    tx = ledger.sign(make_record().submit, "submitter")
    await Accepted(tmp_path / "accepted", ledger.state.network).keep(encode(tx))

    def refuse(_: Tx) -> None:
        kind = InvalidRequest if slug == "mempool-full" else InvalidTransaction
        raise kind("not now", slug=slug)

    Accepted(tmp_path / "accepted", ledger.state.network).hand_in(refuse)
    assert len(open_again(tmp_path / "accepted", ledger)[1]) == kept


async def test_file_written_in_part_was_never_acknowledged(ledger: Ledger, tmp_path: Path) -> None:
    accepted = Accepted(tmp_path / "accepted", ledger.state.network)
    (tmp_path / "accepted" / "ab.incoming").write_bytes(b"half")
    sent: list[Tx] = []
    accepted.hand_in(sent.append)
    assert sent == []
    assert not list((tmp_path / "accepted").iterdir())


async def test_damaged_file_does_not_keep_a_node_from_starting(
    ledger: Ledger, tmp_path: Path
) -> None:
    Accepted(tmp_path / "accepted", ledger.state.network)
    (tmp_path / "accepted" / "ab.tx").write_bytes(b"rubbish")
    assert open_again(tmp_path / "accepted", ledger)[1] == []


async def test_disk_that_fails_is_no_promise(ledger: Ledger, tmp_path: Path) -> None:
    accepted = Accepted(tmp_path / "accepted", ledger.state.network)
    (tmp_path / "accepted").rmdir()
    with pytest.raises(StoreError, match="could not be kept"):
        await accepted.keep(encode(ledger.sign(make_record().submit, "submitter")))
    assert len(accepted) == 0
