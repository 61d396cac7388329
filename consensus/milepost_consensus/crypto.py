"""Digests and Ed25519 signatures, both separated by domain.

`compute_digest(kind, body, network)` is SHA-256 over "milepost/v1/" + kind + 0x00 + network + body.
The kind keeps objects of different types apart, the network (the genesis digest) keeps chains
apart; objects that exist before a network is chosen, such as training states, use no network.
One library (OpenSSL through `cryptography`) makes and checks all signatures: libraries disagree on
small-order keys, and a disagreement would split the chain.  Such keys are refused outright.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from typing import Final, Protocol

from cryptography.exceptions import InvalidSignature as _BadSignature
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from milepost_consensus.errors import InvalidSignature

DIGEST_BYTES = 32
ZERO_DIGEST: Final = bytes(DIGEST_BYTES)
REMEMBERED_SIGNATURES: Final = 32_768
"""Good signatures that a process need not compute again: more than a full mempool and the votes
about it, in some 15 MB."""
_PREFIX: Final = b"milepost/v1/"

# The eight small-order points of edwards25519 and their non-canonical spellings ("Taming the many
# EdDSAs", table 1), sign bit cleared.
_P: Final = 2**255 - 19
_SMALL_ORDER_Y: Final = frozenset(
    {
        0,
        1,
        int.from_bytes(
            bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
            "little",
        ),
        int.from_bytes(
            bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
            "little",
        ),
        _P - 1,
        _P,
        _P + 1,
    }
)


ENCRYPTED: Final = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"
"""What a key that `encrypt_seed` gave begins with."""


class Signer(Protocol):
    """Whoever holds a private key.  `public` is the 32-byte identity of the signer."""

    @property
    def public(self) -> bytes: ...

    def sign(self, kind: str, body: bytes, network: bytes) -> bytes: ...


def compute_digest(kind: str, body: bytes, network: bytes = b"") -> bytes:
    """SHA-256 of `body` in the domain of `kind` and, where given, of one network."""
    return hashlib.sha256(_PREFIX + kind.encode() + b"\x00" + network + body).digest()


class Ed25519Signer:
    """Signs with a private key held in this process."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self._public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @classmethod
    def from_seed(cls, seed: bytes) -> Ed25519Signer:
        """The signer whose 32-byte private seed is given (RFC 8032)."""
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def from_encrypted(cls, data: bytes, passphrase: bytes) -> Ed25519Signer:
        """The signer of what `encrypt_seed` gave; raises ValueError for anything else."""
        try:
            private = load_pem_private_key(data, passphrase)
        except (TypeError, UnsupportedAlgorithm) as error:
            raise ValueError("not an encrypted key") from error
        if not isinstance(private, Ed25519PrivateKey):
            raise ValueError("not an Ed25519 key")
        return cls(private)

    @property
    def public(self) -> bytes:
        return self._public

    def derive(self, purpose: str) -> bytes:
        """A 32-byte secret for a purpose, from the private key by HKDF (RFC 5869): nothing more
        has to be kept than the key."""
        secret = self._private.private_bytes_raw()
        info = _PREFIX + b"derive/" + purpose.encode()
        return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret)

    def sign(self, kind: str, body: bytes, network: bytes) -> bytes:
        return self._private.sign(compute_digest(kind, body, network))

    def sign_payload(self, payload_type: str, payload: bytes) -> bytes:
        """A DSSE signature.  It covers what begins with "DSSEv1" and is longer than a digest, so it
        is never one of a vote, a transaction or anything else that `sign` covers."""
        return self._private.sign(compute_pae(payload_type, payload))


def compute_pae(payload_type: str, payload: bytes) -> bytes:
    """What a DSSE signature covers: the pre-authentication encoding of the DSSE protocol, v1."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def encrypt_seed(seed: bytes, passphrase: bytes) -> bytes:
    """A private seed as PKCS#8 in PEM, encrypted with a passphrase (RFC 5958)."""
    private = Ed25519PrivateKey.from_private_bytes(seed)
    protection = BestAvailableEncryption(passphrase)
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)


def is_small_order(public: bytes) -> bool:
    """Whether a public key is one of the points of order 1, 2, 4 or 8, in any spelling."""
    y = int.from_bytes(public, "little") & (2**255 - 1)
    return y in _SMALL_ORDER_Y


def verify_signature(
    public: bytes, signature: bytes, *, kind: str, body: bytes, network: bytes
) -> None:
    """Raises InvalidSignature unless `public` signed `body` as this kind for this network."""
    _require(public, signature, kind, compute_digest(kind, body, network), _verify)


def verify_payload(public: bytes, signature: bytes, *, payload_type: str, payload: bytes) -> None:
    """Raises InvalidSignature unless `public` made this DSSE signature of the payload."""
    # Not the remembering one: it would keep whole payloads.
    _require(public, signature, "envelope", compute_pae(payload_type, payload), _ask_curve)


def _require(
    public: bytes,
    signature: bytes,
    kind: str,
    message: bytes,
    verify: Callable[[bytes, bytes, bytes], None],
) -> None:
    if len(public) != 32 or len(signature) != 64 or is_small_order(public):
        raise InvalidSignature(f"{kind}: malformed key or signature")
    try:
        verify(public, signature, message)
    except (_BadSignature, ValueError) as error:
        raise InvalidSignature(
            f"{kind}: the signature of {public.hex()[:16]} does not verify"
        ) from error


def _ask_curve(public: bytes, signature: bytes, message: bytes) -> None:
    """Raises unless the key signed the message."""
    Ed25519PublicKey.from_public_bytes(public).verify(signature, message)


@lru_cache(maxsize=REMEMBERED_SIGNATURES)
def _verify(public: bytes, signature: bytes, digest: bytes) -> None:
    """Raises unless the key signed the digest.

    A transaction is checked when it comes in, after every block while it waits, when it is proposed
    and in the proposed block; a precommit when it comes in and in its certificate.  The curve is
    asked once: the answer depends on these three values alone, and what raises is not remembered,
    so that nobody can fill the memory with what did not verify.
    """
    _ask_curve(public, signature, digest)
