"""Signatures for simulations: a keyed hash that costs microseconds, or Ed25519 remembered.

Simulated liars forge nothing: they sign with their own keys only.  So a signature that anybody
could compute is as good as a real one, and every twentieth schedule uses real ones to be sure.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import milepost_consensus.crypto as crypto
from milepost_consensus.crypto import compute_digest
from milepost_consensus.errors import InvalidSignature


class SimSigner:
    """Signs by a hash keyed with its name."""

    def __init__(self, name: str) -> None:
        self._public = hashlib.sha256(name.encode()).digest()

    @property
    def public(self) -> bytes:
        return self._public

    def sign(self, kind: str, body: bytes, network: bytes) -> bytes:
        return _compute_signature(self._public, compute_digest(kind, body, network))

    def derive(self, purpose: str) -> bytes:
        """The secret of an onion."""
        return compute_digest("derive", self._public + purpose.encode())


def _compute_signature(public: bytes, digest: bytes) -> bytes:
    return hashlib.blake2b(digest, key=public).digest()


def verify_sim_signature(
    public: bytes, signature: bytes, *, kind: str, body: bytes, network: bytes
) -> None:
    """What `verify_signature` is for signatures of a SimSigner."""
    if signature != _compute_signature(public, compute_digest(kind, body, network)):
        raise InvalidSignature(f"{kind}: the signature of {public.hex()[:16]} does not verify")


@contextmanager
def use_signatures(*, real: bool) -> Iterator[None]:
    """While this lasts, the whole package checks signatures of one kind.

    Real ones are checked once and remembered: all nodes of a simulation see the same ones.
    """
    verify = lru_cache(maxsize=None)(crypto.verify_signature) if real else verify_sim_signature
    users = [
        module
        for name, module in sys.modules.items()
        if name.startswith("milepost_consensus.") and hasattr(module, "verify_signature")
    ]
    before = [module.verify_signature for module in users]
    for module in users:
        module.verify_signature = verify  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module, function in zip(users, before, strict=True):
            module.verify_signature = function  # type: ignore[attr-defined]
