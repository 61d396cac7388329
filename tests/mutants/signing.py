"""Bugs in what a key may sign: after its disk was lost, and after its owner left the network."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant

SIGNING: Final = (
    Mutant(
        "quarantine of one height",
        "keyguard",
        "elif self._live_heights < LIVE_HEIGHTS:",
        "elif self._live_heights < 1:",
        ("keyguard",),
    ),
    Mutant(
        "fetched heights end a quarantine",
        "machine",
        "self._decide(block, certificate, after, live=False)",
        "self._decide(block, certificate, after, live=True)",
        ("keyguard",),
    ),
    Mutant(
        "few voices end a quarantine",
        "machine",
        "needed = 2 * compute_fault_limit(len(self.state.validators)) + 1",
        "needed = compute_fault_limit(len(self.state.validators))",
        ("keyguard",),
    ),
    Mutant(
        "voting goes on after leaving",
        "voice",
        "if free and any(member.id == self.key for member in state.validators):",
        "if free:",
        ("membership",),
    ),
)
