"""Offline verification of a model file: seven answers, or eight, and one verdict.

    weights    are these the tensors that the network judged?
    file       are these also the bytes that the submitter had?
    recorded   is the submission in the ledger state that the block commits to?
    final      did enough of the validators that I trust sign the block?
    envelope   who handed the proof out?  Says nothing about the verdict, unless it was forged
    retraced   which intervals were trained again, and did they agree?
    origin     of a registered or continued run: as which registration, from which models?
    verdict    what did the network decide?

Nothing here talks to a network, and nothing is trusted by default: without a trust file the answer
is `unknown`, never `accepted`.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Final, NamedTuple

from milepost import bundle, lineage
from milepost.coverage import (
    Coverage,
    describe_assurance,
    describe_drift,
    describe_election,
    describe_gaps,
    get_coverage,
)
from milepost.errors import CannotTell, WrongUsage
from milepost.network import find_profile
from milepost_consensus.errors import InvalidInput
from milepost_consensus.light import Trust, verify_bundle
from milepost_consensus.verdicts import (
    PROFILE_MEANINGS,
    UNDECIDED,
    VALID,
    Verdict,
    qualify_assurance,
)
from milepost_ml.errors import InvalidRecord
from milepost_ml.snapshots import compute_stored_digest, read_header

ACCEPTED: Final = "accepted"
REJECTED: Final = "rejected"
MISMATCH: Final = "mismatch"
INCONSISTENT: Final = "inconsistent"
UNKNOWN: Final = "unknown"

PASS: Final = "pass"  # noqa: S105 - the state of a check
NOTE: Final = "note"
FAIL: Final = "fail"
CANNOT: Final = "unknown"

MAX_DIFFERENCES: Final = 10
"""Differing tensors that are named; the others are counted."""


class Check(NamedTuple):
    """One answer: its state is pass, note (true, with a remark), fail or unknown."""

    name: str
    state: str
    detail: str


class Report(NamedTuple):
    """What came out.  `verdict` is accepted, rejected, mismatch, inconsistent or unknown."""

    verdict: str
    headline: str
    checks: tuple[Check, ...]
    coverage: Coverage | None
    gaps: tuple[str, ...]
    """What the verdict does not show, in sentences."""
    subject: dict[str, Any]
    """What was looked at: file, proof, trust, network, submission."""
    slug: str = ""
    """The explanation to look up, where something is missing or wrong."""

    def to_view(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "headline": self.headline,
            "checks": [check._asdict() for check in self.checks],
            "coverage": self.coverage.to_view() if self.coverage is not None else None,
            "not_shown": list(self.gaps),
            "subject": self.subject,
            "slug": self.slug or None,
        }


def verify(
    model: str | Path,
    *,
    trust: str | Path | None = None,
    proof: str | Path | None = None,
    require_percent: float = 0.0,
) -> Report:
    """Check a model file against the proof of a verdict and a trust file, offline.

    `proof` is looked for beside the model by default, `trust` in the milepost.toml that a command
    would use here.  With `require_percent`, a verdict that covers less of the intervals is
    rejected.  Raises WrongUsage if there is no such model file.
    """
    path = Path(model)
    if not path.is_file():
        raise WrongUsage(f"There is no model file {path}.", slug="no-such-thing")
    proof_path = Path(proof) if proof is not None else find_proof(path)
    subject: dict[str, Any] = {"model": str(path), "proof": str(proof_path)}
    try:
        trust_path = find_trust(trust)
        subject["trust"] = str(trust_path)
        trusted = bundle.read_trust(trust_path)
        subject["fingerprint"] = bundle.compute_fingerprint(trusted)
        subject["network"] = trusted.network
        read = bundle.read_proof(proof_path)
    except CannotTell as error:
        return _make_report(UNKNOWN, str(error), subject=subject, slug=error.slug)
    return _Examination(path, proof_path, read, trusted, subject).run(require_percent)


def find_proof(model: Path) -> Path:
    """Where the proof of a model lies: under the model's own name, or under the usual one."""
    own = model.with_name(model.stem + ".proof.json")
    usual = model.with_name("model.proof.json")
    return own if own.is_file() or not usual.is_file() else usual


def find_trust(trust: str | Path | None) -> Path:
    """The trust file to use: the given one or the profile's; raises CannotTell (no-trust)."""
    if trust is not None:
        return Path(trust)
    profile = find_profile()
    if profile is None or profile.trust is None:
        raise CannotTell(
            "No trust file: nobody is trusted by default. Name the network's own with --trust.",
            slug="no-trust",
        )
    return profile.trust


def _make_report(
    verdict: str,
    headline: str,
    *,
    checks: tuple[Check, ...] = (),
    coverage: Coverage | None = None,
    gaps: tuple[str, ...] = (),
    subject: dict[str, Any],
    slug: str = "",
) -> Report:
    return Report(verdict, headline, checks, coverage, gaps, subject, slug)


class _Examination:
    """One model file under one proof and one trust."""

    def __init__(
        self,
        model: Path,
        proof_path: Path,
        proof: bundle.Proof,
        trust: Trust,
        subject: dict[str, Any],
    ) -> None:
        self._model = model
        self._proof_path = proof_path
        self._proof = proof
        self._trust = trust
        self._verdict: Verdict = proof.bundle.verdict
        self._origin = lineage.view_origin(proof.bundle.origin, self._verdict)
        self._names = {member.id: member.name for member in trust.validators}
        submit = proof.bundle.submission.submit
        self._subject = {
            **subject,
            "submission": f"sub_{self._verdict.submission.hex()}",
            "name": submit.name,
            "submitter": self._name(self._verdict.sender),
            "height": self._verdict.height,
            "block": proof.bundle.header.height,
            "time_ms": proof.bundle.header.time_ms,
            "model_digest": self._verdict.model_digest.hex(),
            "dataset_root": submit.dataset_root.hex(),
            "recipe": submit.recipe.hex(),
            "assurance": qualify_assurance(self._verdict.assurance, self._verdict.tolerance_ppb),
            "profile": self._verdict.profile,
            "origin": self._origin,
        }

    def run(self, require_percent: float) -> Report:
        weights, same = self._check_weights()
        file = self._check_file(same)
        recorded, final, slug = self._check_ledger()
        envelope = self._check_envelope()
        checks: tuple[Check, ...] = (weights, file, recorded, final, envelope)
        if slug == "wrong-network":
            return self._report(
                UNKNOWN, "the proof is not signed by anyone you trust", checks, slug=slug
            )
        if slug:
            return self._report(INCONSISTENT, "the proof is inconsistent", checks, slug=slug)
        if envelope.state == FAIL:
            return self._report(
                INCONSISTENT, "the proof's envelope was changed", checks, slug="bad-signature"
            )
        coverage = get_coverage(self._verdict, quorum=len(self._proof.bundle.submission.quorum))
        checks = (*checks, self._check_retraced(coverage), *self._check_origin())
        checks = (*checks, self._check_verdict())
        return self._conclude(checks, coverage, same, require_percent)

    def _conclude(
        self, checks: tuple[Check, ...], coverage: Coverage, same: bool | None, required: float
    ) -> Report:
        verdict = self._verdict
        if same is None:
            return self._report(
                UNKNOWN, "the model file cannot be read", checks, coverage, slug="snapshot-broken"
            )
        if not same:
            return self._report(
                MISMATCH, "the proof is for other weights", checks, coverage, slug="other-weights"
            )
        if verdict.outcome == UNDECIDED:
            headline = f"the network did not decide: {verdict.reason}"
            return self._report(UNKNOWN, headline, checks, coverage, slug="undecided")
        if verdict.outcome != VALID:
            return self._report(REJECTED, verdict.reason, checks, coverage, slug="not-retraced")
        if coverage.percent < required:
            detail = f"{coverage.percent:.4g} % retraced, {required:.4g} % required"
            checks = (*checks, Check("required", FAIL, detail))
            return self._report(REJECTED, detail, checks, coverage, slug="not-enough-coverage")
        extent = (
            "every interval was retraced"
            if coverage.retraced == coverage.intervals
            else "as far as the retraced intervals show"
        )
        headline = (
            f"trained by {self._subject['submitter']} from data"
            f" {self._subject['dataset_root'][:12]} as recorded; {extent}"
        )
        if any(check.state == NOTE for check in checks[:2]):
            headline += " (same weights in a different file)"
        return self._report(ACCEPTED, headline, checks, coverage)

    def _report(
        self,
        verdict: str,
        headline: str,
        checks: tuple[Check, ...],
        coverage: Coverage | None = None,
        slug: str = "",
    ) -> Report:
        gaps: tuple[str, ...] = ()
        if coverage is not None:
            gaps = (*describe_gaps(coverage), *lineage.describe_gaps(self._origin))
        return _make_report(
            verdict,
            headline,
            checks=checks,
            coverage=coverage,
            gaps=gaps,
            subject=self._subject,
            slug=slug,
        )

    def _name(self, member: bytes) -> str:
        return self._names.get(member, member.hex()[:16])

    # The six answers -----------------------------------------------------------------------------

    def _check_weights(self) -> tuple[Check, bool | None]:
        """The check, and whether the weights are the judged ones (None if unreadable)."""
        expected = self._verdict.model_digest
        try:
            found = compute_stored_digest(self._model)
        except InvalidRecord as error:
            return Check("weights", CANNOT, f"{error}  [{error.slug}]"), None
        self._subject["content"] = found.hex()
        self._subject["tensors"] = count = _count_tensors(self._model)
        if found == expected:
            detail = f"all {count} tensors are those of {self._short}  b3:{found.hex()[:16]}"
            return Check("weights", PASS, detail), True
        lines = self._describe_differences()
        return Check("weights", FAIL, f"not those of {self._short}\n" + "\n".join(lines)), False

    @property
    def _short(self) -> str:
        return f"sub_{self._verdict.submission.hex()[:8]}"

    def _describe_differences(self) -> list[str]:
        try:
            from milepost.comparison import find_differences
        except ImportError:
            found = None
        else:
            found = find_differences(
                self._model, self._proof_path.parent, self._verdict.model_digest
            )
        if found is None:
            return [
                f"content b3:{self._subject['content'][:16]}, the proof says"
                f" b3:{self._verdict.model_digest.hex()[:16]}"
            ]
        lines = [
            f"{len(found.differences)} of {found.tensors} tensors differ from {found.reference}:"
        ]
        lines += [f"  {difference}" for difference in found.differences[:MAX_DIFFERENCES]]
        if len(found.differences) > MAX_DIFFERENCES:
            lines.append(f"  and {len(found.differences) - MAX_DIFFERENCES} more")
        return lines

    def _check_file(self, same_weights: bool | None) -> Check:
        found = bundle.compute_file_digest(self._model)
        self._subject["sha256"] = found.hex()
        expected = self._proof.model_sha256
        if expected is None:
            return Check("file", CANNOT, "the proof does not say how the submitted file was hashed")
        if found == expected:
            detail = f"byte for byte the submitted file  sha256:{found.hex()[:16]}"
            return Check("file", PASS, f"{detail}  (unsigned hint)")
        if same_weights:
            return Check("file", NOTE, "not the submitted bytes: the same weights, saved again")
        return Check("file", FAIL, f"not the submitted bytes  sha256:{found.hex()[:16]}")

    def _check_ledger(self) -> tuple[Check, Check, str]:
        """Recorded and final, with the slug of what is wrong, if anything."""
        proof = self._proof.bundle
        try:
            done = {check.name: check.detail for check in verify_bundle(proof, self._trust)}
        except InvalidInput as error:
            detail, slug = str(error), error.slug
        else:
            recorded = Check("recorded", PASS, done["recorded"])
            return recorded, Check("final", PASS, done["final"]), ""
        untold = "not looked at: the block is not known to be final"
        if slug == "wrong-network":
            detail += f" (trust file of {self._trust.network})"
            return Check("recorded", CANNOT, untold), Check("final", CANNOT, detail), slug
        if slug in ("bad-path", "bad-proof"):
            return Check("recorded", FAIL, detail), Check("final", PASS, "signed"), slug
        return Check("recorded", CANNOT, untold), Check("final", FAIL, detail), slug

    def _check_envelope(self) -> Check:
        genuine, detail = bundle.describe_signers(self._proof.envelope, self._names)
        return Check("envelope", {True: PASS, False: FAIL, None: CANNOT}[genuine], detail)

    def _check_retraced(self, coverage: Coverage) -> Check:
        verdict = self._verdict
        counts = Counter((r.agreed, r.differed) for r in verdict.retraced)
        scores = ", ".join(
            f"{agreed}-{differed} in {count}" for (agreed, differed), count in counts.most_common()
        )
        detail = f"{coverage.retraced} of {coverage.intervals} intervals"
        if scores:
            detail += f" (agreed-differed: {scores})"
        meaning = PROFILE_MEANINGS.get(verdict.profile)
        detail += f"\nprofile {verdict.profile}" + (f": {meaning}" if meaning else "")
        detail += f"\n{describe_election(verdict)}"
        if coverage.tolerance_ppb:
            detail += f"\ndrift budget {describe_drift(coverage)}"
        if verdict.refuted:
            listed = ", ".join(str(refuted.interval) for refuted in verdict.refuted)
            return Check("retraced", FAIL, f"{detail}\ndo not retrace: {listed}")
        if verdict.overruled:
            names = ", ".join(self._name(member) for member in verdict.overruled)
            detail += f"\noverruled by the panel: {names}"
        return Check("retraced", PASS if coverage.retraced else CANNOT, detail)

    def _check_origin(self) -> tuple[Check, ...]:
        """Registration and parents, of a run that has any; noted if a parent is less assured."""
        names = {member.hex(): name for member, name in self._names.items()}
        lines = lineage.describe_origin(self._origin, names)
        if not lines:
            return ()
        state = PASS if lineage.is_registered_throughout(self._origin) else NOTE
        return (Check("origin", state, "\n".join(lines)),)

    def _check_verdict(self) -> Check:
        verdict = self._verdict
        state = {VALID: PASS, UNDECIDED: CANNOT}.get(verdict.outcome, FAIL)
        return Check(
            "verdict",
            state,
            f"{verdict.outcome} · {verdict.reason} · assurance {describe_assurance(verdict)} ·"
            f" profile {verdict.profile} · rule {verdict.rule} · block {verdict.height}",
        )


def _count_tensors(model: Path) -> int:
    with model.open("rb") as stream:
        return len(read_header(stream, name=model.name, metadata_allowed=True).specs)
