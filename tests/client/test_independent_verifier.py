"""docs/spec/verify_proof.py, which shares no code with us, gives the answers of `verify`."""

from __future__ import annotations

import ast
import base64
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from milepost import verify
from milepost_consensus.dsse import Envelope, EnvelopeSignature, sign_envelope
from milepost_consensus.light import seal_bundle
from milepost_consensus.params import Params
from milepost_ml.snapshots import write_tensors
from tests.support.ledger import make_signer
from tests.support.proofs import (
    Evidence,
    decide_invalid,
    decide_undecided,
    decide_valid,
    make_model_record,
    make_tensors,
)
from tests.vectors.schema import PATH as SCHEMA
from tests.vectors.schema import render

SCRIPT = SCHEMA.with_name("verify_proof.py")
CODES = {"accepted": 0, "rejected": 1, "mismatch": 1, "inconsistent": 1, "unknown": 3}


def agree(evidence: Evidence) -> str:
    """The one answer of both verifiers."""
    ours = verify(evidence.model, trust=evidence.trust, proof=evidence.proof).verdict
    paths = [str(path) for path in (evidence.model, evidence.proof, evidence.trust)]
    command = [sys.executable, "-I", str(SCRIPT), *paths]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    theirs = done.stdout.partition(":")[0]
    assert (theirs, done.returncode) == (ours, CODES[ours]), (done.stdout, done.stderr)
    return ours


@pytest.fixture
def evidence(tmp_path: Path) -> Evidence:
    return Evidence(tmp_path)


def rewrite(evidence: Evidence, change: Callable[[Any], object]) -> None:
    """Change the envelope's JSON, and nothing that was signed."""
    view = json.loads(evidence.proof.read_text())
    change(view["envelope"])
    evidence.proof.write_text(json.dumps(view))


def test_they_agree_on_true_proofs(tmp_path: Path) -> None:
    cases: list[tuple[Any, Params | None, str]] = [
        (decide_valid, None, "accepted"),
        (partial(decide_invalid, step=9), None, "rejected"),
        (decide_undecided, Params(hold_window=2), "unknown"),
    ]
    for index, (decide, params, expected) in enumerate(cases):
        folder = tmp_path / str(index)
        folder.mkdir()
        assert agree(Evidence(folder, decide, params=params)) == expected


def test_they_agree_on_other_weights_and_files(evidence: Evidence) -> None:
    write_tensors(evidence.model, make_tensors(seed=1))
    assert agree(evidence) == "mismatch"
    for content in (b"", b"\xff" * 64, evidence.model.read_bytes()[:-1]):
        evidence.model.write_bytes(content)
        assert agree(evidence) == "unknown"


def test_they_agree_on_a_trust_file_of_others(evidence: Evidence) -> None:
    evidence.write_trust("other")
    assert agree(evidence) == "unknown"
    evidence.trust.write_text("{}")
    assert agree(evidence) == "unknown"


def test_they_agree_on_bundles_put_together_by_hand(evidence: Evidence) -> None:
    bundle = evidence.bundle
    certificate, header, verdict = bundle.certificate, bundle.header, bundle.verdict
    other = decide_valid(evidence.ledger, make_model_record(make_tensors(seed=1), "other"))
    signatures = (bytes(64), *certificate.signatures[1:])
    signed = evidence.ledger.get(bundle.submission.id)
    forged = [
        replace(bundle, verdict=replace(verdict, reason="believe me")),
        replace(bundle, verdict=replace(verdict, outcome="VALID", overruled=(bytes(32),))),
        replace(bundle, submission=replace(bundle.submission, registrations=1)),
        replace(bundle, entries=bundle.entries + 1),
        replace(bundle, verdict_index=bundle.verdict_index + 1),
        replace(bundle, verdict_path=bundle.verdict_path[1:]),
        replace(bundle, verdict_path=(*bundle.verdict_path, bytes(32))),
        replace(bundle, header=replace(header, state_root=bytes(32))),
        replace(bundle, header=replace(header, round=header.round + 1)),
        replace(bundle, certificate=replace(certificate, signatures=signatures)),
        replace(
            bundle,
            certificate=replace(
                certificate, signers=certificate.signers[:4], signatures=certificate.signatures[:4]
            ),
        ),
        replace(
            other,
            submission=signed,
            submission_index=bundle.submission_index,
            submission_path=bundle.submission_path,
        ),
    ]
    for each in forged:
        evidence.write_proof(each)
        assert agree(evidence) == "inconsistent"
    evidence.write_proof(bundle)
    assert agree(evidence) == "accepted"


def test_they_agree_on_envelopes(evidence: Evidence) -> None:
    sealed = seal_bundle(evidence.bundle)
    assert states(evidence) == "pass"
    stranger = sign_envelope(sealed, make_signer("stranger"))
    for envelope in (sealed, stranger):
        evidence.write_envelope(envelope, evidence.bundle)
        assert agree(evidence) == "accepted"
        assert states(evidence) == "unknown"
    member = evidence.ledger.state.validators[0].id
    false = Envelope(sealed.payload, (EnvelopeSignature(member, stranger.signatures[0].signature),))
    evidence.write_envelope(false, evidence.bundle)
    assert agree(evidence) == "inconsistent"
    assert states(evidence) == "fail"


def test_a_signed_envelope_makes_no_verdict_final(evidence: Evidence) -> None:
    certificate = evidence.bundle.certificate
    few = replace(certificate, signers=(0,), signatures=certificate.signatures[:1])
    evidence.write_proof(replace(evidence.bundle, certificate=few))
    assert states(evidence) == "pass"
    assert agree(evidence) == "inconsistent"


def states(evidence: Evidence) -> str:
    report = verify(evidence.model, trust=evidence.trust, proof=evidence.proof)
    return next(check.state for check in report.checks if check.name == "envelope")


def test_they_agree_on_files_of_another_form(evidence: Evidence) -> None:
    original = evidence.proof.read_text()

    def restate(view: Any, **changes: object) -> None:
        statement = json.loads(base64.b64decode(view["payload"]))
        statement.update(changes)
        view["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()

    digest = {"milepostModelBlake3": "00" * 32}
    changes: list[Callable[[Any], object]] = [
        lambda view: view.update(payload="!"),
        lambda view: view.update(payloadType="text/plain"),
        lambda view: view.pop("signatures"),
        partial(restate, subject=[{"name": "run", "digest": digest}]),
        partial(restate, predicateType="urn:other"),
        partial(restate, predicate={}),
    ]
    for change in changes:
        evidence.proof.write_text(original)
        rewrite(evidence, change)
        assert agree(evidence) == "unknown"
    evidence.proof.write_text(original)
    rewrite(evidence, restate)  # the same statement, spelt otherwise: no longer what was signed
    assert agree(evidence) == "inconsistent"


def test_the_script_shares_no_code_and_stays_short() -> None:
    text = SCRIPT.read_text()
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    assert names - sys.stdlib_module_names == {"blake3", "cryptography"}
    # ast.unparse drops comments; docstrings are taken out here, blank lines below.
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)):
            node.body = [each for each in node.body if not is_docstring(each)] or [ast.Pass()]
    assert sum(bool(line.strip()) for line in ast.unparse(tree).splitlines()) < 200


def is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def test_the_schema_is_that_of_the_types() -> None:
    assert SCHEMA.read_text() == render(), "rewrite it: python -m tests.vectors.schema"
