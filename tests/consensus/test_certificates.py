"""A certificate is good for exactly one header and one validator set."""

from __future__ import annotations

import msgspec
import pytest

from milepost_consensus.blocks import Block, Certificate
from milepost_consensus.certificates import get_precommits, make_certificate, verify_certificate
from milepost_consensus.errors import InvalidBlock, InvalidInput, InvalidSignature
from milepost_consensus.votes import NIL, PRECOMMIT, PREVOTE
from tests.support.validators import Validators

SEVEN = Validators(7)
BLOCK, AFTER = SEVEN.make_block()
BLOCK_ID = SEVEN.get_id(BLOCK)
GOOD = SEVEN.make_certificate(BLOCK, (0, 1, 3, 5, 6))


def check(certificate: Certificate) -> None:
    verify_certificate(certificate, BLOCK.header, SEVEN.state.validators, SEVEN.network)


def change(**changes: object) -> Certificate:
    return msgspec.structs.replace(GOOD, **changes)


def test_a_quorum_and_more_are_enough() -> None:
    check(GOOD)
    check(SEVEN.make_certificate(BLOCK, range(7)))
    check(SEVEN.make_certificate(BLOCK, range(7), round_=9))


def test_the_votes_come_out_as_they_went_in() -> None:
    votes = SEVEN.make_votes((0, 1, 3, 5, 6), PRECOMMIT, BLOCK_ID)
    certificate = make_certificate(reversed(votes), SEVEN.state.validators)
    assert certificate == GOOD
    assert get_precommits(certificate, SEVEN.state.validators) == votes


@pytest.mark.parametrize(
    "certificate",
    [
        # Too few, doubled, out of order, out of range: a negative index would be a second name.
        change(signers=GOOD.signers[:4], signatures=GOOD.signatures[:4]),
        change(signers=(0, 1, 3, 5, 5)),
        change(signers=(1, 0, 3, 5, 6)),
        change(signers=(0, 1, 3, 5, 7)),
        change(signers=(-1, 0, 1, 3, 5)),
        change(signers=()),
        change(signatures=GOOD.signatures[:4]),
        change(height=2),
        change(block_id=b"\1" * 32),
        change(block_id=NIL),
        change(round=-1),
    ],
)
def test_malformed_certificates(certificate: Certificate) -> None:
    with pytest.raises(InvalidBlock):
        check(certificate)


@pytest.mark.parametrize(
    "certificate",
    [
        change(round=1),
        change(signers=(0, 1, 2, 5, 6)),
        change(signatures=(*GOOD.signatures[:4], bytes(64))),
        change(signatures=(*GOOD.signatures[:4], b"")),
        change(
            signatures=(
                *GOOD.signatures[:4],
                SEVEN.make_vote(6, PREVOTE, BLOCK_ID).signature,
            )
        ),
    ],
)
def test_signatures_of_something_else(certificate: Certificate) -> None:
    with pytest.raises(InvalidSignature):
        check(certificate)


def test_a_round_before_the_block_was_made() -> None:
    block, _ = SEVEN.make_block(2)
    certificate = SEVEN.make_certificate(block, range(7), round_=1)
    with pytest.raises(InvalidBlock):
        verify_certificate(certificate, block.header, SEVEN.state.validators, SEVEN.network)


def test_another_header_validator_set_or_network() -> None:
    other, _ = SEVEN.make_block(later_ms=1)
    following, _ = SEVEN.make_block(state=AFTER)
    for header, validators, network in (
        (other.header, SEVEN.state.validators, SEVEN.network),
        (following.header, SEVEN.state.validators, SEVEN.network),
        (BLOCK.header, SEVEN.state.validators[:6], SEVEN.network),
        (BLOCK.header, SEVEN.state.validators, b"\7" * 32),
    ):
        with pytest.raises(InvalidInput):
            verify_certificate(GOOD, header, validators, network)


def test_a_header_that_names_another_validator_set() -> None:
    """Though these validators signed it: the next ones would not be bound by it."""
    header = msgspec.structs.replace(BLOCK.header, validators_hash=b"\7" * 32)
    certificate = SEVEN.make_certificate(Block(header, ()), range(7))
    with pytest.raises(InvalidBlock, match="validator set"):
        verify_certificate(certificate, header, SEVEN.state.validators, SEVEN.network)


def test_too_few_precommits_make_no_certificate() -> None:
    votes = SEVEN.make_votes((0, 1, 2, 3), PRECOMMIT, BLOCK_ID)
    with pytest.raises(AssertionError):
        make_certificate(votes, SEVEN.state.validators)
