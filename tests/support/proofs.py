"""Proofs of synthetic verdicts with real signatures, for a model file that a test made up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from milepost import bundle
from milepost_consensus.blocks import Certificate, Header, compute_block_id
from milepost_consensus.certificates import make_certificate
from milepost_consensus.crypto import Ed25519Signer
from milepost_consensus.dsse import Envelope, sign_envelope
from milepost_consensus.light import ProofBundle, dump_trust, make_bundle, make_trust, seal_bundle
from milepost_consensus.params import Params
from milepost_consensus.payloads import PanelVote
from milepost_consensus.step_digests import compute_state_digest
from milepost_consensus.submissions import DECIDED, PANEL, WITNESSING
from milepost_consensus.votes import PRECOMMIT, Vote, sign_vote
from milepost_ml.digests import compute_content_digest
from milepost_ml.snapshots import write_tensors
from tests.support.ledger import Ledger, Record, make_genesis, make_record, make_signer

Tensors = dict[str, NDArray[Any]]


def make_tensors(seed: int = 0) -> Tensors:
    """A small model."""
    draw = np.random.default_rng(seed)
    return {
        "fc1.weight": draw.standard_normal((8, 4)).astype(np.float32),
        "fc1.bias": draw.standard_normal(8).astype(np.float32),
        "fc2.weight": draw.standard_normal((2, 8)).astype(np.float32),
    }


def make_model_record(tensors: Tensors, name: str = "run", *, intervals: int = 6) -> Record:
    """A synthetic record whose last snapshot is opened into the digest of these tensors."""
    record = make_record(name, intervals=intervals)
    digest = compute_content_digest(tensors)
    last = compute_state_digest(record.submit.steps, digest, record.submit.optimizer_digest)
    submit = replace(
        record.submit, model_digest=digest, snapshots=(*record.submit.snapshots[:-1], last)
    )
    return replace_submit(record, submit)


def replace_submit(record: Record, submit: object) -> Record:
    return Record(submit, record.leaves, record.rows)  # type: ignore[arg-type]


def certify(ledger: Ledger) -> tuple[Header, Certificate]:
    """The last block's header with everybody's real precommits."""
    header = ledger.blocks[-1].header
    network = ledger.state.network
    block_id = compute_block_id(header, network)
    votes = []
    for member in ledger.state.validators:
        vote = Vote(header.height, header.round, PRECOMMIT, block_id, member.id)
        votes.append(sign_vote(vote, make_signer(member.name), network))
    return header, make_certificate(votes, ledger.state.validators)


def bundle_of(ledger: Ledger, submission: bytes) -> ProofBundle:
    """The proof bundle of a decided submission."""
    return make_bundle(ledger.state, *certify(ledger), submission)


def decide_valid(ledger: Ledger, record: Record) -> ProofBundle:
    """Carry a record to VALID."""
    submission = ledger.start(record)
    ledger.attest_open(submission)
    ledger.run_until(submission, DECIDED)
    return bundle_of(ledger, submission)


def decide_invalid(ledger: Ledger, record: Record, *, step: int) -> ProofBundle:
    """Carry a record to INVALID because of one step that everybody recomputes differently."""
    submission = ledger.start(record)
    witness = record.make_witness(submission, step, recomputed=bytes([7]) * 32)
    ledger.apply([ledger.sign(witness, ledger.verifiers[0])])
    ledger.attest_open(submission)
    ledger.run_until(submission, WITNESSING, PANEL)
    ledger.apply(
        ledger.sign(PanelVote(submission, witness.interval, step, witness.recomputed), verifier)
        for verifier in ledger.verifiers[1:]
    )
    ledger.run_until(submission, DECIDED)
    return bundle_of(ledger, submission)


def decide_undecided(ledger: Ledger, record: Record) -> ProofBundle:
    """A record that nobody ever holds."""
    submission = ledger.submit(record)
    ledger.run_until(submission, DECIDED)
    return bundle_of(ledger, submission)


class Evidence:
    """A folder with model.safetensors, model.proof.json and network.trust that fit together."""

    def __init__(
        self,
        folder: Path,
        decide: Callable[[Ledger, Record], ProofBundle] = decide_valid,
        *,
        params: Params | None = None,
        intervals: int = 6,
    ) -> None:
        self.folder = folder
        self.tensors = make_tensors()
        self.model = folder / "model.safetensors"
        self.proof = folder / "model.proof.json"
        self.trust = folder / "network.trust"
        self.ledger = Ledger(make_genesis(7, params=params))
        write_tensors(self.model, self.tensors)
        self.record = make_model_record(self.tensors, intervals=intervals)
        self.bundle = decide(self.ledger, self.record)
        self.write_proof(self.bundle)
        self.write_trust("test")

    def write_proof(self, proof: ProofBundle) -> None:
        signer = self.ledger.signers[self.ledger.state.validators[0].id]
        assert isinstance(signer, Ed25519Signer)
        self.write_envelope(sign_envelope(seal_bundle(proof), signer), proof)

    def write_envelope(self, envelope: Envelope, proof: ProofBundle) -> None:
        bundle.write_proof(self.proof, bundle.Proof(proof, envelope, None), model=self.model)

    def write_trust(self, network: str) -> None:
        """The trust file of this ledger; of another network if `network` is another name."""
        genesis = self.ledger.state.genesis
        if network != "test":
            genesis = make_genesis(4, submitters=(network,))
        self.trust.write_text(json.dumps(dump_trust(make_trust(genesis))))
