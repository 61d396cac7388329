"""The seven answers of `verify`, and every way in which they can come out."""

from __future__ import annotations

import json
import struct
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from milepost import verify
from milepost.answers import Report
from milepost.errors import WrongUsage
from milepost_consensus.params import Params
from milepost_ml.snapshots import write_tensors
from tests.support.proofs import (
    Evidence,
    decide_invalid,
    decide_undecided,
    decide_valid,
    make_model_record,
    make_tensors,
)

NAMES = ["weights", "file", "recorded", "final", "envelope", "retraced", "verdict"]


def check(evidence: Evidence, model: Path | None = None, *, require: float = 0.0) -> Report:
    return verify(
        model or evidence.model,
        trust=evidence.trust,
        proof=evidence.proof,
        require_percent=require,
    )


def states(report: Report) -> dict[str, str]:
    return {each.name: each.state for each in report.checks}


def detail(report: Report, name: str) -> str:
    return next(each.detail for each in report.checks if each.name == name)


@pytest.fixture
def evidence(tmp_path: Path) -> Evidence:
    return Evidence(tmp_path)


def test_the_submitted_file_is_accepted_with_seven_answers(evidence: Evidence) -> None:
    report = check(evidence)
    assert report.verdict == "accepted"
    assert states(report) == dict.fromkeys(NAMES, "pass")
    assert [each.name for each in report.checks] == NAMES
    assert "7 of 7 validators" in detail(report, "final")
    assert "6 of 6 intervals" in detail(report, "retraced")


def test_the_proof_is_found_beside_the_model(evidence: Evidence) -> None:
    report = verify(evidence.model, trust=evidence.trust)
    assert (report.verdict, report.subject["proof"]) == ("accepted", str(evidence.proof))


def test_the_same_weights_saved_again_are_accepted_with_a_note(evidence: Evidence) -> None:
    copy = evidence.folder / "again.safetensors"
    data = evidence.model.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    copy.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    report = check(evidence, copy)
    assert report.verdict == "accepted"
    assert states(report) == {**dict.fromkeys(NAMES, "pass"), "file": "note"}
    assert "same weights" in report.headline


def test_changed_weights_are_named_with_counts_and_sizes(evidence: Evidence) -> None:
    tensors = make_tensors()
    tensors["fc2.weight"][1, 3] += np.float32(0.5)
    changed = evidence.folder / "changed.safetensors"
    write_tensors(changed, tensors)
    report = check(evidence, changed)
    assert (report.verdict, report.slug) == ("mismatch", "other-weights")
    text = detail(report, "weights")
    assert "1 of 3 tensors" in text
    assert "fc2.weight" in text
    assert "1 of 16 values, largest difference 5.0e-01" in text
    assert states(report)["file"] == "fail"


def test_a_file_changed_in_place_is_compared_with_the_last_snapshot(evidence: Evidence) -> None:
    (evidence.folder / "mileposts").mkdir()
    for name in ("00005", "00006"):
        write_tensors(
            evidence.folder / "mileposts" / f"{name}.safetensors",
            {f"model.{key}": value for key, value in evidence.tensors.items()}
            | {"optimizer.fc1.bias.momentum": np.zeros(8, np.float32)},
        )
    tensors = make_tensors()
    tensors["extra"] = np.zeros(1, np.float32)
    write_tensors(evidence.model, tensors)
    text = detail(check(evidence), "weights")
    assert "differ from 00006.safetensors" in text
    assert "extra" in text


def test_without_the_record_the_digests_are_told(evidence: Evidence) -> None:
    write_tensors(evidence.model, make_tensors(seed=1))
    report = check(evidence)
    expected = evidence.bundle.verdict.model_digest.hex()[:16]
    assert report.verdict == "mismatch"
    assert f"the proof says b3:{expected}" in detail(report, "weights")


def test_a_submission_of_another_model_in_the_bundle_is_inconsistent(evidence: Evidence) -> None:
    other = decide_valid(evidence.ledger, make_model_record(make_tensors(seed=1), "other"))
    forged = replace(
        other,
        submission=evidence.ledger.get(evidence.bundle.submission.id),
        submission_index=evidence.bundle.submission_index,
        submission_path=evidence.bundle.submission_path,
    )
    evidence.write_proof(forged)
    report = check(evidence)
    assert report.verdict == "inconsistent"
    assert states(report)["recorded"] == "fail"


def test_a_verdict_that_was_touched_up_is_inconsistent(evidence: Evidence) -> None:
    verdict = replace(evidence.bundle.verdict, reason="all 6 intervals retrace, really")
    evidence.write_proof(replace(evidence.bundle, verdict=verdict))
    report = check(evidence)
    assert (report.verdict, report.slug) == ("inconsistent", "bad-path")


def test_too_few_signatures_are_inconsistent(evidence: Evidence) -> None:
    certificate = evidence.bundle.certificate
    few = replace(
        certificate, signers=certificate.signers[:4], signatures=certificate.signatures[:4]
    )
    evidence.write_proof(replace(evidence.bundle, certificate=few))
    report = check(evidence)
    assert report.verdict == "inconsistent"
    assert states(report)["final"] == "fail"
    assert "4 of 7 validators signed" in detail(report, "final")


def test_a_forged_signature_is_inconsistent(evidence: Evidence) -> None:
    certificate = evidence.bundle.certificate
    forged = replace(certificate, signatures=(bytes(64), *certificate.signatures[1:]))
    evidence.write_proof(replace(evidence.bundle, certificate=forged))
    assert check(evidence).verdict == "inconsistent"


def test_changed_weights_do_not_hide_an_inconsistent_proof(evidence: Evidence) -> None:
    write_tensors(evidence.model, make_tensors(seed=1))
    verdict = replace(evidence.bundle.verdict, reason="other")
    evidence.write_proof(replace(evidence.bundle, verdict=verdict))
    assert check(evidence).verdict == "inconsistent"


def test_no_proof_is_no_answer(evidence: Evidence) -> None:
    evidence.proof.unlink()
    report = check(evidence)
    assert (report.verdict, report.slug) == ("unknown", "no-proof")


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"format": "milepost/proof/1"}', "\x00", "9" * 5000]
)
def test_an_unusable_proof_is_no_answer(evidence: Evidence, text: str) -> None:
    evidence.proof.write_text(text)
    report = check(evidence)
    assert (report.verdict, report.slug) == ("unknown", "bad-proof")


def test_a_foreign_trust_file_is_no_answer(evidence: Evidence) -> None:
    evidence.write_trust("staging")
    report = check(evidence)
    assert (report.verdict, report.slug) == ("unknown", "wrong-network")
    assert states(report)["final"] == "unknown"


def test_no_trust_file_is_no_answer(
    evidence: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    monkeypatch.delenv("MILEPOST_NETWORK", raising=False)
    report = verify(evidence.model, proof=evidence.proof)
    assert (report.verdict, report.slug) == ("unknown", "no-trust")
    missing = verify(evidence.model, proof=evidence.proof, trust=empty / "none.trust")
    assert (missing.verdict, missing.slug) == ("unknown", "no-trust")
    evidence.trust.write_text("{}")
    assert check(evidence).slug == "bad-trust"


def test_trust_comes_from_the_profile_at_hand(
    evidence: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    (evidence.folder / "milepost.toml").write_text('nodes = []\ntrust = "network.trust"\n')
    monkeypatch.setenv("MILEPOST_NETWORK", str(evidence.folder))
    assert verify(evidence.model).verdict == "accepted"


def test_an_invalid_verdict_rejects(tmp_path: Path) -> None:
    evidence = Evidence(tmp_path, partial(decide_invalid, step=9))
    report = check(evidence)
    assert report.verdict == "rejected"
    assert states(report)["retraced"] == "fail"
    assert states(report)["verdict"] == "fail"
    assert "interval 2" in report.headline


def test_an_undecided_verdict_is_no_answer(tmp_path: Path) -> None:
    evidence = Evidence(tmp_path, decide_undecided, params=Params(hold_window=2))
    report = check(evidence)
    assert (report.verdict, report.slug) == ("unknown", "undecided")


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04" + bytes(40), b"\x80\x02}q\x00.", b"\xff" * 64]
)
def test_a_model_file_that_cannot_be_read_is_no_answer(evidence: Evidence, content: bytes) -> None:
    evidence.model.write_bytes(content)
    report = check(evidence)
    assert report.verdict == "unknown"
    assert states(report)["weights"] == "unknown"


def test_a_truncated_model_file_is_no_answer(evidence: Evidence) -> None:
    evidence.model.write_bytes(evidence.model.read_bytes()[:-1])
    report = check(evidence)
    assert (report.verdict, states(report)["weights"]) == ("unknown", "unknown")


def test_a_missing_model_file_is_wrong_usage(evidence: Evidence) -> None:
    with pytest.raises(WrongUsage):
        check(evidence, evidence.folder / "nothing.safetensors")


def test_required_coverage(tmp_path: Path) -> None:
    evidence = Evidence(tmp_path, params=Params(auditors=0), intervals=20)
    enough, too_much = check(evidence, require=10), check(evidence, require=10.1)
    assert enough.coverage is not None
    assert (enough.coverage.retraced, enough.verdict) == (2, "accepted")
    assert (too_much.verdict, too_much.slug) == ("rejected", "not-enough-coverage")


def test_what_is_not_shown_is_said_with_probabilities(tmp_path: Path) -> None:
    report = check(Evidence(tmp_path, params=Params(auditors=0), intervals=20))
    text = "\n".join(report.gaps)
    # The first and the last interval, which every attacker knows to be retraced, prove nothing
    # about the others.
    assert "18 of 20 intervals were not retraced" in text
    assert "1 with 0 %, 2 with 0 %, 5 with 0 %" in text
    assert report.to_view()["coverage"]["detect_ppm"]["1"] == 0


def test_lying_together_is_said_where_few_verifiers_saw_an_interval(evidence: Evidence) -> None:
    text = "\n".join(check(evidence).gaps)
    # One auditor on an interval, two liars among seven.
    assert "theirs with probability 29 %" in text
    assert "not retraced" not in text
    assert "harmless" in text


def test_the_hint_is_no_evidence(evidence: Evidence) -> None:
    view = json.loads(evidence.proof.read_text())
    assert "no validator saw or signed it" in view["unsigned"]["note"]
    del view["unsigned"]
    evidence.proof.write_text(json.dumps(view))
    report = check(evidence)
    assert report.verdict == "accepted"
    assert states(report)["file"] == "unknown"
