"""The beacon: randomness that no proposer can choose, from preimages that members promised.

Every validator promises the head of an onion, a chain of digests.  Whoever proposes a block in
round 0 must peel one layer and put it into the header, and the mix takes it in:

    link_k = H("onion", owner || k as 8 bytes || link_(k-1)),   head = link_left
    mix_h  = H("mix", mix_(h-1) || reveal)                       with a reveal
    mix_h  = H("mix", mix_(h-1) || "skip" || h as 8 bytes)       without one

There is one reveal that fits, so a proposer chooses between saying it and losing its turn.  A
submission takes its seed from the first mix after f + 1 different members have revealed since it
was anchored: one of them at least is honest, and nobody knew its reveal when the submission was
made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from milepost_consensus.crypto import compute_digest
from milepost_consensus.election import Drbg
from milepost_consensus.standings import Standing

LINKS: Final = 65_536
"""Reveals in a fresh onion: one turn in seven at a block a second lasts five days."""

T = TypeVar("T")


class Onion:
    """The owner's side: which layer comes next.

    `derive` gives the secret of each generation; nothing but the owner's key has to be kept.
    """

    def __init__(self, derive: Callable[[str], bytes], owner: bytes, *, links: int = LINKS) -> None:
        self._derive = derive
        self._owner = owner
        self._links = links
        self._chains: dict[int, list[bytes]] = {}

    @property
    def links(self) -> int:
        """Reveals in a fresh onion."""
        return self._links

    def get_head(self, generation: int) -> bytes:
        """What the owner promises."""
        return self._get_chain(generation)[-1]

    def get_reveal(self, standing: Standing) -> bytes | None:
        """The layer that the chain waits for; None where the onion on chain is not this one."""
        chain = self._get_chain(standing.generation)
        if not 0 < standing.onion_left < len(chain) or chain[standing.onion_left] != standing.onion:
            return None
        return chain[standing.onion_left - 1]

    def _get_chain(self, generation: int) -> list[bytes]:
        chain = self._chains.get(generation)
        if chain is None:
            chain = [self._derive(f"onion/{generation}")]
            for left in range(1, self._links + 1):
                chain.append(compute_link(self._owner, left, chain[-1]))
            self._chains[generation] = chain
        return chain


def compute_link(owner: bytes, left: int, inner: bytes) -> bytes:
    """The layer around `inner`, of an onion with `left` reveals to come."""
    return compute_digest("onion", owner + left.to_bytes(8, "big") + inner)


def compute_mix(mix: bytes, reveal: bytes, height: int) -> bytes:
    """The mix after the block at `height`; `reveal` is empty where the block has none."""
    return compute_digest("mix", mix + (reveal or b"skip" + height.to_bytes(8, "big")))


def compute_order(seed: bytes, validators: Sequence[T]) -> tuple[T, ...]:
    """The order in which validators, given by id, propose for one epoch."""
    return tuple(Drbg(seed, "proposers").shuffle(validators))
