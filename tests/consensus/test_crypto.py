"""Digests and signatures: separated by kind and network, refused for keys nobody can hold."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from milepost_consensus.crypto import (
    Ed25519Signer,
    compute_digest,
    is_small_order,
    verify_signature,
)
from milepost_consensus.errors import InvalidSignature
from tests.support.ledger import make_signer

NETWORK = hashlib.sha256(b"network").digest()
P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P

# Every encoding of a point of order 1, 2, 4 or 8 that decoders in use accept, with either sign.
SMALL_ORDER = [
    y.to_bytes(32, "little")
    for base in (
        0,
        1,
        P - 1,
        P,
        P + 1,
        int.from_bytes(
            bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
            "little",
        ),
        int.from_bytes(
            bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
            "little",
        ),
    )
    for y in (base, base | 1 << 255)
]


def add_points(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    """The group law of edwards25519 (RFC 8032, affine)."""
    product = D * a[0] * b[0] * a[1] * b[1] % P
    x = (a[0] * b[1] + a[1] * b[0]) * pow(1 + product, -1, P) % P
    y = (a[1] * b[1] + a[0] * b[0]) * pow(1 - product, -1, P) % P
    return x, y


def decode_point(public: bytes) -> tuple[int, int]:
    """The point of an encoding, non-canonical ones included; either x will do here."""
    y = (int.from_bytes(public, "little") & (2**255 - 1)) % P
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    assert (x * x - square) % P == 0, "not on the curve"
    return x, y


def has_order_dividing_eight(public: bytes) -> bool:
    point = decode_point(public)
    for _ in range(3):
        point = add_points(point, point)
    return point == (0, 1)


def test_digest_is_the_documented_concatenation() -> None:
    expected = hashlib.sha256(b"milepost/v1/vote\x00" + NETWORK + b"body").digest()
    assert compute_digest("vote", b"body", NETWORK) == expected
    assert compute_digest("state", b"body") == hashlib.sha256(b"milepost/v1/state\x00body").digest()


@given(st.binary(max_size=100))
def test_kinds_and_networks_never_share_a_digest(body: bytes) -> None:
    digests = {
        compute_digest(kind, body, network)
        for kind in ("vote", "proposal", "tx", "block")
        for network in (NETWORK, hashlib.sha256(b"other").digest())
    }
    assert len(digests) == 8


def test_signature_verifies_only_for_its_kind_network_body_and_key() -> None:
    signer, other = make_signer("a"), make_signer("b")
    signature = signer.sign("vote", b"body", NETWORK)
    verify_signature(signer.public, signature, kind="vote", body=b"body", network=NETWORK)
    for public, kind, body, network in (
        (other.public, "vote", b"body", NETWORK),
        (signer.public, "proposal", b"body", NETWORK),
        (signer.public, "vote", b"bodY", NETWORK),
        (signer.public, "vote", b"body", bytes(32)),
    ):
        with pytest.raises(InvalidSignature):
            verify_signature(public, signature, kind=kind, body=body, network=network)


def test_remembered_signature_is_good_for_nothing_but_what_it_signed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[bytes] = []

    class Counting:
        def __init__(self, public: bytes) -> None:
            self._key = Ed25519PublicKey.from_public_bytes(public)

        def verify(self, signature: bytes, digest: bytes) -> None:
            asked.append(digest)
            self._key.verify(signature, digest)

    monkeypatch.setattr(
        "milepost_consensus.crypto.Ed25519PublicKey", SimpleNamespace(from_public_bytes=Counting)
    )
    signer, other = make_signer("remembered"), make_signer("b")
    good, bad = signer.sign("tx", b"once", NETWORK), other.sign("tx", b"once", NETWORK)
    for _ in range(3):
        verify_signature(signer.public, good, kind="tx", body=b"once", network=NETWORK)
    assert len(asked) == 1
    for public, signature, body in (
        (signer.public, bad, b"once"),
        (other.public, good, b"once"),
        (signer.public, good, b"twice"),
    ):
        for _ in range(2):
            with pytest.raises(InvalidSignature):
                verify_signature(public, signature, kind="tx", body=body, network=NETWORK)
    assert len(asked) == 1 + 3 * 2, "what did not verify is asked again"


@given(st.integers(0, 511))
def test_every_changed_bit_of_a_signature_is_noticed(bit: int) -> None:
    signer = make_signer("a")
    signature = bytearray(signer.sign("vote", b"body", NETWORK))
    signature[bit // 8] ^= 1 << bit % 8
    with pytest.raises(InvalidSignature):
        verify_signature(
            signer.public, bytes(signature), kind="vote", body=b"body", network=NETWORK
        )


def test_malformed_keys_and_signatures_are_refused() -> None:
    signer = make_signer("a")
    signature = signer.sign("vote", b"", NETWORK)
    not_on_curve = (2).to_bytes(32, "little")
    for public, given_signature in (
        (signer.public[:31], signature),
        (signer.public, signature[:63]),
        (signer.public, signature + b"\x00"),
        (b"", b""),
        (not_on_curve, signature),
    ):
        with pytest.raises(InvalidSignature):
            verify_signature(public, given_signature, kind="vote", body=b"", network=NETWORK)


@pytest.mark.parametrize("public", SMALL_ORDER, ids=lambda public: public.hex()[:8])
def test_small_order_keys_are_refused_before_any_library_decides(public: bytes) -> None:
    assert has_order_dividing_eight(public)
    assert is_small_order(public)
    # R = the key itself and S = 0 satisfies the cofactored equation for such keys.
    for forged in (public + bytes(32), (1).to_bytes(32, "little") + bytes(32)):
        with pytest.raises(InvalidSignature, match="malformed"):
            verify_signature(public, forged, kind="vote", body=b"any", network=NETWORK)


def test_honest_keys_are_not_of_small_order() -> None:
    for i in range(20):
        public = make_signer(f"key-{i}").public
        assert not is_small_order(public)
        assert not has_order_dividing_eight(public)


def test_a_signer_from_a_seed_is_that_of_rfc_8032() -> None:
    # RFC 8032 section 7.1, test 1.
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    public = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    assert Ed25519Signer.from_seed(seed).public == public
