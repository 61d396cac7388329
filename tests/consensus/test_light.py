"""Offline verification: a true bundle passes, and no tampering does."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache

import pytest
from msgspec.structs import replace

from milepost_consensus.blocks import Certificate, compute_block_id
from milepost_consensus.encoding import decode, encode
from milepost_consensus.errors import InvalidInput
from milepost_consensus.light import (
    ProofBundle,
    Trust,
    dump_proof,
    dump_trust,
    load_proof,
    load_trust,
    make_bundle,
    make_trust,
    open_envelope,
    seal_bundle,
    verify_bundle,
)
from milepost_consensus.merkle import EMPTY_ROOT
from milepost_consensus.params import Params
from milepost_consensus.submissions import Submission
from milepost_consensus.verdicts import Verdict
from milepost_consensus.votes import PRECOMMIT, Vote, sign_vote
from tests.support.ledger import Ledger, make_genesis, make_hash, make_record, make_signer


def certify(ledger: Ledger, count: int = 5, *, network: bytes | None = None) -> Certificate:
    """Precommits of the first validators for the last block."""
    header = ledger.blocks[-1].header
    chain = network or ledger.state.network
    block_id = compute_block_id(header, chain)
    signatures = tuple(
        sign_vote(
            Vote(header.height, 0, PRECOMMIT, block_id, member.id),
            ledger.signers[member.id],
            chain,
        ).signature
        for member in ledger.state.validators[:count]
    )
    return Certificate(header.height, 0, block_id, tuple(range(count)), signatures)


@cache
def make_case() -> tuple[Ledger, ProofBundle, ProofBundle, Trust]:
    """A chain with two verdicts, the proof of either, and the trust in its validators."""
    ledger = Ledger(make_genesis(7))
    first, second = ledger.start(make_record("first")), ledger.start(make_record("second"))
    for submission in (first, second):
        ledger.attest_open(submission)
    ledger.run_until(second, "decided")
    ledger.run(1)
    header, certificate = ledger.blocks[-1].header, certify(ledger)
    bundles = [make_bundle(ledger.state, header, certificate, each) for each in (first, second)]
    return ledger, bundles[0], bundles[1], make_trust(ledger.state.genesis)


def test_a_true_bundle_is_verified_and_says_what_was_checked() -> None:
    _, first, second, trust = make_case()
    for bundle in (first, second):
        checks = verify_bundle(bundle, trust)
        assert [check.name for check in checks] == ["final", "recorded", "verdict"]
        assert "signed by 5 of 7 validators (5 needed)" in checks[0].detail
        assert checks[2].detail == "VALID: all 6 intervals retrace"


def test_bundles_and_trust_survive_their_files() -> None:
    _, bundle, _, trust = make_case()
    assert (
        open_envelope(load_proof(json.loads(json.dumps(dump_proof(seal_bundle(bundle)))))) == bundle
    )
    assert load_trust(json.loads(json.dumps(dump_trust(trust)))) == trust
    assert decode(ProofBundle, encode(bundle)) == bundle


def test_only_decided_submissions_have_a_proof() -> None:
    ledger = Ledger(make_genesis())
    submission = ledger.submit(make_record())
    with pytest.raises(KeyError):
        make_bundle(ledger.state, ledger.blocks[-1].header, certify(ledger), submission)


# Tampering ---------------------------------------------------------------------------------------


def reject(bundle: ProofBundle, trust: Trust, slug: str, match: str) -> None:
    with pytest.raises(InvalidInput, match=match) as caught:
        verify_bundle(bundle, trust)
    assert caught.value.slug == slug


def with_certificate(bundle: ProofBundle, **changes: object) -> ProofBundle:
    return replace(bundle, certificate=replace(bundle.certificate, **changes))


def test_signers_of_another_network_are_not_trusted() -> None:
    _, bundle, _, trust = make_case()
    strangers = tuple(
        sorted(
            (replace(m, id=make_signer(f"x-{m.name}").public) for m in trust.validators),
            key=lambda m: m.id,
        )
    )
    reject(bundle, replace(trust, validators=strangers), "wrong-network", "other validators")
    # The same people running another network signed other bytes.
    twin = make_trust(make_genesis(7, submitters=("somebody",)))
    assert twin.validators == trust.validators
    reject(bundle, twin, "bad-block", "certificate names block")


def test_signatures_made_for_a_twin_network_do_not_count() -> None:
    ledger, bundle, _, trust = make_case()
    twin = make_trust(make_genesis(7, submitters=("somebody",)))
    foreign = certify(ledger, network=twin.network_id)
    block_id = bundle.certificate.block_id
    reject(
        with_certificate(bundle, signatures=foreign.signatures, block_id=block_id),
        trust,
        "bad-signature",
        "does not verify",
    )


def test_too_few_or_repeated_signers_are_not_enough() -> None:
    ledger, bundle, _, trust = make_case()
    four = certify(ledger, 4)
    reject(replace(bundle, certificate=four), trust, "bad-block", "4 of 7 validators signed")
    padded = replace(
        four, signers=(*four.signers, 3), signatures=(*four.signatures, four.signatures[3])
    )
    reject(replace(bundle, certificate=padded), trust, "bad-block", "ascending")
    borrowed = replace(
        four, signers=(*four.signers, 5), signatures=(*four.signatures, four.signatures[3])
    )
    reject(replace(bundle, certificate=borrowed), trust, "bad-signature", "does not verify")
    reject(with_certificate(bundle, signers=(0, 1, 2, 3, 7)), trust, "bad-block", "indices below 7")
    reject(
        with_certificate(bundle, signatures=bundle.certificate.signatures[:4]),
        trust,
        "bad-block",
        "5 signers, 4 signatures",
    )


def test_a_trust_may_ask_for_more_signatures_than_the_chain_needs() -> None:
    ledger, bundle, _, trust = make_case()
    strict = replace(trust, quorum=7)
    reject(bundle, strict, "bad-block", "asks for 7")
    verify_bundle(replace(bundle, certificate=certify(ledger, 7)), strict)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("height", 3),
        ("round", 1),
        ("time_ms", 1),
        ("prev_id", make_hash("x")),
        ("state_root", make_hash("x")),
        ("tx_root", EMPTY_ROOT[::-1]),
        ("version", 2),
    ],
)
def test_an_altered_header_is_not_what_was_signed(name: str, value: object) -> None:
    _, bundle, _, trust = make_case()
    altered = replace(bundle, header=replace(bundle.header, **{name: value}))
    with pytest.raises(InvalidInput) as caught:
        verify_bundle(altered, trust)
    assert caught.value.slug == "bad-block"


VERDICT_CHANGES: list[Callable[[Verdict], Verdict]] = [
    lambda v: replace(v, outcome="INVALID"),
    lambda v: replace(v, reason="all is well"),
    lambda v: replace(v, assurance="SAMPLED"),
    lambda v: replace(v, model_digest=make_hash("other model")),
    lambda v: replace(v, retraced=v.retraced[1:]),
    lambda v: replace(v, overruled=(make_hash("x"),)),
    lambda v: replace(v, height=v.height + 1),
    lambda v: replace(v, submission=make_hash("x")),
]


@pytest.mark.parametrize("change", VERDICT_CHANGES)
def test_an_altered_verdict_is_not_in_the_signed_state(
    change: Callable[[Verdict], Verdict],
) -> None:
    _, bundle, _, trust = make_case()
    altered = replace(bundle, verdict=change(bundle.verdict))
    reject(altered, trust, "bad-path", "does not lead to the root")


SUBMISSION_CHANGES: list[Callable[[Submission], Submission]] = [
    lambda s: replace(s, sender=make_hash("x")),
    lambda s: replace(s, submit=make_record("other").submit),
    lambda s: replace(s, duties=s.duties[1:]),
    lambda s: replace(s, phase="retracing"),
    lambda s: replace(s, id=make_hash("x")),
]


@pytest.mark.parametrize("change", SUBMISSION_CHANGES)
def test_an_altered_submission_is_not_in_the_signed_state(
    change: Callable[[Submission], Submission],
) -> None:
    _, bundle, _, trust = make_case()
    altered = replace(bundle, submission=change(bundle.submission))
    reject(altered, trust, "bad-path", "does not lead to the root")


def test_the_path_of_another_submission_does_not_fit() -> None:
    _, first, second, trust = make_case()
    for changes in (
        {"verdict_path": second.verdict_path, "verdict_index": second.verdict_index},
        {"verdict_path": second.verdict_path},
        {"verdict_index": second.verdict_index},
        {"submission_path": second.submission_path},
        {"submission_index": second.submission_index},
        {"entries": 4 * first.entries},
        {"entries": 0},
        {"verdict_path": first.verdict_path[:-1]},
        {"verdict_path": ()},
    ):
        reject(replace(first, **changes), trust, "bad-path", "path|leaf")
    endless = replace(first, verdict_path=(bytes(32),) * 65)
    with pytest.raises(InvalidInput, match="path length"):
        verify_bundle(endless, trust)


def test_a_verdict_and_a_submission_that_do_not_belong_together_are_told() -> None:
    _, first, second, trust = make_case()
    mixed = replace(
        first,
        verdict=second.verdict,
        verdict_index=second.verdict_index,
        verdict_path=second.verdict_path,
    )
    reject(mixed, trust, "bad-proof", "put together by hand")


def test_the_verdict_on_an_earlier_submission_of_the_same_model_is_not_taken() -> None:
    ledger = Ledger(make_genesis(7, params=Params(hold_window=2)))
    failed = ledger.submit(make_record("first", model="same"))
    ledger.run_until(failed, "decided")
    passed = ledger.start(make_record("second", model="same"))
    ledger.attest_open(passed)
    ledger.run_until(passed, "decided")
    header, certificate = ledger.blocks[-1].header, certify(ledger)
    bad, good = (make_bundle(ledger.state, header, certificate, each) for each in (failed, passed))
    assert (bad.verdict.outcome, good.verdict.outcome) == ("UNDECIDED", "VALID")
    mixed = replace(
        bad,
        verdict=good.verdict,
        verdict_index=good.verdict_index,
        verdict_path=good.verdict_path,
    )
    reject(mixed, make_trust(ledger.state.genesis), "bad-proof", "put together by hand")


# Files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", [None, [], {}, {"format": "milepost/trust/2"}])
def test_other_files_are_neither_trust_nor_proof(view: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        load_trust(view)
    assert caught.value.slug == "bad-trust"
    with pytest.raises(InvalidInput) as caught:
        open_envelope(load_proof(view))
    assert caught.value.slug == "bad-proof"


def test_damaged_files_are_refused() -> None:
    _, bundle, _, trust = make_case()
    proof, view = dump_proof(seal_bundle(bundle)), dump_trust(trust)
    for bad in ({**proof, "extra": 1}, {"format": proof["format"]}, {**proof, "envelope": {}}):
        with pytest.raises(InvalidInput):
            open_envelope(load_proof(bad))
    for bad in ({**view, "extra": 1}, {**view, "quorum": "5"}, {**view, "validators": {}}):
        with pytest.raises(InvalidInput):
            load_trust(bad)


def test_a_trust_that_protects_nobody_is_refused() -> None:
    _, bundle, _, trust = make_case()
    spectator = replace(trust.validators[0], roles=4)
    for bad in (
        replace(trust, quorum=4),
        replace(trust, quorum=8),
        replace(trust, validators=()),
        replace(trust, validators=trust.validators[::-1]),
        replace(trust, validators=trust.validators[:1] * 7),
        replace(trust, validators=(spectator, *trust.validators[1:])),
        replace(trust, network_id=b""),
        replace(trust, network=""),
    ):
        with pytest.raises(InvalidInput):
            load_trust(dump_trust(bad))
        with pytest.raises(InvalidInput):
            verify_bundle(bundle, bad)
