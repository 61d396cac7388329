"""Certificates: the > 2/3 precommits that make a block final, gathered and checked.

The machine makes them, a node that catches up and an auditor without any node check them: one
function, the same rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from milepost_consensus.blocks import Certificate, Header, compute_block_id
from milepost_consensus.errors import InvalidBlock
from milepost_consensus.members import Member, compute_quorum, compute_validators_hash
from milepost_consensus.votes import NIL, PRECOMMIT, Vote, verify_vote


def make_certificate(precommits: Iterable[Vote], validators: Sequence[Member]) -> Certificate:
    """The certificate out of verified precommits of one height, round and block id.

    `validators` is the ordered validator set; the votes come from different members of it.
    """
    votes = {vote.sender: vote for vote in precommits}
    chosen = [(i, votes[m.id]) for i, m in enumerate(validators) if m.id in votes]
    assert len(chosen) == len(votes) >= compute_quorum(len(validators))
    first = chosen[0][1]
    assert all(
        (v.type, v.height, v.round, v.block_id) == (PRECOMMIT, *_subject(first)) for _, v in chosen
    )
    return Certificate(
        *_subject(first),
        tuple(index for index, _ in chosen),
        tuple(vote.signature for _, vote in chosen),
    )


def _subject(vote: Vote) -> tuple[int, int, bytes]:
    return vote.height, vote.round, vote.block_id


def get_precommits(certificate: Certificate, validators: Sequence[Member]) -> tuple[Vote, ...]:
    """The votes that a well-formed certificate consists of, in the order of the validators."""
    return tuple(
        Vote(
            certificate.height,
            certificate.round,
            PRECOMMIT,
            certificate.block_id,
            validators[index].id,
            signature,
        )
        for index, signature in zip(certificate.signers, certificate.signatures, strict=True)
    )


def verify_certificate(
    certificate: Certificate, header: Header, validators: Sequence[Member], network: bytes
) -> None:
    """Check that more than two thirds of the ordered `validators` made `header` final.

    Raises InvalidBlock for a certificate of another block, another validator set or too few
    signers, and InvalidSignature where a signature does not verify.
    """
    count = len(validators)
    if header.validators_hash != compute_validators_hash(validators):
        raise InvalidBlock(f"block {header.height} is of another validator set")
    if certificate.height != header.height or certificate.round < header.round:
        raise InvalidBlock(
            f"the certificate of height {certificate.height}, round {certificate.round} cannot be"
            f" of a block of height {header.height}, round {header.round}"
        )
    block_id = compute_block_id(header, network)
    if certificate.block_id != block_id or block_id == NIL:
        raise InvalidBlock(
            f"the certificate names block {certificate.block_id.hex()[:16]},"
            f" the header is that of {block_id.hex()[:16]}"
        )
    signers = certificate.signers
    if len(signers) != len(certificate.signatures):
        raise InvalidBlock(f"{len(signers)} signers, {len(certificate.signatures)} signatures")
    if any(low >= high for low, high in zip((-1, *signers), (*signers, count), strict=True)):
        raise InvalidBlock(f"signers are not ascending indices below {count}")
    if len(signers) < compute_quorum(count):
        raise InvalidBlock(
            f"{len(signers)} of {count} validators signed, {compute_quorum(count)} are needed"
        )
    for vote in get_precommits(certificate, validators):
        verify_vote(vote, network)
