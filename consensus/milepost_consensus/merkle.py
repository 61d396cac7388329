"""Merkle trees as in RFC 6962: leaves hashed with 0x00, nodes with 0x01, no padding.

The tree over n leaves splits at the largest power of two below n, so every list of leaves has one
root and a path proves both the leaf and its position.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from milepost_consensus.errors import InvalidPath

EMPTY_ROOT = hashlib.sha256(b"").digest()


def compute_leaf_hash(leaf: bytes) -> bytes:
    """The hash of one leaf's bytes."""
    return hashlib.sha256(b"\x00" + leaf).digest()


def compute_node(left: bytes, right: bytes) -> bytes:
    """The hash above two others."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def compute_level(level: Sequence[bytes]) -> list[bytes]:
    """The level above one."""
    # Pairing neighbours and carrying the odd one up gives the RFC 6962 tree.
    paired = [compute_node(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
    if len(level) % 2:
        paired.append(level[-1])
    return paired


def compute_root(leaves: Sequence[bytes]) -> bytes:
    """The root over leaves given as bytes (32-byte digests or longer records)."""
    return compute_root_of_hashes([compute_leaf_hash(leaf) for leaf in leaves])


def compute_root_of_hashes(hashes: Sequence[bytes]) -> bytes:
    """The root over leaves of which only the leaf hashes are at hand."""
    if not hashes:
        return EMPTY_ROOT
    level = hashes
    while len(level) > 1:
        level = compute_level(level)
    return level[0]


def compute_path(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """The inclusion path of leaf `index`, from the leaf's sibling up to the root's child."""
    return compute_path_of_hashes([compute_leaf_hash(leaf) for leaf in leaves], index)


def compute_path_of_hashes(hashes: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """`compute_path` where only the leaf hashes are at hand."""
    if not 0 <= index < len(hashes):
        raise IndexError(f"leaf {index} of {len(hashes)}")
    path: list[bytes] = []
    level = hashes
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            path.append(level[sibling])
        level, index = compute_level(level), index // 2
    return tuple(path)


def verify_path(root: bytes, leaf: bytes, *, index: int, count: int, path: Sequence[bytes]) -> None:
    """Raises InvalidPath unless `leaf` is leaf `index` of the `count` leaves under `root`."""
    if not 0 <= index < count:
        raise InvalidPath(f"leaf {index} of {count} does not exist")
    node, remaining = compute_leaf_hash(leaf), list(path)
    last = count - 1
    while last:
        if index % 2 or index < last:
            if not remaining:
                raise InvalidPath("the inclusion path is too short")
            sibling = remaining.pop(0)
            node = compute_node(sibling, node) if index % 2 else compute_node(node, sibling)
        index, last = index // 2, last // 2
    if remaining or node != root:
        raise InvalidPath("the inclusion path does not lead to the root")
