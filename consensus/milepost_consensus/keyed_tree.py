"""The Merkle tree over the entries of the ledger state, sorted by key, kept from block to block.

Its root and paths are those of `merkle` over the sorted leaves, nothing else: only what a block
changed is hashed again.  A changed entry costs the nodes above it; a new one moves all leaves to
its right by one place, so that the part of the tree from there on is hashed again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence

from milepost_consensus.merkle import EMPTY_ROOT, compute_level, compute_node


class KeyedTree(Mapping[bytes, bytes]):
    """Leaf hashes by key.  Never changed in place; `write` shares what it can."""

    __slots__ = ("_keys", "_levels")

    def __init__(self) -> None:
        """The tree without entries."""
        self._keys: list[bytes] = []
        self._levels: list[list[bytes]] = [[]]

    def __getitem__(self, key: bytes) -> bytes:
        return self._levels[0][self.get_index(key)]

    def __iter__(self) -> Iterator[bytes]:
        """The keys in the order of the leaves."""
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def root(self) -> bytes:
        """The root over all leaves."""
        return self._levels[-1][0] if self._keys else EMPTY_ROOT

    def get_index(self, key: bytes) -> int:
        """The position of an entry's leaf; raises KeyError where there is none."""
        index = bisect_left(self._keys, key)
        if index == len(self._keys) or self._keys[index] != key:
            raise KeyError(key)
        return index

    def get_path(self, key: bytes) -> tuple[bytes, ...]:
        """The inclusion path of an entry's leaf, as `merkle.compute_path`; KeyError if absent."""
        path, index = list[bytes](), self.get_index(key)
        for level in self._levels[:-1]:
            if index ^ 1 < len(level):
                path.append(level[index ^ 1])
            index //= 2
        return tuple(path)

    def write(self, changes: Mapping[bytes, bytes]) -> KeyedTree:
        """The tree with these leaf hashes in it, in the place of old ones or beside them."""
        added = [key for key in changes if key not in self]
        tree = KeyedTree()
        # Two sorted runs, which sorting merges.
        tree._keys = sorted(self._keys + sorted(added)) if added else self._keys
        # Leaves left of `fixed` are where they were.
        fixed = bisect_left(tree._keys, min(added)) if added else len(tree._keys)
        leaves, right = self._levels[0][:fixed], tree._keys[fixed:]
        touched = {bisect_left(tree._keys, key) for key in changes}
        old = dict(zip(self._keys[fixed:], self._levels[0][fixed:], strict=True))
        leaves += [changes[key] if key in changes else old[key] for key in right]
        for index in touched:
            leaves[index] = changes[tree._keys[index]]
        tree._levels = _build_levels(self._levels, leaves, touched, fixed)
        return tree


def _build_levels(
    old: Sequence[list[bytes]], leaves: list[bytes], touched: set[int], fixed: int
) -> list[list[bytes]]:
    """All levels above the leaves, from the old ones where neither `touched` nor moved."""
    levels = [leaves]
    while len(levels[-1]) > 1:
        below, depth = levels[-1], len(levels)
        # A node left of `fixed` had both its children before, at the same places.
        fixed //= 2
        level = old[depth][:fixed] if depth < len(old) else []
        assert len(level) == fixed
        touched = {index // 2 for index in touched}
        for index in touched:
            if index < fixed:
                level[index] = compute_node(below[2 * index], below[2 * index + 1])
        level += compute_level(below[2 * fixed :])
        levels.append(level)
    return levels
