"""`milepost proof`: what a node hands out is written only if it verifies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from milepost import verify
from milepost_consensus.light import dump_proof, seal_bundle
from tests.support.cli import Outcome, run_cli
from tests.support.fake_nodes import FakeNode, Reply, Request, running
from tests.support.proofs import Evidence

pytestmark = pytest.mark.slow


@pytest.fixture
def evidence(tmp_path: Path) -> Evidence:
    return Evidence(tmp_path)


def fetch(evidence: Evidence, node: FakeNode, *options: str) -> Outcome:
    out = str(evidence.folder / "model.proof.json")
    sub = f"sub_{evidence.bundle.submission.id.hex()[:12]}"
    return run_cli("proof", sub, "-o", out, "--node", node.url, *options, cwd=evidence.folder)


def test_a_proof_is_fetched_checked_and_written(evidence: Evidence) -> None:
    handed_out = json.loads(evidence.proof.read_text())
    del handed_out["unsigned"]
    evidence.proof.unlink()
    with running(lambda request: Reply(200, handed_out)) as (node,):
        missing = fetch(evidence, node)
        assert (missing.code, evidence.proof.exists()) == (3, False)
        assert "[no-trust]" in missing.err
        done = fetch(evidence, node, "--trust", str(evidence.trust), "--json")
    assert done.code == 0, done.err
    assert done.json["verdict"] == "VALID"
    written = json.loads(evidence.proof.read_text())
    assert written["envelope"] == handed_out["envelope"]
    report = verify(evidence.model, trust=evidence.trust)
    states = {check.name: check.state for check in report.checks}
    assert (report.verdict, states["file"], states["envelope"]) == ("accepted", "pass", "pass")


def test_a_proof_that_does_not_verify_or_is_another_is_not_written(evidence: Evidence) -> None:
    evidence.proof.unlink()
    trust = ("--trust", str(evidence.trust))
    verdict = replace(evidence.bundle.verdict, reason="believe me")
    forged = dump_proof(seal_bundle(replace(evidence.bundle, verdict=verdict)))
    other = dump_proof(seal_bundle(evidence.bundle))
    with running(lambda request: Reply(200, forged)) as (node,):
        assert "[bad-proof]" in fetch(evidence, node, *trust).err

    def answer(request: Request) -> Reply:
        return Reply(200, other)

    with running(answer) as (node,):
        out = str(evidence.proof)
        wrong = run_cli(
            *("proof", "sub_000000000000", "-o", out, "--node", node.url, *trust),
            cwd=evidence.folder,
        )
    assert (wrong.code, "[bad-proof]" in wrong.err) == (3, True)
    assert not evidence.proof.exists()
