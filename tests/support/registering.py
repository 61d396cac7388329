"""Stands for the network that a run is registered with."""

from __future__ import annotations

from typing import Final

from milepost_consensus.crypto import compute_digest
from milepost_consensus.payloads import Register
from milepost_consensus.registrations import Registration
from milepost_ml.registration import Registered, Request, Say

ID: Final = b"r" * 32
SENDER: Final = b"s" * 32
SEED: Final = compute_digest("test", b"the network's seed")


class Network:
    """Remembers requests and gives SEED."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def __call__(self, request: Request, say: Say) -> Registered:
        self.requests.append(request)
        say("registered")
        return Registered(ID, SEED, len(self.requests), 7)


def make_registration(request: Request, seed: bytes = SEED) -> Registration:
    """What the ledger says of a request that it registered."""
    return Registration(ID, SENDER, Register(*request, attempt=0), height=7, seed=seed)
