"""Registration and parents in a proof: shown offline, and no tampering passes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache

import pytest
from msgspec.structs import replace

from milepost_consensus.errors import InvalidInput
from milepost_consensus.light import ProofBundle, Trust, make_bundle, make_trust, verify_bundle
from milepost_consensus.origin import MAX_ANCESTORS, Ancestor, Origin, make_origin, verify_origin
from milepost_consensus.payloads import Register, Submit, compute_registration_id
from milepost_consensus.step_digests import compute_state_digest
from milepost_consensus.verdicts import FULL, FULL_REGISTERED
from tests.consensus.test_light import certify
from tests.support.ledger import Ledger, Record, make_genesis, make_record, make_signer

SUBMITTER = make_signer("submitter").public


def register(ledger: Ledger, record: Record, parent: bytes = b"") -> bytes:
    """A registration for a record, with its seed."""
    made = ledger.state.standings[SUBMITTER].registrations
    payload = Register(
        recipe=b"u" * 32,
        dataset_root=record.submit.dataset_root,
        records=record.submit.records,
        parent=parent,
        attempt=made,
    )
    ledger.apply([ledger.sign(payload, "submitter")])
    registration_id = compute_registration_id(SUBMITTER, payload, ledger.state.network)
    while not ledger.state.registrations[registration_id].seed:
        ledger.run(1)
    return registration_id


def judge(ledger: Ledger, name: str, *, parent: bytes = b"", registered: bool = True) -> bytes:
    """A submission with verdict VALID that starts from another one's model."""
    record = make_record(name)
    submit: Submit = replace(record.submit, parent=parent)
    if parent:
        digest = ledger.state.submissions[parent].submit.model_digest
        first = compute_state_digest(0, digest, submit.initial_optimizer_digest)
        snapshots = (first, *submit.snapshots[1:])
        submit = replace(submit, initial_model_digest=digest, snapshots=snapshots)
    if registered:
        submit = replace(submit, registration=register(ledger, record, parent))
    submission = ledger.start(dataclasses.replace(record, submit=submit))
    ledger.attest_open(submission)
    ledger.run_until(submission, "decided")
    return submission


@cache
def make_line() -> tuple[Ledger, list[bytes]]:
    """A first model that was not registered, and two generations that were."""
    ledger = Ledger(make_genesis(7))
    line = [judge(ledger, "first", registered=False)]
    line.append(judge(ledger, "second", parent=line[0]))
    line.append(judge(ledger, "third", parent=line[1]))
    ledger.run(1)
    return ledger, line


@cache
def make_proof(generation: int) -> tuple[ProofBundle, Trust]:
    ledger, line = make_line()
    header, certificate = ledger.blocks[-1].header, certify(ledger)
    bundle = make_bundle(ledger.state, header, certificate, line[generation])
    return bundle, make_trust(ledger.state.genesis)


def test_a_proof_shows_registration_and_parents() -> None:
    ledger, line = make_line()
    bundle, trust = make_proof(2)
    verify_bundle(bundle, trust)
    assert bundle.verdict.assurance == FULL_REGISTERED
    registration = bundle.origin.registration
    assert registration is not None
    assert registration.register.attempt + 1 == bundle.verdict.registrations == 2
    parents = [ancestor.verdict for ancestor in bundle.origin.ancestors]
    assert [parent.submission for parent in parents] == [line[1], line[0]]
    assert [parent.assurance for parent in parents] == [FULL_REGISTERED, FULL]
    assert ledger.state.registrations[registration.id].submission == line[2]


def test_a_run_from_nowhere_shows_neither() -> None:
    bundle, trust = make_proof(0)
    verify_bundle(bundle, trust)
    assert bundle.origin == Origin()
    assert bundle.origin.registration is None


def edit_registration(**changes: object) -> Callable[[Origin], Origin]:
    def edit(origin: Origin) -> Origin:
        entry = origin.registrations[0]
        changed = replace(entry, registration=replace(entry.registration, **changes))
        return replace(origin, registrations=(changed,))

    return edit


def edit_parent(**changes: object) -> Callable[[Origin], Origin]:
    def edit(origin: Origin) -> Origin:
        first, *rest = origin.ancestors
        changed = replace(first, verdict=replace(first.verdict, **changes))
        return replace(origin, ancestors=(changed, *rest))

    return edit


FORGERIES: dict[str, tuple[Callable[[Origin], Origin], str]] = {
    "no registration": (lambda origin: replace(origin, registrations=()), "bad-proof"),
    "registration twice": (
        lambda origin: replace(origin, registrations=origin.registrations * 2),
        "bad-proof",
    ),
    "an earlier registration": (edit_registration(height=1), "bad-path"),
    "another seed": (edit_registration(seed=b"s" * 32), "bad-path"),
    "another's registration": (edit_registration(sender=b"x" * 32), "bad-proof"),
    "another registration": (edit_registration(id=b"x" * 32), "bad-proof"),
    "no parents": (lambda origin: replace(origin, ancestors=()), "bad-proof"),
    "half a line": (
        lambda origin: replace(origin, ancestors=origin.ancestors[:1]),
        "bad-proof",
    ),
    "a line in another order": (
        lambda origin: replace(origin, ancestors=origin.ancestors[::-1]),
        "bad-proof",
    ),
    "more ancestors than there are": (
        lambda origin: replace(origin, ancestors=(*origin.ancestors, origin.ancestors[0])),
        "bad-proof",
    ),
    "a better parent": (edit_parent(assurance="EVEN BETTER"), "bad-path"),
    "an older parent": (edit_parent(height=1), "bad-path"),
}


@pytest.mark.parametrize("name", sorted(FORGERIES))
def test_a_forged_origin_is_refused(name: str) -> None:
    bundle, trust = make_proof(2)
    forge, slug = FORGERIES[name]
    forged = replace(bundle, origin=forge(bundle.origin))
    assert forged != bundle
    with pytest.raises(InvalidInput) as caught:
        verify_bundle(forged, trust)
    assert caught.value.slug == slug


def test_an_origin_that_the_verdict_does_not_name_is_refused() -> None:
    (bundle, trust), (other, _) = make_proof(0), make_proof(2)
    for origin in (other.origin, replace(other.origin, registrations=())):
        with pytest.raises(InvalidInput, match="put together by hand"):
            verify_bundle(replace(bundle, origin=origin), trust)


def test_a_line_longer_than_a_proof_is_cut_off() -> None:
    ledger = Ledger(make_genesis(4))
    submission = b""
    for generation in range(MAX_ANCESTORS + 2):
        submission = judge(ledger, f"model {generation}", parent=submission, registered=False)
    verdict = ledger.state.verdicts[submission]
    origin = make_origin(ledger.state, verdict)
    assert len(origin.ancestors) == MAX_ANCESTORS
    assert origin.ancestors[-1].verdict.parent
    root, entries = ledger.state.root, len(ledger.state.leaf_hashes)
    verify_origin(origin, verdict, root=root, entries=entries)
    longer = replace(origin, ancestors=(*origin.ancestors, Ancestor(verdict, 0, ())))
    with pytest.raises(InvalidInput, match="ancestors"):
        verify_origin(longer, verdict, root=root, entries=entries)
