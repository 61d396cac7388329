"""Where a judged model comes from: its registration and its line of parents, shown offline.

A verdict names the registration and the parent of its run by id.  A proof carries these entries
of the same signed state with their inclusion paths, so that nobody needs a node to see when the
run was registered, as which attempt, and from which models it descends.
"""

from __future__ import annotations

from typing import Final

from milepost_consensus.encoding import Wire, validate_uint
from milepost_consensus.errors import InvalidInput
from milepost_consensus.merkle import verify_path
from milepost_consensus.params import MAX_PATH
from milepost_consensus.registrations import Registration
from milepost_consensus.state import (
    LedgerState,
    encode_leaf,
    get_entry_path,
    get_registration_key,
    get_verdict_key,
)
from milepost_consensus.verdicts import Verdict

MAX_ANCESTORS: Final = 16
"""Models of a line that a proof shows; a longer line is followed on the chain."""


class RegistrationEntry(Wire, frozen=True):
    """A registration in the signed state."""

    registration: Registration
    index: int
    path: tuple[bytes, ...]


class Ancestor(Wire, frozen=True):
    """The verdict on a model that another one started from."""

    verdict: Verdict
    index: int
    path: tuple[bytes, ...]


class Origin(Wire, frozen=True):
    """The registration of a run, if it has one, and its parents, the nearest first."""

    registrations: tuple[RegistrationEntry, ...] = ()
    """One or none."""
    ancestors: tuple[Ancestor, ...] = ()

    @property
    def registration(self) -> Registration | None:
        return self.registrations[0].registration if self.registrations else None


def make_origin(state: LedgerState, verdict: Verdict) -> Origin:
    """The origin of a verdict's run out of a state that holds the verdict."""
    registrations = []
    if verdict.registration:
        _, index, _, path = get_entry_path(state, get_registration_key(verdict.registration))
        entry = state.registrations[verdict.registration]
        registrations.append(RegistrationEntry(entry, index, path))
    ancestors: list[Ancestor] = []
    parent = verdict.parent
    while parent and len(ancestors) < MAX_ANCESTORS:
        _, index, _, path = get_entry_path(state, get_verdict_key(parent))
        ancestors.append(Ancestor(state.verdicts[parent], index, path))
        parent = ancestors[-1].verdict.parent
    return Origin(tuple(registrations), tuple(ancestors))


def verify_origin(origin: Origin, verdict: Verdict, *, root: bytes, entries: int) -> None:
    """Raises InvalidInput unless the origin is that of the verdict and in the state `root`.

    Slugs: bad-path where an entry is not in the state, bad-proof where one is not the verdict's.
    """
    if len(origin.registrations) != bool(verdict.registration):
        raise _inconsistent("the registration that the verdict names")
    for entry in origin.registrations:
        registration = entry.registration
        if registration.id != verdict.registration or registration.sender != verdict.sender:
            raise _inconsistent("the registration that the verdict names")
        leaf = encode_leaf(get_registration_key(registration.id), registration)
        _verify(leaf, entry.index, entry.path, root=root, entries=entries)
    validate_uint("ancestors", len(origin.ancestors), high=MAX_ANCESTORS)
    child = verdict
    for ancestor in origin.ancestors:
        if ancestor.verdict.submission != child.parent:
            raise _inconsistent("the parents that the verdicts name")
        child = ancestor.verdict
        leaf = encode_leaf(get_verdict_key(child.submission), child)
        _verify(leaf, ancestor.index, ancestor.path, root=root, entries=entries)
    if child.parent and len(origin.ancestors) < MAX_ANCESTORS:
        raise _inconsistent("all parents")


def _verify(leaf: bytes, index: int, path: tuple[bytes, ...], *, root: bytes, entries: int) -> None:
    validate_uint("path length", len(path), high=MAX_PATH)
    verify_path(root, leaf, index=index, count=entries, path=path)


def _inconsistent(what: str) -> InvalidInput:
    return InvalidInput(
        f"the proof does not hold {what}: it was put together by hand", slug="bad-proof"
    )
