"""Proof files and trust files: what an auditor keeps beside a model and in a drawer.

    model.proof.json   {"format": "milepost/proof/2", "envelope": {...}, "unsigned": {...}}
    network.trust      the network's name, identity and validators, as JSON

The bundle inside the envelope alone proves.  The envelope is signed by the node that handed it
out, which adds nothing to the verdict.  `unsigned` holds what the submitter's client added for
convenience: the SHA-256 of the model file as it was submitted, which no validator saw or signed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from milepost.errors import CannotTell
from milepost_consensus.crypto import compute_digest
from milepost_consensus.dsse import Envelope, verify_signatures
from milepost_consensus.encoding import encode
from milepost_consensus.errors import InvalidInput
from milepost_consensus.light import (
    ProofBundle,
    Trust,
    dump_proof,
    dump_trust,
    load_proof,
    load_trust,
    open_envelope,
    verify_bundle,
)
from milepost_consensus.views import parse_json

PROOF_FILE: Final = "model.proof.json"
"""What the proof of a run is called in its folder."""
MAX_PROOF_BYTES: Final = 64 * 1024 * 1024
"""A bundle of the longest run with every duty answered stays below."""
MAX_TRUST_BYTES: Final = 4 * 1024 * 1024
UNSIGNED_NOTE: Final = "added by the submitter's client; no validator saw or signed it"


class Proof(NamedTuple):
    """A proof file: the bundle, and the unsigned SHA-256 of the submitted model file, if given."""

    bundle: ProofBundle
    envelope: Envelope
    """What was handed out: the statement that holds the bundle, and who signed it."""
    model_sha256: bytes | None


def read_trust(path: Path) -> Trust:
    """Read a trust file; raises CannotTell (slug no-trust if missing, bad-trust if unusable)."""
    try:
        return load_trust(parse_json(_read(path, MAX_TRUST_BYTES)))
    except FileNotFoundError as error:
        raise CannotTell(
            f"There is no trust file {path}. Get it from somebody you trust, not from the one whose"
            " model you check, and name it with --trust.",
            slug="no-trust",
        ) from error
    except (OSError, ValueError, InvalidInput) as error:
        raise CannotTell(f"{path} is not a trust file: {error}", slug="bad-trust") from error


def write_trust(path: Path, trust: Trust) -> None:
    path.write_text(json.dumps(dump_trust(trust), indent=2) + "\n")


def compute_fingerprint(trust: Trust) -> str:
    """The trust file in sixteen digits that two people can compare by voice."""
    digits = compute_digest("trust", encode(trust)).hex()[:16]
    return " ".join(digits[i : i + 4] for i in range(0, 16, 4))


def read_proof(path: Path) -> Proof:
    """Read a proof file; raises CannotTell (no-proof or bad-proof)."""
    try:
        view = parse_json(_read(path, MAX_PROOF_BYTES))
    except FileNotFoundError as error:
        raise CannotTell(f"There is no proof file {path}.", slug="no-proof") from error
    except (OSError, ValueError, InvalidInput) as error:
        raise CannotTell(f"{path} is not a proof file: {error}", slug="bad-proof") from error
    return parse_proof(view, where=str(path))


def parse_proof(view: object, *, where: str) -> Proof:
    """The proof in a JSON value; raises CannotTell (bad-proof) unless it has the form of one."""
    hint = None
    if isinstance(view, dict):
        hint = _read_hint(view.get("unsigned"))
        view = {key: value for key, value in view.items() if key != "unsigned"}
    try:
        envelope = load_proof(view)
        return Proof(open_envelope(envelope), envelope, hint)
    except InvalidInput as error:
        raise CannotTell(f"{where} is not a usable proof file: {error}", slug="bad-proof") from (
            error
        )


def validate_proof(proof: Proof, trust: Trust) -> None:
    """Raises CannotTell (bad-proof) unless the bundle verifies against the trust."""
    try:
        verify_bundle(proof.bundle, trust)
    except InvalidInput as error:
        raise CannotTell(
            f"The node's proof does not verify against your trust file: {error}.",
            slug="bad-proof",
        ) from error


def describe_signers(envelope: Envelope, names: Mapping[bytes, str]) -> tuple[bool | None, str]:
    """Whether those who signed the envelope are among the trusted `names`, and who they are.

    False for a signature that is not its key's; None for an envelope that nobody known signed.
    Either way this says who handed the proof out, never that its verdict is final.
    """
    try:
        verify_signatures(envelope)
    except InvalidInput as error:
        return False, str(error)
    known = [names[each.key] for each in envelope.signatures if each.key in names]
    if known:
        return True, f"handed out by {', '.join(known)}, which the verdict does not rest on"
    if envelope.signatures:
        keys = ", ".join(each.key.hex()[:16] for each in envelope.signatures)
        return None, f"signed by {keys}, who is not in the trust file"
    return None, "not signed: nothing says who handed it out"


def _read_hint(unsigned: object) -> bytes | None:
    text = unsigned.get("model_sha256") if isinstance(unsigned, dict) else None
    try:
        digest = bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        digest = b""
    return digest if len(digest) == 32 else None


def proof_to_view(proof: Proof) -> dict[str, Any]:
    """The JSON of a proof file."""
    view: dict[str, Any] = dict(dump_proof(proof.envelope))
    if proof.model_sha256 is not None:
        view["unsigned"] = {"note": UNSIGNED_NOTE, "model_sha256": proof.model_sha256.hex()}
    return view


def write_proof(path: Path, proof: Proof, *, model: Path) -> None:
    """Write a proof file, with the digest of `model` as a hint if that file is there."""
    if model.is_file():
        proof = proof._replace(model_sha256=compute_file_digest(model))
    draft = path.with_name(path.name + ".new")
    draft.write_text(json.dumps(proof_to_view(proof), indent=1) + "\n")
    os.replace(draft, path)


def compute_file_digest(path: Path) -> bytes:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _read(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"larger than {limit} bytes")
    return data
