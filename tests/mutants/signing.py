"""Bugs in what a key may sign: after its disk was lost, and after its owner left the network."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant

SIGNING: Final = (
    Mutant(
        "quarantine of one height",
        "keyguard",
        "elif self._live_heights < self._wanted_heights:",
        "elif self._live_heights < 1:",
        ("keyguard",),
    ),
    Mutant(
        "a restored home signs as soon as a wiped one",
        "keyguard",
        "return LIVE_HEIGHTS + 2 * self._restored_among",
        "return LIVE_HEIGHTS",
        ("keyguard",),
    ),
    Mutant(
        "a restored home does not mind who else signs",
        "keyguard",
        "return self._past_height is not None and place.height > self._past_height",
        "return False",
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
