"""Envelopes: what is signed, by whom, and that no envelope passes for anything else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from milepost_consensus.crypto import compute_pae, verify_payload, verify_signature
from milepost_consensus.dsse import (
    PAYLOAD_TYPE,
    Envelope,
    decode_statement,
    dump_envelope,
    encode_statement,
    load_envelope,
    sign_envelope,
    verify_signatures,
)
from milepost_consensus.errors import InvalidInput, InvalidSignature
from tests.support.ledger import make_signer

ELM, OAK = make_signer("elm"), make_signer("oak")
PAYLOAD = encode_statement("run", bytes(32), {"b": 1, "a": "x"})


def test_the_signed_bytes_are_those_of_the_protocol() -> None:
    # The example of DSSE's own protocol.md.
    pae = compute_pae("http://example.com/HelloWorld", b"hello world")
    assert pae == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_statements_are_canonical_and_read_again() -> None:
    assert PAYLOAD.startswith(b'{"_type":"https://in-toto.io/Statement/v1","predicate":{"a":"x",')
    assert decode_statement(PAYLOAD) == (bytes(32), {"a": "x", "b": 1})


def test_several_sign_and_a_changed_payload_is_noticed() -> None:
    envelope = sign_envelope(sign_envelope(Envelope(PAYLOAD), ELM), OAK)
    assert sign_envelope(envelope, ELM).signatures[::-1] == envelope.signatures
    assert load_envelope(json.loads(json.dumps(dump_envelope(envelope)))) == envelope
    verify_signatures(envelope)
    with pytest.raises(InvalidSignature):
        verify_signatures(envelope._replace(payload=PAYLOAD + b" "))


def test_no_signature_of_one_domain_is_one_of_another() -> None:
    vote = ELM.sign("vote", PAYLOAD, b"")
    with pytest.raises(InvalidSignature):
        verify_payload(ELM.public, vote, payload_type=PAYLOAD_TYPE, payload=PAYLOAD)
    sealed = ELM.sign_payload(PAYLOAD_TYPE, PAYLOAD)
    for body in (PAYLOAD, compute_pae(PAYLOAD_TYPE, PAYLOAD)):
        with pytest.raises(InvalidSignature):
            verify_signature(ELM.public, sealed, kind="vote", body=body, network=b"")


@pytest.mark.parametrize(
    "change",
    [
        {"payload": ""},
        {"payload": "e30"},
        {"payload": 3},
        {"payloadType": "text/plain"},
        {"signatures": None},
        {"signatures": [{"keyid": "00"}]},
        {"signatures": [{"keyid": "00", "sig": "AA=="}]},
        {"signatures": [{"keyid": "0" * 64, "sig": "!"}]},
        {"extra": 1},
    ],
)
def test_envelopes_of_another_form_are_refused(change: dict[str, Any]) -> None:
    view = dump_envelope(sign_envelope(Envelope(PAYLOAD), ELM))
    load_envelope(view)
    with pytest.raises(InvalidInput) as caught:
        load_envelope({**view, **change})
    assert caught.value.slug == "bad-proof"
