"""The judge of all scenarios: it must notice each thing that could be wrong with a ledger."""

from __future__ import annotations

from functools import cache

import msgspec
import pytest

from milepost_consensus.blocks import Block, Certificate
from milepost_consensus.encoding import decode, encode
from milepost_consensus.errors import InvalidBlock
from milepost_consensus.payloads import compute_submission_id
from tests.faults.history import ACKNOWLEDGED, REFUSED, UNKNOWN, Chain, History
from tests.support.ledger import Ledger, make_genesis, make_hash, make_record, make_signer
from tests.support.nodes import certify

GENESIS = make_genesis(4)


@cache
def make_chain(name: str = "run") -> tuple[Ledger, bytes, Chain]:
    """A ledger, the submission on it, and its blocks with certificates."""
    ledger = Ledger(GENESIS)
    ledger.run(1)
    submission = ledger.submit(make_record(name))
    ledger.run(2)
    chain = [(encode(block), encode(certify(block, ledger.state))) for block in ledger.blocks]
    return ledger, submission, chain


def test_whole_ledger_passes() -> None:
    ledger, submission, chain = make_chain()
    history = History(GENESIS)
    history.submits += [(submission, ACKNOWLEDGED), (make_hash("other"), UNKNOWN)]
    history.add_status(0, 0, bytes(32))
    history.add_status(0, 4, ledger.state.last_id)
    assert history.check([chain] * 4).root == ledger.state.root


@pytest.mark.parametrize("outcome", [ACKNOWLEDGED, REFUSED, UNKNOWN])
def test_acknowledged_submission_must_be_there(outcome: str) -> None:
    _, _, chain = make_chain()
    lost = compute_submission_id(
        make_signer("submitter").public, make_record("lost").submit, make_chain()[0].state.network
    )
    history = History(GENESIS, [(lost, outcome)])
    if outcome == ACKNOWLEDGED:
        with pytest.raises(AssertionError, match="0 times"):
            history.check([chain])
    else:
        history.check([chain])


def test_fork_is_noticed() -> None:
    other = make_chain("other")[2]
    with pytest.raises(AssertionError, match="fork"):
        History(GENESIS).check([make_chain()[2], other])
    with pytest.raises(AssertionError, match="fork"):
        History(GENESIS).check([make_chain()[2], make_chain()[2][:-1]])
    history = History(GENESIS)
    history.add_status(0, 4, make_chain()[0].state.last_id)
    with pytest.raises(AssertionError, match="fork"):
        history.add_status(1, 4, make_chain("other")[0].state.last_id)


def test_block_that_was_shown_and_replaced_is_noticed() -> None:
    history = History(GENESIS)
    history.add_status(0, 4, make_chain("other")[0].state.last_id)
    with pytest.raises(AssertionError, match="replaced"):
        history.check([make_chain()[2]])


def test_height_that_goes_back_is_noticed_unless_the_disk_was_lost() -> None:
    history = History(GENESIS)
    history.add_status(0, 2, make_hash(2))
    with pytest.raises(AssertionError, match="back from 2 to 1"):
        history.add_status(0, 1, make_hash(1))
    history.add_loss(0)
    history.add_status(0, 1, make_hash(1))


@pytest.mark.parametrize("node", [0, 1])
def test_certificate_of_too_few_is_noticed_at_any_node(node: int) -> None:
    chain = make_chain()[2]
    data, signed = chain[1]
    certificate = decode(Certificate, signed)
    few = msgspec.structs.replace(
        certificate, signers=certificate.signers[:2], signatures=certificate.signatures[:2]
    )
    chains = [list(chain), list(chain)]
    chains[node][1] = (data, encode(few))
    with pytest.raises(InvalidBlock):
        History(GENESIS).check(chains)


def test_state_that_does_not_follow_is_noticed() -> None:
    ledger, _, chain = make_chain()
    block = decode(Block, chain[-1][0])
    header = msgspec.structs.replace(block.header, state_root=make_hash("wrong"))
    wrong = msgspec.structs.replace(block, header=header)
    forged = [*chain[:-1], (encode(wrong), encode(certify(wrong, ledger.state)))]
    with pytest.raises(InvalidBlock, match="state_root"):
        History(GENESIS).check([forged])
