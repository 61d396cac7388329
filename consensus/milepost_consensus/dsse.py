"""DSSE envelopes around in-toto statements: the outer form of a proof file.

An envelope is signed by whoever hands it out, with its member key.  That says who handed it out and
nothing else: a verdict rests on the certificate inside, so an envelope may also be unsigned.
The payload is canonical JSON (RFC 8785) as written here; a reader takes its bytes as they are.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Final, NamedTuple

from milepost_consensus.crypto import Ed25519Signer, verify_payload
from milepost_consensus.errors import InvalidInput
from milepost_consensus.params import MAX_MEMBERS
from milepost_consensus.views import View, parse_json

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "urn:milepost:verdict:v1"
MODEL_DIGEST: Final = "milepostModelBlake3"
"""The algorithm of the subject: the content digest of a model's tensors, not of a file."""


class EnvelopeSignature(NamedTuple):
    """Who signed an envelope, by the Ed25519 key, and the signature."""

    key: bytes
    signature: bytes


class Envelope(NamedTuple):
    """The statement's bytes and the signatures over them; there may be none."""

    payload: bytes
    signatures: tuple[EnvelopeSignature, ...] = ()


def encode_statement(name: str, model_digest: bytes, predicate: View) -> bytes:
    """The bytes of the statement that the predicate is about the model of this content digest.

    RFC 8785 for the ASCII text and whole numbers below 2^53 that views hold; a larger number, which
    RFC 8785 has no form for, stands in its digits.
    """
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {MODEL_DIGEST: model_digest.hex()}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate,
    }
    text = json.dumps(statement, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def decode_statement(payload: bytes) -> tuple[bytes, View]:
    """The model's content digest and the predicate; raises InvalidInput (slug bad-proof)."""
    statement = parse_json(payload)
    if not isinstance(statement, dict) or statement.keys() != {
        "_type",
        "subject",
        "predicateType",
        "predicate",
    }:
        raise _unusable("its payload is no in-toto statement")
    if (statement["_type"], statement["predicateType"]) != (STATEMENT_TYPE, PREDICATE_TYPE):
        raise _unusable(f"its payload is not a statement of type {PREDICATE_TYPE}")
    subjects, predicate = statement["subject"], statement["predicate"]
    if not isinstance(predicate, dict):
        raise _unusable("the statement's predicate is no object")
    match subjects:
        case [{"name": str(), "digest": {**digests}}] if digests.keys() == {MODEL_DIGEST}:
            return _from_hex(digests[MODEL_DIGEST]), predicate
    raise _unusable(f"the statement is not about one subject with its {MODEL_DIGEST}")


def sign_envelope(envelope: Envelope, signer: Ed25519Signer) -> Envelope:
    """The envelope with one more signature, in place of an earlier one of the same key."""
    kept = tuple(each for each in envelope.signatures if each.key != signer.public)
    signature = signer.sign_payload(PAYLOAD_TYPE, envelope.payload)
    return Envelope(envelope.payload, (*kept, EnvelopeSignature(signer.public, signature)))


def verify_signatures(envelope: Envelope) -> None:
    """Raises InvalidSignature unless every signature is one of the key that it names."""
    for key, signature in envelope.signatures:
        verify_payload(key, signature, payload_type=PAYLOAD_TYPE, payload=envelope.payload)


def dump_envelope(envelope: Envelope) -> View:
    """The JSON data of an envelope; `keyid` is the hex of the signer's public key."""
    return {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(envelope.payload).decode(),
        "signatures": [
            {"keyid": key.hex(), "sig": base64.b64encode(signature).decode()}
            for key, signature in envelope.signatures
        ],
    }


def load_envelope(view: object) -> Envelope:
    """The envelope in JSON data; raises InvalidInput (slug bad-proof) for any other form."""
    if not isinstance(view, dict) or view.keys() != {"payloadType", "payload", "signatures"}:
        raise _unusable("it holds no DSSE envelope")
    if view["payloadType"] != PAYLOAD_TYPE:
        raise _unusable(f"its payload is not {PAYLOAD_TYPE}")
    listed = view["signatures"]
    if not isinstance(listed, list) or len(listed) > MAX_MEMBERS:
        raise _unusable(f"its signatures are not a list of at most {MAX_MEMBERS}")
    signatures = []
    for each in listed:
        if not isinstance(each, dict) or each.keys() != {"keyid", "sig"}:
            raise _unusable("a signature is more or less than keyid and sig")
        signatures.append(EnvelopeSignature(_from_hex(each["keyid"]), _from_base64(each["sig"])))
    return Envelope(_from_base64(view["payload"]), tuple(signatures))


def _from_hex(text: object) -> bytes:
    try:
        data = bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        data = b""
    if len(data) != 32 or data.hex() != text:
        raise _unusable("a key or digest is not 64 lowercase hex digits")
    return data


def _from_base64(text: object) -> bytes:
    try:
        data = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (ValueError, binascii.Error):
        data = b""
    if not data or base64.b64encode(data).decode() != text:
        raise _unusable("payload or signature is not base64")
    return data


def _unusable(why: str) -> InvalidInput:
    return InvalidInput(f"not a usable proof: {why}", slug="bad-proof")
